"""Which weights of an encoder are kept: bits that are learnt, or those of the largest weights.

Self-masking networks (Warmerdam, Caron, Asano 2024, arXiv:2409.07577) leave an encoder's weights as they are and learn
one bit for each; pruning (Caron et al. 2020, arXiv:2001.03554) keeps the largest weights and trains them again. Both
are parametrisations of the weights of linear layers and convolutions (`torch.nn.utils.parametrize`), which
`glocal.backbones.fold.fold` makes plain weights of: normalisations and biases stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from glocal.backbones import Backbone
from glocal.backbones.encoder import digest
from glocal.backbones.fold import Folding, fold
from glocal.backbones.weights import read_weights
from glocal.errors import UsageError
from glocal.methods import Optimization
from glocal.run import Run, write_atomically

RATES = {"scores": 200.0, "heads": 0.6}
"""Learning rates at 256 images a step: the paper's 50 and .15 at 64."""


class Masked(Folding):
    """Weights of which some are 0; `base` says of which weights, see `digest`."""

    base: Tensor
    kept: Tensor

    def __init__(self, base: int) -> None:
        super().__init__()
        self.register_buffer("base", torch.tensor(base))


class Kept(Masked):
    """Weights ⊙ `kept`: the others are 0, and get no gradient."""

    def __init__(self, weight: Tensor, base: int) -> None:
        super().__init__(base)
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


class Scored(Masked):
    """α · weights ⊙ M: M = 1 where a score is above the threshold, α = 1/√(mean M); M's gradient is the scores'."""

    threshold = 0.0

    def __init__(self, weight: Tensor, base: int) -> None:
        super().__init__(base)
        self.scores = nn.Parameter(torch.ones_like(weight))

    @property
    def kept(self) -> Tensor:  # type: ignore[override]
        """M, bool."""
        return self.scores > self.threshold

    def forward(self, weight: Tensor) -> Tensor:
        mask = _Above.apply(self.scores, self.threshold)
        return weight * (mask * mask.mean().clamp_min(1 / mask.numel()).rsqrt())


class _Above(torch.autograd.Function):
    """1 where scores are above a threshold, else 0; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


def masked_layers(encoder: Backbone, kind: type[Masked] = Masked) -> dict[str, Any]:
    """The layers whose weights are masked, by their names in the timm model, in its order.

    Not `Scored`: depthwise convolutions, of whose few weights a channel none can be spared.
    """
    found = {name: m for name, m in encoder.model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    if not found:
        raise UsageError(f"{encoder.name} has no linear layer and no convolution to mask")
    if issubclass(kind, Scored):
        found = {name: m for name, m in found.items() if not 1 < getattr(m, "groups", 1) == m.in_channels}
    return found


def _mask(encoder: Backbone, kind: type[Kept] | type[Scored]) -> None:
    base = digest(encoder)
    for layer in masked_layers(encoder, kind).values():
        parametrize.register_parametrization(layer, "weight", kind(layer.weight, base))


def add_scores(encoder: Backbone) -> None:
    """Freeze an encoder, BatchNorm's statistics included, and let a score of each weight say whether it is kept.

    At first all are, and it computes what it did, to the bit. Changed in place, until `fold`.
    """
    encoder.requires_grad_(False)
    _mask(encoder, Scored)
    encoder.__dict__["until_folded"] = encoder.register_forward_pre_hook(_still)


def _still(encoder: nn.Module, inputs: Any) -> None:
    """A hook: while there are scores, statistics are those of the base."""
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def rates_of_scores(spec: Optimization, batch: int, lr: float | None) -> Optimization:
    """The paper's optimisation of scores, in place of a method's own: plain SGD, and slower for the heads.

    The scores' rate warms up from 0 over 40 of 150 epochs, the heads' does not: what these send back at first is noise.

    Args:
        spec: the method's own.
        batch: images per step, over all processes.
        lr: of the scores, where one was given; the heads' does not follow it.
    """
    rates = {"": RATES["heads"] * batch / 256 / (lr or RATES["scores"] * batch / 256), "encoder.": 1.0}
    shape: Any = {"optimizer": "sgd", "lr": RATES["scores"], "lr_of": rates, "momentum": 0.9, "weight_decay": 0.0}
    warms: Any = {"warmup_epochs": 40.0, "early": 40 / 150, "warmed": ("encoder.",)}
    return replace(spec, **shape, **warms, final_weight_decay=None)


def add_pruning(encoder: Backbone, share: float = 1.0, after: str | None = None) -> None:
    """Keep a share of an encoder's weights, the largest, and let these train. Changed in place, until `fold`.

    Args:
        encoder: whose weights they are.
        share: of the weights that are kept.
        after: a run that pruned less: its weights are compared in place of the encoder's, and what it left out stays
            out.
    """
    layers = masked_layers(encoder)
    weights, before = {name: layer.weight.detach() for name, layer in layers.items()}, None
    if after is not None:
        tensors, before = read_weights(after), read_mask(Run(after).mask_file).split(layers)
        weights = {name: tensors[f"{name}.weight"] for name in layers}
    kept = largest(weights, share, before)
    _mask(encoder, Kept)
    for name, layer in layers.items():
        (part,), weight = layer.parametrizations.weight, layer.parametrizations.weight.original
        part.kept.copy_(kept[name])
        weight.data *= kept[name]  # what is left out is nothing to LARS's norms, either


def largest(
    weights: Mapping[str, Tensor], share: float, before: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """By name, which weights (bool) are the share of all that are largest, of those that were kept before."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    if before is not None:
        sizes[~torch.cat([before[name].flatten() for name in weights])] = -1
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[sizes.topk(round((1 - share) * len(sizes)), largest=False).indices] = False
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


