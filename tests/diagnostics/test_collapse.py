import inspect
import math
import re

import pytest
import torch

from glocal.diagnostics import check_features, diagnose
from glocal.diagnostics.collapse import BACKGROUND, REMEDIES, within_clips
from glocal.methods import method_class, method_names


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def name_of(diagnosis):
    return None if diagnosis is None else diagnosis.name


def history(steps=100, loss=lambda t: 40 * math.exp(-t) + 10, ranks=(20, 40, 60), dense=(30, 50, 80)):
    lines = [
        {"step": s, "epoch": s // 10, "loss": loss(s / steps) + 0.2 * math.sin(s), "loss/variance": 3.0, "lr": 0.1}
        for s in range(steps)
    ]
    for k, (pooled, local) in enumerate(zip(ranks, dense, strict=True)):
        lines.append({"step": k, "epoch": k, "rank_pooled": pooled, "rank_dense": local, "knn_top1": 0.3})
    return lines


@pytest.mark.parametrize("images", [2, 15, 16, 64, 300])
def test_healthy_features_raise_no_alarm(images):
    pooled = gaussian(images, 64)
    dense = pooled.repeat_interleave(4, 0) + gaussian(4 * images, 64, seed=1)
    assert check_features(pooled, dense) is None
    assert check_features(pooled.relu() + 5) is None  # a common direction, as ReLU networks have
    assert check_features(gaussian(images, 2)) is None  # few dimensions by design


def test_features_that_are_all_the_same():
    assert name_of(check_features(torch.ones(40, 8) + 1e-4 * gaussian(40, 8))) == "complete collapse"
    assert name_of(check_features(torch.zeros(40, 8))) == "complete collapse"
    lengths_only = torch.ones(40, 8) * torch.rand(40, 1, generator=torch.Generator().manual_seed(0))
    assert name_of(check_features(lengths_only)) == "complete collapse"


def test_features_along_a_line():
    line = 5 + gaussian(64, 1) * gaussian(1, 32, seed=1) + 1e-3 * gaussian(64, 32, seed=2)
    assert name_of(check_features(line)) == "dimensional collapse"


def test_maps_that_are_constant():
    pooled = gaussian(64, 32)
    flat = pooled.repeat_interleave(4, 0)
    assert name_of(check_features(pooled, flat + 1e-4 * gaussian(256, 32, seed=1))) == "local collapse"
    assert check_features(pooled, pooled) is None  # one location each says nothing


def test_nan_features():
    x = gaussian(10, 4)
    x[3, 2] = float("nan")
    assert name_of(check_features(x)) == "not finite"
    assert name_of(check_features(gaussian(10, 4), x)) == "not finite"


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224"])
def test_no_alarm_at_random_initialisation(backbone):
    from glocal.backbones import build_backbone
    from glocal.data import PartsWorld
    from glocal.training.online_eval import OnlineEval

    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_backbone(backbone, image_size=64).eval()
    watch = OnlineEval(PartsWorld(24, 64), image_size=64, seed=0)
    seen = watch.features(encoder)
    assert check_features(seen.pooled, seen.dense.flatten(0, 1)) is None


def test_a_healthy_log():
    assert diagnose(history()) == []
    assert diagnose([]) == []
    assert diagnose(history(steps=5, loss=lambda t: 25.0)) == []  # too early to say
    assert diagnose(history(ranks=(60, 40, 45))) == []  # ranks may fall some


RUN = {"lr", "batch_size", "output_stride", "clip", "precision", "warmup_epochs"}


def test_only_options_that_the_run_has_are_named():
    (found,) = diagnose(history(ranks=(20, 8, 1.1)))
    assert "--variance-weight" in found.told(RUN | {"variance_weight", "invariance_weight"})
    assert set(re.findall(r"--[a-z-]+", found.told(RUN | {"momentum"}))) == {"--lr", "--momentum"}
    everything = {*RUN, "max_gap"}
    for name in method_names():
        everything |= {*inspect.signature(method_class(name)).parameters}
    for _, remedies in REMEDIES.values():
        for option in re.findall(r"--([a-z-]+)", " ".join(remedies)):
            assert option.replace("-", "_") in everything


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), "NaN", None])
def test_a_broken_term_is_named_with_its_step(broken):
    log = history()
    log[50]["loss/variance"] = broken
    (found,) = diagnose(log)
    assert found.name == "not finite"
    assert "variance" in found.evidence
    assert "step 50" in found.evidence
    assert "lower --lr" in found.told({"lr"})


