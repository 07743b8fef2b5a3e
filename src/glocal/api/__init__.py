"""The Python functions behind the commands: same names, same arguments. Heavy imports happen inside them."""

from glocal.api.encoders import embed, evaluate, export, load, load_method
from glocal.api.training import compare, pretrain

__all__ = ["compare", "embed", "evaluate", "export", "load", "load_method", "pretrain"]
