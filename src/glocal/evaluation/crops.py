"""How small a part of the image the linear probe can do with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glocal.evaluation.classify import Classifier, check_each
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import CROP_PCT
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over


@task(needs={"labels"}, on_request=True, title="Parts of images", main="mean", shares={"*": "images"})
def crops(context: EvalContext, *, areas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.7, 1.0), images: int = 500) -> dict:
    """Accuracy of the linear probe on ever smaller central parts of the test images, enlarged to full size.

    A part is taken from the photograph itself, not from its shrunken copy, so that detail is kept where there is some.

    Args:
        areas: shares of the area of the usual central crop; 1 is that crop.
        images: test images looked at, spread evenly over all.

    Returns:
        area_SHARE for each share; mean; images.

    Raises:
        UsageError: for no area, one that is not in (0, 1], or no images.
    """
    check_each("crops: areas", areas, lambda area: 0 < area <= 1, "above 0 and at most 1")
    source, classifier = spread_over(context.test, images), Classifier.of(context)
    accuracy = {}
    for area in areas:
        bank = context.extract(source, crop_pct=CROP_PCT * math.sqrt(area))
        predicted = classifier.head(bank.pooled.to(context.device)).argmax(1).cpu()
        accuracy[area] = float((predicted == context.labels(bank)).float().mean())
    context.skipped.extend(bank.skipped)
    return {
        **{f"area_{area:g}": value for area, value in accuracy.items()},
        "mean": sum(accuracy.values()) / len(accuracy),
        "images": len(bank.index),
    }
