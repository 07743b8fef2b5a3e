"""What every encoder is compared with, everywhere: the weights that its training started from, and raw pixels."""

from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone, build_backbone
from glocal.backbones.text import TextBackbone
from glocal.data import listed
from glocal.errors import UsageError
from glocal.evaluation.evaluate import evaluate_encoder, possible_tasks
from glocal.evaluation.extract import device_of
from glocal.evaluation.groups import PerImage, difference
from glocal.features import Features
from glocal.random import derive
from glocal.views import grid_centers


class Pixels(nn.Module):
    """An encoder without parameters.

    Pooled: the image shrunk to `size`×`size`, flattened, each image standardised, so that cosine similarity is the
    correlation of the pictures. Dense: the pixels of each `stride`×`stride` patch, shrunk to at most 8×8, flattened.

    Args:
        size: side of the shrunken image, pixels.
        stride: side of a patch, pixels.
        image_size: what it is evaluated at unless told otherwise.
    """

    name = "pixels"
    pool = "native"
    norm = "batch"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, size: int = 16, stride: int = 16, image_size: int = 96):
        super().__init__()
        self.size, self.stride, self.image_size = size, stride, image_size
        self.dim = 3 * size * size
        self.config = {"name": "pixels", "size": size, "stride": stride, "image_size": image_size}

    def cells(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """(H, W, 2), the centres of the patches in crop pixels."""
        return grid_centers(height, width, height * self.stride, width * self.stride, device=device)

    def forward(self, x: Tensor) -> Features:
        """Features of normalised images (B, 3, h, w); what is left of h and w beyond whole patches is not looked at."""
        small = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).flatten(1)
        pooled = (small - small.mean(1, keepdim=True)) / (small.std(1, keepdim=True) + 1e-5)
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        whole = x[..., : height * self.stride, : width * self.stride]
        side = min(8, self.stride)
        shrunk = F.adaptive_avg_pool2d(whole, (height * side, width * side))
        tokens = F.unfold(shrunk, side, stride=side).transpose(1, 2)
        positions = self.cells(height, width, x.device).flatten(0, 1)
        return Features(pooled, tokens, positions, grid=(height, width))


def start_of(encoder: Backbone, *, seed: int = 0, random: bool = False) -> Backbone:
    """The same architecture and pooling with the weights that training started from, in evaluation mode.

    A `UsageError` if they were pretrained and are no longer to be had.

    Args:
        encoder: trained.
        seed: of a random initialisation: of the run's seed it is the very one that the run had.
        random: a random initialisation also where training went on from pretrained weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        start = build_backbone(**encoder.config | ({"pretrained": False} if random else {}))
        if isinstance(encoder, TextBackbone):
            start.model.adopt(encoder.model.vocabulary)
    return start.to(device_of(encoder)).eval()


def start_words(encoder: Backbone) -> str:
    """What `start_of` is, in words."""
    if isinstance(encoder.pretrained, str):
        return encoder.pretrained
    return f"timm's released weights of {encoder.name}" if encoder.pretrained else "random initialisation"


def score(encoder: Any, data: Any, *, tasks: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    """Scores of one encoder on all tasks asked for, or on all that the data allows; settings of `evaluate_encoder`."""
    data = listed(data)
    return evaluate_encoder(encoder, data, tasks=tasks or possible_tasks(data), **settings)


def baselines(encoder: Backbone, *, seed: int = 0) -> dict[str, nn.Module]:
    """What to compare with: "start" (`start_of`), unless its weights are no longer to be had, and "pixels"."""
    found: dict[str, nn.Module] = {}
    with suppress(UsageError, OSError):
        found["start"] = start_of(encoder, seed=seed)
    if encoder.reads == "images":
        found["pixels"] = Pixels(stride=encoder.stride, image_size=encoder.image_size).to(device_of(encoder))
    return found


def score_with_baselines(encoder: Backbone, data: Any, **settings: Any) -> dict[str, Any]:
    """`score`, with those of the `baselines` beside it; its meta["start"] says what the start is, or why it is not.

    Of weights that training went on from, meta["gains"] says by task how much more the encoder scores, and the interval
    of that, on the same images (`difference`).
    """
    data, seed = listed(data), settings.get("seed", 0)
    arms: dict[str, nn.Module] = {"encoder": encoder, **baselines(encoder, seed=seed)}
    each: dict[str, dict[str, PerImage]] = {name: {} for name in arms}
    native = settings.pop("native", False)
    scores = {}
    for name, arm in arms.items():
        settings["native"] = native and name != "pixels"  # which are compared at one size
        scores[name] = score(arm, data, **settings, each=each[name])
    result = scores.pop("encoder")
    result["meta"]["start"] = start_words(encoder) + ("" if "start" in arms else ", no longer to be had")
    if encoder.pretrained and "start" in arms:
        mine, begun = each["encoder"], each["start"]
        result["meta"]["gains"] = {name: difference(mine[name], begun[name], seed=seed) for name in mine.keys() & begun}
    return result | scores
