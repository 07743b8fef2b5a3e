"""Encoders that only teach: what a method learns from and does not train."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone, load_encoder
from glocal.backbones.encoder import digest
from glocal.errors import UsageError
from glocal.features import Features
from glocal.losses.loss import upcast


class Frozen(nn.Module):
    """An encoder that is trained no more: without gradient, in eval mode, and in no checkpoint.

    Checkpoints hold the digest of its weights instead: it has to be the same when a run is resumed.

    Args:
        spec: what `load_encoder` takes.
        image_size: side in pixels of the crops to come.
        student: the encoder as whose pixels these are normalised.
        option: of the command, that names it.
    """

    scale: Tensor
    shift: Tensor
    digest: Tensor

    def __init__(self, spec: str, image_size: int, student: Backbone, option: str = "teacher") -> None:
        super().__init__()
        self.option, self.spec = option, spec
        try:
            self.encoder = load_encoder(spec, image_size=image_size).requires_grad_(False)
        except UsageError as refusal:
            raise UsageError(f"--{option} {spec}: {refusal}") from refusal
        if reason := self.encoder.refusal(image_size):
            raise UsageError(f"--{option} {spec}: {reason}; set another --image-size")
        here, there = (torch.tensor([e.mean, e.std])[..., None, None] for e in (student, self.encoder))
        self.register_buffer("scale", here[1] / there[1], persistent=False)
        self.register_buffer("shift", (here[0] - there[0]) / there[1], persistent=False)
        self.register_buffer("digest", torch.tensor(digest(self.encoder)))
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_compare)

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Features of pixels (B, 3, h, w) that were normalised for the student."""
        return self.encoder(pixels * self.scale + self.shift)

    @torch.no_grad()
    def at(self, features: Features, positions: Tensor) -> Tensor:
        """Its map, read bilinearly at places (N, 2) in crop pixels, (B, N, D); past the outer cells, as there."""
        dense = upcast(features.dense)
        cells = (positions - self.encoder.offset) / self.encoder.stride  # (x, y); cell k at k
        width, height = (max(1, side - 1) for side in (dense.shape[3], dense.shape[2]))
        where = torch.stack([2 * cells[:, 0] / width - 1, 2 * cells[:, 1] / height - 1], dim=-1)
        grid = where.to(dense.dtype).expand(len(dense), 1, -1, -1)
        return F.grid_sample(dense, grid, padding_mode="border", align_corners=True)[:, :, 0].mT


def _leave_out(module: Any, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """A hook: what a checkpoint holds of a `Frozen` is its digest."""
    for name in [name for name in state if name.startswith(f"{prefix}encoder.")]:
        del state[name]


def _compare(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A hook: what was loaded of a `Frozen` is its digest; the weights are those that it has."""
    if int(state.get(f"{prefix}digest", module.digest)) != int(module.digest):
        who = f"the {module.option} {module.spec}"
        raise UsageError(f"{who} is no longer the one that the run began with; bring that one back")
    state |= {f"{prefix}encoder.{name}": tensor for name, tensor in module.encoder.state_dict().items()}
