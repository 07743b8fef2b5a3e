"""Searches find what is planted, by what they are given only; what an encoder does not see, its pixels leave open."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from glocal.errors import UsageError
from glocal.features import Features
from glocal.generation.inspire import REALISM, Inspiration, pictures
from glocal.generation.likeness import Likeness
from glocal.generation.pixels import seen, total_variation
from glocal.generation.preference import Session
from glocal.generation.search import search, starts
from glocal.training import TrainingStopped

SIDE, LATENT = 4, 6


class Eye(nn.Module):
    """Sees each 2×2 block's mean colour, or, pooled, each pixel or the mean colour of all."""

    mean, std, image_size = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), SIDE

    def __init__(self, *, whole=False):
        super().__init__()
        self.whole = whole

    def forward(self, x):
        cells = nn.functional.avg_pool2d(x, 2).flatten(2).mT
        return Features(x.mean((2, 3)) if self.whole else x.flatten(1), cells, torch.zeros(cells.shape[1], 2))


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


class Painter:
    """z -> images, linear or not."""

    latent_shape = (LATENT,)

    def __init__(self, *, linear):
        self.weight, self.linear = drawn(LATENT, 3 * SIDE * SIDE, seed=1) / LATENT**0.5, linear

    def __call__(self, z):
        flat = z @ self.weight
        return (0.5 + 0.1 * flat if self.linear else flat.sigmoid()).unflatten(1, (3, SIDE, SIDE))


def test_a_linear_generator_seen_pixel_by_pixel_is_least_squares():
    paint, picture = Painter(linear=True), drawn(3, SIDE, SIDE, seed=2).sigmoid()
    like = Likeness(Eye(), picture)
    best = search(lambda z: like(paint(z)), starts((LATENT,), 2, 0), by="gradient", evaluations=600, lr=0.3)
    deviation = torch.tensor(Eye.std)[:, None].expand(3, SIDE * SIDE).flatten()
    rows, wanted = 0.1 * paint.weight.T / deviation[:, None], (picture.flatten() - 0.5) / deviation
    z = torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0]
    least = like(paint(z[None]))
    assert (best.costs - least).abs().max() < 1e-5
    torch.testing.assert_close(best.latents, z.expand(2, -1), atol=0.02, rtol=0)


def test_what_was_planted_is_found_by_gradient_and_not_at_random():
    paint = Painter(linear=False)
    planted = starts((LATENT,), 1, seed=7)
    cost = Inspiration(paint, [Likeness(Eye(), paint(planted)[0])])
    distance = lambda z: cost.distance(paint(z))
    by = {way: search(distance, starts((LATENT,), 3, 1), by=way, evaluations=300) for way in ("gradient", "random")}
    assert by["gradient"].costs.min() <= 0.01 * by["random"].costs.min()
    nearest = by["gradient"].latents[by["gradient"].costs.argmin()]
    assert (paint(nearest[None]) - paint(planted)).abs().max() < 0.02
    for found in by.values():
        history = torch.stack(found.history)
        assert history.shape == (300, 3)
        assert (history[1:] <= history[:-1]).all()
        torch.testing.assert_close(distance(found.latents), found.costs)


@pytest.mark.parametrize("by", ["cma", "oneplusone"])
def test_a_search_without_gradients_hears_ranks_only(by):
    pytest.importorskip("nevergrad")

    def path(told):
        asked = []

        def cost(z):
            asked.append(z)
            return told((z - 0.5).square().sum(1))

        found = search(cost, starts((LATENT,), 2, 3), by=by, evaluations=120, seed=5)
        return torch.stack(asked), found

    plain, found = path(lambda d: d)
    bent, _ = path(lambda d: (d / 10).exp())
    assert torch.equal(plain, bent)
    assert not torch.equal(plain[:, 0], plain[:, 1])
    assert (found.costs < found.history[0] / 4).all()


def test_without_nevergrad_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    with pytest.raises(UsageError, match=r"pip install 'glocal\[inspire\]', or take --by gradient"):
        search(lambda z: z.sum(1), starts((LATENT,), 1, 0), by="cma", evaluations=3)


