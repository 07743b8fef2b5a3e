"""A run that starts from weights hands over the best encoder it saw; nothing that it does can make them worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import glocal
from glocal.backbones import build_backbone, save_encoder
from glocal.backbones.weights import read_checkpoint, read_weights
from glocal.data import ArraySource
from glocal.evaluation.groups import PerImage
from glocal.evaluation.segment import IGNORE
from glocal.evaluation.split import held_out
from glocal.methods import method_class, resolve_options, teacher_of
from glocal.pipeline import start
from glocal.run import Run
from glocal.training import guard as guarding, loop, online_eval, optimizers
from glocal.training.guard import Guard
from glocal.training.online_eval import Look, OnlineEval, agree, read_out

TINY = {
    "method": "vicreg", "backbone": "tiny:Net", "image_size": 32, "batch_size": 8, "projector": (16, 16),
    "report": False, "quiet": True, "precision": "32", "workers": 0, "cache": False, "compile": False, "threads": 1,
}  # fmt: skip
DATA = "parts:n=16,size=32"  # 2 steps an epoch
DRAWN = np.random.default_rng(0).random(200)


def share(right: float) -> dict[str, PerImage]:
    """200 images, so many of which are right: always the same ones first."""
    return {"knn": PerImage.mean("knn", np.arange(200), right > DRAWN)}


def judged(*shares: float) -> Guard:
    guard = Guard(0)
    for step, right in enumerate(shares):
        guard.judge(10 * step, share(right))
    return guard


@pytest.mark.parametrize(
    ("shares", "best", "below", "ended"),
    [
        ((0.5, 0.6, 0.7, 0.65), 20, 0, False),
        ((0.5, 0.51, 0.49), 0, 0, False),  # two images of 200 are noise
        ((0.5, 0.3, 0.5, 0.3), 0, 1, False),  # not in a row
        ((0.5, 0.3, 0.2), 0, 2, True),
        ((0.5, 0.7, 0.3, 0.2), 10, 2, True),
    ],
)
def test_the_best_is_what_beats_the_start_beyond_noise(shares, best, below, ended):
    guard = judged(*shares)
    assert (guard.best, guard.below, bool(guard.ended)) == (best, below, ended)


def test_what_gains_in_one_score_and_loses_in_another_is_not_better():
    guard = Guard(0)
    for step, (knn, cells) in enumerate([(0.5, 0.5), (0.9, 0.4)]):
        guard.judge(step, {"knn": share(knn)["knn"], "cells": share(cells)["knn"]})
    assert (guard.best, guard.below) == (0, 1)


def test_a_collapse_ends_training_unless_it_began_with_one(tmp_path):
    """Until features have recovered once."""
    for collapses, ended in ([(1, 1, 0, 0), ""], [(1, 0, 1), "after epoch 2"], [(0, 1), "after epoch 1"]):
        guard = Guard(0)
        monitor = lambda encoder, epoch, all=collapses: Look({}, share(0.5), f"after epoch {epoch}" * all[epoch])
        for epoch in range(len(collapses)):
            stop = guarding.examine(monitor, guard, Run(tmp_path), torch.nn.Linear(2, 2), epoch, 5 * epoch)[1]
        assert stop == guard.ended == ended


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """An encoder to start from."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_encoder(build_backbone("tiny:Net", image_size=32), folder := tmp_path_factory.mktemp("weights"))
    return folder / "encoder.safetensors"


@pytest.fixture
def looks(monkeypatch):
    """A function that says what share is right at each look; it gives the weights that were then looked at."""

    def script(*shares: float) -> list[dict[str, torch.Tensor]]:
        seen: list[dict[str, torch.Tensor]] = []

        def look(self, encoder, epoch, paints=False):
            seen[epoch:] = [{key: value.clone() for key, value in encoder.model.state_dict().items()}]
            return Look({"knn_top1": shares[epoch]}, share(shares[epoch]))

        monkeypatch.setattr(online_eval.OnlineEval, "__call__", look)
        return seen

    return script


