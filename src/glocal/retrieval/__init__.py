"""Finding things again: an index of features."""

from glocal.retrieval.index import Index

__all__ = ["Index"]
