"""`View` and `Batch`: where crop points come from."""

from __future__ import annotations

import math

import torch

from glocal.views import Batch, View, grid_centers


def test_grid_centers_by_hand():
    points = grid_centers(2, 3, 10, 12)
    assert points.shape == (2, 3, 2)
    assert points[0].tolist() == [[2.0, 2.5], [6.0, 2.5], [10.0, 2.5]]
    assert points[1, :, 1].tolist() == [7.5] * 3


def view_of(affine: list, size: int = 4) -> View:
    return View(torch.zeros(len(affine), 3, size, size, dtype=torch.uint8), torch.tensor(affine, dtype=torch.float32))


def test_to_source_by_hand():
    view = view_of([[[2, 0, 10], [0, 3, 20]], [[-2, 0, 18], [0, 3, 20]]])
    points = torch.tensor([[[0.0, 0.0], [4.0, 4.0]]])
    assert view.to_source(points).tolist() == [[[10, 20], [18, 32]], [[18, 20], [10, 32]]]
    own = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert view.to_source(own)[:, 0].tolist() == [[12, 20], [16, 20]]
    assert view.flipped.tolist() == [False, True]


def test_autocast_does_not_round_points():
    view = view_of([[[1.37, 0, 100.3], [0, 1.21, 33]], [[-1.37, 0, 400.3], [0, 1.21, 33]]], size=224)
    exact = view.centers(7, 7)
    torch.testing.assert_close(exact[0, 0, 0], torch.tensor([1.37 * 16 + 100.3, 1.21 * 16 + 33]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view.centers(7, 7), exact)
        assert view.cell_of(exact, 7, 7).flatten(1).tolist() == [list(range(49))] * 2


def test_from_source_undoes_any_affine_map():
    view = view_of([[[2, 1, 10], [-1, 3, 20]], [[-2, 0, 18], [0, 3, 20]]])
    points = torch.tensor([[[0.0, 0.0], [4.0, 4.0], [-3.0, 9.0]]])
    torch.testing.assert_close(view.from_source(view.to_source(points)), points.expand(2, 3, 2))
    torch.testing.assert_close(
        view.from_source(torch.tensor([[[14.0, 26.0]], [[14.0, 26.0]]]))[1], torch.tensor([[2.0, 2.0]])
    )


def test_cells_are_counted_row_by_row_as_the_crop_shows_them():
    view = view_of([[[2, 0, 10], [0, 3, 20]], [[-2, 0, 18], [0, 3, 20]]])  # 8×12 pixels of the source, from (10, 20)
    points = [
        [10.1, 20.1],
        [17.9, 20.1],
        [12.1, 26.1],
        [17.9, 31.9],
        [9.9, 21.0],
        [18.1, 21.0],
        [11.0, 19.9],
        [11.0, 32.1],
    ]
    cells = view.cell_of(torch.tensor([points, points]), 2, 4)
    assert cells.tolist() == [[0, 3, 5, 7, -1, -1, -1, -1], [3, 0, 6, 4, -1, -1, -1, -1]]
    assert cells.dtype == torch.int64


def test_to_source_keeps_any_shape():
    view = view_of([[[2, 0, 10], [0, 3, 20]]] * 5)
    for shape in [(5, 2), (5, 7, 2), (1, 7, 2), (5, 3, 2, 7, 2), (1, 2)]:
        assert view.to_source(torch.zeros(shape)).shape == (5, *shape[1:])


def test_centers_turn_with_the_view():
    """A quarter turn: the rows of the crop run along the columns of the source."""
    angle = math.pi / 2
    turn = [[math.cos(angle), -math.sin(angle), 4.0], [math.sin(angle), math.cos(angle), 0.0]]
    centers = view_of([turn]).centers(4, 4)[0]
    x, y = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(4) + 0.5, indexing="xy")
    torch.testing.assert_close(centers, torch.stack([4 - y, x], dim=-1))
    assert not view_of([turn]).flipped.item()
    assert view_of([[[0, 1, 0], [1, 0, 0]]]).flipped.item()  # and mirrored


def test_batch_moves_all_of_itself():
    view = View(torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 3), kept=torch.zeros(2, 5, dtype=torch.int64))
    support = Batch([view], torch.arange(2), label=torch.arange(2))
    batch = Batch([view, view], torch.arange(2), label=torch.arange(2), support=support, skipped=((1, "bad"),))
    assert batch.extra == {}
    batch.extra["actions"] = torch.zeros(2, 3)
    moved = batch.to("meta")
    assert all(v.pixels.is_meta and v.affine.is_meta and v.kept.is_meta for v in moved.views)
    assert moved.index.is_meta
    assert moved.label.is_meta
    assert moved.support.views[0].pixels.is_meta
    assert moved.support.label.is_meta
    assert moved.extra["actions"].is_meta
    assert moved.skipped == batch.skipped
