"""Distillation of a frozen encoder's features, of the whole and of every place, into another encoder."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.losses import Loss
from glocal.losses.distillation import standardised
from glocal.losses.loss import upcast
from glocal.methods.encode import encode
from glocal.methods.frozen import Frozen
from glocal.methods.published import Optimization, Preset
from glocal.methods.registry import check_built, method_class, resolve_options
from glocal.views import Batch, Crop, Recipe


class Distill(nn.Module):
    """Linear maps of an encoder's features predict those of a frozen one, of the whole and at every place.

    Needs: an encoder that is better than this one, of any architecture; it sees the same crops. One view, any batch, no
    labels. Choose it to make a small encoder of a large one. Or, with `beside`, to keep another method near a released
    encoder. Expect each term to begin near 1: it is the share of the frozen encoder's variance that is not predicted.

    Args:
        backbone: the encoder to train.
        image_size: side of the crops, pixels.
        scale: area of the crop as a fraction of its image, (least, most).
        teacher: the frozen encoder: a run, an exported encoder, or timm:NAME, as for `glocal evaluate`.
        pooled_weight: weight of the share of the pooled features' variance that is not predicted.
        dense_weight: weight of that of the map's variance, read (bilinearly) where this encoder's cells look.
        beside: a method whose views, optimisation and loss are taken, too; not one that plans its epochs.
        beside_batch: the batch for which that method's options are chosen as for small data; 0: as in its paper.
    """

    title = "Distillation"
    paper = (
        "Romero et al. FitNets: Hints for Thin Deep Nets. ICLR 2015. arXiv:1412.6550; features standardised by one"
        " scale: Ranzinger et al. PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation. 2024."
        " arXiv:2410.01680"
    )
    needs: ClassVar[dict[str, str]] = {"teacher": "timm:test_resnet:random"}
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"beside_batch": batch},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.25, 1.0),
        teacher: str = "",
        pooled_weight: float = 1.0,
        dense_weight: float = 1.0,
        beside: str = "",
        beside_batch: int = 0,
    ) -> None:
        super().__init__()
        if not teacher:
            raise UsageError("distill needs an encoder to learn from: give --teacher runs/NAME, or --teacher timm:NAME")
        weights = {"pooled": pooled_weight, "dense": dense_weight}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise UsageError(f"pooled_weight {pooled_weight}, dense_weight {dense_weight}: one has to be above 0")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.encoder = backbone
        self.teacher = Frozen(teacher, image_size, backbone)
        self.heads = nn.ModuleDict({name: nn.Linear(backbone.dim, self.teacher.encoder.dim) for name in self.weights})
        self.recipe = Recipe((Crop(image_size, scale),))
        self.optimization = Optimization("adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=5.0)
        self.beside: Any = _beside(beside, backbone, image_size, beside_batch) if beside else None
        if self.beside is not None:
            self.recipe, self.optimization = self.beside.recipe, _renamed(self.beside.optimization)

    def forward(self, batch: Batch) -> Loss:
        view, terms = batch.views[0], {}
        (mine,), theirs = encode(self.encoder, [view]), self.teacher(view.pixels)
        for name, weight in self.weights.items():
            if name == "pooled":
                here, there = mine.pooled, theirs.pooled
            else:
                here, there = mine.tokens.flatten(0, 1), self.teacher.at(theirs, mine.positions).flatten(0, 1)
            terms[f"distill_{name}"] = weight * F.mse_loss(upcast(self.heads[name](here)), standardised(there))
        loss = Loss.of(terms)
        if self.beside is None:
            return loss
        other = self.beside(batch)
        return Loss(other.total + loss.total, {**other.terms, **loss.terms})

    def after_step(self, progress: float) -> None:
        if hasattr(self.beside, "after_step"):
            self.beside.after_step(progress)


def _beside(name: str, backbone: Backbone, image_size: int, batch: int) -> Any:
    """Another method around the same backbone."""
    cls = method_class(name)
    if cls is Distill or hasattr(cls, "before_epoch"):
        raise UsageError(f"--beside {name}: {cls.title} cannot stand beside another; take one like vicreg")
    preset = "small" if batch else "paper"
    options = resolve_options(cls, preset, batch, {"image_size": image_size}, backbone.family)
    options.pop("drop_path", None)
    backbone.pool = cls.pool
    return check_built(cls(backbone, **options))


def _renamed(spec: Optimization) -> Optimization:
    """An optimisation whose parameters' names are those here; the encoder is this one's, too."""
    here = lambda name: name if name.startswith("encoder") else f"beside.{name}"
    found = {field.name: getattr(spec, field.name) for field in fields(spec)}
    lists: dict[str, Any] = {key: tuple(map(here, names)) for key, names in found.items() if isinstance(names, tuple)}
    lists |= {k: {here(n): v for n, v in named.items()} for k, named in found.items() if isinstance(named, Mapping)}
    return replace(spec, **lists)