def pretrain(out: Path, weights: Path, **options) -> Run:
    settings = TINY | {"epochs": 5, "monitor_every": 1, "lr": 0.01} | options
    return Run(glocal.pretrain(DATA, out=str(out), pretrained=str(weights), **settings))


def same(run: Run, seen: dict[str, torch.Tensor]) -> bool:
    found = read_weights(run.path)
    return found.keys() == seen.keys() and all(torch.equal(value, seen[key]) for key, value in found.items())


def test_the_best_of_all_looks_is_handed_over(tmp_path, weights, looks):
    seen = looks(0.5, 0.6, 0.8, 0.7, 0.7, 0.6)
    run = pretrain(tmp_path / "run", weights)
    assert len(seen) == 6
    assert same(run, seen[2])
    assert not same(run, seen[5])
    assert run.encoder()["extra"]["steps"] == 4
    assert [line["gain_knn"] > 0 for line in run.metrics() if "gain_knn" in line] == [True] * 5


def test_training_stops_at_two_looks_below_the_start_which_is_handed_over(tmp_path, weights, looks):
    seen = looks(0.5, 0.3, 0.5, 0.3, 0.2, 0.9)
    run = pretrain(tmp_path / "run", weights)
    assert len(seen) == 5
    assert same(run, seen[0])
    assert run.encoder_files[0].read_bytes() == weights.read_bytes()
    assert read_checkpoint(run)["position"]["step"] == 8
    glocal.pretrain(resume=str(run), trust_code=True, quiet=True)  # it stays stopped
    assert len(seen) == 5
    assert run.encoder_files[0].read_bytes() == weights.read_bytes()


def test_without_a_guard_the_last_is(tmp_path, weights, looks, capsys):
    seen = looks(0.5, 0.3, 0.2, 0.1, 0.1, 0.1)
    assert same(pretrain(tmp_path / "run", weights, guard=False, quiet=False), seen[-1])
    assert f" from {weights} · " in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("lr", [0.3, 1e9])
def test_a_rate_that_ruins_the_encoder_costs_nothing(tmp_path, weights, lr):
    """At one it collapses or forgets, at the other the weights are soon no numbers."""
    run = pretrain(tmp_path / "run", weights, lr=lr, epochs=6, layer_decay=1.0)
    assert run.encoder_files[0].read_bytes() == weights.read_bytes()
    assert run.encoder()["extra"]["steps"] == 0


class Power(BaseException):
    """The plug is pulled."""


