"""An encoder put to use: heads that learn from labels, alone or with it, and what they say of other images."""

from glocal.adaptation.finetune import FineTuning
from glocal.adaptation.heads import Head, Labelled, find_head, load_head, save_head
from glocal.adaptation.predict import Predictions, predictions

__all__ = [
    "FineTuning", "Head", "Labelled", "Predictions", "find_head", "load_head", "predictions", "save_head",
]  # fmt: skip
