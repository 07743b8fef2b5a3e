"""What holds for every registered method: it trains, resumes to the bit, explains itself, is checked, stays short."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import glocal
from glocal.backbones import build_backbone
from glocal.cli import parameters
from glocal.data import PartsWorld
from glocal.methods import method_class, method_names, resolve_options
from glocal.methods.registry import SHARED_OPTIONS
from power import left_after
from replications.evidence import checks, code_lines

BACKBONES = {"msn": "test_vit", "loca": "test_vit"}  # that drop tokens
BACKBONES |= {"flow": "tiny:unet", "dcgan": "tiny:strided"}  # that give velocities, that have no BatchNorm
PAIR = {"projector": (64, 32), "predictor": (64, 32)}
CLUSTERS = {"hidden": 64, "bottleneck": 32}
SMALL = {  # heads, crops and support that take less time than the backbone; fewer prototypes than images
    "byol": PAIR,
    "co-byol": PAIR,
    "mocov3": PAIR,
    "co-mocov3": PAIR,
    "dcl": {"projector": (64, 32)},
    "dclw": {"projector": (64, 32)},
    "simclr": {"projector": (64, 32)},
    "dino": {"outputs": 64, **CLUSTERS},
    "co-dino": {"outputs": 64, **CLUSTERS},
    "deepcluster_v2": {"prototypes": 8},
    "flow": {"guide": "own", "clusters": 8, "image_size": 16},
    "irmae": {"code": 16},
    "loca": {"clusters": 64, "small_crops": 2, "small_size": 32, **CLUSTERS},
    "msn": {"projector": (64, 64, 32), "small_size": 32},
    "nnclr": {"projector": (64, 64, 32), "predictor": (64,), "queue": 64},
    "paws": {"support_images": 3},
}
BATCH = 16
LONGEST = 80


def settings(name: str) -> dict:
    return {
        "method": name,
        "backbone": BACKBONES.get(name, "tiny:Net"),
        "image_size": 32,
        "batch_size": BATCH,
        "epochs": 2,
        "precision": "bf16-mixed",
        "workers": 0,
        "monitor_every": 9,
        "report": False,
        "quiet": True,
        **SMALL.get(name, {}),
        **method_class(name).needs,
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """40 labelled images, drawn once: 2 steps an epoch."""
    out = tmp_path_factory.mktemp("images") / "parts"
    PartsWorld(40, 40).write_folder(out, test=1)
    return str(out)


@pytest.mark.parametrize("name", method_names("images"))
def test_it_trains_at_batch_16_in_bf16_and_resumes_to_the_bit(name, data, tmp_path, monkeypatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with left_after(3, stopped, monkeypatch):
        glocal.pretrain(data, out=str(whole), checkpoint_steps=3, **settings(name))
    state = weights(whole)
    assert not any(value.isnan().any() for value in state.values())
    glocal.pretrain(resume=str(stopped), quiet=True, trust_code=True)
    for key, value in weights(stopped).items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", method_names("images"))
def test_its_presets_build_and_only_the_student_trains(name) -> None:
    cls = method_class(name)
    assert {"paper", "small"} <= cls.presets.keys()
    for preset in cls.presets:
        options = resolve_options(cls, preset, 64, {"image_size": 32, **cls.needs})
        wide = lambda value: isinstance(value, int) and value > 96
        narrow = {option: (16,) * len(x) for option, x in options.items() if isinstance(x, tuple) and all(map(wide, x))}
        narrow |= {option: 96 for option, x in options.items() if wide(x)}
        backbone = build_backbone(settings(name)["backbone"], image_size=32, pool=cls.pool)
        options.pop("drop_path", None)  # which is the backbone's
        method = cls(backbone, **options | narrow)
        assert method.encoder is backbone or method.encoder is method.average.backbone
        assert method.recipe.views
        # the loop exports and checkpoints what is registered, and moves what has a gradient
        assert any(module is backbone for module in method.modules())
        assert all(p.requires_grad for p in backbone.parameters()) or name.endswith("mocov3")
        assert isinstance(method, nn.Module)
        if hasattr(cls, "generator"):  # it makes images as the photographs are: whole, not mirrored, in their colours
            whole = method.recipe.views[0]
            assert (whole.scale, whole.ratio, whole.flip, whole.jitter, whole.gray) == ((1, 1), (1, 1), 0, 0, 0)


@pytest.mark.parametrize("name", method_names())
def test_it_says_what_it_is_what_it_needs_and_what_to_expect(name) -> None:
    cls = method_class(name)
    document = inspect.getdoc(cls) or ""
    assert cls.title
    assert "arXiv:" in cls.paper
    for word in ("Need", "Choose", "Expect"):
        assert word in document or word.lower() in document, f"the docstring of {name} lacks '{word}'"
    for option in parameters(cls, shared=SHARED_OPTIONS)[1:]:
        help_ = option.annotation.__metadata__[0].help
        assert help_, f"neither the docstring of {name} nor its parents' explain '{option.name}'"


@pytest.mark.parametrize("path", sorted(Path(glocal.__file__).parent.glob("methods/*.py")), ids=lambda path: path.stem)
def test_its_file_is_short(path) -> None:
    assert code_lines(path.read_text()) <= LONGEST, "over 80 lines of code: what does not belong into a method?"


@pytest.mark.parametrize("kind", ["parity", "distributed"])
def test_its_loss_is_compared_with_an_oracle_and_two_processes_with_one(kind) -> None:
    found = checks(kind)
    assert [name for name, tests in found.items() if not tests] == [], f"no test is marked pytest.mark.{kind} for these"
    assert found.keys() == set(method_names()), "a marker names a method that does not exist"
    assert all(check.oracle for tests in found.values() for check in tests) or kind == "distributed"
