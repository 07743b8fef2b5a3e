"""Runs on photographs in their own shapes: resumed to the bit, the same on two processes; and their encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

import glocal
from glocal.backbones import Backbone
from glocal.backbones.navit import NaViT
from glocal.data import ConcatSource, PartsWorld
from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.evaluation.extract import extract
from glocal.methods import VICReg
from glocal.run import Run
from glocal.views import Appearance, Packing, ViewLoader
from power import pulled_after
from processes import on_processes

NETWORK = """
from glocal.backbones.navit import NaViT


def net():
    return NaViT(24, 3, depth=1)
"""
RUN = {
    "method": "vicreg",
    "backbone": "mine:net",
    "native": "16-28",  # no whole number of patches
    "tokens": 20,
    "patch_drop": 0.2,
    "batch_size": 8,
    "projector": (16, 16),
    "max_steps": 5,
    "report": False,
    "quiet": True,
    "precision": "32",
    "threads": 1,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of photographs of two classes and many shapes."""
    world, draw = PartsWorld(24, 48, classes=2), np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("shapes")
    for i in range(len(world)):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        size = tuple(draw.integers(20, 90, 2).tolist())
        Image.fromarray(world.sample(i).image).resize(size).save(folder / "ab"[i % 2] / f"{i:02d}.png")
    return folder


def encoder() -> Backbone:
    torch.manual_seed(0)
    arguments = {"name": "navit_tiny", "image_size": None, "pretrained": False, "pool": "native"}
    return Backbone(NaViT(24, 3, depth=1), arguments).eval()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(shapes, tmp_path, monkeypatch, module_here):
    module_here(NETWORK)
    whole, out = str(tmp_path / "whole"), tmp_path / "stopped"
    glocal.pretrain(str(shapes), out=whole, workers=0, **RUN)
    with pulled_after(4, monkeypatch):
        glocal.pretrain(str(shapes), out=str(out), workers=0, checkpoint_steps=1, **RUN)
    glocal.pretrain(resume=str(out), workers=0, quiet=True, trust_code=True)
    one, other = (torch.load(Run(run).checkpoint_file, weights_only=True) for run in (whole, out))
    assert all(torch.equal(x, other["method"][name]) for name, x in one["method"].items())
    assert one["position"]["shrunk"] == other["position"]["shrunk"]
    assert Run(out).config()["image_size"] == 32


def gradients(folder) -> dict[str, torch.Tensor]:
    """Of VICReg on this process's part of the third batch of an epoch."""
    torch.manual_seed(0)
    method = VICReg(encoder().train(), image_size=32, projector=(16, 16)).double()
    recipe = method.recipe.packed((16, 32), Packing(8, 24))
    appearance = Appearance(recipe, (0.5,) * 3, (0.25,) * 3, 0)
    place = {"rank": rank(), "world_size": world_size(), "batch_size": 64 // world_size()}
    source = glocal.data.open_source(str(folder))
    source = ConcatSource([source] * 8)  # 192 images: three batches, of which the last has what the others leave
    *_, batch = ViewLoader(source, recipe, seed=0, appearance=appearance, **place).epoch(0)
    assert len(batch.index) * world_size() > 64
    for view in batch.views:
        view.pixels.patches = view.pixels.patches.double()
    parallel = DistributedDataParallel(method) if world_size() > 1 else method
    parallel(batch).total.backward()
    return {name: parameter.grad for name, parameter in method.named_parameters()}


def test_two_processes_have_the_gradients_of_one(shapes):
    alone = gradients(shapes)
    for found in on_processes(2, gradients, shapes):
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "test_vit"}, "test_vit takes images of one shape: leave out --native, or take --backbone navit"),
        ({"method": "vicregl"}, "VICRegL needs maps of one shape: leave out --native"),
        ({"method": "msn"}, "MSN needs maps of one shape: leave out --native"),
        ({"native": "64"}, "--native 64: give the least and the most"),
        ({"native": "64-16"}, "--native 64-16: give the least and the most"),
        ({"native": None}, "--tokens 20 is the length of packed sequences: give --native LEAST-MOST"),
        ({"native": None, "tokens": None}, "--patch-drop 0.2"),
    ],
)
def test_what_cannot_be_is_refused_before_training(shapes, tmp_path, monkeypatch, options, says):
    monkeypatch.setattr("glocal.pipeline.start.ViewLoader", None)
    given = {"backbone": "navit_tiny", **options}
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        glocal.pretrain(str(shapes), out=str(tmp_path / "run"), **RUN | given)
    assert not list(tmp_path.iterdir())


