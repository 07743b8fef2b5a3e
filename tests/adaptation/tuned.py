"""What the tests of fine-tuning share."""

import numpy as np
import torch

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.evaluation.extract import normalise

FAST = {"workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32", "batch_size": 16}


def network(data=None):
    """A small network as initialised, its statistics those of some images."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        backbone = build_backbone("test_resnet", image_size=64)
        if data is not None:
            source = open_source(data)
            images = torch.from_numpy(np.stack([source.open(i).decode() for i in range(len(source))]))
            for module in backbone.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # of all batches that it has seen
            backbone.train()(normalise(backbone, images))
            for module in backbone.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 0.1
        return backbone.eval()
