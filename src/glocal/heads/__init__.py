"""What stands between features and losses: projectors, and batch normalisation that spans processes."""

from glocal.heads.batch_norm import BatchNorm, sync_batch_norms
from glocal.heads.memory import IndexedQueue, SupportQueue
from glocal.heads.projector import projector

__all__ = ["BatchNorm", "IndexedQueue", "SupportQueue", "projector", "sync_batch_norms"]
