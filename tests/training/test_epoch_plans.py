"""Plans of epochs: they survive a stop, their order is served, and what starts anew is forgotten."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import glocal
from glocal.clustering import whiten
from glocal.data import PartsWorld, open_source
from glocal.methods import deepcluster
from glocal.training import loop
from glocal.views import Appearance, EpochPlan, Recipe, ViewLoader, two_views
from power import left_after

TINY = {
    "backbone": "tiny:Net",
    "image_size": 32,
    "batch_size": 8,
    "epochs": 4,
    "report": False,
    "quiet": True,
    "precision": "32",
    "workers": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """28 images, drawn once: 3 steps an epoch, 12 in all."""
    out = tmp_path_factory.mktemp("images") / "parts"
    PartsWorld(28, 40).write_folder(out, test=1)
    return str(out)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32", torch.float32)])
def test_the_pass_over_all_images_is_as_precise_as_training_and_clusters_in_full(
    data, tmp_path, monkeypatch, precision, dtype
):
    seen = []

    def spy(x, *given):
        seen.append((x.dtype, (whitened := whiten(x, *given)).dtype))
        assert torch.equal(whitened, whiten(x.float(), *given))
        return whitened

    monkeypatch.setattr(deepcluster, "whiten", spy)
    options = {**TINY, "precision": precision, "method": "deepcluster", "clusters": 4, "max_steps": 1}
    glocal.pretrain(data, out=str(tmp_path / "run"), **options)
    assert seen == [(dtype, torch.float32)]


@pytest.mark.parametrize("method", ["swav", "deepcluster", "deepcluster_v2", "deepercluster"])
def test_resume_is_bit_exact(method, data, tmp_path, monkeypatch):
    few = {"swav": "prototypes", "deepcluster_v2": "prototypes"}.get(method, "clusters")
    options = {**TINY, few: 8, "method": method}
    with left_after(7, tmp_path / "stopped", monkeypatch):  # in the middle of the third epoch
        whole = glocal.pretrain(data, out=str(tmp_path / "whole"), checkpoint_steps=7, **options)
    glocal.pretrain(resume=str(tmp_path / "stopped"), workers=0, quiet=True, trust_code=True)
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "stopped")
    )
    assert whole.exists()
    for name, value in one["method"].items():
        assert torch.equal(value, other["method"][name]), name
    assert str(one["optimizer"]) == str(other["optimizer"])
    for name in ("order", "targets") if one["position"]["plan"] else ():
        assert str(one["position"]["plan"][name]) == str(other["position"]["plan"][name])


def test_an_epoch_without_an_order_is_shuffled_though_the_one_before_had_one():
    source, recipe = open_source("parts:n=12,size=40"), two_views(32)
    loader, fresh = (ViewLoader(source, recipe, batch_size=6, seed=0) for _ in range(2))
    list(loader.epoch(0, order=torch.arange(12)))
    served, expected = (torch.cat([batch.index for batch in some.epoch(1)]) for some in (loader, fresh))
    assert torch.equal(served, expected)


class Planner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.top = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def before_epoch(self, bank):
        return EpochPlan(renewed=("top.",))


def test_the_optimizer_forgets_what_starts_anew():
    method = Planner()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    method.top(method.body(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    fabric = SimpleNamespace(autocast=nullcontext)
    training = SimpleNamespace(fabric=fabric, method=method, optimizer=optimizer, at=loop.Position())
    loop._Training.plan_epoch(training, SimpleNamespace())
    assert set(optimizer.state) == set(method.body.parameters())


def test_a_plan_says_how_full_its_clusters_are_and_how_far_they_are_those_of_before():
    plan = EpochPlan(targets=torch.tensor([[0, 0, 2, 2, 2, 2, -1, 0], [1] * 8]))
    assert plan.numbers(None) == pytest.approx({"clusters/used": 2, "clusters/largest": 4 / 7})
    renamed = EpochPlan(targets=torch.tensor([[5, 5, 1, 1, 1, 1, 3, 5]]))
    assert plan.numbers(renamed)["clusters/nmi"] == pytest.approx(1)
    # half of each cluster in each of two: independent of them; and I/sqrt(HH') of a split in three against that in two
    assert EpochPlan(targets=torch.tensor([[0, 0, 1, 1]])).numbers(EpochPlan(targets=torch.tensor([[0, 1, 0, 1]])))[
        "clusters/nmi"
    ] == pytest.approx(0, abs=1e-9)
    finer = EpochPlan(targets=torch.tensor([[0, 0, 1, 2]])).numbers(EpochPlan(targets=torch.tensor([[0, 0, 1, 1]])))
    assert finer["clusters/nmi"] == pytest.approx(np.log(2) / np.sqrt(np.log(2) * 1.5 * np.log(2)))
    assert EpochPlan().numbers(plan) == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_given_order_is_served_and_repeats_look_different(workers):
    source = open_source("parts:n=12,size=40")
    recipe = two_views(32)
    loader = ViewLoader(source, recipe, batch_size=6, seed=0, workers=workers)
    order = torch.tensor([3, 3, 1, 3, 7, 1, 0, 3, 11, 2, 2, 5])
    first = list(loader.epoch(2, order=order))
    assert torch.equal(torch.cat([b.index for b in first]), order)
    plain = {int(b.index[i]): b.views[0].pixels[i] for b in ViewLoader(
        source, recipe, batch_size=6, seed=0, shuffle=False
    ).epoch(2) for i in range(6)}  # fmt: skip
    assert torch.equal(first[0].views[0].pixels[0], plain[3])  # the first time as in any epoch 2
    assert not torch.equal(first[0].views[0].affine[0], first[0].views[0].affine[1])
    appearance = Appearance(Recipe(recipe.views), (0, 0, 0), (1, 1, 1), 0)
    same = first[0]
    same.views[0].pixels[1] = same.views[0].pixels[0]
    shown = appearance(same, 2).views[0].pixels
    assert not torch.equal(shown[0], shown[1])
    resumed = list(loader.epoch(2, 1, order))
    assert torch.equal(resumed[0].views[1].pixels, first[1].views[1].pixels)
    assert np.array_equal(resumed[0].index, order[6:])
    loader.close()
