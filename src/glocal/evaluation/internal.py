"""Internal corruption: how much of the linear probe's accuracy survives when activations inside are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.evaluation.classify import Classifier, check_each, hits, photographs
from glocal.evaluation.context import EvalContext
from glocal.evaluation.corruptions import Draws
from glocal.evaluation.registry import task
from glocal.evaluation.robustness import relative_drop
from glocal.features import Features


def stages(encoder: nn.Module) -> list[str]:
    """The names of the submodules that end a stage, as timm's `feature_info` knows them; none for raw pixels."""
    info = getattr(getattr(encoder, "model", None), "feature_info", None)
    return [f"model.{stage['module']}" for stage in info] if info else []


def find_stage(encoder: nn.Module, stage: str | None) -> tuple[str, nn.Module]:
    """The submodule called `stage`, or the last stage; without stages, the encoder's pooled features ("pooled")."""
    known = stages(encoder)
    if stage is None:
        return (known[-1], encoder.get_submodule(known[-1])) if known else ("pooled", encoder)
    modules = dict(encoder.named_modules())
    for name in (stage, f"model.{stage}"):
        if stage and name in modules:
            return name, modules[name]
    said = ", ".join(name.removeprefix("model.") for name in known) or "none"
    raise UsageError(f"the encoder has no stage '{stage}' (there are: {said})")


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

    handle = module.register_forward_hook(lose)
    try:
        yield
    finally:
        handle.remove()


@task(
    needs={"labels"},
    on_request=True,
    title="Lost activations",
    main="mean",
    words={"mean": "mean accuracy", "clean": "accuracy on clean images", "relative_drop": "share of it that is lost"},
    shares={"relative_drop": "accuracy", "*": "images"},
)
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
        shares: of the activations, over locations and channels alike.
        images: test images looked at, spread evenly over all.

    Returns:
        clean; masked_SHARE for each share; mean over the shares; relative_drop; the stage; images.

    Raises:
        UsageError: for no share, one that is not in (0, 1], no images, or a stage that does not exist.
    """
    check_each("internal: shares", shares, lambda share: 0 < share <= 1, "above 0 and at most 1")
    name, module = find_stage(context.encoder, stage)
    shown, classifier = photographs(context, images), Classifier.of(context)
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