@dataclass(frozen=True)
class MaskFile:
    """A mask as a file holds it: (N,) bool, whether it was learnt as scores, and of which weights it is."""

    kept: np.ndarray
    scored: bool
    base: int

    def split(self, layers: Mapping[str, Any]) -> dict[str, Tensor]:
        """By name, the bits of each layer's weight."""
        shapes = {name: layer.weight.shape for name, layer in layers.items()}
        parts = torch.from_numpy(self.kept).split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def save_mask(encoder: Backbone, path: Path) -> None:
    """Write the mask of an encoder that is masked: a bit a weight, packed and deflated."""
    parts: list[Masked] = [module for module in encoder.model.modules() if isinstance(module, Masked)]
    kept = torch.cat([part.kept.flatten() for part in parts]).cpu().numpy()
    about = {"count": kept.size, "scored": isinstance(parts[0], Scored), "base": int(parts[0].base)}

    def write(to: Path) -> None:
        with open(to, "wb") as file:
            np.savez_compressed(file, bits=np.packbits(kept), **about)  # type: ignore[arg-type]

    write_atomically(path, write)


def read_mask(path: str | Path) -> MaskFile:
    """What `save_mask` wrote; `UsageError` for any other file."""
    try:
        with np.load(path) as found:
            count, scored, base = (found[name].item() for name in ("count", "scored", "base"))
            kept = np.unpackbits(found["bits"], count=count).astype(bool)
    except FileNotFoundError as error:
        raise UsageError(f"no mask at {path}; glocal adapt writes one, mask.npz, into its run") from error
    except Exception as error:  # damaged files fail in as many ways as there are readers
        raise UsageError(f"{path} is no mask, or damaged; glocal adapt writes one, mask.npz, into its run") from error
    return MaskFile(kept, scored, base)


def load_mask(encoder: Backbone, path: str | Path) -> Backbone:
    """Apply a file's mask to the base that it was made for, in place; it computes what the run's encoder does.

    Of a pruned run, whose weights were trained, it gives the weights that this began with.

    Raises:
        UsageError: for another base.
    """
    mask = read_mask(path)
    if mask.base != digest(encoder):
        raise UsageError(f"the mask {path} is of other weights than these of {encoder.name}; give the base of its run")
    kind = Scored if mask.scored else Kept
    layers = masked_layers(encoder, kind)
    _mask(encoder, kind)
    for name, kept in mask.split(layers).items():
        part = layers[name].parametrizations.weight[0]
        (part.scores.data if mask.scored else part.kept).copy_(kept)
    fold(encoder)
    return encoder


def storage(path: Path) -> str:
    """How much is to be stored of a run beside its base, in words."""
    mask, file = read_mask(path), path.stat().st_size
    number, kept = mask.kept.size, int(mask.kept.sum())
    of = f"{number:,} weights, {kept / number:.1%} of them kept"
    if mask.scored:
        packed = f"a bit each is {_kilobytes(number / 8)} (×32), the file {_kilobytes(file)} (×{4 * number / file:.0f})"
        return f"mask: {of}; in float32 they are {_kilobytes(4 * number)}, {packed}: {path}"
    sparse = file + 4 * kept
    stored = f"with their mask {_kilobytes(sparse)} (×{4 * number / sparse:.1f})"
    return f"pruned: {of}; in float32 they are {_kilobytes(4 * number)}, those that are kept {stored}"


def _kilobytes(size: float) -> str:
    return f"{size / 1e3:,.0f} kB"
