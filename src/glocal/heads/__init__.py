"""What stands between features and losses: projectors, and batch normalisation that spans processes."""

from glocal.heads.batch_norm import BatchNorm, sync_batch_norms
from glocal.heads.memory import Queue, SupportQueue
from glocal.heads.projector import projector

__all__ = ["BatchNorm", "Queue", "SupportQueue", "projector", "sync_batch_norms"]
