"""Task `optimum`: the best linear map of labels' pairs is the supervised one; of views no other map has less loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.diagnostics.optimum import closed_form, label_graph, linear_map, optimum, principal, view_graph
from glocal.errors import UsageError
from glocal.evaluation import EvalContext
from glocal.losses import vicreg_loss
from glocal.methods import BarlowTwins, SimCLR, VICReg

CLASSES, EACH, DIM = 4, 15, 7


def method(cls=VICReg, **options):
    torch.manual_seed(0)
    return cls(build_backbone("tiny:Net", image_size=32), image_size=32, projector=(16, 6), **options).eval()


def inputs(rows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, DIM)))


def smallest_cosine(a, b):
    """Of the principal angles between the columns' spans."""
    bases = [torch.linalg.qr(x - x.mean(0)).Q for x in (a, b)]
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).min())


@pytest.mark.parametrize("cls", [VICReg, SimCLR])
@pytest.mark.parametrize("weight", [0.1, 100.0])
def test_pairs_of_one_label_give_the_supervised_subspace(cls, weight):
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    x = inputs(CLASSES * EACH) @ inputs(DIM, 1) + inputs(CLASSES, 2)[labels]
    x = x - x.mean(0)
    made = method(cls, **({"invariance_weight": weight} if cls is VICReg else {"temperature": weight}))
    best = closed_form(made, label_graph(labels), CLASSES - 1, x)
    supervised = LinearDiscriminantAnalysis().fit(x, labels).transform(x)
    assert smallest_cosine(best.embedding, torch.from_numpy(supervised)) > 1 - 1e-8
    torch.testing.assert_close(x @ linear_map(x, best.embedding), best.embedding)


def test_no_linear_map_of_views_has_less_of_vicregs_loss():
    a = inputs(40)
    b = a + 0.3 * inputs(40, 1) @ inputs(DIM, 2)
    made, x = method(covariance_weight=0.0), torch.cat([a, b])
    best = closed_form(made, view_graph(40), 6, x)
    matrix = linear_map(x, best.embedding)
    loss = lambda w: float(vicreg_loss(torch.cat([a, b]) @ w, torch.cat([b, a]) @ w, **made.weights).total)
    assert loss(matrix) == pytest.approx(best.loss, abs=1e-6)  # of the pairs both ways
    for seed in range(20):
        near = inputs(DIM, 10 + seed)[:, :6]
        turned = torch.linalg.qr(matrix + 0.02 * near @ torch.eye(6).double()).Q  # uncorrelated, too
        values = x @ turned - (x @ turned).mean(0)
        white = values @ torch.linalg.inv(torch.linalg.cholesky(values.T @ values)).T
        assert loss(linear_map(x, white * best.embedding.norm(dim=0))) >= best.loss - 1e-6


@pytest.fixture(scope="module")
def context():
    parts = open_source("parts:n=60,size=32")
    return EvalContext(build_backbone("tiny:Net", image_size=32).eval(), parts, parts, 32, batch_size=30)


def test_the_task_takes_the_method_and_its_width_from_the_run(context):
    trained = method()
    context.method = lambda: trained
    found = optimum(context, images=30)
    assert found["dimensions_features"] == 6
    assert found["inputs_features"] == found["inputs_pixels"] == 15, "of 60 views"
    assert found["loss_features"] <= found["loss_trained"]
    assert 0 <= found["top1_pixels"] <= 1
    assert optimum(context, images=30) == found
    assert optimum(context, images=30, dim=3)["dimensions_pixels"] == 3
    context.method = lambda: method(BarlowTwins)
    assert 1 <= optimum(context, images=48)["dimensions_features"] <= 6


def test_inputs_of_as_many_dimensions_as_views_do_not_decide_it():
    """Random ones of any width would do what the graph asks; what tells the images apart does it in few dimensions."""
    graph, draw = view_graph(60), inputs(120, 4)
    told = torch.cat([inputs(60, 5)] * 2) + 0.1 * draw[:, : inputs(60, 5).shape[1]]
    made = method(covariance_weight=0.0)
    loss = {}
    for name, rows in (("noise", torch.from_numpy(np.random.default_rng(6).normal(size=(120, 200)))), ("told", told)):
        main = principal(rows, 30)
        assert main.shape[1] <= 30
        torch.testing.assert_close(main.T @ main, torch.eye(main.shape[1], dtype=main.dtype))
        loss[name] = closed_form(made, graph, 6, (rows - rows.mean(0)) @ main).loss
    assert loss["told"] < loss["noise"] / 2


def test_what_has_no_closed_form_is_refused(context):
    context.method = None
    with pytest.raises(UsageError, match="this encoder is of none; give one"):
        optimum(context)
    with pytest.raises(UsageError, match="no closed form of BYOL is known; give one"):
        optimum(context, method="byol")
    with pytest.raises(UsageError, match="graph classes is none of views and labels"):
        optimum(context, method="vicreg", graph="classes")
