"""Pictures of a small DC-GAN that are like clothes it has not seen, found in four ways.

CMA is nevergrad's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nevergrad  # noqa: F401  # else the search that needs it would miss it after minutes
import numpy as np
import torch
from torch import Tensor

import glocal
from glocal.data import open_source
from glocal.evaluation.extract import eval_image
from glocal.generation import load_generator
from glocal.generation.inspire import Inspiration
from glocal.generation.likeness import Likeness, normal
from glocal.generation.preference import Session
from glocal.generation.search import search, starts
from replications.data import released
from replications.worlds import RUN

TARGETS, LOOKS, QUESTIONS, SHOWN = 30, 200, 30, 4
SIZE, SEEN = 32, 64
"""Pixels that are made, and to which MobileNet sees them enlarged."""


def inspire(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Distances to photographs after as many looks, by MobileNet's pooled features, each way from the same starts.

    Args:
        data: the folders of data.
        folder: for the run of the generator.
        seed: of the generator, the photographs and the searches.
        options: of `glocal.pretrain`.

    Returns:
        The mean over photographs of the logarithm of the distance, by way; asked, after questions that the photograph
        answers, and drawn, of as many random pictures as were shown then.
    """
    run = glocal.pretrain(str(data / "clothing"), out=str(folder / "run"), seed=seed, **RUN | dict(options))
    generator, judge = load_generator(run), glocal.load(str(run))
    encoder = glocal.load(released(data, "mobilenet_v1_025"), image_size=SEEN)
    realism = lambda images: generator.realism(judge(normal(judge, images)).pooled)[:, 0]
    found: dict[str, list[float]] = {}
    for number, picture in enumerate(_photographs(data, seed)):
        cost = Inspiration(generator, [Likeness(encoder, picture)], realism)

        def distance(z: Tensor, cost: Inspiration = cost) -> Tensor:
            with torch.no_grad():
                return cost.distance(generator(z))

        at = starts(generator.latent_shape, 1, number)
        latents = {
            by: search(cost, at, by=by, evaluations=LOOKS, seed=number).latents  # type: ignore[arg-type]
            for by in ("gradient", "cma", "random")
        }
        latents["asked"] = _asked(distance, folder / f"{number}.json", generator.latent_shape, number)
        many = starts(generator.latent_shape, QUESTIONS * SHOWN, 10_000 + number)
        latents["drawn"] = many[distance(many).argmin()][None]
        for way, z in latents.items():
            found.setdefault(way, []).append(float(distance(z).log()))
    return {way: float(np.mean(values)) for way, values in found.items()}


def _asked(distance: Callable[[Tensor], Tensor], file: Path, shape: tuple[int, ...], seed: int) -> Tensor:
    """The best (1, *shape) after questions that are answered by what is nearest."""
    session = Session(file, shape, count=SHOWN, seed=seed)
    for _ in range(QUESTIONS):
        session.tell(int(distance(session.ask()).argmin()))
    assert session.best is not None
    return session.best[None]


def _photographs(data: Path, seed: int) -> list[Tensor]:
    """Test images (3, s, s) in [0, 1]."""
    from PIL import Image

    source = open_source(data / "clothing", split="test")
    chosen = np.random.default_rng(seed).permutation(len(source))[:TARGETS]
    shown = [np.asarray(eval_image(Image.fromarray(source.open(int(i)).decode()), SEEN, 1.0)) for i in chosen]
    return [torch.from_numpy(each.copy()).permute(2, 0, 1) / 255 for each in shown]
