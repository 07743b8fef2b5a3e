"""PAWS as a module: what enters its loss, and that labels are wanted."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from support import build, make_batch

import glocal
from glocal.errors import UsageError
from glocal.losses import mean_entropy, sharpen
from glocal.losses.assignment import cross_entropy, support_predictions, swapped_targets


def test_targets_are_made_before_the_predictor_and_carry_no_gradient():
    method, batch = build("paws").double(), make_batch("paws", 4, torch.float64)
    reference = copy.deepcopy(method)
    loss = method(batch).total
    large = torch.cat([v.pixels for v in (batch.support.views[0], *batch.views[:2])])  # one pass, hence one BatchNorm
    pooled = [reference.encoder(x).pooled for x in (large, batch.views[2].pixels)]
    h = reference.projector(torch.cat(pooled))
    z = reference.predictor(h)
    s, one, two, small = z.split([6, 4, 4, 4])
    p = support_predictions(torch.stack([one, two, small]), s, batch.support.label)
    s, one, two, _ = h.detach().split([6, 4, 4, 4])
    q = swapped_targets(support_predictions(torch.stack([one, two]), s, batch.support.label), 3)
    expected = cross_entropy(p, q) - mean_entropy(sharpen(p, 0.25))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_only_who_is_alike_counts_not_the_order_of_the_labelled_images():
    method, batch = build("paws").double(), make_batch("paws", 4, torch.float64)
    again, order = copy.deepcopy(method), torch.randperm(6)
    first = method(batch).total
    support = batch.support
    support.views[0].pixels, support.label = support.views[0].pixels[order], support.label[order]
    torch.testing.assert_close(again(batch).total, first)


def test_its_recipe_asks_for_labelled_images_and_it_says_when_there_are_none():
    method, batch = build("paws", labelled=0.3, support_images=2), make_batch("paws", 4)
    support = method.recipe.support
    assert (support.classes, support.images, support.labelled) == (3, 2, 0.3)
    assert support.views == method.recipe.views[:1]
    batch.support = None
    with pytest.raises(UsageError, match="labelled"):
        method(batch)


def test_the_log_says_how_many_labels_are_used(tmp_path, capsys):
    options = {
        "method": "paws", "backbone": "test_resnet", "image_size": 32, "batch_size": 8, "max_steps": 1, "epochs": 1,
        "precision": "32", "projector": (16, 8), "small_crops": 0, "labelled": 3, "report": False, "workers": 0,
    }  # fmt: skip
    glocal.pretrain("parts:n=16,size=32,classes=4", out=str(tmp_path / "run"), **options)
    assert "12 of 16 labels used, of 4 classes" in capsys.readouterr().out
    (tmp_path / "flat").mkdir()
    for i in range(8):
        Image.new("RGB", (40, 40), (i, 2 * i, 99)).save(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(UsageError, match="no labels"):
        glocal.pretrain(str(tmp_path / "flat"), out=str(tmp_path / "none"), **options)
