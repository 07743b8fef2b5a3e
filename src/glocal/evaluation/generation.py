"""What a generator is worth: are its images like those of a collection, seen by an encoder?"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal.backbones import load_encoder
from glocal.data.arrays import ArraySource
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from glocal.evaluation.extract import device_of, extract, load
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over
from glocal.progress import Progress
from glocal.random import derive

BATCH = 100
"""Images that are made at a time; the numbers drawn for one depend on nothing but the seed and its place."""


def samples(
    generator: Any, count: int, *, seed: int = 0, cluster: int | None = None, progress: Progress | None = None
) -> Tensor:
    """Images (count, 3, h, w), uint8, in main memory, of latents from N(0, I).

    Args:
        generator: see `glocal.generation.Generator`; computes where it is.
        count: of images.
        seed: of the latents, and of the clusters.
        cluster: of all images, where clusters guide it; None: drawn, as often as training saw each.
        progress: called as progress(what, done, total).

    Raises:
        UsageError: for a cluster that it does not have, and where what it makes is not finite.
    """
    frequencies = getattr(generator, "frequencies", torch.empty(0)).float().cpu()
    if cluster is not None and not 0 <= cluster < len(frequencies):
        said = f"has clusters 0 to {len(frequencies) - 1}" if len(frequencies) else "was trained without clusters"
        raise UsageError(f"--cluster {cluster}: the generator {said}")
    guidance = getattr(generator, "guidance", 0.0)
    if not math.isfinite(guidance) or (guidance and not len(frequencies)):
        why = "the generator was trained without clusters" if math.isfinite(guidance) else "give a number"
        raise UsageError(f"guidance {guidance:g}: {why}")
    if count < 1:
        raise UsageError(f"{count} images: make at least one")
    device, made = device_of(generator), []
    for start in range(0, count, BATCH):
        draws = torch.Generator().manual_seed(derive(seed, "latents", start))
        z = torch.randn(BATCH, *generator.latent_shape, generator=draws)
        of: dict[str, Tensor] = {}
        if len(frequencies):
            drawn = torch.multinomial(frequencies + 1e-12, BATCH, replacement=True, generator=draws)
            of["cluster"] = (drawn if cluster is None else torch.full_like(drawn, cluster))[: count - start].to(device)
        with torch.inference_mode():
            images = generator(z[: count - start].to(device), **of)
        if not bool(images.isfinite().all()):
            raise UsageError(_diagnosis(generator))
        made.append((images.clamp(0, 1) * 255).round().byte().cpu())
        if progress is not None:
            progress("making images", min(count, start + BATCH), count)
    return torch.cat(made)


def _diagnosis(generator: Any) -> str:
    """Why what it makes is not finite."""
    broken = [name for name, value in generator.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        return f"the images are not finite, since its weights are not ({broken[0]}): train it again, at a lower --lr"
    guided = getattr(generator, "guidance", 0)
    remedy = f"lower the guidance, which is {guided:g}" if guided else "take more steps"
    return f"the images are not finite, though its weights are: it diverges while it samples; {remedy}"


@task(
    on_request=True,
    squares=True,
    title="Generated images",
    main="kid",
    higher_is_better=False,
    words={
        "kid": "kernel distance to real images, × 1,000",
        "kid_low": "lower end of its 95% interval",
        "kid_high": "upper end",
        "fid": "Fréchet distance to real images",
        "precision": "made images that are like real ones",
        "recall": "real images that are like made ones",
    },
    shares={"precision": "made images", "recall": "images"},
)
def generation(
    context: EvalContext,
    *,
    images: int = 2000,
    features: str = "",
    steps: int | None = None,
    guidance: float | None = None,
) -> dict:
    """Whether the images that a run makes are like the training images. No labels needed.

    Both, at the generator's size, are seen by one encoder, and compared by its pooled features: by Fréchet's distance
    and the kernel distance (FID and KID, but of these features, so that only numbers of one encoder and one number of
    images compare), and by nearest neighbours. Of `images` made ones and at most as many training images.

    Args:
        features: the encoder that looks (a run, an export, timm:NAME); by default the one that is evaluated, which
            generators of other runs should not be compared by.
        steps: of a flow's sampler, 16 by default.
        guidance: its strength, 0 by default.
    """
    generator = context.generator
    if generator is None:
        raise UsageError("this encoder makes no images; give a run of --method flow, irmae or dcgan")
    if images < 4:
        raise UsageError(f"images is {images}; make at least 4")
    for name, value in (("steps", steps), ("guidance", guidance)):
        if value is not None and not hasattr(generator, name):
            raise UsageError(f"{name} is for flows; this generator has none: leave it out")
        if value is not None:
            setattr(generator, name, value)
    made = samples(generator.to(context.device), images, seed=context.seed, progress=context.progress)
    encoder, size = context.encoder, context.image_size
    if features:
        encoder = load_encoder(features).to(context.device)
        size = encoder.image_size
    real = whole(context, spread_over(context.train, images), made.shape[-1])
    a, b = (_seen(context, encoder, size, source) for source in (real, ArraySource(made, name="made images")))
    distance, error = kernel_distance(a, b)
    precision, recall = precision_recall(a, b)
    interval = {"kid_low": 1000 * (distance - 1.96 * error), "kid_high": 1000 * (distance + 1.96 * error)}
    scores = {"kid": 1000 * distance, **interval, "fid": frechet_distance(a, b)}
    return {**scores, "precision": precision, "recall": recall, "images": images, "features": features or "its own"}


def whole(context: EvalContext, source: Any, size: int) -> ArraySource:
    """The centre squares of images, of `size` pixels, as a generator learns them."""
    batches = load(source, image_size=size, batch_size=context.batch_size, workers=context.workers, crop_pct=1.0)
    pixels = [np.asarray(batch) for _, batch, _ in batches if batch is not None]
    if not pixels:
        raise UsageError(f"none of the {len(source)} images of {source.name} can be read")
    return ArraySource(np.concatenate(pixels), name=source.name)


def _seen(context: EvalContext, encoder: Any, size: int, source: ArraySource) -> Tensor:
    """Pooled features (N, D) of whole images."""
    settings = {name: getattr(context, name) for name in ("batch_size", "precision", "progress")}
    return extract(encoder, source, image_size=size, crop_pct=None, **settings).pooled
