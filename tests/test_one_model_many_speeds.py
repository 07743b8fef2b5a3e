"""The commands of docs/many_speeds.md, on a few generated photographs."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import glocal
from glocal.cli import main
from glocal.run import Run

HEAD = "--outputs 32 --hidden 32 --bottleneck 16 --max-steps 2 --batch-size 8 --workers 0 --report false"


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Run:
    """Trained as the page says."""
    out = tmp_path_factory.mktemp("runs") / "flexi"
    words = "--method dino --backbone flexivit_tiny --patches 4,8,16 --image-size 32 --small-crops 0"
    main(["pretrain", str(photos), *words.split(), *HEAD.split(), "--out", str(out)])
    return Run(out)


def test_a_row_for_each_patch(run, photos, tmp_path, capsys):
    words = [
        "evaluate",
        str(run),
        "--data",
        str(photos),
        "--tasks",
        "knn",
        "rank",
        "--json",
        str(tmp_path / "all.json"),
    ]
    main([*words, "--patch", "all"])
    head, *rows = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found) == ["patch 4", "patch 8", "patch 16"]
    assert "knn.top1" in head.split()
    for row, (name, scores) in zip(rows, found.items(), strict=True):
        assert row.startswith(name)
        assert row.split()[2] == f"{scores['knn']['top1']:.3f}"
    main([*words, "--patch", "8"])
    capsys.readouterr()
    assert json.loads((tmp_path / "all.json").read_text())["knn"] == found["patch 8"]["knn"]
    plain = glocal.evaluate(str(run), str(photos), tasks=["rank"])  # the middle one is its own
    assert plain["rank"] == found["patch 8"]["rank"]
    assert plain["rank"] != found["patch 4"]["rank"]
    file = glocal.evaluate(str(run.path / "encoder.safetensors"), str(photos), tasks=["rank"], patch="all")
    assert list(file) == list(found)


def test_several_encoders_at_a_patch(run, photos):
    other = "timm:flexivit_tiny:random"
    found = glocal.evaluate([str(run), other], str(photos), tasks=["rank"], patch=16, image_size=32)
    assert list(found) == [f"{run} patch 16", f"{other} patch 16"]


def test_its_export_is_an_ordinary_vision_transformer(run, tmp_path):
    main(["export", str(run), "--patch", "16", "--format", "timm", "--out", str(tmp_path / "vit16")])
    model = timm.create_model(f"local-dir:{tmp_path / 'vit16'}", pretrained=True).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert model.patch_embed.proj.weight.shape[2:] == (16, 16)
        torch.testing.assert_close(model(pixels), glocal.load(str(run)).at(16)(pixels).pooled, rtol=1e-4, atol=1e-5)
