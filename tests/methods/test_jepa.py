"""JEPA on clips: its terms against loops in float64, and what its other objectives want."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import glocal
from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.heads import sync_batch_norms
from glocal.methods import JEPA
from glocal.views import Batch, View, ViewLoader
from power import left_after
from processes import on_processes

B, T = 6, 4


def drawn():
    draw = np.random.default_rng(0)
    views = [
        View(torch.from_numpy(draw.standard_normal((B, 3, 28, 28))), torch.eye(2, 3).repeat(B, 1, 1)) for _ in range(T)
    ]
    return Batch(views, torch.arange(B), extra={"action": torch.from_numpy(draw.uniform(-1, 1, (B, T, 2)))})


@pytest.fixture
def batch():
    return drawn()


def encoder():
    torch.manual_seed(0)
    return build_backbone("menet5", image_size=28)


def method(objective, **options):
    made = JEPA(encoder(), image_size=28, objective=objective, frames=T, **options)
    return made.double().eval()


def codes(jepa, batch):
    return [jepa.encoder(view.pixels).pooled.detach().numpy() for view in batch.views]


def predictions(jepa, batch):
    """A gated recurrent unit as its paper has it, step by step (Cho et al. 2014, in torch's variant)."""
    w, u, b, c = (p.detach().numpy() for p in jepa.predictor.parameters())
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    h, found = codes(jepa, batch)[0], []
    for t in range(T - 1):
        x = batch.extra["action"][:, t].numpy()
        (xr, xz, xn), (hr, hz, hn) = np.split(x @ w.T + b, 3, 1), np.split(h @ u.T + c, 3, 1)
        update = sigmoid(xz + hz)
        h = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * h
        found.append(h)
    return found


@pytest.mark.parity("jepa", oracle="float64 loops over times and dimensions")
def test_its_terms_are_those_of_the_paper_at_each_time(batch):
    jepa = method("vicreg", invariance_weight=3.0, variance_weight=5.0, covariance_weight=7.0)
    loss = jepa(batch)
    invariance, variance, covariance = [], [], []
    for code, guess in zip(codes(jepa, batch)[1:], predictions(jepa, batch), strict=True):
        invariance.append(((code - guess) ** 2).mean())
        variance.append(np.mean([max(0.0, 1 - np.sqrt(code[:, d].var(ddof=1) + 1e-4)) for d in range(code.shape[1])]))
        off = np.cov(code.T)
        np.fill_diagonal(off, 0)
        covariance.append((off**2).sum() / code.shape[1])
    naive = {
        "invariance": 3 * np.mean(invariance),
        "variance": 5 * np.mean(variance),
        "covariance": 7 * np.mean(covariance),
    }
    assert {name: float(term) for name, term in loss.terms.items()} == pytest.approx(naive, rel=1e-6)
    loss.total.backward()
    assert jepa.encoder.model.weight.grad.abs().max() > 0
    assert jepa.predictor.weight_ih_l0.grad.abs().max() > 0


def test_simclr_tells_predictions_from_those_of_other_clips(batch):
    jepa = method("simclr", projector=(8, 8), temperature=0.5)
    terms = []
    for code, guess in zip(codes(jepa, batch)[1:], predictions(jepa, batch), strict=True):
        z = np.concatenate([jepa.head(torch.from_numpy(x)[:, None])[:, 0].detach().numpy() for x in (guess, code)])
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        s = z @ z.T / 0.5
        others = [[s[i, j] for j in range(2 * B) if j != i] for i in range(2 * B)]
        terms.append(np.mean([np.log(np.exp(others[i]).sum()) - s[i, (i + B) % (2 * B)] for i in range(2 * B)]))
    assert jepa(batch).total.item() == pytest.approx(np.mean(terms), rel=1e-6)


def test_reconstruction_draws_the_frames_and_inverse_dynamics_names_the_action(batch):
    jepa = method("reconstruction")
    frames = np.stack([view.pixels.numpy() for view in batch.views[1:]])
    drawn = [
        jepa.decode(torch.from_numpy(np.stack(x))).detach().numpy()
        for x in (predictions(jepa, batch), codes(jepa, batch)[1:])
    ]
    assert drawn[0].shape == frames.shape
    assert jepa(batch).total.item() == pytest.approx(np.mean([((x - frames) ** 2).mean() for x in drawn]), rel=1e-6)
    jepa = method("inverse")
    found = codes(jepa, batch)
    pairs = torch.from_numpy(np.stack([np.concatenate(found[t : t + 2], 1) for t in range(T - 1)], 1))
    wrong = (jepa.head(pairs) - batch.extra["action"][:, :-1]).square().mean()
    assert jepa(batch).total.item() == pytest.approx(wrong.item(), rel=1e-6)


def test_a_clip_without_actions_has_none(batch):
    jepa = method("vicreg")
    without = jepa(Batch(batch.views, batch.index)).total
    batch.extra["action"] = torch.zeros(B, T, 2, dtype=torch.float64)
    assert without.item() == jepa(batch).total.item()


def test_the_loader_gives_it_whole_clips_with_their_actions():
    source = open_source(f"dots:n=5,frames={T}")
    loaded = next(ViewLoader(source, method("vicreg").recipe, batch_size=5, seed=0).epoch(0))
    for row, first in enumerate(loaded.index.tolist()):
        assert first % T == 0
        for t, view in enumerate(loaded.views):
            assert np.array_equal(view.pixels[row].permute(1, 2, 0).numpy(), source.draw(first + t))
        assert np.array_equal(loaded.extra["action"][row], source.extra["action"][first : first + T])


def one_step():
    jepa = sync_batch_norms(JEPA(encoder(), image_size=28, frames=T).double())
    parallel = DistributedDataParallel(jepa) if world_size() > 1 else jepa
    whole = drawn()
    mine = torch.arange(B).chunk(world_size())[rank()]
    views = [View(view.pixels[mine], view.affine[mine]) for view in whole.views]
    loss = parallel(Batch(views, mine, extra={"action": whole.extra["action"][mine]})).total
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in jepa.named_parameters()}


@pytest.mark.distributed("jepa")
def test_loss_and_gradients_on_two_processes_are_those_of_the_joined_batch():
    loss, grads = one_step()
    for theirs, found in on_processes(2, one_step):
        torch.testing.assert_close(theirs, loss, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found, grads, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", ["vicreg", "reconstruction"])
def test_a_run_resumes_to_the_bit(objective, tmp_path, monkeypatch):
    settings = {"backbone": "menet5", "image_size": 28, "batch_size": 8, "epochs": 2, "workers": 0, "report": False}
    settings |= {"method": "jepa", "frames": 3, "objective": objective, "quiet": True, "checkpoint_steps": 3}
    with left_after(3, tmp_path / "stopped", monkeypatch):
        whole = glocal.pretrain("dots:n=20,frames=3", out=str(tmp_path / "whole"), **settings)
    glocal.pretrain(resume=str(tmp_path / "stopped"), quiet=True)
    runs = whole, tmp_path / "stopped"
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"] for run in runs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_images_without_clips_are_refused(tmp_path):
    with pytest.raises(UsageError, match="has no clips: give --fps"):
        glocal.pretrain("parts:n=40,size=32", method="jepa", backbone="menet5", image_size=32, frames=2)
