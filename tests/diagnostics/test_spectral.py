"""Each objective, trained by L-BFGS in float64 from random starts, ends where the closed form says; none ends lower."""

import pytest
import torch

from glocal.diagnostics.spectral import (
    barlow_twins_optimum,
    dcl_optimum,
    graph_spectrum,
    info_nce_optimum,
    squared_contrast_optimum,
    squared_vicreg_optimum,
    vicreg_optimum,
)
from glocal.errors import UsageError
from glocal.losses import barlow_twins_loss, dcl, info_nce, vicreg_loss


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph(images=12, selves=10, neighbours=(3, 1)):
    """Images in a ring, paired with themselves and their neighbours; two extra pairings make its eigenvalues simple."""
    a = selves * torch.eye(images, dtype=torch.float64)
    for step, count in enumerate(neighbours, start=1):
        around = torch.eye(images, dtype=torch.float64).roll(step, 0)
        a += count * (around + around.mT)
    for i, j in ((0, 5), (2, 9)):  # moved from the diagonal: rows keep their sums
        a[i, j] = a[j, i] = a[i, j] + 2
        a[i, i], a[j, j] = a[i, i] - 2, a[j, j] - 2
    return a


def components(count, size):
    """Images that are each a view of all others of their own kind."""
    return torch.block_diag(*[torch.ones(size, size, dtype=torch.float64)] * count)


def pairs(a):
    """Both ends of each pair that a graph counts."""
    i, j = a.nonzero().T
    times = a[i, j].long()
    return i.repeat_interleave(times), j.repeat_interleave(times)


def train(objective, *shape, starts=3, steps=300, near=0.0):
    """The least value found from several random starts, or from around one point, and where."""
    found = []
    for seed in range(starts):
        z = (near + (1.0 if isinstance(near, float) else 0.05) * normal(*shape, seed=seed)).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [z],
            max_iter=steps,
            history_size=30,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-10,
            tolerance_change=0,
        )

        def closure(z=z, optimizer=optimizer):
            optimizer.zero_grad()
            loss = objective(z)
            loss.backward()
            return loss

        optimizer.step(closure)
        found.append((objective(z.detach()).item(), z.detach()))
    return min(found, key=lambda result: result[0])


def same_subspace(a, b):
    """The smallest cosine of the principal angles between the centred columns of two embeddings."""
    a, b = (torch.linalg.qr(z - z.mean(0)).Q for z in (a, b))
    return torch.linalg.svdvals(a.mT @ b).min().item()


def check(optimum, objective, *, rel=1e-7, **effort):
    """The embedding has the loss that is claimed, and training finds no lower one."""
    assert objective(optimum.embedding).item() == pytest.approx(optimum.loss, rel=rel, abs=rel)
    loss, embedding = train(objective, *optimum.embedding.shape, **effort)
    assert loss == pytest.approx(optimum.loss, rel=rel, abs=rel)
    return embedding


def test_spectrum():
    a = graph()
    values, vectors = graph_spectrum(a, centred=False)
    torch.testing.assert_close(a / a.sum(1) @ vectors, vectors * values)
    assert values[0].item() == pytest.approx(1)
    assert values.diff().max() < 0
    torch.testing.assert_close(graph_spectrum(a, centred=True)[0], values[1:], rtol=1e-9, atol=1e-9)


def test_vicreg_itself_where_its_dimensions_are_uncorrelated():
    a = graph()
    i, j = pairs(a)
    # an invariance that all dimensions shrink under: the hinge is then smooth at the optimum
    weights = {"invariance_weight": 400.0, "variance_weight": 20.0}
    optimum = vicreg_optimum(a, 3, **weights)
    assert optimum.embedding.var(0).max() < 0.9
    objective = lambda z: vicreg_loss(z[i], z[j], covariance_weight=1e6, **weights).total
    embedding = check(optimum, objective, rel=1e-4, steps=150)
    assert same_subspace(embedding, optimum.embedding) > 0.999
    torch.testing.assert_close(
        embedding.var(0).sort().values, optimum.embedding.var(0).sort().values, rtol=0.02, atol=0
    )


def test_vicreg_itself_where_the_hinge_is_satisfied():
    """The optimum is a kink, where L-BFGS from afar gets stuck: it is started around it."""
    a = graph(selves=40)
    i, j = pairs(a)
    optimum = vicreg_optimum(a, 3)
    objective = lambda z: vicreg_loss(z[i], z[j], covariance_weight=50.0).total
    assert objective(optimum.embedding).item() == pytest.approx(optimum.loss, rel=1e-9)
    loss, embedding = train(objective, 12, 3, near=optimum.embedding)
    assert optimum.loss - 1e-9 < loss < 1.01 * optimum.loss
    torch.testing.assert_close(embedding[i].var(0), torch.full((3,), 1 - 1e-4, dtype=torch.float64), rtol=1e-2, atol=0)


def test_vicreg_at_its_published_weights_gives_up_some_decorrelation_on_this_graph():
    """Why the closed form says 'uncorrelated': with ν = 1, correlated dimensions on the first eigenvector cost less."""
    a = graph(selves=2)
    i, j = pairs(a.clamp_min(0))
    assert train(lambda z: vicreg_loss(z[i], z[j]).total, 12, 3)[0] < vicreg_optimum(a.clamp_min(0), 3).loss - 0.1