def test_photographs_of_the_oddest_shapes_are_embedded(tmp_path):
    draw = np.random.default_rng(0)
    for name, shape in {"long": (1, 4000), "tall": (3000, 2), "dot": (1, 1), "usual": (30, 40)}.items():
        Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    backbone = encoder()
    found = glocal.embed(backbone, str(tmp_path), native=True)
    assert found.pooled.shape == (4, 24)
    assert np.isfinite(found.pooled).all()
    assert found.about["native"]
    alone = glocal.embed(backbone, str(tmp_path), native=True, batch_size=1)
    np.testing.assert_allclose(found.pooled, alone.pooled, atol=1e-5)
    assert np.isfinite(glocal.embed(backbone, str(tmp_path), native=True, image_size=13).pooled).all()


def test_maps_of_photographs_in_their_own_shapes_are_kept(shapes, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    backbone, settings = encoder(), {"native": True, "dense": True, "image_size": 48, "batch_size": 5}
    source = glocal.data.open_source(str(shapes))
    bank = extract(backbone, source, image_size=48, batch_size=7, native=True, dense=True)
    found = glocal.embed(backbone, str(shapes), **settings)
    assert found.about["stride"] == backbone.stride
    assert "cells" not in found.about
    for map_, expected in zip(found.dense, bank.maps, strict=True):
        np.testing.assert_allclose(map_.transpose(1, 2, 0), expected, atol=1e-3)
    table = pq.read_table(glocal.embed(backbone, str(shapes), out=str(tmp_path / "f.parquet"), **settings))
    arrays = np.load(glocal.embed(backbone, str(shapes), out=str(tmp_path / "f.npz"), **settings))
    ends = np.cumsum(arrays["grid"].prod(1) * found.about["dim"])
    in_npz = np.split(arrays["dense"], ends[:-1])
    in_table = zip(table["dense"].to_pylist(), table["grid"].to_pylist(), strict=True)
    for map_, (numbers, grid), others, shape in zip(found.dense, in_table, in_npz, arrays["grid"], strict=True):
        np.testing.assert_array_equal(np.array(numbers, np.float16).reshape(-1, *grid), map_)
        np.testing.assert_array_equal(others.reshape(-1, *shape), map_)


def test_a_photograph_is_encoded_as_it_is(shapes):
    backbone, source = encoder(), glocal.data.open_source(str(shapes))
    bank = extract(backbone, source, image_size=48, batch_size=5, native=True, dense=True)
    for i, map_ in zip(bank.index.tolist(), bank.maps, strict=True):
        width, height = source.open(i).size
        rows, columns = map_.shape[:2]
        assert columns / rows == pytest.approx(width / height, rel=0.35)
        assert rows * columns == pytest.approx(36, rel=0.25)
    assert bank.pooled.shape == (24, 24)


def test_every_task_is_scored_in_their_own_shapes_or_says_why_not(tmp_path, capsys):
    world = PartsWorld(30, 48, classes=2)
    for i in range(30):
        for kind, pixels in (("images", world.sample(i).image), ("masks", world.mask(i))):
            folder = tmp_path / kind / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            size = (48, 30) if i % 3 else (28, 60)
            resample = Image.Resampling.NEAREST if kind == "masks" else Image.Resampling.BICUBIC
            Image.fromarray(pixels).resize(size, resample).save(folder / f"{i:02d}.png")
    options = {"segment": {"steps": 5}, "correspond": {"images": 6}, "linear": {"epochs": 1}}
    tasks = ["knn", "linear", "segment", "correspond", "stability", "rank"]
    found = glocal.evaluate(
        encoder(), str(tmp_path), tasks=tasks, image_size=48, native=True, task_options=options, device="cpu"
    )
    assert found["meta"]["native"]
    assert "squares" in found["meta"]["unscored"]["rank"]
    assert 0 < found["segment"]["miou"] < 1
    assert found["segment"]["output_stride"] == 8
    assert found["correspond"]["within_1_cell"] == found["correspond"]["within_1_cell_uniform"]
    assert found["correspond"]["cells"] > 50
    assert {"knn", "linear", "stability"} < found.keys()
    with pytest.raises(UsageError, match="test_resnet takes images of one shape"):
        glocal.evaluate("timm:test_resnet:random", str(tmp_path), tasks=["knn"], native=True)
