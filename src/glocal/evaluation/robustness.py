"""How much of the linear probe's accuracy survives corrupted images (Hendrycks & Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glocal.evaluation.classify import Classifier, check_each, hits, photographs
from glocal.evaluation.context import EvalContext
from glocal.evaluation.corruptions import CORRUPTIONS, corrupt
from glocal.evaluation.registry import task
from glocal.evaluation.severities import nearest_size


def relative_drop(clean: float, corrupted: float) -> float:
    """The share of the clean accuracy that is lost; 0 where there was none."""
    return (clean - corrupted) / clean if clean > 0 else 0.0


@task(
    needs={"labels"},
    on_request=True,
    title="Corrupted images",
    main="mean",
    words={"mean": "mean accuracy", "clean": "accuracy on clean images", "relative_drop": "share of it that is lost"},
    shares={"relative_drop": "accuracy", "*": "images"},
)
def robustness(
    context: EvalContext,
    *,
    images: int = 500,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
) -> dict:
    """Accuracy of the linear probe, trained on clean images, under 15 corruptions at 5 severities.

    The corruptions are made as they are needed, from the context's seed; each corrupted set passes the encoder once.

    Args:
        images: test images looked at, spread evenly over all.
        corruptions: names, see `glocal.evaluation.corruptions`.
        severities: of 1 to 5.

    Returns:
        clean and mean accuracy; relative_drop = (clean − mean) / clean; accuracy per corruption (mean of its
        severities) and as severity_1 … severity_5 (mean of its corruptions); table (corruption → severities); images;
        benchmark_size, the published image side whose constants were used.

    Raises:
        UsageError: for no corruption or severity, one that does not exist, or no images.
    """
    check_each("robustness: corruptions", corruptions, lambda c: c in CORRUPTIONS, f"one of {', '.join(CORRUPTIONS)}")
    check_each("robustness: severities", severities, lambda s: s in range(1, 6), "one of 1, 2, 3, 4, 5")
    shown, classifier = photographs(context, images), Classifier.of(context)
    batches = shown.batches(context)
    settings = [(name, severity) for name in corruptions for severity in severities]
    right = dict.fromkeys([("", 0), *settings], 0)
    for done, (name, severity) in enumerate(right):
        for pixels, labels, index in batches:
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