@pytest.mark.parametrize("inputs", [None, normal(12, 5)])
def test_squared_vicreg(inputs):
    a, beta, gamma = graph(), 1.5, 4.0
    laplacian = torch.eye(12) - a / a.sum(1)
    optimum = squared_vicreg_optimum(a, 3, variance_weight=beta, invariance_weight=gamma, inputs=inputs)

    def objective(z):
        covariance = torch.cov(z.mT, correction=0)
        return beta * (covariance - torch.eye(3)).square().sum() + gamma * (z.mT @ laplacian @ z).trace() / 12

    if inputs is None:
        embedding = check(optimum, objective, rel=1e-9)
    else:
        assert objective(optimum.embedding).item() == pytest.approx(optimum.loss, rel=1e-9)
        loss, w = train(lambda w: objective(inputs @ w), 5, 3)
        assert loss == pytest.approx(optimum.loss, rel=1e-9)
        embedding = inputs @ w
    assert same_subspace(embedding, optimum.embedding) > 1 - 1e-6


@pytest.mark.parametrize("inputs", [None, normal(12, 5)])
def test_squared_contrast(inputs):
    a = graph()
    share = a / a.sum()
    optimum = squared_contrast_optimum(a, 4, inputs=inputs)

    def objective(z):
        similarity = z @ z.mT
        return similarity.square().mean() - 2 * (share * similarity).sum()

    if inputs is None:
        embedding = check(optimum, objective, rel=1e-9)
        tail = graph_spectrum(a, centred=False)[0][4:].square().sum()
        residual = (a / a.sum(1) - embedding @ embedding.mT / 12).square().sum()
        assert residual.item() == pytest.approx(tail.item())
    else:
        assert objective(optimum.embedding).item() == pytest.approx(optimum.loss, rel=1e-9)
        loss, w = train(lambda w: objective(inputs @ w), 5, 4)
        assert loss == pytest.approx(optimum.loss, rel=1e-9)
        embedding = inputs @ w
    torch.testing.assert_close(embedding @ embedding.mT, optimum.embedding @ optimum.embedding.mT, rtol=0, atol=1e-4)


@pytest.mark.parametrize("images", [2, 5, 7])
def test_info_nce_and_dcl_themselves_end_in_a_simplex(images):
    for loss, optimum in ((info_nce, info_nce_optimum(images, 0.5)), (dcl, dcl_optimum(images, 0.5))):
        both = torch.stack([optimum.embedding] * 2)
        assert loss(*both, 0.5).item() == pytest.approx(optimum.loss, rel=1e-9)
        found, z = train(lambda z, loss=loss: loss(z[0], z[1], 0.5), 2, images, max(2, images - 1))
        assert found == pytest.approx(optimum.loss, rel=1e-7)
        z = torch.nn.functional.normalize(z, dim=2)
        torch.testing.assert_close(z[0] @ z[1].mT, both[0] @ both[1].mT, rtol=0, atol=1e-3)


def test_barlow_twins_itself_where_redundancy_is_ruled_out():
    a, dim = graph(selves=14), 3
    i, j = pairs(a)
    optimum = barlow_twins_optimum(a, dim)
    objective = lambda weight: lambda z: barlow_twins_loss(z[i], z[j], redundancy_weight=weight).total
    for weight in (0.0051, 10.0):  # without redundancy, its weight does not matter; only ε keeps the value from 1e-12
        assert objective(weight)(optimum.embedding).item() == pytest.approx(optimum.loss, rel=1e-3)
    loss, embedding = train(objective(1e3), 12, dim)
    assert loss == pytest.approx(optimum.loss, rel=1e-2)
    assert same_subspace(embedding, optimum.embedding) > 0.99
    rho = graph_spectrum(a, centred=True)[0][:dim]
    assert optimum.loss < 0.95 * (1 - rho).square().sum()  # the canonical variates themselves are not the optimum


def test_barlow_twins_itself_at_its_published_weight_finds_shared_directions():
    """Linear encoder, directions that all views of an image share: CCA's subspace, at no loss."""
    a, inputs = components(5, 4), normal(20, 10)
    inputs[:, :3] = normal(5, 3, seed=1).repeat_interleave(4, dim=0)  # what does not change from view to view
    inputs = inputs @ normal(10, 10, seed=2)
    optimum = barlow_twins_optimum(a, 3, inputs=inputs)
    assert optimum.loss == pytest.approx(0, abs=1e-12)
    i, j = pairs(a)
    loss, w = train(lambda w: barlow_twins_loss((inputs @ w)[i], (inputs @ w)[j]).total, 10, 3, starts=2, steps=150)
    assert loss < 1e-3
    assert same_subspace(inputs @ w, optimum.embedding) > 0.995


def test_what_the_closed_forms_do_not_cover_is_refused():
    uneven = graph()
    uneven[0, 0] += 1
    with pytest.raises(UsageError, match="equal positive sums"):
        squared_contrast_optimum(uneven, 2)
    with pytest.raises(UsageError, match="2/3"):
        barlow_twins_optimum(graph(selves=2), 8)
    with pytest.raises(UsageError, match="no more than 11"):
        vicreg_optimum(graph(), 12)
