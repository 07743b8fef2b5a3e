"""What stands between features and losses: projectors, and batch normalisation that spans processes."""

from glocal.heads.batch_norm import BatchNorm, sync_batch_norms
from glocal.heads.projector import projector
from glocal.heads.support_queue import SupportQueue

__all__ = ["BatchNorm", "SupportQueue", "projector", "sync_batch_norms"]
