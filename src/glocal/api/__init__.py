"""The Python functions behind the commands: same names, same arguments. Heavy imports happen inside them."""

from glocal.api.adaptation import finetune, predict
from glocal.api.encoders import embed, evaluate, export
from glocal.api.generation import generate
from glocal.api.language import ask, curate
from glocal.api.masks import adapt
from glocal.api.opening import load, load_method
from glocal.api.pictures import inspire
from glocal.api.retrieval import index, search
from glocal.api.sequences import phases
from glocal.api.training import compare, pretrain

__all__ = [
    "adapt", "ask", "compare", "curate", "embed", "evaluate", "export", "finetune", "generate", "index", "inspire",
    "load", "load_method", "phases", "predict", "pretrain", "search",
]  # fmt: skip