@pytest.mark.parametrize(
    ("ranks", "dense", "name"),
    [
        ((20, 8, 1.1), (30, 20, 10), "complete collapse"),
        ((20, 8, 2.2), (30, 20, 10), "dimensional collapse"),
        ((60, 20, 9), (80, 60, 40), "dimensional collapse"),
        ((20, 40, 60), (80, 40, 15), "local collapse"),
    ],
)
def test_ranks_in_the_log(ranks, dense, name):
    (found,) = diagnose(history(ranks=ranks, dense=dense))
    assert found.name == name
    assert str(found) in found.told(RUN | {"alpha"})
    assert found.evidence in str(found)
    assert "\n" not in found.told(RUN)
    assert "--" in found.told(RUN)


def test_a_loss_that_does_not_move():
    (found,) = diagnose(history(loss=lambda t: 24.75))
    assert found.name == "stuck"
    (found,) = diagnose(history(loss=lambda t: 20 + 5 * t))
    assert found.name == "stuck"


def test_a_loss_that_vanishes_has_collapsed_behind_the_projector():
    losses = [8.8, 2.9, 0.48, 0.33, 0.27, 0.15, 0.12, 0.1]  # VICReg without its variance term; the rank stays at 198
    log = [{"step": 10 * k, "loss": v, "loss/invariance": v} for k, v in enumerate(losses)] + [{"rank_pooled": 198.0}]
    (found,) = diagnose(log)
    assert found.name == "complete collapse"
    assert "8.8" in found.evidence


def test_a_loss_that_is_all_variance_has_collapsed_behind_the_projector():
    terms = {"loss/invariance": 1e-4, "loss/variance": 24.7, "loss/covariance": 0.01}
    log = [{"step": k, "loss": 40 if k < 3 else 24.71, **terms} for k in range(30)]
    (found,) = diagnose(log)
    assert found.name == "complete collapse"
    healthy = {"loss/invariance": 2.4, "loss/variance": 17.4, "loss/covariance": 0.8}
    assert diagnose([{"step": k, "loss": 40 if k < 3 else 20.6, **healthy} for k in range(30)]) == []


def test_a_loss_that_falls_at_once_and_then_rests_is_no_alarm():
    assert diagnose(history(loss=lambda t: 25 if t < 0.01 else 21.7)) == []


def test_variance_within_clips_and_neighbours_by_hand():
    clip = torch.tensor([3, 3, 5, 5])
    within, same = within_clips(torch.tensor([[0.0, 1.0], [0.0, -1.0], [10.0, 0.0], [10.0, 0.0]]), clip)
    assert within == pytest.approx(0.5 / 25)
    assert same == 1.0
    assert within_clips(torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), clip)[1] == 0.0


@pytest.mark.parametrize(
    ("within", "same", "pixels", "fires"),
    [
        (0.005, 1.0, 0.08, True),
        (0.05, 1.0, 0.08, False),  # frames differ
        (0.005, 0.5, 0.08, False),  # clips are not told apart
        (0.005, 1.0, 0.006, False),  # there is little else to see
    ],
)
def test_a_code_of_the_background_is_named_with_what_helps(within, same, pixels, fires):
    log = history()
    for line in log[-3:]:
        line |= {"clips/within": within, "clips/same": same, "clips/pixels": pixels}
    log[-3]["clips/within"] = 0.001  # what was counts no more
    found = diagnose(log)
    assert [each.name for each in found] == [BACKGROUND] * fires
    if fires:
        assert "change --objective to reconstruction" in found[0].told({"objective"})
        assert "--objective" not in found[0].told({"max_gap"})


@pytest.mark.parametrize("term", ["loss/velocity", "loss/reconstruction"])
def test_few_dimensions_are_no_failure_of_methods_that_make_images(term):
    collapsed = history(ranks=(20, 8, 1.1))
    assert diagnose(collapsed)
    assert diagnose([line | {term: 1.0} for line in collapsed]) == []
