"""Clusters of features, over all processes: whitening, k-means, and orders that serve every cluster equally often."""

from glocal.clustering.balance import balanced_order
from glocal.clustering.kmeans import Clusters, hierarchical_kmeans, kmeans, nearest
from glocal.clustering.whiten import whiten

__all__ = ["Clusters", "balanced_order", "hierarchical_kmeans", "kmeans", "nearest", "whiten"]
