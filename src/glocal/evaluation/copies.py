"""Copy detection (after Douze et al. 2021, arXiv 2106.09672): is an edited image found again among others?"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter

from glocal import random
from glocal.data.images import DrawnImage
from glocal.data.source import ImageSource, OpenImage, Unreadable
from glocal.data.subset import Subset
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task
from glocal.evaluation.retrieve import average_precision
from glocal.evaluation.split import spread_over

Edit = Callable[[Image.Image, Sequence[float], Image.Image], Image.Image]
"""An image, four numbers in [0, 1) and another image -> the image edited."""


def _crop(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """A box of 40% to 80% of the area, of the image's own shape."""
    side = (0.4 + 0.4 * u[0]) ** 0.5
    width, height = (max(1, round(side * full)) for full in image.size)
    left, top = int(u[1] * (image.width - width + 1)), int(u[2] * (image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _jpeg(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """Compressed at quality 30."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=30)
    return Image.open(stored).convert("RGB")


def _overlay(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """Another image over it, of 30% to 60% of its sides."""
    width, height = (max(1, round((0.3 + 0.3 * u[0]) * full)) for full in image.size)
    left, top = int(u[1] * (image.width - width + 1)), int(u[2] * (image.height - height + 1))
    edited = image.copy()
    edited.paste(other.resize((width, height)), (left, top))
    return edited


def _blur(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """Gaussian, σ of 1% to 3% of the short side."""
    return image.filter(ImageFilter.GaussianBlur((0.01 + 0.02 * u[0]) * min(image.size)))


def _rotation(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """By 10° to 45° to either side, on black."""
    angle = 10 + 35 * u[0]
    return image.rotate(angle if u[1] < 0.5 else -angle, Image.Resampling.BILINEAR, expand=True)


def _colour(image: Image.Image, u: Sequence[float], other: Image.Image) -> Image.Image:
    """Brightness, contrast and saturation times .5 to 1.5."""
    for enhance, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), u, strict=False):
        image = enhance(image).enhance(0.5 + factor)
    return image


EDITS: dict[str, Edit] = {
    "crop": _crop, "jpeg": _jpeg, "overlay": _overlay, "blur": _blur, "rotation": _rotation, "colour": _colour,
}  # fmt: skip


class Edited(Subset):
    """Each image of a collection, edited in one way; what is random is a function of the seed and its position."""

    def __init__(self, source: ImageSource, kind: str, size: int, seed: int) -> None:
        super().__init__(source, np.arange(len(source)))
        self.kind, self.size, self.seed = kind, size, seed
        self.name = f"{source.name}, {kind}"

    def open(self, i: int) -> OpenImage:
        """Image i, edited at twice the size at which it is looked at."""
        opened = self.source.open(i)
        u = random.uniform(self.seed, f"copies {self.kind}", i, n=5).tolist()

        def draw() -> np.ndarray:
            other = (i + 1 + int(u[4] * (len(self.source) - 1))) % len(self.source)
            try:
                over = self._pixels(self.source.open(other))
            except Unreadable:
                over = Image.new("RGB", (1, 1))
            return np.array(EDITS[self.kind](self._pixels(opened), u[:4], over))

        return DrawnImage(opened.size, draw)

    def _pixels(self, opened: OpenImage) -> Image.Image:
        return Image.fromarray(opened.decode(min(1.0, 2 * self.size / min(opened.size))))


@task(
    on_request=True,
    title="Copies",
    main="micro_ap",
    words={"micro_ap": "average precision over all pairs", "recall_at_1": "the original is the nearest"},
    shares={"micro_ap": "pairs", "recall_*": "copies"},
)
def copies(context: EvalContext, *, images: int = 500, distractors: int = 2000) -> dict:
    """Whether edited test images are found again among the originals and training images. No labels needed.

    Each of at most `images` test images is cropped (40% to 80% of it), compressed (JPEG 30), covered in part by
    another, blurred, rotated and changed in colour: a query for each. All are compared with all originals and at most
    so many training images, by cosine of pooled features.

    Returns:
        micro_ap, the average precision of all (query, original or distractor) pairs together; recall_at_1, how often
        the nearest is the query's original; recall_KIND, the same of one kind of edit; images; distractors.
    """
    if distractors < 0:
        raise UsageError(f"distractors is {distractors}; give 0 or more")
    source = spread_over(context.test, images)
    originals = context.extract(source)
    others = context.extract(spread_over(context.train, distractors)).pooled if distractors else originals.pooled[:0]
    references = F.normalize(torch.cat([originals.pooled, others]).to(context.device), dim=1)
    at = {position: row for row, position in enumerate(originals.index.tolist())}
    scores, truths, recalls = [], [], {}
    nearest: dict[int, list[bool]] = {}
    for kind in EDITS:
        bank = context.extract(Edited(source, kind, context.image_size, context.seed))
        own = torch.tensor([at[position] for position in bank.index.tolist()], device=context.device)
        similarity = F.normalize(bank.pooled.to(context.device), dim=1) @ references.T
        right = similarity.argmax(1) == own
        recalls[f"recall_{kind}"] = float(right.cpu().double().mean())
        for position, hit in zip(bank.index.tolist(), right.tolist(), strict=True):
            nearest.setdefault(position, []).append(hit)
        scores.append(similarity.flatten().cpu())
        truths.append(F.one_hot(own, len(references)).bool().flatten().cpu())
    looked = source.positions if isinstance(source, Subset) and source is not context.test else np.arange(len(source))
    hits = [float(np.mean(found)) for found in nearest.values()]
    context.each = PerImage.mean("recall_at_1", looked[list(nearest)], hits)
    return {
        "micro_ap": float(average_precision(torch.cat(scores), torch.cat(truths))),
        "recall_at_1": float(np.mean(hits)),
        **recalls,
        "images": len(originals.index),
        "distractors": len(others),
    }
