"""Classes that come later: what is kept of the old ones, stopped and resumed, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import glocal
from glocal.adaptation import load_head
from glocal.backbones import build_backbone, save_encoder
from glocal.config import PretrainConfig
from glocal.data import open_source
from glocal.errors import UsageError
from glocal.evaluation import extract
from glocal.pipeline.past import open_past
from glocal.run import Run
from power import pulled_after
from processes import run as command

FAST = {"workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32", "batch_size": 8}


def painted(folder, colours, each=10):
    """Plain images of some colours, a folder for each, with a little noise."""
    draw = np.random.default_rng(len(colours))
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for n in range(each):
            pixels = np.clip(np.array(colour) + draw.integers(-20, 20, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Where red, green and blue are known, and images of grey and white to come."""
    here = tmp_path_factory.mktemp("colours")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_backbone("test_resnet", image_size=32), here / "encoder")
    old = painted(here / "old", {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)})
    painted(here / "new", {"grey": (120, 120, 120), "white": (230, 230, 230)})
    glocal.finetune(str(here / "encoder"), str(old), out=str(here / "ft"), max_steps=3, **FAST)
    return here


def extended(colours, out, *, folder="ft", data="new", **options):
    settings = {"memory": 4, "max_steps": 6, **FAST, **options}
    return glocal.finetune(str(colours / folder), str(colours / data), out=str(out), **settings)


@pytest.mark.parametrize("head", [None, "nearest_mean", "classify"])
def test_old_classes_are_kept_beside_new_ones(head, colours, tmp_path):
    out = extended(colours, tmp_path / "ft2", head=head, max_steps=30)
    found, name = load_head(out)
    assert name == (head or "mtn")
    assert found.classes == ["blue", "green", "red", "grey", "white"]
    scores = Run(out).scores()[name]
    assert scores["top1"] == pytest.approx((6 * scores["top1_old"] + 4 * scores["top1_new"]) / 10)
    assert scores["top1_old"] > 0.5, "of five classes"
    assert scores["top1_new"] > 0.5
    kept = open_source(str(Run(out).memory / "train.csv"))
    assert np.bincount(kept.labels).tolist() == [4] * 5
    assert sorted(kept.classes) == kept.classes == sorted(found.classes)


def fusion(folder):
    return {name: p for name, p in load_head(folder)[0].named_parameters() if name.startswith("model.fusion.")}


def test_what_fuses_neighbours_learns_with_the_first_classes(colours, tmp_path, capsys):
    data = str(colours / "old")
    first = glocal.finetune(str(colours / "encoder"), data, out=str(tmp_path / "ft"), head="mtn", max_steps=9, **FAST)
    assert any(p.any() for name, p in fusion(first).items() if ".out." in name), "these begin at 0"
    second = extended(tmp_path, tmp_path / "ft2", data=colours / "new", quiet=False)
    assert all(torch.equal(p, fusion(second)[name]) for name, p in fusion(first).items())
    assert "add nothing" not in capsys.readouterr().out
    assert not torch.equal(load_head(first)[0].model.weight, load_head(second)[0].model.weight[:3])


def test_where_it_has_learnt_nothing_it_does_nothing(colours, tmp_path, capsys):
    head, _ = load_head(extended(colours, tmp_path / "ft2", quiet=False))
    assert "ft was not made with it, neighbours add nothing to replay" in " ".join(capsys.readouterr().out.split())
    x = torch.randn(7, head.model.memory.shape[1])
    with torch.no_grad():
        fused = head.model(x)
        head.model.fusion = None
        torch.testing.assert_close(head.model(x), fused)


def test_images_that_come_from_the_memory_are_told(colours, tmp_path, capsys):
    extended(colours, tmp_path / "ft2", quiet=False, labels=1, max_steps=1, batch_size=2)
    said = capsys.readouterr().out
    assert "learning from 13 images (12 of them of the 3 classes known before)" in said
    assert "of each old class, 4 images at most" in said
    assert re.search(r"1 of 5 classes have no image to learn from \('(grey|white)'\)", said)


def test_without_a_memory_old_classes_are_forgotten(colours, tmp_path):
    out = extended(colours, tmp_path / "ft2", memory=0)
    scores = Run(out).scores()["classify"]
    assert scores["top1_old"] == 0
    assert scores["top1_new"] > 0.5
    assert not Run(out).memory.exists()


def test_the_memory_is_enough_for_the_next_classes(colours, tmp_path):
    """Nothing else is looked at: the images of the first two steps are gone."""
    shutil.copytree(colours / "ft", tmp_path / "ft")
    shutil.copytree(colours / "new", tmp_path / "new")
    extended(tmp_path, tmp_path / "ft2")
    shutil.rmtree(tmp_path / "ft")
    shutil.rmtree(tmp_path / "new")
    painted(tmp_path / "more", {"black": (20, 20, 20), "pink": (250, 120, 180)})
    out = extended(tmp_path, tmp_path / "ft3", folder="ft2", data="more", memory=3)
    assert load_head(out)[0].classes == ["blue", "green", "red", "grey", "white", "black", "pink"]
    kept = open_source(str(Run(out).memory / "train.csv"))
    assert np.bincount(kept.labels).tolist() == [3] * 7


