"""`Backbone`: a timm model that answers with `Features`, whatever its architecture."""

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from glocal.backbones.cells import evaluating, grid_positions, output_of, token_grid
from glocal.backbones.dropping import dropping
from glocal.backbones.fold import Product
from glocal.backbones.layout import Earlier, earlier_map, learn_layout
from glocal.backbones.small_maps import Limits, SmallMaps
from glocal.backbones.traits import Traits
from glocal.errors import UsageError
from glocal.features import Features, Sequences

logger = logging.getLogger(__name__)

Pool = Literal["native", "mean", "cls"]


class Backbone(nn.Module):
    """A timm model as a map from images to `Features`. Made by `build_backbone`.

    `Features.tokens` are the last feature map, normalised as the architecture normalises before its classifier: a ViT's
    tokens after the final norm, without class and register tokens; where timm normalises only after pooling (the head
    norm of ConvNeXt, `fc_norm` of average-pooled ViTs), that norm applied to every location; the last map of a
    BatchNorm network as it is.

    `pool` says what `Features.pooled` is:

    - "native": what timm itself hands to its classifier. ResNet: the mean of the map, hence equal to "mean". ConvNeXt:
      the norm of the mean, where "mean" is the mean of the norms. ViT, XCiT: the class token, hence equal to "cls".
      Else what the model's own pooling gives (attention in SigLIP, the mean of two class tokens in a distilled DeiT).
    - "mean": the mean of `tokens` over locations, for every architecture.
    - "cls": the normalised class token; an error where there is none.

    Attributes:
        model: the timm model, without classifier.
        name: its timm name.
        dim: D, width of `tokens` and `pooled`; `map_dim` that of `tokens`, which `earlier` changes.
        stride: pixels from one cell of the map to the next; follows `patch`.
        offset: continuous pixel coordinate that cell 0 looks at.
        norm: "batch" or "layer", the kind that most of its normalisations are; heads follow it.
        mean, std: what pixels in [0, 1] are normalised with.
        image_size: side in pixels of the images it was made for.
        pretrained: the weights that it had before training, as `build_backbone` was told.
        small_maps: up to which size of map its convolutions are made of products while it trains on a CPU.
    """

    model: Any
    small_maps = Limits()
    _earlier: Earlier | None = None
    reads = "images"

    def __init__(self, model: Any, arguments: dict[str, Any]):
        """Wrap a timm model built with `num_classes=0`, by the arguments of `build_backbone`; learn its layout."""
        super().__init__()
        cfg: dict[str, Any] = model.pretrained_cfg
        self.model = model
        self.name: str = arguments["name"]
        self.mean: tuple[float, ...] = tuple(cfg["mean"])
        self.std: tuple[float, ...] = tuple(cfg["std"])
        self.image_size: int = arguments["image_size"] or cfg["input_size"][-1]
        packs = hasattr(model, "forward_packed")  # then of any size of whole patches, at least two by two
        self._layout = learn_layout(model, self.name, cfg["input_size"][-1] if packs else self.image_size)
        self.dim, self.norm = self._layout.dim, self._layout.norm
        self.map_dim = self.dim
        self.stride, self.offset = self._layout.stride, self._layout.offset
        if packs:
            self.image_size = self.stride * max(2, round(self.image_size / self.stride))
        self.pretrained: bool | str = arguments["pretrained"]
        self._arguments = dict(arguments)
        self._positions: dict[tuple[int, int, int, torch.device | None], Tensor] = {}
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.pool = arguments["pool"]

    @property
    def pool(self) -> Pool:
        """What `Features.pooled` is: "native", "mean" or "cls". May be set."""
        return self._pool

    @pool.setter
    def pool(self, pool: Pool) -> None:
        if pool not in ("native", "mean", "cls"):
            raise UsageError(f"unknown pool '{pool}'; choose native, mean or cls")
        if pool == "cls" and not self._layout.class_token:
            raise UsageError(f"{self.name} has no class token; choose pool=mean or pool=native")
        if pool == "native" and self._layout.native_dim != self._layout.dim:
            logger.warning(
                "%s widens its %d channels to %d only after pooling; pool=mean is used, so that pooled and dense agree",
                *(self.name, self._layout.dim, self._layout.native_dim),
            )
            pool = "mean"
        self._pool: Pool = pool

    @property
    def config(self) -> dict[str, Any]:
        """Arguments with which `build_backbone(**config)` makes it again as it was before training."""
        patch = self.patch if self.traits.patches else None
        return {**self._arguments, "patch": patch, "pool": self.pool, "pretrained": self.pretrained}

    @property
    def patch(self) -> int:
        """Side in pixels of what becomes one cell. May be set to one of `traits.patches`; map and cells follow."""
        return self.stride

    @patch.setter
    def patch(self, patch: int) -> None:
        if not (possible := self.traits.patches):
            raise UsageError(
                f"{self.name} has cells of one size only, {self.stride} px; leave out --patch, or take a backbone like"
                " flexivit_small"
            )
        if patch not in possible:
            raise UsageError(f"{self.name} takes patches of {possible[0]} to {possible[-1]} px, not of {patch}")
        self.stride, self.offset = patch, patch / 2

    def add_code(self, width: int, layers: int = 0) -> None:
        """From now on features are a linear map of what they were, of `width` dimensions.

        While it trains, this map is a product with so many square matrices more, see `glocal.backbones.fold`.
        """
        self.model.code = nn.Linear(self.dim, width, bias=False)
        self.dim = self.map_dim = self._arguments["code"] = width
        if layers:
            parametrize.register_parametrization(self.model.code, "weight", Product(width, layers))

    def at(self, patch: int) -> "Backbone":
        """This very encoder, its weights shared, that cuts images into patches of another size."""
        view = copy.copy(self)
        view.__dict__.pop("traits", None)  # those of this one
        view.patch = patch
        return view

    def earlier(self) -> "Backbone":
        """This very encoder, its weights shared, whose tokens are the map before the last halving; itself without."""
        if self._earlier or not (found := earlier_map(self.model, self._layout.order, self.name, self.image_size)):
            return self
        view = copy.copy(self)
        view._earlier, view._arguments, view._positions = found, {**self._arguments, "earlier": True}, {}
        view.map_dim, view.stride, view.offset = found.dim, found.stride, found.offset
        return view

    def forward(self, x: Tensor | Sequences, kept: Tensor | None = None) -> Features:
        """Encode a batch of normalised images.

        Args:
            x: (B, 3, h, w) float. Any h, w that the architecture takes. Or images of any shapes, cut into patches of
                `stride` pixels.
            kept: (K,) for the whole batch or (B, K) for each image, int64 row-major indices of the patches that the
                network sees, in the order in which their tokens are wanted; None for all. Class and register tokens are
                always kept. Every patch has the position that it has in the whole image.

        Raises:
            UsageError: if it does not take this size, cannot leave out patches, or takes no sequences.
        """
        if isinstance(x, Sequences):
            if kept is not None:
                raise UsageError("packed images hold the patches that are seen: name them to `pack`, leave out kept")
            return self._encode_packed(x)
        with nullcontext() if kept is None else dropping(self.model, self.name, kept, self._layout.prefix):
            pooled, tokens, grid = self._encode(x, whole=kept is None)
        positions = self.cells(*grid, device=x.device).flatten(0, 1)
        return Features(pooled, tokens, positions, grid) if kept is None else Features(pooled, tokens, positions[kept])

    @property
    def family(self) -> Literal["vit", "resnet", "convnext"]:
        """Whose recipes fit it: those of transformers, or of convolutional networks with BatchNorm or LayerNorm."""
        if self._layout.order != "NCHW":
            return "vit"
        return "resnet" if self.norm == "batch" else "convnext"

    @cached_property
    def traits(self) -> Traits:
        """What it can do."""
        return Traits(self, class_token=self._layout.class_token)

    def refusal(self, size: int) -> str | None:
        """Why it does not take square images of this side in pixels; None where it does."""
        try:
            with evaluating(self):
                self(next(self.parameters()).new_zeros(1, 3, size, size))
        except UsageError as error:
            return str(error).rstrip(".")
        except (AssertionError, RuntimeError) as error:  # of an image of its own size, too small for its layers
            reason = str(error).partition("\n")[0].rstrip(".")
            return f"{self.name} does not take {size}×{size} images: {reason}"
        return None

    def recompute_blocks(self) -> None:
        """From now on keep, while training, what enters each block only, and compute the rest again for gradients.

        Raises:
            UsageError: if timm knows no blocks of this architecture.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise UsageError(f"{self.name} has no blocks to compute again; leave out recompute") from error

    def compile_training(self) -> None:
        """From now on train with `torch.compile`: whole images, in training mode. All else runs as before."""
        self._compiled = torch.compile(self.model.forward_features, dynamic=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled: that would run this one's weights."""
        return {**self.__dict__, "_compiled": None}

    def forward_tensors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`pooled` (B, D) and `dense` (B, D, H, W) of `forward`, as plain tensors: what is exported."""
        pooled, tokens, grid = self._encode(x)
        return pooled, tokens.transpose(1, 2).unflatten(2, grid)

    def cells(self, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
        """Where each cell of an (H, W) map really looks, (H, W, 2) as (x, y) in crop pixels: offset + stride·k.

        The tensor is shared between calls: do not modify it.
        """
        if torch.compiler.is_compiling():
            return grid_positions(height, width, self.offset, self.stride, device)
        key = (height, width, self.stride, None if device is None else torch.device(device))
        if key not in self._positions:
            with torch.inference_mode(False):  # else a map first seen in inference could never enter a loss
                self._positions[key] = grid_positions(height, width, self.offset, self.stride, device)
        return self._positions[key]

    def _encode(self, x: Tensor, *, whole: bool = True) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(pooled (B, D), tokens (B, N, D), grid of the whole image)."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise UsageError(f"{self.name} takes normalised float images (B, 3, h, w), not {tuple(x.shape)} {x.dtype}")
        with output_of(self.model, self._earlier.module if self._earlier else None) as early:
            raw = self._features(x, whole=whole)
        layout = self._layout
        normed = raw if layout.head_norm is None else self.model.get_submodule(layout.head_norm)(raw)
        grid: tuple[int, int]
        if layout.order == "NCHW":
            grid = (normed.shape[2], normed.shape[3])
            tokens = normed.flatten(2).transpose(1, 2)
        elif layout.order == "NHWC":
            grid = (normed.shape[1], normed.shape[2])
            tokens = normed.flatten(1, 2)
        else:
            tokens, sides = normed[:, layout.prefix :], x.shape[2:]
            # of the plain transformers that can drop patches, which know it
            if whole:
                grid = token_grid(tokens.shape[1], *sides, stride=self.stride, name=self.name)
            else:
                grid = self.model.patch_embed.dynamic_feat_size(sides)
        if self._pool == "mean":
            pooled = tokens.mean(1)
        else:
            pooled = normed[:, 0] if self._pool == "cls" else self.model.forward_head(raw, pre_logits=True)
        if code := getattr(self.model, "code", None):
            pooled, tokens = code(pooled), code(tokens)
        if early:
            grid, tokens = (early[0].shape[2], early[0].shape[3]), early[0].flatten(2).transpose(1, 2)
        return pooled, tokens, grid

    def _encode_packed(self, x: Sequences) -> Features:
        if not self.traits.packs:
            raise UsageError(f"{self.name} takes images of one shape only; take a backbone like navit_small")
        if x.patch != self.stride:
            raise UsageError(f"{self.name} takes patches of {self.stride} px, not of {x.patch}: pack the images anew")
        tokens, pooled = self.model.forward_packed(x)
        features = Features(pooled, tokens, self.offset + self.stride * x.positions, of=x.image, grids=x.grids)
        if self._pool == "mean":
            return replace(features, pooled=torch.stack([mine.mean(0) for mine, _, _ in features.per_image()]))
        return features

    def _features(self, x: Tensor, *, whole: bool) -> Tensor:
        if getattr(self.model, "patches", None) and self.model.patch != self.stride:  # another view was used last
            self.model.patch = self.stride
        try:
            if self._compiled is not None and self.training and whole and not self._earlier:
                return self._compiled(x)
            again = getattr(self.model, "grad_checkpointing", False)  # where these are not in force
            with SmallMaps(self.small_maps) if self.training and x.is_cpu and not again else nullcontext():
                return self.model.forward_features(x)
        except (AssertionError, RuntimeError) as error:
            height, width = x.shape[2:]
            reason = str(error).partition("\n")[0]
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise UsageError(f"{self.name} cannot be compiled here ({reason}); set compile: false") from error
            # timm refuses a size by an assertion, or lets two shapes clash. Other failures are none of the user's.
            clash = type(error) is RuntimeError and ("size" in reason or "shape" in reason)
            if isinstance(error, AssertionError) or (clash and (height, width) != (self.image_size, self.image_size)):
                raise UsageError(
                    f"{self.name} made for {self.image_size} px does not take {width}×{height} images: {reason}"
                ) from error
            raise
