"""How much of the linear probe's accuracy survives corrupted images, lost activations, and seeing a part only."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.corruptions import CORRUPTIONS, Draws, corrupt
from glocal.evaluation.extract import CROP_PCT, encode, frozen, load, normalise
from glocal.evaluation.linear import classify, trained_probe
from glocal.evaluation.registry import task
from glocal.evaluation.severities import nearest_size
from glocal.evaluation.split import spread_over
from glocal.features import Features

LOSS = {"mean": "mean accuracy", "clean": "accuracy on clean images", "relative_drop": "share of it that is lost"}
SHARES = {"relative_drop": "accuracy", "*": "images"}


def check_each(option: str, values: Sequence[Any], fits: Callable[[Any], bool], such: str) -> None:
    """Refuse no values, and one that does not fit; `such` says what each of an `option` has to be."""
    if len(values) == 0:
        raise UsageError(f"{option} is empty; give at least one, each {such}")
    for value in values:
        if not fits(value):
            raise UsageError(f"{option} holds {value!r}; each must be {such}")


class Classifier(nn.Module):
    """The encoder with the `linear` task's classifier, trained on clean features: images in [0, 1] to logits."""

    def __init__(self, context: EvalContext) -> None:
        super().__init__()
        self.encoder, (self.standardise, self.probe, _) = context.encoder, trained_probe(context)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, h, w) in [0, 1], differentiable."""
        return self.head(encode(self.encoder, normalise(self.encoder, 255 * x.permute(0, 2, 3, 1))).pooled)

    def head(self, pooled: Tensor) -> Tensor:
        """Logits (B, K) of pooled features (B, D)."""
        return self.probe.logits(self.standardise(pooled.float()))[:, 0]


class Photographs:
    """At most `most` test images, spread evenly over them, as pixels in memory, and their labels.

    Attributes:
        pixels: (N, h, w, 3) uint8, as the encoder gets them.
        labels: (N,) int64.
        index: (N,) int64, positions among the images looked at; what random numbers are keyed by.
    """

    def __init__(self, context: EvalContext, most: int) -> None:
        source = spread_over(context.test, most)
        settings = {name: getattr(context, name) for name in ("image_size", "batch_size", "workers")}
        batches = list(load(source, **settings))
        context.skipped.extend((source.key(i), reason) for _, _, bad in batches for i, reason in bad)
        readable = [pixels for _, pixels, _ in batches if pixels is not None]
        if not readable:
            raise UsageError(f"none of the {len(source)} images of {source.name} can be read ({batches[0][2][0][1]})")
        self.pixels, self.index = torch.cat(readable), torch.cat([index for index, _, _ in batches])
        self.labels = torch.as_tensor(source.labels, dtype=torch.int64)[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, context: EvalContext) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pixels, labels, index) batch by batch, the first two on the context's device."""
        whole = (self.pixels, self.labels, self.index)
        split = zip(*(each.split(context.batch_size) for each in whole), strict=True)
        for pixels, labels, index in split:
            yield pixels.to(context.device), labels.to(context.device), index


def photographs(context: EvalContext, most: int) -> Photographs:
    """The test images as pixels, read once for all tasks."""
    return context.once(("photographs", most), lambda: Photographs(context, most))


def hits(context: EvalContext, classifier: Classifier, pixels: Tensor, labels: Tensor) -> int:
    """How many of the images (B, h, w, 3) uint8 are classified right, computed as for the clean features."""
    with frozen(context.encoder):
        pooled = encode(context.encoder, normalise(context.encoder, pixels), context.precision).pooled
        return int((classifier.head(pooled).argmax(1) == labels).sum())


def relative_drop(clean: float, corrupted: float) -> float:
    """The share of the clean accuracy that is lost; 0 where there was none."""
    return (clean - corrupted) / clean if clean > 0 else 0.0


@task(needs={"labels"}, on_request=True, squares=True, title="Corrupted images", main="mean", words=LOSS, shares=SHARES)
def robustness(
    context: EvalContext,
    *,
    images: int = 500,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
) -> dict:
    """Accuracy of the linear probe, trained on clean images, under 15 corruptions at 5 severities.

    From Hendrycks & Dietterich (2019); made as they are needed, from the context's seed.

    Args:
        images: test images looked at, spread evenly over all.
        corruptions: names, see `glocal.evaluation.corruptions`.
        severities: of 1 to 5.

    Returns:
        clean and mean accuracy; relative_drop = (clean − mean) / clean; accuracy per corruption (mean of its
        severities) and as severity_1 … severity_5 (mean of its corruptions); table (corruption → severities); images;
        benchmark_size, the published image side whose constants were used.
    """
    check_each("robustness: corruptions", corruptions, lambda c: c in CORRUPTIONS, f"one of {', '.join(CORRUPTIONS)}")
    check_each("robustness: severities", severities, lambda s: s in range(1, 6), "one of 1, 2, 3, 4, 5")
    shown, classifier = photographs(context, images), Classifier(context)
    settings = [(name, severity) for name in corruptions for severity in severities]
    right = dict.fromkeys([("", 0), *settings], 0)
    for done, (name, severity) in enumerate(right):
        for pixels, labels, index in shown.batches(context):
            if severity:
                pixels = corrupt(pixels, name, severity, seed=context.seed, samples=index.tolist())
            right[name, severity] += hits(context, classifier, pixels, labels)
        if context.progress is not None:
            context.progress("corruptions", done, len(settings))
    accuracy = {setting: count / len(shown) for setting, count in right.items()}
    clean, mean = accuracy["", 0], sum(accuracy[s] for s in settings) / len(settings)
    table = {name: [accuracy[name, severity] for severity in severities] for name in corruptions}
    return {
        "clean": clean,
        "mean": mean,
        "relative_drop": relative_drop(clean, mean),
        **{name: sum(row) / len(row) for name, row in table.items()},
        **{f"severity_{s}": sum(row[k] for row in table.values()) / len(table) for k, s in enumerate(severities)},
        "table": table,
        "images": len(shown),
        "benchmark_size": nearest_size(context.image_size),
    }


