"""What the tests of fine-tuning share."""

import torch

from glocal.backbones import build_backbone

FAST = {"workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32", "batch_size": 16}
DATA = "parts:n=64,size=64,classes=2,difficulty=0,nuisance=0"


def network():
    """A small network, from its initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone("test_resnet", image_size=64)
