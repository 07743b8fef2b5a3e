"""Features of a whole collection from a frozen encoder: deterministic, in order, unreadable images skipped."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from glocal.data.source import ImageSource, Unreadable
from glocal.devices import cores, find_device
from glocal.errors import UsageError
from glocal.evaluation.native import native_image, native_packing
from glocal.features import Features, Sequences
from glocal.progress import Progress
from glocal.views import Packing, pack
from glocal.views.dataset import can_share

CROP_PCT = 0.875
Precision = Literal["fp32", "bf16"]


Encoder = TypeVar("Encoder", bound=nn.Module)


class NothingReadable(UsageError):
    """No image of a collection can be read."""


@dataclass
class FeatureBank:
    """Features of the readable images of a collection, in its order, on the CPU.

    Attributes:
        pooled: (N, D) float32.
        index: (N,) int64, positions in the source.
        keys: N names of the images.
        labels: (N,) int64, or None.
        dense: (N, D', H, W) float16, in channels-last memory order, or None unless asked for.
        maps: the same of images in their own shapes, N times (H, W, D').
        cells: (H, W, 2) where the cells of `dense` look, (x, y) in pixels of the square, or None.
        skipped: (key, reason) of the images that could not be read.
    """

    pooled: Tensor
    index: Tensor
    keys: list[str]
    labels: Tensor | None = None
    dense: Tensor | None = None
    maps: list[Tensor] | None = None
    cells: Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


def eval_image(image: Image.Image, image_size: int, crop_pct: float | None = CROP_PCT) -> Image.Image:
    """The evaluation view of an image, bicubic with antialiasing.

    Args:
        image: RGB.
        image_size: side of the square result in pixels.
        crop_pct: the short side becomes image_size / crop_pct and the centre is kept; None squeezes the whole image
            into the square.
    """
    if crop_pct is None:
        return image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    short = round(image_size / crop_pct)
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + image_size, top + image_size))


class _Images(Dataset):
    def __init__(self, source: ImageSource, image_size: int, crop_pct: float | None, packing: Packing | None) -> None:
        self.source, self.image_size, self.crop_pct, self.packing = source, image_size, crop_pct, packing

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray | str]:
        try:
            opened = self.source.open(i)
            if self.packing:
                return i, np.asarray(native_image(opened, self.image_size, self.packing))
            target = self.image_size if self.crop_pct is None else round(self.image_size / self.crop_pct)
            image = Image.fromarray(opened.decode(min(1.0, target / min(opened.size))))
        except Unreadable as error:
            return i, str(error)
        return i, np.asarray(eval_image(image, self.image_size, self.crop_pct))


def _collate(samples: list[tuple[int, np.ndarray | str]]) -> tuple[Tensor, Any, list[tuple[int, str]]]:
    good = [(i, pixels) for i, pixels in samples if not isinstance(pixels, str)]
    bad = [(i, reason) for i, reason in samples if isinstance(reason, str)]
    images = [pixels for _, pixels in good]
    one_shape = len({image.shape for image in images}) == 1
    pixels: Any = torch.from_numpy(np.stack(images)) if one_shape else [torch.from_numpy(x.copy()) for x in images]
    return torch.tensor([i for i, _ in good], dtype=torch.int64), pixels if images else None, bad


def device_of(encoder: nn.Module) -> torch.device:
    """Where the encoder's parameters (or buffers) live; the CPU when it has neither."""
    return next((tensor.device for tensor in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))


@contextmanager
def placed(encoder: Encoder, name: str) -> Iterator[Encoder]:
    """The encoder on the device of this name (see `glocal.devices.find_device`), and where it was afterwards.

    One that is on an accelerator already stays there for "auto".
    """
    before = device_of(encoder)
    there = before if name == "auto" and before.type != "cpu" else find_device(name)
    try:
        yield encoder.to(there)
    finally:
        encoder.to(before)


def suited(encoder: nn.Module, workers: int | None, precision: Precision | None) -> tuple[int, Precision]:
    """Loader workers and precision, where left open, for the device that the encoder is on.

    On the CPU no workers, which would take the encoder's cores, and fp32. Elsewhere a worker a core; bf16 on a GPU that
    has instructions for it.
    """
    on = device_of(encoder).type
    bf16 = on == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    workers = (0 if on == "cpu" else cores()) if workers is None else workers
    return workers, precision or ("bf16" if bf16 else "fp32")


@contextmanager
def eval_mode(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode; every submodule's own mode is restored afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients."""
    with eval_mode(encoder), torch.inference_mode():
        yield


def encode(encoder: nn.Module, pixels: Tensor | Sequences, precision: str = "fp32") -> Features:
    """Features of normalised pixels (B, 3, h, w), or packed ones, computed under autocast for precision "bf16"."""
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"precision is '{precision}'; use 'fp32' or 'bf16'")
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        if isinstance(pixels, Sequences):
            return encoder(pixels)
        return encoder(pixels.contiguous(memory_format=torch.channels_last))


def normalise(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """uint8 (B, h, w, 3) to the encoder's normalised float (B, 3, h, w)."""
    mean, std = (torch.as_tensor(value, device=pixels.device).float() for value in (encoder.mean, encoder.std))
    return ((pixels.float() / 255 - mean.flatten()) / std.flatten()).permute(0, 3, 1, 2)


def check_loading(batch_size: int, workers: int) -> None:
    """Refuse, by a `UsageError`, numbers with which nothing can be loaded."""
    if batch_size < 1 or not 0 <= workers <= 1024:
        raise UsageError(f"--batch-size {batch_size}, --workers {workers}: at least 1 image, 0 to 1,024 processes")


def load(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    workers: int,
    crop_pct: float | None = CROP_PCT,
    packing: Packing | None = None,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Any, list[tuple[int, str]]]]:
    """Batches of (index (B,), pixels (B, h, w, 3) uint8 or None, (position, reason) of the unreadable), in order.

    With a `packing` images keep their shapes (`native_image`): pixels may be a list of (h, w, 3). By as many workers as
    there is shared memory for: each has two batches ready, and makes a third.
    """
    check_loading(batch_size, workers)
    size, most = 3 * batch_size * 3 * image_size**2, min(workers, -(-len(source) // batch_size))
    settings: dict[str, Any] = {"collate_fn": _collate, "pin_memory": pin_memory}
    settings["num_workers"] = next((n for n in range(most, 0, -1) if can_share(size * n)), 0)
    settings["generator"] = torch.Generator()  # a DataLoader without its own draws from the global one
    return iter(DataLoader(_Images(source, image_size, crop_pct, packing), batch_size, **settings))


def stream(
    encoder: nn.Module,
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int = 128,
    workers: int = 0,
    crop_pct: float | None = CROP_PCT,
    native: bool = False,
    precision: str = "fp32",
    progress: Progress | None = None,
    skipped: list[tuple[str, str]] | None = None,
) -> Iterator[tuple[Tensor, Features]]:
    """Batches of (index (B,), Features) of the readable images, in order; nothing is kept.

    Args:
        encoder: maps normalised (B, 3, h, w) to `Features`, with `.mean` and `.std`.
        source: the images.
        image_size: side of the square given to the encoder, pixels.
        batch_size: images per forward pass.
        workers: loader processes.
        crop_pct: centre crop as a fraction of the short side; None squeezes the whole image into the square.
        native: encode whole images in their own shapes, of the area of that square.
        precision: "fp32" or "bf16" (autocast).
        progress: called as progress(what, done, total).
        skipped: a list that receives (key, reason) of unreadable images.
    """
    device, done = device_of(encoder), 0
    packing = native_packing(encoder, image_size) if native else None
    settings: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "workers": workers}
    settings["packing"] = packing
    for index, pixels, bad in load(source, **settings, crop_pct=crop_pct, pin_memory=device.type == "cuda"):
        done += len(index) + len(bad)
        if skipped is not None:
            skipped.extend((source.key(i), reason) for i, reason in bad)
        if pixels is not None:
            with frozen(encoder):
                if packing:
                    inputs: Any = pack([normalise(encoder, x[None])[0] for x in pixels], packing).to(device)
                else:
                    inputs = normalise(encoder, pixels.to(device, non_blocking=True))
                features = encode(encoder, inputs, precision)
            yield index, features
        if progress is not None:
            progress(f"features of {source.name}", done, len(source))


def extract(encoder: nn.Module, source: ImageSource, *, dense: bool = False, **options: Any) -> FeatureBank:
    """The features of a whole collection.

    Args:
        encoder: as for `stream`.
        source: the images.
        dense: keep the feature maps too, in half precision.
        options: those of `stream`; `image_size` at least.

    Raises:
        UsageError: if no image can be read.
    """
    pooled = torch.empty(0)
    indices: list[Tensor] = []
    skipped: list[tuple[str, str]] = []
    maps: Tensor | None = None
    shaped: list[Tensor] = []
    looks: Tensor | None = None
    done = 0
    for index, features in stream(encoder, source, skipped=skipped, **options):
        indices.append(index)
        pooled = pooled if done else torch.empty(len(source), features.pooled.shape[1])
        pooled[done : done + len(index)] = features.pooled
        if dense and features.of is not None:
            shaped += [tokens.unflatten(0, grid).half().cpu() for tokens, _, grid in features.per_image() if grid]
        elif dense:
            cells = features.dense.permute(0, 2, 3, 1)
            looks = features.positions.reshape(-1, *cells.shape[1:3], 2)[0].cpu()
            maps = half_store(len(source), *cells.shape[1:]) if maps is None else maps
            maps[done : done + len(index)] = cells.half()
        done += len(index)
    if not indices:
        raise NothingReadable(f"none of the {len(source)} images of {source.name} can be read ({skipped[0][1]})")
    index = torch.cat(indices)
    labels = None if source.labels is None else torch.from_numpy(np.asarray(source.labels, dtype=np.int64))[index]
    kept = None if maps is None else maps[:done].permute(0, 3, 1, 2)
    keys = [source.key(i) for i in index.tolist()]
    return FeatureBank(pooled[:done], index, keys, labels, kept, shaped or None, looks, skipped)


def half_store(*shape: int) -> Tensor:
    """Half-precision memory for feature maps; beyond 8 GB a temporary file that vanishes with the tensor."""
    if 2 * math.prod(shape) < 8e9:
        return torch.empty(shape, dtype=torch.float16)
    return torch.from_numpy(np.memmap(tempfile.TemporaryFile(), dtype=np.float16, shape=shape))
