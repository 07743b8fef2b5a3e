"""Our losses and grids against numbers that the authors' own code gave for the same inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glocal.losses import vicregl_loss
from glocal.views.view import View

PATH = Path(__file__).parents[1] / "golden" / "vicregl_official.json"
GOLDEN = json.loads(PATH.read_text()) if PATH.exists() else {"cases": [], "grids": []}


def unit(shape, stream, view):
    """Numbers in [0, 1) that every machine computes to the last bit: a quadratic Weyl sequence."""
    k = np.arange(int(np.prod(shape))) + 1_000_000 * stream + 10_000 * view
    return torch.from_numpy((k.astype(np.float64) ** 2 * 0.6180339887498949) % 1).reshape(shape)


def grid(view, batch, height, width):
    top, left, h, w = (unit((batch, 4), 3, view) * torch.tensor([90, 90, 120, 120])).T[..., None, None]
    x = left + (torch.arange(width, dtype=torch.float64) + 0.5) * (w + 60) / width
    y = top + (torch.arange(height, dtype=torch.float64)[:, None] + 0.5) * (h + 60) / height
    return torch.stack(torch.broadcast_tensors(x, y), dim=-1)


def inputs(case):
    batch, sizes = case["batch"], list(enumerate(case["sizes"]))
    embeddings = [1.7 * (2 * unit((batch, case["embedding_dim"]), 1, v) - 1) for v, _ in sizes]
    maps = [1.7 * (2 * unit((batch, case["map_dim"], *size), 2, v) - 1) for v, size in sizes]
    return embeddings, maps, [grid(v, batch, *size) for v, size in sizes]


@pytest.mark.parity("vicregl", oracle="the authors' code")
@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_loss_and_gradients_equal_the_authors(case):
    embeddings, maps, centers = inputs(case)
    for tensor in embeddings + maps:
        tensor.requires_grad_()
    loss = vicregl_loss(
        embeddings,
        maps,
        centers,
        alpha=case["alpha"],
        matches=tuple(case["matches"]),
        l2_top_k=case["l2_top_k"],
        matches_by_crop_type=False,
        slot_order="index",
    )
    loss.total.backward()
    expected = case["expected"]
    assert loss.total.item() == pytest.approx(expected["total"], rel=1e-10)
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(expected["terms"], rel=1e-10)
    gradients = expected["embedding_gradients"] + expected["map_gradients"]
    for tensor, gradient in zip(embeddings + maps, gradients, strict=True):
        assert tensor.grad.norm().item() == pytest.approx(gradient["norm"], rel=1e-9)
        assert tensor.grad.flatten()[:4].tolist() == pytest.approx(gradient["first"], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["grids"])
def test_unflipped_centers_equal_the_authors(case):
    (top, left, height, width), size, cells = case["top_left_height_width"], case["crop"], case["cells"]
    affine = torch.tensor([[[width / size, 0, left], [0, height / size, top]]])
    view = View(torch.zeros(1, 3, size, size, dtype=torch.uint8), affine)
    rows_columns = view.centers(cells, cells)[0].flip(-1)
    torch.testing.assert_close(
        rows_columns.double(), torch.tensor(case["rows_columns"], dtype=torch.float64), rtol=1e-6, atol=1e-3
    )


def test_the_golden_file_is_there():
    assert len(GOLDEN["cases"]) == 8
    assert len(GOLDEN["grids"]) == 4