def test_a_latent_costs_distances_its_length_and_realism():
    paint, pictures_ = Painter(linear=False), drawn(2, 3, SIDE, SIDE, seed=4).sigmoid()
    likes = [Likeness(Eye(), pictures_[0]), Likeness(Eye(), pictures_[1], dense=True)]
    z, mean, std = drawn(5, LATENT, seed=5), *(torch.tensor(x)[:, None, None] for x in (Eye.mean, Eye.std))
    realism = lambda images: images.mean((1, 2, 3))
    expected = []
    for each in z:
        image = paint(each[None])[0]
        total = (each.square().mean() - 1) ** 2 - REALISM * image.mean()
        for like, picture in zip(likes, pictures_, strict=True):
            shrink = (lambda x: nn.functional.avg_pool2d(x, 2)) if like.dense else (lambda x: x)
            blank = picture.mean((1, 2), keepdim=True).expand_as(picture)
            a, b, c = (shrink((x - mean) / std) for x in (image, picture, blank))
            total = total + (a - b).square().mean() / (c - b).square().mean()
        expected.append(total)
    torch.testing.assert_close(Inspiration(paint, likes, realism)(z), torch.stack(expected))


def test_images_that_are_no_numbers_stop_a_search_with_a_diagnosis():
    broken = lambda z: torch.full((len(z), 3, SIDE, SIDE), torch.nan)
    with pytest.raises(TrainingStopped, match=r"not finite.*its training diverged.*lower --lr"):
        pictures(broken, torch.zeros(2, LATENT))


def test_pixels_keep_what_the_encoder_sees_and_nothing_else():
    picture = torch.zeros(3, 16, 16)
    picture[0, :, :8] = picture[2, :, 8:] = 0.9  # red beside blue
    with_places = seen(Eye(), picture, dense=True, steps=80)
    without = seen(Eye(whole=True), picture, steps=80)
    assert with_places.distance < 0.05
    torch.testing.assert_close(without.pixels.mean((1, 2)), picture.mean((1, 2)), atol=0.05, rtol=0)
    contrast = lambda x: float((x[0, :, :8] - x[0, :, 8:]).mean())
    assert contrast(with_places.pixels) > 0.5
    assert abs(contrast(without.pixels)) < 0.3
    again = seen(Eye(whole=True), picture, steps=80)
    assert torch.equal(again.pixels, without.pixels)
    torch.testing.assert_close(total_variation(picture), torch.tensor(2 / 3 * 0.9 / 15), atol=1e-3, rtol=0)


def test_thirty_answers_beat_as_many_draws_and_a_session_goes_on(tmp_path):
    paint = Painter(linear=False)
    wins = 0
    for seed in range(12):
        target = paint(starts((LATENT,), 1, 100 + seed))
        distance = lambda z, target=target: (paint(z) - target).square().mean((1, 2, 3))
        file = tmp_path / f"{seed}.json"
        session = Session(file, (LATENT,), seed=seed)
        for question in range(30):
            if question == 11:  # as after a restart
                asked = session.ask()
                session = Session(file, (LATENT,), seed=seed)
                assert torch.equal(session.ask(), asked)
            before = math.inf if session.best is None else float(distance(session.best[None]))
            session.tell(int(distance(session.ask()).argmin()))
            assert float(distance(session.best[None])) <= before
        drawn_at_random = starts((LATENT,), 120, 200 + seed)
        wins += bool(distance(session.best[None]) < distance(drawn_at_random).min())
    assert wins >= 10
    assert '"answers": [' in file.read_text()


def test_a_session_refuses_answers_about_other_pictures(tmp_path):
    file = tmp_path / "session.json"
    Session(file, (LATENT,), about="one").tell(2)
    for other in ({"about": "another"}, {"about": "one", "count": 3}, {"about": "one", "seed": 1}):
        with pytest.raises(UsageError, match="other pictures"):
            Session(file, (LATENT,), **other)
    with pytest.raises(UsageError, match="4 is none of 4 pictures"):
        Session(file, (LATENT,), about="one").tell(4)
    with pytest.raises(UsageError, match="2 to 5"):
        Session(tmp_path / "new.json", (LATENT,), count=6)
