"""The composed world shows what its names say, and the cells of naming come to numbers."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from glocal.adaptation.codebook import Codebook
from replications import naming
from replications.composed import COLOURS, NAMES, WAYS, Composed


class Letters:
    """Reads names by their letters."""

    dim = 26

    def read(self, texts):
        return torch.tensor([[float(text.count(chr(97 + k))) for k in range(26)] for text in texts])


def test_names_say_the_colour_and_the_direction():
    assert len({*NAMES}) == 1200
    world, turned = Composed(1200, 48, split="train", seed=0), []
    for c in (0, 3, 6):
        sample = world.sample(c * len(WAYS))
        assert world.classes[sample.label] == f"a {COLOURS[c]} crab that looks north"
        hues = [colorsys.rgb_to_hsv(*pixel)[0] for pixel in sample.image[sample.mask > 0] / 255]
        away = (np.array(hues) - c / len(COLOURS) + 0.5) % 1 - 0.5
        assert (np.abs(away) < 0.08).mean() > 0.7
    for way in (0, 1, 5):
        points = world.sample(way).keypoints
        turned.append(np.degrees(np.arctan2(*(points[1] - points[0])[::-1])))
    assert (turned[1] - turned[0]) % 360 == pytest.approx(36, abs=12)
    assert (turned[2] - turned[0]) % 360 == pytest.approx(180, abs=12)


def test_codes_of_each_kind_are_none_twice(monkeypatch):
    monkeypatch.setattr(naming, "E5", Letters)
    book = Codebook.of(NAMES)
    for make in naming.CODES.values():
        codes, size = make(book)
        assert len(np.unique(codes, axis=0)) == len(codes) == 1200
        assert 0 <= codes.min() <= codes.max() < size


@pytest.mark.parametrize("arm", ["uni-cross", "plain"])
def test_a_cell_of_retrieval(arm, clothing, pets, released, monkeypatch):
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released(f"{naming.ENCODER}.safetensors").parent))
    monkeypatch.setattr(naming, "E5", Letters)
    monkeypatch.setattr(naming, "FOLDERS", ("clothing", "pets"))
    for name, value in {"SIZE": 32, "LEARNT": 2, "TESTED": 1, "STEPS": 2, "BATCH": 8}.items():
        monkeypatch.setattr(naming, name, value)
    found = naming.reco(clothing.parent, clothing.parent, 0, {"arm": arm})
    assert found.keys() == {"unseen", "seen"}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize("arm", ["ald", "knn", "dual"])
def test_a_cell_of_codes(arm, released, monkeypatch):
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released(f"{naming.ENCODER}.safetensors").parent))
    monkeypatch.setattr(naming, "E5", Letters)
    monkeypatch.setattr(naming, "NAMES", NAMES[:40])
    monkeypatch.setattr("replications.composed.NAMES", NAMES[:40])
    for name, value in {"SIDE": 32, "CELLS": 2, "COMPOSED": 40, "SEEN": 30, "PER_NAME": 1, "DECODED": 2}.items():
        monkeypatch.setattr(naming, name, value)
    found = naming.ger(released(f"{naming.ENCODER}.safetensors").parent, None, 0, {"arm": arm})
    assert found["valid beyond all"] == pytest.approx(0.5 / naming.COMPOSED)
    assert found["top1"] == pytest.approx((30 * found["seen"] + 10 * found["unseen"]) / 40)
    assert arm != "knn" or found["unseen"] == 0
