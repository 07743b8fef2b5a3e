"""Images of any shape in sequences: nothing is lost or doubled, little is wasted, and all is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import noise, ramp, read_ramp, with_broken

from glocal import random
from glocal.errors import UsageError
from glocal.features import Sequences
from glocal.views import Appearance, Crop, Packing, Recipe, ViewLoader, multi_crop, pack, two_views
from glocal.views.order import Positions
from glocal.views.packing import fitted, grid_of, kept_patches, share_out

PLAIN = {"jitter": 0, "gray": 0, "blur": 0, "solarize": 0}
NATIVE = two_views(32).packed((16, 32), Packing(8, 24))


def loader(source, recipe=NATIVE, **settings):
    settings = {"batch_size": 6, "seed": 0, "appearance": Appearance(recipe, (0.5,) * 3, (0.25,) * 3, 0)} | settings
    return ViewLoader(source, recipe, **settings)


def image_of(packed: Sequences, i: int, patch: int) -> torch.Tensor:
    """Image i (3, h, w), put together again."""
    rows, columns = packed.grids[i].tolist()
    whole = torch.full((rows, columns, patch, patch, 3), float("nan"))
    mine = packed.image == i
    x, y = packed.positions[mine].T
    whole[y, x] = packed.patches[mine].unflatten(1, (patch, patch, 3))
    return whole.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


def test_a_packed_image_can_be_put_together_again():
    draw = np.random.default_rng(0)
    images = [torch.from_numpy(draw.normal(size=(3, 4 * h, 4 * w))).float() for h, w in draw.integers(1, 6, (20, 2))]
    packed = pack(images, Packing(4, 30))
    for i, image in enumerate(images):
        assert torch.equal(image_of(packed, i, 4), image)
        sequence, place = torch.nonzero(packed.image == i, as_tuple=True)
        assert len(set(sequence.tolist())) == 1  # one sequence, side by side
        assert torch.equal(place, place[0] + torch.arange(len(place)))
    assert not packed.patches[packed.image < 0].any()
    assert packed.waste == 1 - sum(i[0].numel() for i in images) / 16 / packed.image.numel()


def test_longest_first_where_it_first_fits():
    assert share_out([3, 7, 2, 8, 5, 1], 10) == [[3, 2], [1, 0], [4, 5]]


def test_images_about_as_long_as_each_other_are_spread_evenly():
    lengths = [40] * 10 + [20] * 10 + [30] * 10  # first fit would put two of 40 together, and 11 in all
    together = share_out(lengths, 90)
    assert len(together) == 10
    assert sorted(i for members in together for i in members) == list(range(30))
    assert max(sum(lengths[i] for i in members) for members in together) <= 90


@pytest.mark.parametrize("draw", range(20))
def test_no_sequence_overflows_and_none_is_needlessly_begun(draw):
    rng = np.random.default_rng(draw)
    lengths = rng.integers(1, 64, 40).tolist()
    together = share_out(lengths, 64)
    filled = sorted(sum(lengths[i] for i in members) for members in together)
    assert sorted(i for members in together for i in members) == list(range(40))
    assert filled[-1] <= 64
    assert len(filled) < 2 or filled[0] + filled[1] > 64  # else one would have been enough


def test_a_grid_has_the_shape_of_its_image_and_the_area_it_should():
    for width, height in ((400, 100), (100, 400), (300, 200), (1, 1), (1000, 999)):
        rows, columns = grid_of(width, height, 128, 8)
        assert columns / rows == pytest.approx(width / height, rel=0.15)
        assert rows * columns == pytest.approx(256, rel=0.08)
    assert grid_of(4000, 1, 128, 8)[0] == 1


@pytest.mark.parametrize(("grid", "small"), [((40, 10), (20, 5)), ((1, 900), (1, 100)), ((13, 12), (10, 9))])
def test_a_grid_with_too_many_patches_is_made_smaller(grid, small):
    assert fitted(grid, 100) == fitted(small, 100) == small
    assert fitted(grid[::-1], 100) == small[::-1]


def test_a_grid_made_smaller_keeps_its_shape_however_it_lies():
    wider = []
    for rows, columns in np.ndindex(30, 30):
        grid = rows + 6, columns + 6
        found = fitted(grid, 60)
        assert found == fitted(grid[::-1], 60)[::-1]
        assert np.prod(found) <= 60
        assert (np.array(found) <= grid).all()
        wider.append(np.log(found[1] / found[0] / (grid[1] / grid[0])))
        assert abs(wider[-1]) < 0.2
    assert abs(np.mean(wider)) < 1e-12


def test_as_many_patches_are_left_out_of_each_image_and_always_others():
    packing = Packing(8, 64, 0.3)
    kept = [kept_patches(50, packing, 0, epoch, sample, view) for epoch, sample, view in np.ndindex(2, 3, 2)]
    assert all(len(k) == 35 and (np.diff(k) > 0).all() for k in kept)
    assert len({tuple(k) for k in kept}) == len(kept)
    assert len(kept_patches(1, Packing(8, 64, 0.9), 0, 0, 0, 0)) == 1


def test_a_native_view_is_where_its_map_to_the_photograph_says():
    recipe = Recipe(tuple(crop.but(scale=(0.3, 1), **PLAIN) for crop in NATIVE.views), packing=NATIVE.packing)
    sizes = [(90, 30), (30, 90), (64, 64), (120, 50)]
    source = noise(4)
    source.images = [ramp(*size) for size in sizes]
    made = loader(source, recipe, batch_size=4, appearance=Appearance(recipe, (0,) * 3, (1 / 255,) * 3, 0))
    batch = next(made.epoch(0))
    flips = set()
    for view in batch.views:
        for i, index in enumerate(batch.index.tolist()):
            seen = image_of(view.pixels, i, 8).permute(1, 2, 0)
            height, width, _ = seen.shape
            x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
            home = torch.stack([x, y], -1).reshape(-1, 2) @ view.affine[i, :, :2].T + view.affine[i, :, 2]
            painted = torch.from_numpy(read_ramp(seen.reshape(-1, 3).numpy(), *sizes[index]))
            assert (home - painted).abs().max() < 0.05 * max(sizes[index])
            box = view.affine[i, :, :2] @ torch.tensor([float(width), float(height)])
            photograph = sizes[index][0] / sizes[index][1]
            assert 0.5 < abs(box[0] / box[1]) / photograph < 2
            assert width / height == pytest.approx(float(abs(box[0] / box[1])), rel=0.45)  # whole patches, but as it is
        flips |= set(view.flipped.tolist())
    assert flips == {True, False}


def test_each_image_comes_once_an_epoch_and_batches_end_where_sequences_are_full():
    made = loader(noise(192), two_views(32).packed((16, 32), Packing(8, 64)), batch_size=64)
    for epoch in (0, 1):
        batches = [*made.epoch(epoch)]
        index = torch.cat([batch.index for batch in batches]).tolist()
        assert sorted(index) == list(range(192))
        assert index == random.permutation(192, 0, "order", epoch).tolist()
    assert len({len(batch.index) for batch in batches}) > 1


def test_little_is_wasted_over_an_epoch():
    shapes = np.random.default_rng(0).uniform(0.5, 2, 4000)
    for sides in ((48, 128), (96, 96)):
        recipe = two_views(128).packed(sides, Packing(8, 1024))
        used = places = 0
        for epoch, keys in Positions(4000, 4000 // 256, 256, 0, 0, 1, True, recipe=recipe):
            if epoch:
                break
            u = np.random.default_rng(len(keys)).uniform(*sides, (len(keys), 1))
            lengths = [np.prod(grid_of(shapes[i], 1, side, 8)) for i, (side,) in zip(keys, u.tolist(), strict=True)]
            used, places = used + sum(lengths), places + 1024 * len(share_out(lengths, 1024))
        assert 1 - used / places < 0.035  # sizes drawn here are not those that the batches were ended by


def equal(a, b):
    assert torch.equal(a.index, b.index)
    for one, other in zip(a.views, b.views, strict=True):
        assert all(torch.equal(x, vars(other.pixels)[name]) for name, x in vars(one.pixels).items())
        assert torch.equal(one.affine, other.affine)


def test_workers_and_restarts_do_not_matter():
    recipe = two_views(32).packed((16, 32), Packing(8, 24, 0.3))
    source = with_broken(40, {3, 17, 20})
    plain, workers = loader(source, recipe), loader(source, recipe, workers=2)
    batches = [*plain.epoch(1)]
    for a, b in zip(batches, workers.epoch(1), strict=True):
        equal(a, b)
    workers.close()
    for a, b in zip(batches[3:], loader(source, recipe).epoch(1, 3), strict=True):
        equal(a, b)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_batches_of_several_processes_are_those_of_one(processes):
    recipe = two_views(32).packed((16, 32), Packing(8, 64))

    def batches(rank, world_size):
        share = 128 // world_size
        order = iter(Positions(1024, 8, share, 0, rank, world_size, True, recipe=recipe))
        return [next(order)[1] for _ in range(16)]

    whole = batches(0, 1)
    assert len({len(batch) for batch in whole}) > 2
    shares = [batches(rank, processes) for rank in range(processes)]
    for one, *parts in zip(whole, *shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert np.concatenate(parts).tolist() == one.tolist()


def test_processes_that_eight_is_no_multiple_of_share_each_batch_evenly():
    recipe = two_views(32).packed((16, 32), Packing(8, 64))
    orders = [iter(Positions(960, 5, 64, 0, rank, 3, True, recipe=recipe)) for rank in range(3)]
    sizes = [[len(next(order)[1]) for order in orders] for _ in range(5)]
    assert all(len(set(parts)) == 1 for parts in sizes)
    assert sum(map(sum, sizes)) == 960


def test_views_that_do_not_fit_are_shrunk_and_counted():
    recipe = two_views(64, (0.9, 1)).packed((60, 64), Packing(8, 40))
    batch = next(loader(noise(12), recipe).epoch(0))
    assert batch.shrunk == 2 * len(batch.index)
    assert max(int((v.pixels.image == i).sum()) for v in batch.views for i in range(len(batch.index))) <= 40
    assert next(loader(noise(12)).epoch(0)).shrunk < 12


def test_small_crops_are_smaller_or_refused():
    views = multi_crop(64, 2, 24).packed((16, 64), Packing(8, 64)).views
    assert [view.native for view in views] == [(16, 64)] * 2 + [(8, 24)] * 2
    with pytest.raises(UsageError, match="small crops of 96 px beside large ones of 64: give --small-size 32"):
        multi_crop(64, 2, 96).packed((16, 64), Packing(8, 64))


def test_a_small_native_crop_is_blurred_as_much_for_its_size():
    """A step's width after blurring, in shares of the crop, is the same however large the crop is drawn."""
    recipe = Recipe((Crop(128, jitter=0, gray=0, blur=1.0, sigma=(4.0, 4.0), native=(32, 128)),))
    look = Appearance(recipe, (0,) * 3, (1 / 255,) * 3, 0)
    widths = []
    for side in (128, 64, 32):
        step = torch.zeros(side, side, 3, dtype=torch.uint8)
        step[:, side // 2 :] = 255
        row = look.images([step], 0, 0, np.array([0]))[0][0, side // 2] / 255
        widths.append(float((row * (1 - row)).sum()) / side)  # proportional to σ
    np.testing.assert_allclose(widths, widths[0], rtol=0.1)


def test_batches_that_leave_images_to_the_next_go_on_where_they_stopped():
    recipe = two_views(32).packed((16, 32), Packing(8, 64))
    order = lambda start: iter(Positions(1024, 8, 128, 0, 0, 1, True, (1, start), recipe=recipe))
    whole = order(0)
    batches = [next(whole)[1].tolist() for _ in range(8)]
    assert len({len(batch) for batch in batches}) > 2, "some are carried"
    for start in range(1, 8):
        rest = order(start)
        assert [next(rest)[1].tolist() for _ in range(8 - start)] == batches[start:]


def test_what_cannot_be_packed_is_one_line():
    image = torch.zeros(3, 16, 24)
    for images, says in (
        ([], "no images to pack"),
        ([image, torch.zeros(3, 16, 20)], "image 1 has 20×16 pixels, no whole patches of 8"),
        ([image, torch.zeros(3, 80, 80)], "an image has 100 patches, and a sequence 64 places"),
    ):
        with pytest.raises(UsageError, match=says):
            pack(images, Packing(8, 64))
