"""The noisy model answers as a model would, and the cells of its claims come to numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import glocal
from glocal.data import open_source
from glocal.language.endpoint import picture
from replications import asking, noisy
from replications.noisy import NoisyModel, serving, words


@pytest.fixture(scope="module")
def model(released):
    return NoisyModel(released(f"{noisy.WEIGHTS}.safetensors"))


@pytest.fixture
def lab(real_data, released, monkeypatch, clothing, camvid, pets):
    released(f"{asking.ENCODER}.safetensors")
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released(f"{noisy.WEIGHTS}.safetensors").parent))
    monkeypatch.setattr(asking, "IMAGES", 20)
    monkeypatch.setattr(asking, "TESTED", 8)
    return clothing.parent


def test_it_sees_garments(model, clothing):
    """Its classifier is the one of the file: trousers are jeans to it more often than hats are."""
    source = open_source(clothing, split="test")
    jean = next(k for k, name in enumerate(model.names) if name.startswith("jean,"))
    chance = {}
    for name in ("pants", "hat"):
        rows = np.flatnonzero(source.labels == source.classes.index(name))[:8]
        seen = torch.stack([model.posterior(picture(source.open(int(i)).decode(), 128)) for i in rows])
        assert seen.sum(1).tolist() == pytest.approx([1] * len(rows), abs=1e-5)
        chance[name] = float(seen[:, jean].mean())
    assert chance["pants"] > 10 * chance["hat"]


def test_it_reads_by_words(model):
    assert words("Running shoes, T-shirts of 1 dress") == ["running", "shoe", "shirt", "dress"]
    jersey = next(k for k, name in enumerate(model.names) if name.startswith("jersey"))
    hat = next(k for k, name in enumerate(model.names) if name == "cowboy hat, ten-gallon hat")
    found = model.matches(("a hat", "a cowboy hat", "a tee shirt", "nothing"))
    assert found[hat].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert found[jersey].tolist() == [0, 0, 1, 0]


def test_curation_by_a_real_and_noisy_model(model, clothing, tmp_path, monkeypatch):
    """The whole command: the images of two classes, some of them in the other's folder."""
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    for name, other in (("pants", "hat"), ("hat", "pants")):
        for k, file in enumerate(sorted((clothing / "test" / name).iterdir())[:6]):
            folder = tmp_path / "data" / (other if k == 5 else name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file.name).write_bytes(file.read_bytes())
    lines = [f'{{"name": "{e.name}", "text": "{e.text}"}}' for e in asking.KNOWLEDGE.entities]
    (tmp_path / "kb.jsonl").write_text("\n".join(lines))
    given = {"kb": str(tmp_path / "kb.jsonl"), "model": "noisy", "out": str(tmp_path / "out"), "image_size": 32}
    with serving(model) as url:
        glocal.curate("timm:test_resnet:random", str(tmp_path / "data"), endpoint=url, **given)
    table = (tmp_path / "out" / "curation.csv").read_text().splitlines()[1:]
    assert len(table) == 12
    assert all(line.split(",")[3] in ("keep", "correct", "drop") for line in table)
    assert all("It looks like" in line for line in table)


@pytest.mark.parametrize("arm", ["raw", "with"])
def test_a_cell_of_curation(lab, arm, monkeypatch):
    monkeypatch.setattr(asking, "DECODED", 2)
    found = asking.curate(lab, lab, 0, {"arm": arm})
    assert found.keys() == {"precision", "kept", "knn", "ger"}
    assert all(0 <= value <= 1 for value in found.values())
    if arm == "raw":
        assert found["precision"] == found["kept"] == 0.7
    else:
        assert found["kept"] <= found["precision"] or found["precision"] == 0


def test_wrong_labels_are_wrong_and_half_of_them_near():
    draw = np.random.default_rng(0)
    truth = np.arange(100) % 4
    pooled = torch.from_numpy(np.array([0.0, 1.0, 10.0, 11.0])[truth])[:, None].float()
    given = asking.corrupted(truth, pooled, 4, draw)
    wrong = given != truth
    assert wrong.sum() == 30
    assert (given[wrong] == (truth[wrong] ^ 1)).sum() >= 15


def test_a_cell_of_videos(lab, monkeypatch):
    """Where every frame is shown, what the model knows alone it mostly knows among others."""
    monkeypatch.setattr(asking, "VIDEOS", 2)
    monkeypatch.setattr(asking, "LENGTHS", {"x1": 4, "x4": 12})
    found = asking.ask(lab, lab, 0, {"strategy": "uniform"})
    assert found["x1"] == 1
    assert found["mean"] == pytest.approx((1 + found["x4"]) / 2)
