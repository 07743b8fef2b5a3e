"""What the processes of `measure.isolated` import once, together."""

# ruff: noqa: F401
import lightly.data
import lightly.loss
import lightly.models.modules.heads
import lightly.transforms
import timm
import torch.utils.tensorboard

import glocal.pipeline