def find_stage(encoder: nn.Module, stage: str | None) -> tuple[str, nn.Module]:
    """The submodule called `stage`, or the last stage; without stages, the encoder's pooled features ("pooled").

    Stages are those that timm's `feature_info` knows; raw pixels have none.
    """
    info = getattr(getattr(encoder, "model", None), "feature_info", None) or []
    known, modules = [each["module"] for each in info], dict(encoder.named_modules())
    if stage is None and not known:
        return "pooled", encoder
    wanted = known[-1] if stage is None else stage
    for name in (wanted, f"model.{wanted}"):
        if wanted and name in modules:
            return name, modules[name]
    raise UsageError(f"the encoder has no stage '{stage}' (there are: {', '.join(known) or 'none'})")


@contextmanager
def masked(module: nn.Module, share: float, *, seed: int, samples: Sequence[int]) -> Iterator[None]:
    """Within, that share of each sample's activations at the module's output is 0, in expectation.

    Which ones is a function of the seed and the sample; those lost at a small share are lost at a larger one too.
    What is left is not scaled up.
    """

    def lose(_module: nn.Module, _inputs: object, output: Any) -> Any:
        if isinstance(output, Tensor):
            u = Draws(seed, "internal", samples).uniform(*output.shape[1:], like=output.float())
            return torch.where(u < share, 0.0, output)
        assert isinstance(output, Features)  # of an encoder without stages
        return replace(output, pooled=lose(_module, _inputs, output.pooled))

    with module.register_forward_hook(lose):
        yield


@task(needs={"labels"}, on_request=True, squares=True, title="Lost activations", main="mean", words=LOSS, shares=SHARES)
def internal(
    context: EvalContext,
    *,
    stage: str | None = None,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    images: int = 500,
) -> dict:
    """Accuracy of the linear probe, trained on the whole network, as activations inside are set to 0.

    Args:
        stage: the submodule whose output is masked, e.g. "layer3"; by default the last stage.
        shares: of the activations, in (0, 1], over locations and channels alike.
        images: test images looked at, spread evenly over all.

    Returns:
        clean; masked_SHARE for each share; mean over the shares; relative_drop; the stage; images.
    """
    check_each("internal: shares", shares, lambda share: 0 < share <= 1, "above 0 and at most 1")
    name, module = find_stage(context.encoder, stage)
    shown, classifier = photographs(context, images), Classifier(context)
    accuracy = {}
    for done, share in enumerate((0.0, *shares)):
        right = 0
        for pixels, labels, index in shown.batches(context):
            with masked(module, share, seed=context.seed, samples=index.tolist()):
                right += hits(context, classifier, pixels, labels)
        accuracy[share] = right / len(shown)
        if context.progress is not None:
            context.progress("masked activations", done, len(shares))
    mean = sum(accuracy[share] for share in shares) / len(shares)
    return {
        "clean": accuracy[0.0],
        **{f"masked_{share:g}": accuracy[share] for share in shares},
        "mean": mean,
        "relative_drop": relative_drop(accuracy[0.0], mean),
        "stage": name.removeprefix("model."),
        "images": len(shown),
    }


@task(needs={"labels"}, on_request=True, squares=True, title="Parts of images", main="mean", shares={"*": "images"})
def crops(context: EvalContext, *, areas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.7, 1.0), images: int = 500) -> dict:
    """Accuracy of the linear probe on ever smaller central parts of the test images, enlarged to full size.

    A part is taken from the photograph itself, not from its shrunken copy, so that detail is kept where there is some.

    Args:
        areas: shares, in (0, 1], of the area of the usual central crop; 1 is that crop.
        images: test images looked at, spread evenly over all.

    Returns:
        area_SHARE for each share; mean; images.
    """
    check_each("crops: areas", areas, lambda area: 0 < area <= 1, "above 0 and at most 1")
    source, classifier = spread_over(context.test, images), Classifier(context)
    accuracy = {}
    for area in areas:
        bank = context.extract(source, crop_pct=CROP_PCT * math.sqrt(area))
        predicted = classify(classifier.standardise, classifier.probe, bank.pooled)[:, 0]
        accuracy[area] = float((predicted == context.labels(bank)).float().mean())
    context.skipped.extend(bank.skipped)
    return {
        **{f"area_{area:g}": value for area, value in accuracy.items()},
        "mean": sum(accuracy.values()) / len(accuracy),
        "images": len(bank.index),
    }
