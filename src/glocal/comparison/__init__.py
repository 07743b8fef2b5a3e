"""Methods side by side: the same data, backbone and budget, several seeds, one table and one figure."""

from glocal.comparison.compare import compare_methods
from glocal.comparison.protocol import Budget, Entry

__all__ = ["Budget", "Entry", "compare_methods"]
