"""Clusters of features, over all processes: whitening, k-means, and orders that serve every cluster equally often."""

from glocal.clustering.balance import balanced_order
from glocal.clustering.kmeans import Clusters, assign, hierarchical_kmeans, kmeans
from glocal.clustering.whiten import whiten

__all__ = ["Clusters", "assign", "balanced_order", "hierarchical_kmeans", "kmeans", "whiten"]
