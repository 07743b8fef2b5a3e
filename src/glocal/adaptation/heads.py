"""Heads: what is learnt on top of an encoder from labels, by name (`glocal.plugins`), and their files."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.features import Features
from glocal.plugins import GUIDE, find, names, refuse_untrusted
from glocal.run import Run, write_atomically, write_json
from glocal.views import Batch


@dataclass
class Labelled:
    """Images with what is to be said of them.

    Attributes:
        source: only such as can be learnt from.
        classes: K names.
        amounts: (K,) how much there is of each: images, or pixels.
        target: the answers for a batch of views of `source`: (B, ...) int64, -1 where nothing is known, or as the head
            has them.
        skipped: what was left out, and why.
    """

    source: ImageSource
    classes: list[str]
    amounts: np.ndarray
    target: Callable[[Batch], Tensor]
    skipped: dict[str, str] = field(default_factory=dict)


class Head(Protocol):
    """What `glocal finetune --head NAME` needs: a small `nn.Module`, `HEAD(dim, classes)`, and what belongs to it.

    Attributes:
        needs: the attribute of a source that it learns from: "labels", "masks" or "keypoints".
        main: the score that it is judged by.
        least_cells: cells that a side of the map should have; 0 if it does not look at the map.
        crop_pct: of the images that it answers for: .875 for the centre, None for the whole, squeezed into a square.
        scale: least and most area of a training crop, as a fraction of its image.
        few: labelled images under which only the head learns.
        lr: learning rate, a tenth of the head's, where only it learns.
        classes: K names.

    What some have beside: `earlier`, true of those that look at the map before the last halving
    (`Backbone.earlier`); `options`, names of options of fine-tuning that it is given, too, and on loading what
    `keep(run)` made of them in `run.kept`; `settle(answers, source)`, called at the end with what it says of held-out
    images; `choose(names)`, to choose among other names; `legend()`, class → colour of its pictures (CSS);
    `after_step(progress)`, called after each step; `remember(seen, labels, index)`, for which exemplars of each class
    are kept (see `Neighbours`), whose `__call__` then takes the positions of training images.
    """

    needs: str
    main: str
    least_cells: int
    crop_pct: float | None
    scale: tuple[float, float]
    few: int
    lr: float
    classes: list[str]

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """What a collection says; its classes numbered as in `classes`, where these are given."""

    def __call__(self, features: Features) -> Tensor:
        """Logits (B, K) or (B, K, H, W): what is exported beside the features."""

    def looked_at(self, features: Features) -> Tensor:
        """The features that it sees, (M, D)."""

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """Start from what was `looked_at` (M, D) of training images `index` (N,), with the encoder as it is."""

    def losses(self, logits: Tensor, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:
        """The loss of each answer that is known (M,), and its class (M,); `looks` as `looks_of` of segmentation."""

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """What is said of one image of (width, height), from its logits."""

    def tally(self, answer: np.ndarray, source: ImageSource, i: int) -> np.ndarray:
        """What an answer adds to `scores`, given the truth about image i."""

    def scores(self, tallies: np.ndarray) -> dict[str, float]:
        """Scores of tallies summed over images."""

    def write(self, out: Path, answers: Iterable[tuple[str, np.ndarray]]) -> None:
        """The answers, by name of the image, as a file or folder; a `UsageError` if `out` will not do."""

    def shown(self, image: Image.Image, answer: np.ndarray, scale: float = 1.0) -> tuple[list[Image.Image], str]:
        """Pictures and words for a page; the image may be smaller than the one answered for, by `scale`."""


def head_names() -> list[str]:
    """The registered heads' names, sorted."""
    return names("heads")


def find_head(name: str) -> Any:
    """The head registered as `name`, or the class at "module:Class"."""
    cls = find("heads", name)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and hasattr(cls, "read") and hasattr(cls, "needs")):
        raise UsageError(f"head '{name}': `{getattr(cls, '__name__', cls)}` is no head ({GUIDE})")
    return cls


def suited_head(source: ImageSource) -> str:
    """The head that learns from what a collection has; masks before labels."""
    for name in ("segment", "classify", "keypoints"):
        if has(source, find_head(name).needs):
            return name
    raise UsageError(
        f"{source.name} has neither labels (a sub-folder for each class, or a list with a column label) nor masks"
        f" (folders images/ and masks/) nor keypoints (joints.npy): fine-tuning needs one of them{_note(source)}"
    )


def require(source: ImageSource, name: str) -> None:
    """A `UsageError` where a collection lacks what a head learns from."""
    if not has(source, need := find_head(name).needs):
        raise UsageError(f"--head {name} learns from {need}; {source.name} has none{_note(source)}")


def _note(source: ImageSource) -> str:
    return f" ({source.note})" if source.note else ""


def has(source: ImageSource, need: str) -> bool:
    """Whether a collection has what a head learns from."""
    return source.has_masks if need == "masks" else getattr(source, need, None) is not None


class Standardised(nn.Module):
    """(x − mean) / deviation of features (..., D), by numbers taken from the training images before it begins."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    def take(self, x: Tensor) -> None:
        """Standardise by the rows of x (N, D) from now on."""
        self.mean.copy_(x.mean(0))
        self.deviation.copy_((x.var(0, correction=0) + 1e-5).sqrt())


def width_seen(head: Any, encoder: Backbone) -> int:
    """Width of the features that a head, or one of its class, sees: of the map, if it looks at that."""
    return encoder.map_dim if head.least_cells else encoder.dim


def save_head(head: Any, name: str, encoder: Backbone, directory: str | Path, **extra: Any) -> None:
    """Write the two files of a head beside those of its encoder, which are there already."""
    run = Run(directory)
    weights, about = run.head_files
    tensors = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    write_atomically(weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    described = {
        "head": name,
        "classes": head.classes,
        "dim": width_seen(head, encoder),
        "encoder": _digest(run.encoder_files[0]),
    }
    write_json(about, described | {"extra": extra})


def load_head(directory: str | Path, *, trust_code: bool = False) -> tuple[Any, str]:
    """The head of a fine-tuned folder, in evaluation mode, and its name.

    Raises:
        UsageError: if there is none, it cannot be read, or it was trained on another encoder than the one beside it.
    """
    run = Run(directory)
    weights, about = run.head_files
    if not (weights.is_file() and about.is_file()):
        again = f"glocal finetune {directory} --data LABELLED --out OUT makes one"
        raise UsageError(f"{directory} has no head ({weights.name} and {about.name}); {again}")
    said = run.head()
    if not run.has_encoder or said.get("encoder") != _digest(run.encoder_files[0]):
        raise UsageError(
            f"{weights} was trained on another encoder than {run.encoder_files[0]}; put back the one it had"
        )
    name = str(said.get("head"))
    consent = f"glocal.predict({str(directory)!r}, images, trust_code=True)"
    refuse_untrusted([name], origin=about, trust_code=trust_code, command=consent)
    try:
        cls = find_head(name)
        head = cls(said["dim"], said["classes"], **given(cls, run))
        head.load_state_dict(load_file(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"{weights} or {about} is damaged ({str(error).splitlines()[0]}); fine-tune again") from error
    return head.eval(), name


def given(cls: Any, run: Run) -> dict[str, str]:
    """The options of a head's class, as its run's folder has kept what was given to it."""
    return {option: str(run.kept[option]) for option in getattr(cls, "options", ())}


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
