"""Some images of a collection, and divisions that keep groups whole."""

from __future__ import annotations

import numpy as np
import pytest

from glocal.data import ArraySource, ConcatSource, Groups, Subset, open_source, split_by
from glocal.errors import UsageError


def grouped(of, captions=None, column="video"):
    """Images of these groups, -1 for unknown."""
    source = ArraySource(np.zeros((len(of), 2, 2), np.uint8))
    source.groups = {column: Groups([f"v{k}" for k in range(max(of) + 1)], np.array(of, dtype=np.int64))}
    source.captions = captions
    return source


SIZES = [90, 80, 70, 60, 50, 9, 8, 7, 6, 5, 4, 4, 4, 4, 4]
MIXED = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES)).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_on_both_sides_and_both_sides_have_large_and_small_ones(seed):
    source = grouped(MIXED)
    kept, held = split_by(source, "video", 0.2, seed)
    sides = [set(side.groups["video"].of.tolist()) for side in (kept, held)]
    assert sides[0] & sides[1] == set()
    assert sorted([*kept.positions, *held.positions]) == list(range(len(source)))
    sizes = [SIZES[group] for group in sides[1]]
    assert len(sizes) == 3
    assert max(sizes) >= 50
    assert min(sizes) <= 5
    assert abs(len(held) - 0.2 * len(source)) <= 12


def test_it_depends_on_the_seed_alone():
    held = [split_by(grouped(MIXED), "video", 0.3, seed)[1].positions.tolist() for seed in (0, 0, 1, 2, 3)]
    assert held[0] == held[1]
    assert len({str(positions) for positions in held}) > 2


def test_the_share_is_met_as_far_as_groups_allow():
    source = grouped([0] * 1000 + [1] * 10 + [2] * 11 + [3] * 12)
    assert len(split_by(source, "video", 0.2, 0)[1]) == 12  # 207 are asked for; 1000 would be farther
    assert len(split_by(source, "video", 0.01, 0)[1]) == 10
    assert len(split_by(source, "video", 0.99, 0)[0]) >= 10  # something is kept


def test_an_image_of_an_unknown_group_is_a_group_by_itself():
    kept, held = split_by(grouped([-1] * 100), "video", 0.2, 0)
    assert (len(kept), len(held)) == (80, 20)
    _, held = split_by(grouped([-1] * 50 + [0] * 50), "video", 0.1, 0)
    known = held.groups["video"].of >= 0
    assert known.sum() in (0, 50)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (grouped([0, 0, 0]), ("video", 0.5), "all images of array are of one video"),
        (grouped([0, 1]), ("vidoe", 0.5), r"no groups 'vidoe' \(did you mean video\?\); it has video"),
        (ArraySource(np.zeros((2, 2, 2), np.uint8)), ("video", 0.5), r"no groups 'video': a list file \(.csv\)"),
        (grouped([0, 1]), ("video", 1.0), "share 1.0 of array cannot be held out"),
        (grouped([0, 1]), ("video", 0), "share 0 of array"),
    ],
)
def test_what_cannot_be_divided(source, arguments, message):
    with pytest.raises(UsageError, match=message):
        split_by(source, *arguments, 0)


def test_a_subset_has_its_images_groups_and_captions():
    part = Subset(grouped([0, 1, -1], ["a", None, "c"]), np.array([2, 1]))
    assert part.groups["video"].names == ["v0", "v1"]
    assert part.groups["video"].of.tolist() == [-1, 1]
    assert part.captions == ["c", None]
    plain = Subset(open_source("parts:n=4"), np.array([1]))
    assert (plain.groups, plain.captions) == (None, None)


def test_collections_one_after_the_other_share_groups_of_one_name():
    first, second = grouped([0, 1, -1]), grouped([1, 0], ["x", None])
    second.groups["video"] = Groups(["v1", "v9"], second.groups["video"].of)
    second.groups["place"] = Groups(["here"], np.array([0, -1]))
    both = ConcatSource([first, second, ArraySource(np.zeros((1, 2, 2), np.uint8))])
    video = both.groups["video"]
    assert [video.names[k] if k >= 0 else None for k in video.of] == ["v0", "v1", None, "v9", "v1", None]
    assert both.groups["place"].of.tolist() == [-1, -1, -1, 0, -1, -1]
    assert both.captions == [None, None, None, "x", None, None]
    plain = ConcatSource([open_source("parts:n=4"), open_source("parts:n=3")])
    assert (plain.groups, plain.captions) == (None, None)


def test_every_source_says_that_it_has_none(photos):
    for source in (open_source(photos), open_source("parts:n=4"), open_source(np.zeros((2, 4, 4, 3), np.uint8))):
        assert (source.groups, source.captions) == (None, None)
