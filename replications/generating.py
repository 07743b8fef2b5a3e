"""Cells that make images: a flow under one guide, an autoencoder's codes; see `replications.plan.Arm.run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import glocal
from glocal.backbones import save_encoder
from glocal.data import ArraySource
from glocal.evaluation.dimension import likeliest, neighbour_distances, two_nearest
from glocal.evaluation.extract import extract
from glocal.evaluation.rank import rankme
from replications.cells import untrained
from replications.data import place, released
from replications.worlds import RUN

JUDGE = "mobilenet_v1_050"
"""Whose features made and real images are compared in."""


def flow(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Kernel and Fréchet distance of a flow's samples, and nearest neighbours in its features; CIFAR-10, 16 pixels.

    The guide: "vicreg", trained here on the same images; "random", that network untrained; "labels", "own" or "".
    Nearest neighbours of the first two are told, too ("guide knn").
    `steps` of the sampler, beside the usual 16, are tried with a quarter as many images.
    """
    images, size, guide = place(data, "cifar10"), options["image_size"], options["guide"]
    shared: dict[str, Any] = {**RUN, "image_size": size, "seed": seed, "trust_code": True}
    encoder = {"backbone": options["guide_backbone"], "batch_size": 128, "max_steps": options["guide_steps"]}
    looked: dict[str, Any] = {"trust_code": True, "limit": 5000, "seed": seed, "workers": 0, "device": "cpu"}
    if guide == "vicreg":
        encoder["scale"] = options["guide_scale"]
        guide = str(glocal.pretrain(images, method="vicreg", out=str(folder / "guide"), **encoder, **shared))
    elif guide == "random":
        guide = str(folder / "guide")
        save_encoder(untrained({"backbone": encoder["backbone"], "image_size": size}, seed), guide)
    settings = {name: options[name] for name in ("backbone", "batch_size", "max_steps", "clusters")}
    run = glocal.pretrain(images, method="flow", guide=guide, out=str(folder / "run"), **settings, **shared)

    def measured(count: int, *tasks: str, **asked: Any) -> dict[str, Any]:
        told = {
            "generation": {"images": count, "features": released(data, JUDGE), "guidance": options["guidance"], **asked}
        }
        return glocal.evaluate(str(run), images, tasks=["generation", *tasks], task_options=told, **looked)

    found = measured(options["images"], "knn")
    scores = {name: found["generation"][name] for name in ("kid", "fid", "precision", "recall")}
    scores["knn"] = found["knn"]["top1"]
    if Path(guide).is_dir():
        scores["guide knn"] = glocal.evaluate(guide, images, tasks=["knn"], image_size=size, **looked)["knn"]["top1"]
    for steps in options.get("steps", ()):
        scores[f"kid at {steps} steps"] = measured(options["images"] // 4, steps=steps)["generation"]["kid"]
    return scores


def codes(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """The effective dimension of codes of images of which four numbers are known, drawn by the seed."""
    images = ellipses(options["images"], seed)
    run = autoencoder(images, folder, seed, options)
    codes = extract(glocal.load(run), images, image_size=options["image_size"], crop_pct=None).pooled.double()
    near = neighbour_distances(codes, 20)
    found = {"effective": rankme(codes, centred=True), "two_nn": two_nearest(near), "mle": likeliest(near)}
    return {"most": 4.5, "least": 3.5, "eight": 8.0, **found}


def painted(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Fréchet distance of images from Gaussian codes, and what codes are worth with 100 labels; clothing."""
    images = place(data, "clothing")
    run = autoencoder(images, folder, seed, options)
    told = {"generation": {"images": options["images"], "features": released(data, JUDGE)}, "lowshot": {"shots": (10,)}}
    asked: dict[str, Any] = {"task_options": told, "seed": seed, "workers": 0, "device": "cpu"}
    found = glocal.evaluate(run, images, tasks=["generation", "lowshot"], **asked)
    return {"kid": found["generation"]["kid"], "fid": found["generation"]["fid"], **_numbers(found["lowshot"])}


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}


def autoencoder(images: Any, folder: Path, seed: int, options: Mapping[str, Any]) -> str:
    """A run of IRMAE, or of what it is compared with."""
    names = ("image_size", "layers", "kl", "code", "batch_size", "max_steps", "lr")
    settings = {name: options[name] for name in names if name in options}
    return str(glocal.pretrain(images, method="irmae", out=str(folder / "run"), seed=seed, **settings, **RUN))


def ellipses(count: int, seed: int, size: int = 32) -> ArraySource:
    """One ellipse on plain ground: where (x, y), how large, how turned (a quarter of a circle), and nothing else.

    Each of the four moves the pixels about as much as any other.
    """
    draw = np.random.default_rng(seed)
    x, y, reach, angle = draw.uniform([[0.32], [0.41], [0.12], [-0.8]], [[0.68], [0.59], [0.26], [0.8]], (4, count))
    at = (np.arange(size) + 0.5) / size
    across, down = at[None, None] - x[:, None, None], at[None, :, None] - y[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    away = np.hypot((cos * across + sin * down) / 1.5, (cos * down - sin * across) / 0.6)
    inside = 1 / (1 + np.exp((away - reach[:, None, None]) * 0.4 * size))[..., None]
    ground, colour = np.array([0.15, 0.2, 0.6]), np.array([0.9, 0.7, 0.2])
    return ArraySource((255 * (ground + inside * (colour - ground))).round().astype(np.uint8), name="ellipses")
