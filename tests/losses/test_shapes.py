"""What no loss can be computed of is refused by naming the shapes; what is no number gives no number."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from glocal.errors import UsageError
from glocal.losses import (
    barlow_twins_loss,
    contrast,
    covariance_penalty,
    dcl,
    decoupled_contrast,
    entropy,
    info_nce,
    invariance,
    mean_entropy,
    mises_fisher_weights,
    sharpen,
    sinkhorn,
    variance_hinge,
    vicreg_loss,
    vicregl_global_loss,
    vicregl_local_loss,
)
from glocal.losses.assignment import (
    balanced_targets,
    cosine_scores,
    cross_entropy,
    masked_mean,
    support_predictions,
    swapped_targets,
)
from glocal.losses.distillation import (
    dino_loss,
    moved_center,
    negative_cosine,
    soft_cross_entropy,
    teacher_distribution,
)
from glocal.losses.loss import check_shapes

NAN = float("nan")


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def p(*shape: int) -> torch.Tensor:
    return some(*shape).softmax(-1)


LABELS = torch.tensor([0, 1, 0, 1, 0])
# every loss, with inputs that it takes
CALLS = {
    "info_nce": (info_nce, [some(4, 3), some(4, 3, seed=1)]),
    "dcl": (dcl, [some(4, 3), some(4, 3, seed=1)]),
    "dclw": (lambda a, b, w: dcl(a, b, 0.1, w), [some(4, 3), some(4, 3, seed=1), torch.ones(4)]),
    "weights": (mises_fisher_weights, [some(4, 3), some(4, 3, seed=1)]),
    "contrast": (lambda q, k: contrast(q, k, 0.2), [some(2, 4, 3), some(4, 3)]),
    "decoupled": (lambda q, k: decoupled_contrast(q, k, 0.2), [some(4, 3), some(4, 3, seed=1)]),
    "barlow": (barlow_twins_loss, [some(4, 3), some(4, 3, seed=1)]),
    "vicreg": (vicreg_loss, [some(4, 3), some(4, 3, seed=1)]),
    "co_vicreg": (vicreg_loss, [some(4, 5, 3), some(4, 3, seed=1)]),
    "entropic": (lambda a, b: vicreg_loss(a, b, entropy_weight=1.0), [some(4, 3), some(4, 3, seed=1)]),
    "invariance": (invariance, [some(4, 3), some(2, 4, 3)]),
    "hinge": (variance_hinge, [some(2, 4, 3)]),
    "covariance": (covariance_penalty, [some(4, 3)]),
    "entropy": (entropy, [some(4, 3)]),
    "wide_entropy": (entropy, [some(3, 8)]),
    "global": (lambda *z: vicregl_global_loss(z), [some(4, 3, seed=k) for k in range(3)]),
    "local": (
        lambda m, n, c, d: vicregl_local_loss([m, n], [c, d], matches=(2, 2)),
        [some(4, 3, 3, 2), some(4, 3, 2, 2, seed=1), some(4, 3, 2, 2).abs(), some(4, 2, 2, 2).abs()],
    ),
    "sinkhorn": (sinkhorn, [some(4, 3)]),
    "balanced": (lambda s: balanced_targets(s, 0.1), [some(4, 3)]),
    "sharpen": (lambda q: sharpen(q, 0.25), [p(4, 3)]),
    "mean_entropy": (mean_entropy, [p(4, 3)]),
    "cosine": (cosine_scores, [some(2, 4, 3), some(5, 3)]),
    "support": (lambda q, s: support_predictions(q, s, LABELS), [some(2, 4, 3), some(5, 3)]),
    "swapped": (lambda q: swapped_targets(q, 3), [p(2, 4, 3)]),
    "cross_entropy": (cross_entropy, [p(2, 4, 3), p(2, 4, 3)]),
    "masked": (lambda x: masked_mean(x, torch.ones(4, dtype=torch.bool)), [some(4)]),
    "cosine_regression": (negative_cosine, [some(4, 3), some(4, 3, seed=1)]),
    "teacher": (lambda t, c: teacher_distribution(t, c, 0.1), [some(4, 3), some(3)]),
    "soft": (lambda s, q: soft_cross_entropy(s, q, 0.1), [some(4, 2, 3), p(4, 3)]),
    "dino": (lambda a, b, c, d: dino_loss([a, b], [c, d]), [some(4, 3), some(4, 3, seed=1), p(4, 3), p(4, 3)]),
    "center": (lambda c, a, b: moved_center(c, [a, b]), [some(3), some(4, 3), some(4, 3, seed=1)]),
}


def numbers(result) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result.total


def wrong(inputs: list[torch.Tensor]):
    """The inputs with one of them of every kind of wrong shape, and all of them empty or integer."""
    for k, x in enumerate(inputs):
        others = [x.repeat_interleave(2, axis) for axis in range(x.ndim) if len(inputs) > 1]
        for other in [*others, x[None, None, None, None], torch.zeros(()), x[..., :0], x[:0]]:
            yield [*inputs[:k], other, *inputs[k + 1 :]]
    yield [x.long() for x in inputs]


def refusal(call, given: list[torch.Tensor]) -> str:
    """What a loss says against its inputs; "" for nothing."""
    try:
        call(*given)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_a_mistake_that_names_the_shapes(name):
    call, inputs = CALLS[name]
    assert numbers(call(*inputs)).isfinite().all()
    for given in wrong(inputs):
        shapes = [tuple(x.shape) for x in given]
        refused = refusal(call, given)
        assert "\n" not in refused, shapes
        if refused:
            assert any(str(shape) in refused for shape in shapes), (shapes, refused)
        else:  # further leading dimensions, more cells, or whole numbers, are no mistake everywhere
            assert all(x.numel() for x in given), shapes
            assert numbers(call(*given)).isfinite().all(), shapes


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (info_nce, [(4, 3), (5, 3)]),
        (info_nce, [(4, 3), (4, 2)]),
        (barlow_twins_loss, [(4, 3), (1, 3)]),
        (vicreg_loss, [(4, 3), (1, 3)]),
        (vicreg_loss, [(4, 3), (4, 1)]),
        (invariance, [(4, 3), (4, 1)]),
        (negative_cosine, [(4, 3), (1, 3)]),
        (cross_entropy, [(2, 4, 3), (2, 1, 3)]),
        (lambda s, q: soft_cross_entropy(s, q, 0.1), [(4, 3), (1, 3)]),
        (lambda a, b: vicregl_global_loss([a, b]), [(4, 3), (2, 3)]),
    ],
)
def test_nothing_is_stretched_to_fit(call, inputs):
    with pytest.raises(ValueError, match=r"\(") as error:
        call(*(some(*shape) for shape in inputs))
    assert all(str(shape) in str(error.value) for shape in inputs)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_number_gives_no_number(name):
    """One NaN, anywhere in any input."""
    call, inputs = CALLS[name]
    for k, x in enumerate(inputs):
        for place in product(*(range(size) for size in x.shape)):
            spoilt = x.clone()
            spoilt[place] = NAN
            assert numbers(call(*inputs[:k], spoilt, *inputs[k + 1 :])).isnan().any(), (k, place)


@pytest.mark.parametrize("options", [{"slot_order": "distance"}, {"l2_top_k": False}, {"matches": (1, 1)}])
def test_a_centre_that_is_no_number_gives_no_number(options):
    maps, centers = [some(4, 3, 3, 3, seed=k) for k in range(3)], [some(4, 3, 3, 2, seed=k) for k in range(3)]
    centers[2][1, 2, 0, 1] = NAN
    assert vicregl_local_loss(maps, centers, **{"matches": (2, 2), **options}).total.isnan()


@pytest.mark.parametrize(("views", "targets"), [(1, 1), (2, 0), (2, 3)])
def test_views_without_targets_of_others(views, targets):
    with pytest.raises(UsageError, match=f"{views} and {targets}"):
        dino_loss([some(4, 3)] * views, [p(4, 3)] * targets)


def test_swapping_needs_two_views():
    with pytest.raises(UsageError, match="views=1"):
        swapped_targets(p(2, 4, 3), 1)


def test_the_message():
    with pytest.raises(UsageError) as error:
        check_shapes(queries=(some(4, 3), "... B D"), keys=(some(4, 2), "B D"))
    assert str(error.value) == (
        "cannot compute a loss of queries (4, 3) float32, keys (4, 2) float32; "
        "expected (..., B, D), (B, D), not empty, in floating point"
    )
