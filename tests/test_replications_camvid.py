"""Sequences from the names of files, each scored by what was learnt from the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import replications.camvid as file
from glocal.data import ArraySource, Groups, open_source, split_by
from glocal.evaluation import task
from glocal.evaluation.groups import PerImage, by_group, with_groups


def test_the_table_names_the_sequence_of_every_frame():
    source = ArraySource(np.zeros((3, 8, 8, 3), np.uint8))
    names = ["train/images/0001TP_008550.webp", "val/images/0016E5_07961.webp", "test/images/0001TP_1.png"]
    source.key = names.__getitem__
    assert file.table(source).splitlines() == [
        "image,sequence",
        "train/images/0001TP_008550.webp,0001TP",
        "val/images/0016E5_07961.webp,0016E5",
        "test/images/0001TP_1.png,0001TP",
    ]


def test_no_sequence_is_scored_by_what_it_taught(monkeypatch):
    seen = []

    @task()
    def spy(context):
        own, others = (set(side.labels.tolist()) for side in (context.test, context.train))
        seen.append((own, others))
        context.each = PerImage.mean("top1", np.arange(len(context.test)), context.test.labels % 2)
        return {}

    monkeypatch.setattr(file, "find_task", lambda name: spy)
    of = np.arange(60) % 3
    source = ArraySource(np.zeros((60, 8, 8, 3), np.uint8), labels=np.arange(60))
    source.groups = {"sequence": Groups(["a", "b", "c"], of)}
    found = file.leave_one_out(torch.nn.Identity(), source, image_size=8)
    assert [own for own, _ in seen] == [set(range(k, 60, 3)) for k in range(3)]
    assert all(own | others == set(range(60)) and not own & others for own, others in seen)
    assert {name: group["images"] for name, group in found["groups"].items()} == {"a": 20, "b": 20, "c": 20}


def test_real_sequences(camvid, tmp_path):
    source = open_source(camvid, split="all")
    (tmp_path / "groups.csv").write_text(file.table(source))
    source, _ = with_groups(source, source, tmp_path / "groups.csv")
    groups = source.groups["sequence"]
    assert dict(zip(groups.names, np.bincount(groups.of), strict=True)) == pytest.approx(
        {"0001TP": 124, "0006R0": 101, "0016E5": 305, "Seq05VD": 171}
    )
    kept, held = split_by(source, "sequence", 0.2, 0)
    assert not set(kept.groups["sequence"].of) & set(held.groups["sequence"].of)
    assert len(kept) + len(held) == 701


def test_the_page_has_each_sequence_the_gap_and_what_chance_gives():
    rng = np.random.default_rng(0)
    of = np.arange(90) % 3
    found = by_group(
        PerImage.mean("top1", np.arange(90), rng.random(90) < 0.9 - 0.3 * (of == 2)), Groups(list("abc"), of)
    )
    head, _, line = file.rows({"mine": found}).splitlines()
    assert head == "| encoder | a (30) | b (30) | c (30) | gap | by chance |"
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "mine"
    assert cells[3] == f"{100 * found['groups']['c']['score']:.1f}"
    assert cells[4].startswith(f"{100 * found['gap']:.1f} [")