def test_a_teacher_that_looks_at_exemplars_does_not_look_at_the_one_it_is_asked_about(colours, tmp_path):
    """Its exemplars are the first images that are learnt from; only three of the four of each class are kept on."""
    data = str(colours / "old")
    first = Path(glocal.finetune(str(colours / "encoder"), data, out=str(tmp_path / "ft"), head="mtn", memory=4,
                                 max_steps=3, **FAST))  # fmt: skip
    for folder in (first, Path(shutil.copytree(first, tmp_path / "without"))):
        if folder != first:
            shutil.rmtree(Run(folder).memory)
        config = PretrainConfig(data="", pretrained=str(folder), image_size=32, options={"memory": 3})
        past = open_past(config, trust_code=False)
        model, encoder = past.head.model, glocal.load(folder)
        assert len(past.exemplars) == 9
        bank = extract(encoder, past.exemplars, image_size=32, crop_pct=0.875)
        seen = F.normalize(past.head.standardised(bank.pooled), dim=1)
        own = (seen @ model.memory.T).argmax(1)
        assert model.index[own].tolist() == list(range(9)), "each is the exemplar that is most like it"
        assert (model.index >= 0).sum() == 9


def test_on_two_processes_as_on_one(colours, tmp_path):
    """To rounding, which AdamW magnifies; memories are the same to the bit."""
    ends = []
    for ranks in (1, 2):
        fast = ["--workers", "0", "--threads", "1", "--no-report", "--quiet", "--precision", "32", "--train", "all"]
        sizes = ["--max-steps", "6", "--batch-size", str(8 // ranks), "--devices", str(ranks), "--memory", "4"]
        said = ["finetune", colours / "ft", "--data", colours / "new", "--out", str(ranks)]
        command(*said, *sizes, *fast, cwd=tmp_path, ranks=ranks)
        ends.append({n: load_file(tmp_path / str(ranks) / f"{n}.safetensors") for n in ("encoder", "head")})
    one, two = ends
    start = load_file(colours / "ft" / "encoder.safetensors")
    moved = max((one["encoder"][name] - start[name]).abs().max() for name in start if start[name].ndim == 4)
    for part, named in one.items():
        for name, value in named.items():
            assert value.shape == two[part][name].shape
            if value.is_floating_point():
                assert (value - two[part][name]).abs().max() < moved / 5, name
    assert torch.equal(one["head"]["model.labels"], two["head"]["model.labels"])
    assert Run(tmp_path / "1").scores().keys() == Run(tmp_path / "2").scores().keys()


@pytest.mark.parametrize("settings", [{"train": "all"}, {"train": "head", "mixup": 0.3}, {"head": "nearest_mean"}])
def test_stopped_and_resumed_it_ends_with_the_same_bits(settings, colours, tmp_path, monkeypatch):
    whole = extended(colours, tmp_path / "whole", max_steps=9, **settings)
    with pulled_after(7, monkeypatch):
        extended(colours, tmp_path / "stopped", max_steps=9, checkpoint_steps=6, **settings)
    glocal.finetune(resume=str(tmp_path / "stopped"), quiet=True)
    for name in ("encoder.safetensors", "head.safetensors", "memory/train.csv"):
        assert (whole / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_what_cannot_be_extended_is_refused_in_a_line(colours, tmp_path, world_of_joints):
    def refused(match, **options):
        with pytest.raises(UsageError, match=match) as raised:
            extended(colours, tmp_path / "out", **options)
        assert "\n" not in str(raised.value)
        assert not Run(tmp_path / "out").config_file.exists()

    painted(colours / "again", {"red": (1, 2, 3), "new": (1, 2, 3)})
    refused("again has images of 'red', which is known already", data="again")
    refused("--memory -1: keep 0", memory=-1)
    refused(
        "--memory keeps images of classes; --head keypoints", data=world_of_joints, head="keypoints", folder="encoder"
    )
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    glocal.finetune(str(colours / "encoder"), str(colours / "old"), out=str(tmp_path / "codes"), head="codes",
                    names=str(tmp_path / "names.txt"), max_steps=1, **FAST)  # fmt: skip
    refused("codes learns no classes, but to choose among names", folder=tmp_path / "codes")
    shutil.copytree(colours / "ft", tmp_path / "ft")
    config = (tmp_path / "ft" / "config.yaml").read_text().replace(str(colours / "old"), str(colours / "gone"))
    (tmp_path / "ft" / "config.yaml").write_text(config)
    refused("ft has no memory, and what it learnt from cannot be opened: no data at", folder=tmp_path / "ft")


@pytest.fixture
def world_of_joints(tmp_path):
    painted(tmp_path / "people", {"images": (90, 90, 90)})
    np.save(tmp_path / "people" / "joints.npy", np.full((10, 3, 2), 16.0))
    return tmp_path / "people"


def test_joints_from_the_command_line(colours, world_of_joints, tmp_path, monkeypatch):
    settings = {"labels": 6, "batch_size": 3, "max_steps": 9}
    base = str(colours / "encoder")
    whole = glocal.finetune(base, str(world_of_joints), out=str(tmp_path / "whole"), **FAST | settings)
    with pulled_after(7, monkeypatch):
        glocal.finetune(base, str(world_of_joints), out=str(tmp_path / "kp"), checkpoint_steps=6, **FAST | settings)
    glocal.finetune(resume=str(tmp_path / "kp"), quiet=True)
    assert (whole / "head.safetensors").read_bytes() == (tmp_path / "kp" / "head.safetensors").read_bytes()
    done = command("predict", "kp/", "people/", "--draw", "drawn/", "--out", "joints.csv", cwd=tmp_path)
    assert "10 of 10 images predicted" in done.stderr
    assert "pck" in done.stderr
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 10
    np.save(world_of_joints / "joints.npy", np.full((9, 3, 2), 16.0))
    done = command("finetune", base, "--data", "people/", "--head", "keypoints", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "joints.npy is of 9 images, and there are 10" in done.stderr
