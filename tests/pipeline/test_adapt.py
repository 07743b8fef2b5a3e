"""`glocal adapt`: a run like any other, whose encoder is its base under a mask, or a sparse one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import glocal
from glocal.adaptation.masks import read_mask
from glocal.backbones import build_backbone, save_encoder
from glocal.backbones.weights import read_weights
from glocal.data import open_source
from glocal.errors import UsageError
from glocal.run import Run
from glocal.training.stopping import TrainingStopped
from power import pulled_after
from processes import run as command

TINY = {
    "method": "vicreg", "batch_size": 8, "projector": (16, 16), "max_steps": 6, "monitor_every": 99,
    "precision": "32", "workers": 0, "cache": False, "compile": False, "threads": 1,
}  # fmt: skip
MASK = {"by": "mask", "lr": 1e3, "guard": False}
PRUNE = {"by": "prune", "keep": 0.2, "rounds": 3, "guard": False, "max_steps": 4}
QUIET = {"report": False, "quiet": True}
DATA = "parts:n=16,size=32"  # 2 steps an epoch


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An encoder to adapt."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_encoder(build_backbone("test_resnet", image_size=32), folder := tmp_path_factory.mktemp("base"))
    return folder


def adapt(base, out, data=DATA, **options):
    return glocal.adapt(str(base), str(data), out=str(out), **{**TINY, **QUIET, **options})


def of(*files: Path) -> list[bytes]:
    return [path.read_bytes() for path in files]


def left(run: Path) -> list[bytes]:
    """What a run leaves to be compared bit for bit."""
    return of(Run(run).encoder_files[0], Run(run).mask_file)


@pytest.fixture(scope="module")
def masked(base, tmp_path_factory) -> Path:
    return adapt(base, tmp_path_factory.mktemp("runs") / "masked", **MASK)


def test_an_interrupted_mask_goes_on_bit_for_bit(base, masked, tmp_path, monkeypatch):
    with pulled_after(4, monkeypatch):
        adapt(base, tmp_path / "stopped", checkpoint_steps=1, **MASK)
    glocal.adapt(resume=str(tmp_path / "stopped"), quiet=True)
    assert left(tmp_path / "stopped") == left(masked)


def test_its_encoder_is_the_base_under_its_mask(base, masked):
    mask, begun, ended = read_mask(Run(masked).mask_file), read_weights(base), read_weights(masked)
    assert 0.02 < mask.kept.mean() < 0.98
    assert begun.keys() == ended.keys()
    assert all(torch.equal(x, ended[name]) for name, x in begun.items() if x.ndim < 2)
    again = glocal.load(str(base), mask=str(Run(masked).mask_file))
    assert all(torch.equal(x, ended[name]) for name, x in again.model.state_dict().items())
    method = glocal.load_method(masked)
    assert all(torch.equal(x, ended[name]) for name, x in method.encoder.model.state_dict().items())


def test_two_processes_learn_the_mask_of_one(base, masked, tmp_path):
    asked = TINY | MASK | {"batch_size": 4}
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in asked.items()]
    options += ["--report=false", "--accelerator=cpu"]
    command("adapt", base, DATA, f"--out={tmp_path / 'two'}", *options, ranks=2)
    one, two = (read_mask(Run(path).mask_file).kept for path in (masked, tmp_path / "two"))
    assert (one != two).mean() < 5e-3  # rounding alone flips up to .0012, with 2 threads as well; other batches .028


def test_of_mobilenet_without_its_norms_too(tmp_path, quantised, monkeypatch):
    """Whose layers have biases only once weights were loaded: these stay frozen when it goes on."""
    file, options = quantised("025"), {"image_size": 32, "guard": False, "lr": 10.0} | TINY | {"max_steps": 3}
    whole = adapt(file, tmp_path / "whole", **options)
    with pulled_after(2, monkeypatch):
        adapt(file, tmp_path / "stopped", checkpoint_steps=1, **options)
    glocal.adapt(resume=str(tmp_path / "stopped"), quiet=True)
    assert left(whole) == left(tmp_path / "stopped")


@pytest.fixture(scope="module")
def pruned(base, photos, tmp_path_factory) -> Path:
    return adapt(base, tmp_path_factory.mktemp("runs") / "pruned", photos, **PRUNE | {"report": True})


def test_each_round_keeps_its_share_of_what_was_kept_before(pruned):
    rounds = [Run(pruned / "rounds" / "1"), Run(pruned / "rounds" / "2"), Run(pruned)]
    masks = [read_mask(each.mask_file).kept for each in rounds]
    assert [mask.mean() for mask in masks] == pytest.approx([0.2 ** (k / 3) for k in (1, 2, 3)], abs=1e-4)
    assert all(not (later & ~earlier).any() for earlier, later in itertools.pairwise(masks))
    for each, mask in zip(rounds, masks, strict=True):
        weights = [x.flatten() for name, x in read_weights(each.path).items() if x.ndim > 1]
        assert torch.equal(torch.cat(weights) != 0, torch.from_numpy(mask))
    assert "Score against sparsity" in Run(pruned).report_file.read_text()


@pytest.mark.parametrize("stop", [6, 10])  # of the second round's steps and of the last one's
def test_interrupted_pruning_goes_on_bit_for_bit_in_any_round(stop, base, photos, pruned, tmp_path, monkeypatch):
    with pulled_after(stop, monkeypatch):
        adapt(base, tmp_path / "stopped", photos, checkpoint_steps=1, **PRUNE)
    if stop < 8:
        with pytest.raises(UsageError, match="glocal adapt --resume"):
            glocal.pretrain(resume=str(tmp_path / "stopped"))
    glocal.adapt(resume=str(tmp_path / "stopped"), quiet=True)
    assert left(tmp_path / "stopped") == left(pruned)


def test_asked_to_stop_in_a_round_it_says_how_all_of_it_goes_on(base, tmp_path, monkeypatch):
    from glocal.training import loop

    monkeypatch.setattr(loop._Training, "sync_flags", lambda self: setattr(self, "stop", 2))
    with pytest.raises(TrainingStopped, match=f"glocal adapt --resume {tmp_path}/out$"):
        adapt(base, tmp_path / "out", **PRUNE)


def test_what_pruning_collapsed_is_trained_all_the_same(base, tmp_path, capsys):
    """The guard forgives a collapse that training began with; the encoder trains from the first step on."""
    settings = PRUNE | {"keep": 1e-3, "rounds": 1, "guard": None, "monitor_every": 1, "quiet": False, "max_steps": 6}
    run = Run(adapt(base, tmp_path / "run", **settings))
    assert [line["step"] for line in run.metrics() if "rank_pooled" in line] == [0, 2, 4, 6]
    assert run.config()["gentle"] is False
    assert "nothing that was seen was better than the pruned weights, untrained" in capsys.readouterr().out


def test_sizes_and_scores_before_and_after_are_printed(base, photos, tmp_path, capsys):
    glocal.adapt(str(base), str(photos), out=str(tmp_path / "run"), **TINY | {"max_steps": 2}, **MASK)
    said = capsys.readouterr().out
    assert "(×32)" in said
    scores = Run(tmp_path / "run").scores()
    assert f"Nearest neighbours: {scores['start']['knn']['top1']:.3f} → {scores['knn']['top1']:.3f}" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "prune", "keep": 0}, "--keep 0: give the share of the weights to keep, above 0"),
        ({"by": "prune", "keep": 0.5, "rounds": 0}, "--rounds 0: weights are left out in 1 to 100 rounds"),
        ({"by": "prune", "keep": 0.5, "rounds": 0, "max_steps": None}, "--rounds 0: weights are left out in 1 to 100"),
        ({"keep": 0.5}, "--keep and --rounds are of --by prune"),
        ({"method": "vicrge"}, "did you mean vicreg"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(options, said, base, tmp_path):
    with pytest.raises(UsageError, match=said):
        adapt(base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_mistakes_end_with_one_line_and_exit_code_2(base, masked, tmp_path):
    other = build_backbone("test_resnet", image_size=32)
    save_encoder(other, tmp_path)
    pretrained = glocal.pretrain(
        DATA, out=str(tmp_path / "run"), backbone="test_resnet", image_size=32, **TINY, **QUIET
    )
    refused = {
        "is of other weights": ("evaluate", tmp_path, "--data", DATA, "--mask", Run(masked).mask_file),
        "--keep 0": ("adapt", base, DATA, "--by", "prune", "--keep", "0"),
        "give an encoder and photographs": ("adapt", base),
        "adapts no encoder": ("adapt", "--resume", pretrained),
    }
    for said, words in refused.items():
        ended = command(*words, check=False)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_mask_can_be_asked_for_wherever_an_encoder_is(base, masked, tmp_path):
    mask = str(Run(masked).mask_file)
    images = open_source(DATA)
    one, other = glocal.embed(str(base), images, mask=mask), glocal.embed(str(masked), images)
    assert (one.pooled == other.pooled).all()
    exported = glocal.export(str(base), mask=mask, format="safetensors", out=str(tmp_path / "out"))
    assert all(torch.equal(x, read_weights(masked)[name]) for name, x in read_weights(exported).items())
