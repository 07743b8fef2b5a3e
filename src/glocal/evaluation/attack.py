"""Adversarial images: FGSM (Goodfellow et al. 2015) and PGD (Madry et al. 2018) at small radii."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import eval_mode
from glocal.evaluation.registry import task
from glocal.evaluation.robustness import Classifier, check_each, photographs


def ascent(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The sign of the gradient of the cross-entropy of each image, (B, 3, h, w)."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(logits(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0].sign()


def fgsm(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, radius: float) -> Tensor:
    """One step of that length in each pixel, along the sign of the gradient.

    Args:
        logits: of images in [0, 1].
        x: (B, 3, h, w) in [0, 1].
        y: (B,) the true classes.
        radius: L∞ distance, on the scale of [0, 1].
    """
    return (x + radius * ascent(logits, x, y)).clamp(0, 1)


def pgd(
    logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, radius: float, *, steps: int = 10, step: float = 0.25
) -> Tensor:
    """Steps along the sign of the gradient, projected onto the L∞ ball and [0, 1]; starts at the image itself.

    Arguments as for `fgsm`; `step` is the length of one, as a share of the radius.
    """
    low, high = (x - radius).clamp_min(0), (x + radius).clamp_max(1)
    adversarial = x
    for _ in range(steps):
        adversarial = (adversarial + step * radius * ascent(logits, adversarial, y)).clamp(low, high)
    return adversarial


@task(needs={"labels"}, on_request=True, squares=True, title="Adversarial images", shares={"*": "images"})
def attack(
    context: EvalContext, *, radii: Sequence[float] = (0.25, 0.5, 1.0, 2.0), steps: int = 10, images: int = 500
) -> dict:
    """Accuracy of the linear probe on images changed against it by FGSM and PGD.

    White box: gradients pass through the classifier, the encoder and the normalisation, in fp32. PGD starts at the
    image and takes steps of a quarter of the radius.

    Args:
        radii: L∞ distances in steps of 1/255, above 0.
        steps: of PGD.
        images: test images looked at, spread evenly over all.

    Returns:
        clean; fgsm_RADIUS and pgd_RADIUS for each radius; images.
    """
    check_each("attack: radii", radii, lambda radius: radius > 0, "above 0")
    if steps < 1:
        raise UsageError(f"attack: steps is {steps}; take one at least")
    shown, classifier = photographs(context, images), Classifier(context)
    right = dict.fromkeys(["clean", *(f"{kind}_{radius:g}" for kind in ("fgsm", "pgd") for radius in radii)], 0)
    done = 0
    for pixels, y, _ in shown.batches(context):
        x = (pixels.float() / 255).permute(0, 3, 1, 2).contiguous()
        with eval_mode(context.encoder):
            tried = {"clean": x}
            for radius in radii:
                tried[f"fgsm_{radius:g}"] = fgsm(classifier, x, y, radius / 255)
                tried[f"pgd_{radius:g}"] = pgd(classifier, x, y, radius / 255, steps=steps)
            with torch.no_grad():
                for name, images_ in tried.items():
                    right[name] += int((classifier(images_).argmax(1) == y).sum())
        done += len(y)
        if context.progress is not None:
            context.progress("attacked images", done, len(shown))
    return {**{name: count / len(shown) for name, count in right.items()}, "images": len(shown)}