@pytest.mark.parametrize("at", ["step", "best", "checkpoint"])
def test_resumed_it_is_the_run_that_was_never_stopped(tmp_path, weights, looks, monkeypatch, at):
    """Pulled within an epoch; when the best encoder has been written, and the look is in no checkpoint; just before."""
    shares = 0.5, 0.6, 0.3, 0.7, 0.3, 0.6
    looks(*shares)
    whole = pretrain(tmp_path / "whole", weights)
    place, count = {"step": (optimizers, 8), "best": (loop, 4), "checkpoint": (guarding, 3)}[at]
    name = {"step": "warmup_cosine", "best": "save_checkpoint", "checkpoint": "write_atomically"}[at]
    work, calls = getattr(place, name), []

    def pulled(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise Power
        return work(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, pulled)
        with pytest.raises(Power):
            pretrain(tmp_path / "run", weights)
    glocal.pretrain(resume=str(tmp_path / "run"), trust_code=True, quiet=True)
    run = Run(tmp_path / "run")
    assert run.encoder_files[0].read_bytes() == whole.encoder_files[0].read_bytes()
    one, other = (read_checkpoint(each) for each in (whole, run))
    assert all(torch.equal(value, other["method"][key]) for key, value in one["method"].items())
    states = [{**state["position"]["guard"], "start": None} for state in (one, other)]
    assert states[0] == states[1]
    assert (states[0]["best"], states[0]["below"], states[0]["ended"]) == (6, 0, "")
    looked = [
        [(line["step"], line["knn_top1"]) for line in each.metrics() if "knn_top1" in line] for each in (whole, run)
    ]
    assert looked == [[(2 * epoch, right) for epoch, right in enumerate(shares)]] * 2


def test_each_image_is_classified_by_the_others():
    """Against a loop: the k nearest others vote with exp(cosine / t)."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(60, 5)), draw.integers(0, 3, 60)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for i in range(60):
        similarity = np.where(np.arange(60) == i, -2.0, unit @ unit[i])
        votes = np.zeros(3)
        for j in np.argsort(-similarity)[:7]:
            votes[y[j]] += np.exp(similarity[j] / 0.5)
        expected.append(votes.argmax() == y[i])
    assert agree(torch.from_numpy(x).float(), torch.from_numpy(y), k=7, t=0.5).tolist() == expected


def test_cells_are_read_by_what_the_other_images_teach():
    """Against scikit-learn's ridge regression, image by fold and class by class; cells without one do not count."""
    from sklearn.linear_model import Ridge

    draw = np.random.default_rng(3)
    x, y = draw.normal(2, 3, size=(12, 7, 6)), draw.integers(0, 4, (12, 7))
    y[2, 3:] = y[7, :2] = IGNORE
    fold, said = np.arange(12) % 5, np.zeros((3, 12, 7, 4))
    for k in range(5):
        known = (y != IGNORE) & (fold != k)[:, None]
        mean, deviation = x[known].mean(0), x[known].std(0)
        queries = ((x[fold == k] - mean) / deviation).reshape(-1, 6)
        for j, penalty in enumerate((0.01, 0.1, 1.0)):
            fitted = Ridge(alpha=penalty * known.sum()).fit((x[known] - mean) / deviation, np.eye(4)[y[known]])
            said[j, fold == k] = fitted.predict(queries).reshape(-1, 7, 4)
    explained, whole = np.zeros((3, 12)), np.zeros(12)
    for c in range(4):
        of = np.where(y == IGNORE, np.nan, y == c)
        spread = np.nansum((of - np.nanmean(of)) ** 2, 1)
        explained += (spread - np.nansum((of - said[..., c]) ** 2, 2)) / spread.sum()
        whole += spread / spread.sum()
    found = read_out(torch.from_numpy(x).float(), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(found, np.stack([explained[explained.sum(1).argmax()], whole], 1), atol=1e-6)


def halves(labels: bool = True, masks: bool = True) -> ArraySource:
    """60 images, red or green, of which the left or the right half is light; the mask says which."""
    images, marks = np.zeros((60, 32, 48, 3), np.uint8), np.zeros((60, 32, 48), np.uint8)
    for i in range(60):
        half = slice(24) if i % 2 else slice(24, 48)
        images[i, :, :, i % 3 // 2] = 90
        images[i, :, half] += 100
        marks[i, :, half] = 1
    source = ArraySource(images, np.arange(60) % 3 // 2 if labels else None)
    if masks:
        source.has_masks, source.mask_classes, source.mask = True, ["dark", "light"], lambda i: marks[i]
    return source


class Cells(torch.nn.Module):
    """An encoder whose dense feature is the mean colour of a cell of 8 pixels."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, x):
        from glocal.features import Features

        small = torch.nn.functional.avg_pool2d(x, 8)
        centres = torch.arange(4) * 8.0 + 4
        places = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).flatten(0, 1)
        return Features(small.mean((2, 3)), small.flatten(2).transpose(1, 2), places, (4, 4))


@pytest.mark.parametrize(
    ("labels", "masks", "names"),
    [
        (True, True, ["knn", "cells"]),
        (True, False, ["knn"]),
        (False, True, ["cells"]),
        (False, False, ["stability", "correspond"]),
    ],
)
def test_the_scores_that_there_are(labels, masks, names):
    watch = OnlineEval(halves(labels, masks), image_size=32, seed=0, guard=True)
    each = watch.scores(Cells(), watch.features(Cells()))
    assert list(each) == names
    for name in {"knn", "cells"} & each.keys():  # perfect features; a mask read at the wrong place would not agree
        assert each[name].score(each[name].parts.sum(0)) > 0.99, name


def test_no_guard_looks_at_what_the_report_is_scored_on(tmp_path, weights, monkeypatch):
    looked = []
    begin = OnlineEval.__init__
    monkeypatch.setattr(
        OnlineEval, "__init__", lambda self, source, **rest: looked.append(source) or begin(self, source, **rest)
    )
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    glocal.pretrain(images, out=str(tmp_path / "run"), pretrained=str(weights), max_steps=2, seed=7, **TINY)
    kept, _ = held_out(40, 7, "test")
    (source,) = looked
    assert len(source) == len(kept) == 32
    assert all(np.array_equal(source.open(i).decode(1.0), images[k]) for i, k in enumerate(kept))


def test_lora_hands_over_plain_weights_that_differ_by_a_product_of_low_rank(tmp_path, weights):
    run = pretrain(tmp_path / "run", weights, lora=2, guard=False, epochs=2)
    begun, ended = read_weights(weights), read_weights(run.path)
    assert begun.keys() == ended.keys()
    ranks = {
        key: int(torch.linalg.matrix_rank((ended[key] - value).flatten(1), rtol=1e-4))
        for key, value in begun.items()
        if value.ndim > 1
    }
    assert max(ranks.values()) == 2
    method = glocal.load_method(run.path, trust_code=True)
    assert all(torch.equal(value, ended[key]) for key, value in method.encoder.model.state_dict().items())
    assert start.stored_config(run, trust_code=True).lora == 2


def test_of_looks_at_a_mask_the_best_is_handed_over_and_its_bits(tmp_path, weights, looks):
    looks(0.5, 0.6, 0.8, 0.7, 0.7, 0.6)
    asked = {k: x for k, x in TINY.items() if k != "backbone"} | {"epochs": 5, "monitor_every": 1, "lr": 1000.0}
    run = Run(glocal.adapt(str(weights.parent), DATA, trust_code=True, out=str(tmp_path / "run"), **asked))
    assert run.encoder()["extra"]["steps"] == 4
    code = {"trust_code": True}
    begun, ended = (glocal.load(str(weights.parent), mask=str(run.mask_file), **code), glocal.load(str(run), **code))
    assert all(torch.equal(x, ended.state_dict()[key]) for key, x in begun.state_dict().items())
    assert any(not torch.equal(x, read_weights(weights)[key]) for key, x in begun.model.state_dict().items())


@pytest.mark.parametrize("name", ["byol", "mocov3", "dino", "msn", "loca", "co-byol", "co-dino"])
def test_every_teacher_starts_as_the_student_that_was_loaded(name, tmp_path):
    save_encoder(build_backbone("test_vit", image_size=32), tmp_path)
    loaded = build_backbone("test_vit", image_size=32, pretrained=tmp_path / "encoder.safetensors")
    cls = method_class(name)
    options = resolve_options(cls, "small", 8, {"image_size": 32}, "vit")
    options.pop("drop_path", None)
    method = cls(loaded, **options)
    begun, teacher = read_weights(tmp_path), teacher_of(method)
    assert all(torch.equal(value, begun[key]) for key, value in teacher.model.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(float(b.abs().sum()) == 0 for key, b in method.named_buffers() if key.endswith("center"))


def test_the_encoder_waits_until_its_heads_have_learnt(tmp_path, weights, looks):
    """Three tenths of 20 steps: after 6, at the third look, no weight of it has moved."""
    seen = looks(*[0.5] * 11)
    pretrain(tmp_path / "run", weights, epochs=10)
    kept = [
        all(torch.equal(look[key], seen[0][key]) for key in look if key.endswith(("weight", "bias"))) for look in seen
    ]
    assert kept == [True] * 4 + [False] * 7
