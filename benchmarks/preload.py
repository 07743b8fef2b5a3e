"""What the processes of `measure.isolated` import once, together."""

import torch.utils.tensorboard  # noqa: F401
