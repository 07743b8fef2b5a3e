"""Fine-tuning as a run: stopped and resumed, refused, and as commands."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import glocal
from glocal.backbones import build_backbone, save_encoder
from glocal.errors import UsageError
from glocal.report.figures import training_charts
from glocal.report.records import read_run
from glocal.run import Run
from glocal.training import optimizers
from processes import run as command

FAST = {"workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder's folder."""
    out = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_backbone("test_resnet", image_size=32), out)
    return out


@pytest.fixture
def labelled(tmp_path):
    """Twelve images in two folders of classes: light and dark."""
    draw = np.random.default_rng(0)
    for n in range(12):
        folder = tmp_path / "labelled" / ("dark", "light")[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((draw.integers(0, 90, (40, 40, 3)) + 150 * (n % 2)).astype(np.uint8)).save(folder / f"{n}.png")
    return tmp_path / "labelled"


class Power(Exception):
    """The plug is pulled."""


@pytest.mark.parametrize("train", ["all", "lora"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(train, encoder, tmp_path, monkeypatch):
    data = "parts:n=20,size=40"
    settings = {"head": "classify", "train": train, "mixup": 0.3, "max_steps": 7, "batch_size": 8, **FAST}
    whole = glocal.finetune(str(encoder), data, out=str(tmp_path / "whole"), **settings)
    calls, rate = 0, optimizers.warmup_cosine

    def pulled(*args):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Power
        return rate(*args)

    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "warmup_cosine", pulled)
        with pytest.raises(Power):
            glocal.finetune(str(encoder), data, out=str(out), checkpoint_steps=3, **settings)
    assert not Run(out).has_encoder
    glocal.finetune(resume=str(out), quiet=True)
    for name in ("encoder.safetensors", "head.safetensors"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    assert Run(whole).scores() == Run(out).scores()
    before = build_backbone("test_resnet", image_size=32, pretrained=str(encoder)).state_dict()
    after = glocal.load(str(out)).state_dict()
    assert before.keys() == after.keys(), "what LoRA adds is folded"
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("head", ["classify", "segment"])
def test_on_two_processes_as_on_one(head, encoder, tmp_path):
    """To rounding, which AdamW magnifies; the steps change weights by far more."""
    ends = []
    for ranks in (1, 2):
        fast = ["--workers", "0", "--threads", "1", "--no-report", "--quiet", "--precision", "32"]
        sizes = ["--max-steps", "6", "--batch-size", str(8 // ranks), "--devices", str(ranks)]
        said = ["finetune", encoder, "--data", "parts:n=20,size=40", "--head", head, "--train", "all"]
        command(*said, "--out", str(ranks), *sizes, *fast, cwd=tmp_path, ranks=ranks)
        ends.append({n: load_file(tmp_path / str(ranks) / f"{n}.safetensors") for n in ("encoder", "head")})
    start = load_file(encoder / "encoder.safetensors")
    one, two = ends
    apart = max((one[part][name] - two[part][name]).abs().max() for part in one for name in one[part])
    moved = max((one["encoder"][name] - start[name]).abs().max() for name in start if start[name].ndim == 4)
    assert apart < moved / 10


def test_the_commands_of_the_readme(encoder, labelled, tmp_path):
    done = command(
        "finetune", encoder, "--data", "labelled/", "--out", "ft/", "--max-steps", "8", "--workers=0", cwd=tmp_path
    )
    assert "learning from 10 images, checked on 2 others" in done.stdout
    assert "train head: 10 images, too few to change the encoder by" in done.stdout
    done = command("predict", "ft/", "labelled/", "--out", "labels.csv", cwd=tmp_path)
    assert "12 of 12 images predicted" in done.stderr
    titles = [chart.title for chart in training_charts(read_run(tmp_path / "ft"))]
    assert "On images held out, %" in titles
    again = command("finetune", encoder, "--data", "labelled/", "--out", "ft/", cwd=tmp_path, check=False)
    assert again.returncode == 2
    assert "continue it: glocal finetune --resume ft" in again.stderr


def test_what_cannot_be_learnt_from_is_refused_in_a_line(encoder, labelled, tmp_path):
    def refused(match, data=str(labelled), **options):
        with pytest.raises(UsageError, match=match) as raised:
            glocal.finetune(str(encoder), data, out=str(tmp_path / "out"), **FAST, **options)
        assert "\n" not in str(raised.value)
        assert not Run(tmp_path / "out").config_file.exists()

    refused("learns from masks; labelled has none", head="segment")
    refused("neither labels .* nor masks", str(labelled / "dark"))
    refused("--hold-out 1.0 is not a share", hold_out=1.0)
    refused("--layer-decay 2 is too large", layer_decay=2)
    refused("no groups 'patient'", split_by="patient")
    refused("fewer than a batch of 64", batch_size=64)
    for file in sorted((labelled / "dark").iterdir())[1:]:
        file.unlink()
    refused(r"class 'dark' has 1 image\(s\); each needs two")
    with pytest.raises(UsageError, match="leave the encoder out"):
        glocal.finetune(str(encoder), resume=str(tmp_path))
    with pytest.raises(UsageError, match="give an encoder"):
        glocal.finetune(str(encoder))


def test_whole_groups_are_held_out_and_all_may_be_learnt_from(encoder, labelled, tmp_path, capsys):
    lines = [f"{file.relative_to(labelled)},{n // 3}" for n, file in enumerate(sorted(labelled.glob("*/*.png")))]
    (labelled / "groups.csv").write_text("\n".join(["image,patient", *lines]))
    settings = FAST | {"quiet": False, "max_steps": 2}
    out = glocal.finetune(str(encoder), str(labelled), out=str(tmp_path / "a"), split_by="patient", **settings)
    assert "learning from 9 images, checked on 3 others: whole groups by patient" in capsys.readouterr().out
    assert Run(out).scores()["meta"]["n_test"] == 3
    out = glocal.finetune(str(encoder), str(labelled), out=str(tmp_path / "b"), hold_out=0, **settings)
    assert "learning from 12 images, nothing is held out" in capsys.readouterr().out
    assert not Run(out).scores()


def test_images_held_out_that_cannot_be_read_are_not_counted(encoder, tmp_path, capsys):
    for split, images in (("train", 8), ("val", 4)):
        for k in range(images):
            path = tmp_path / "data" / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * (k % 2), 9, 9)).save(path)
    (tmp_path / "data" / "val" / "a" / "9.png").write_bytes(b"no image")
    settings = FAST | {"quiet": False, "max_steps": 1}
    out = glocal.finetune(str(encoder), str(tmp_path / "data"), out=str(tmp_path / "ft"), **settings)
    said = capsys.readouterr().out
    assert "1 images could not be read and were skipped" in said
    assert "on 4 images held out" in said
    assert Run(out).scores()["meta"]["n_test"] == 4
    assert Run(out).skipped()[0].startswith("val/a/9.png\t")
