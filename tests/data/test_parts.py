"""The generated world is what it says about itself."""

from __future__ import annotations

import numpy as np
import pytest

from glocal.data import PartsWorld, open_source
from glocal.data.parts import PART_NAMES
from glocal.errors import UsageError


@pytest.fixture(scope="module")
def world() -> PartsWorld:
    return PartsWorld(240, 64)


@pytest.fixture(scope="module")
def samples(world):
    return [world.sample(i) for i in range(len(world))]


def test_a_sample_depends_on_seed_split_and_index_only(world):
    first = world.sample(5)
    again = PartsWorld(6, 64).sample(5)
    for name in ("image", "mask", "boxes", "keypoints", "visible", "object_coordinates", "frames"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    others = [
        PartsWorld(6, 64, seed=1).sample(5),
        PartsWorld(6, 64, split="test").sample(5),
        world.sample(13),
        world.sample(5, view=1),
    ]
    for other in others:
        assert (other.image != first.image).mean() > 0.5
        assert other.label == first.label == 5


def test_the_collection_shows_view_0(world, samples):
    assert np.array_equal(np.asarray(world.open(7).decode()), samples[7].image)
    assert np.array_equal(world.mask(7), samples[7].mask)
    assert world.open(7).size == (64, 64)
    assert world.labels.tolist() == [i % 8 for i in range(240)]
    assert [s.label for s in samples] == world.labels.tolist()
    assert len({world.key(i) for i in range(240)}) == 240
    with pytest.raises(IndexError):
        world.open(240)


def places(sample, world_is_upright: bool) -> list[int]:
    """The direction of parts 2 to 6 seen from the body, in steps of 45 degrees clockwise from the top."""
    offset = sample.keypoints[1:] - sample.keypoints[0]
    turns = np.arctan2(offset[:, 1], offset[:, 0]) / (np.pi / 4) + 2
    return (np.round(turns).astype(int) % 8).tolist() if world_is_upright else np.argsort(turns).tolist()


def test_the_class_is_the_arrangement():
    """Without nuisance all objects of a class have the same parts at the same places, and no two classes do."""
    upright = PartsWorld(48, 32, classes=12, nuisance=0)
    samples = [upright.sample(i) for i in range(48)]
    found = [tuple(places(s, True)) for s in samples]
    for i in range(48):
        assert found[i] == found[i % 12]
        assert len(set(found[i])) == 5
    lying = [np.rint(np.arctan2(*s.frames[0, ::-1, 0]) / (np.pi / 4)) % 4 for s in samples]
    assert lying == [0, 1, 2, 3] * 12  # steps of 45 degrees that the body is turned
    plans = np.array(found[:12])
    for a in range(12):
        for b in range(12):
            for mirrored in (
                plans[b],
                -plans[b] % 8,
            ):  # a flipped or slightly turned object stays nearest to its own class
                for turn in (-1, 0, 1):
                    differing = (plans[a] != (mirrored + turn) % 8).sum()
                    assert differing >= 3 or a == b


def test_the_order_of_parts_survives_every_nuisance():
    """Going round the body one meets the parts in the order of the class, whatever the pose, up to a mirror image."""
    turned = PartsWorld(120, 32, nuisance=1)
    samples = [turned.sample(i) for i in range(120)]

    def order(sample):
        ring = places(sample, False)
        ring = ring[ring.index(0) :] + ring[: ring.index(0)]
        return min(ring, [ring[0], *ring[:0:-1]])

    orders = [order(s) for s in samples]
    assert all(orders[i] == orders[i % 8] for i in range(120))
    handed = [np.linalg.det(s.frames[0, :, :2]) > 0 for s in samples]
    assert 30 < sum(handed) < 90


def test_every_class_is_made_of_the_same_parts(world, samples):
    """Neither the number of parts nor their sizes tell the class."""
    areas = np.array([[(s.mask == p).sum() for p in range(1, 7)] for s in samples])
    means = np.stack([areas[world.labels == c].mean(0) for c in range(8)])
    assert (np.abs(means / means.mean(0) - 1) < 0.25).all()
    assert (areas > 0).mean() > 0.99
    assert 0.15 < np.mean([s.mask > 0 for s in samples]) < 0.5


def test_masks_boxes_and_keypoints_agree(samples):
    for s in samples[:60]:
        for p in range(6):
            rows, columns = np.nonzero(s.mask == p + 1)
            x0, y0, x1, y1 = s.boxes[p]
            assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            x, y = s.keypoints[p]
            assert s.visible[p] == (s.mask[int(y), int(x)] == p + 1)
    assert np.mean([s.visible for s in samples]) > 0.9


def test_object_coordinates_lead_back_to_their_pixels(samples):
    for s in samples[:20]:
        y, x = np.nonzero(s.mask)
        part, local = s.mask[y, x] - 1, s.object_coordinates[y, x, 1:]
        assert np.array_equal(s.object_coordinates[..., 0], s.mask)
        back = np.einsum("mij,mj->mi", s.frames[part][:, :, :2], local) + s.frames[part][:, :, 2]
        assert np.abs(back - np.stack((x + 0.5, y + 0.5), 1)).max() < 1e-3
        assert (s.object_coordinates[s.mask == 0] == 0).all()


def test_correspondences_land_on_the_same_point_of_the_object(world):
    for i in range(12):
        a, b = world.sample(i, 1), world.sample(i, 2)
        here, there = world.correspondences(i, 1, 2)
        assert len(here) > 0.6 * (a.mask > 0).sum()
        column, row = np.floor(there).astype(int).T
        at_a = a.object_coordinates[(here[:, 1] - 0.5).astype(int), (here[:, 0] - 0.5).astype(int)]
        at_b = b.object_coordinates[row, column]
        assert np.array_equal(at_a[:, 0], at_b[:, 0])
        pixels = np.sqrt(np.abs(np.linalg.det(b.frames[:, :, :2])))[at_a[:, 0].astype(int) - 1]
        distance = np.linalg.norm(at_a[:, 1:] - at_b[:, 1:], axis=1) * pixels  # in pixels of view b
        assert distance.max() < 0.75  # half the diagonal of a pixel


def test_corresponding_points_look_alike(world):
    """An independent check of the geometry, by the colours alone: other points of the same part look different."""
    closer = []
    for i in range(24):
        a, b = world.sample(i, 1), world.sample(i, 2)
        here, there = world.correspondences(i, 1, 2)
        colors_a = a.image[(here[:, 1] - 0.5).astype(int), (here[:, 0] - 0.5).astype(int)].astype(float)
        column, row = np.floor(there).astype(int).T
        colors_b, part = b.image[row, column].astype(float), b.mask[row, column]
        shuffled = np.concatenate([np.roll(np.nonzero(part == p)[0], (part == p).sum() // 2) for p in np.unique(part)])
        order = np.concatenate([np.nonzero(part == p)[0] for p in np.unique(part)])
        centered = colors_a - colors_a.mean(0) + colors_b.mean(0)  # the light differs between views
        right = np.abs(centered[order] - colors_b[order]).mean()
        closer.append(right / np.abs(centered[order] - colors_b[shuffled]).mean())
    assert np.mean(closer) < 0.75


def test_views_of_one_object_share_its_colours_and_sizes(world):
    a, b = world.sample(3, 0), world.sample(3, 4)
    size = [np.sqrt(np.abs(np.linalg.det(s.frames[:, :, :2]))) for s in (a, b)]
    assert np.allclose(size[0] / size[0][0], size[1] / size[1][0])
    assert np.abs(a.keypoints - b.keypoints).max() > 1


def test_raw_pixels_do_not_give_the_class():
    train, test = PartsWorld(640, 32), PartsWorld(160, 32, split="test")
    a, b = (
        np.stack([w.sample(i).image for i in range(len(w))]).reshape(len(w), -1).astype(np.float32)
        for w in (train, test)
    )
    a, b = a - a.mean(0), b - a.mean(0)
    nearest = (a**2).sum(1)[None] - 2 * b @ a.T
    accuracy = (train.labels[nearest.argmin(1)] == test.labels).mean()
    means = np.stack([a[train.labels == c].mean(0) for c in range(8)])
    by_mean = ((means**2).sum(1)[None] - 2 * b @ means.T).argmin(1) == test.labels
    assert accuracy < 0.35  # chance is 0.125
    assert by_mean.mean() < 0.35


def test_colour_does_not_give_the_part(samples):
    """The mean colours of the parts lie close together, seen against how much each varies."""
    colors = [np.concatenate([s.image[s.mask == p] for s in samples]).astype(float) for p in range(1, 7)]
    means, spread = np.stack([c.mean(0) for c in colors]), np.mean([c.std(0) for c in colors])
    assert means.std(0).max() < 0.2 * spread
    own = PartsWorld(40, 64, nuisance=0)
    steady = [own.sample(i) for i in range(40)]
    colors = [np.concatenate([s.image[s.mask == p] for s in steady]).astype(float) for p in range(1, 7)]
    assert np.stack([c.mean(0) for c in colors]).std(0).max() > 0.4 * np.mean([c.std(0) for c in colors])


def test_difficulty_and_nuisance_do_what_they_say():
    def contrast(difficulty):
        w = PartsWorld(40, 64, difficulty=difficulty)
        all_samples = [w.sample(i) for i in range(40)]
        inside = np.mean([s.image[s.mask == 1].std(0).mean() for s in all_samples])
        ground = np.mean([np.abs(np.diff(s.image.astype(float), axis=0))[s.mask[1:] == 0].mean() for s in all_samples])
        return inside, ground

    (easy, calm), (hard, busy) = contrast(0), contrast(1)
    assert easy > 1.2 * hard
    assert busy > 1.5 * calm

    def spread(nuisance):
        w = PartsWorld(80, 32, nuisance=nuisance, difficulty=0)
        all_samples = [w.sample(i) for i in range(0, 80, 8)]  # one class
        return np.std([s.keypoints for s in all_samples], axis=0).mean()

    assert spread(0) < 1e-6
    assert 0.5 < spread(0.3) < spread(1)


def test_hidden_parts_are_reported():
    """Plain shapes in front hide some parts in the hardest world, and none in the easiest."""
    hidden = {d: np.mean([~PartsWorld(80, 48, difficulty=d).sample(i).visible for i in range(80)]) for d in (0, 1)}
    assert hidden[1] > hidden[0]


def test_written_folders_are_read_back(tmp_path):
    world = PartsWorld(24, 32, classes=4)
    world.write_folder(tmp_path / "out", test=8)
    for split, n in (("train", 24), ("test", 8)):
        truth = PartsWorld(n, 32, classes=4, split=split)
        source = open_source(tmp_path / "out", split=split)
        assert len(source) == n
        assert source.classes == world.classes
        assert source.mask_classes == ["background", *PART_NAMES]
        for i in range(n):
            k = int(source.key(i).split("/")[-1].removesuffix(".png"))
            assert source.labels[i] == truth.labels[k]
            assert np.array_equal(np.asarray(source.open(i).decode()), truth.sample(k).image)
            assert np.array_equal(source.mask(i), truth.mask(k))


@pytest.mark.parametrize("options", [{"n": 0}, {"classes": 13}, {"nuisance": -0.1}, {"split": "training"}])
def test_mistakes(options):
    with pytest.raises(UsageError, match="parts"):
        PartsWorld(**options)
