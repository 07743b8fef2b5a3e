"""Cells of clips with sentences: who does what, told by the verb and by the noun; see `replications.plan.Arm.run`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import glocal
from glocal.data.moving import NOUNS, VERBS, MovingWorld
from glocal.views import Appearance, ViewLoader

TRAINED, TESTED, FRAMES, SIZE = 2000, 2000, 8, 32
MACHINE: dict[str, Any] = {"accelerator": "cpu", "precision": "32", "workers": 0, "threads": 1, "cache": True}
MACHINE |= {"report": False, "quiet": True, "monitor_every": 10_000, "compile": False}


def train(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Verbs and nouns of clips that were not trained on; the seed is that of the clips and of training.

    Hard negatives are such as a language model would write: some verbs come to its mind far more often than others.

    Args:
        data: not used, the clips are generated.
        folder: for the run.
        seed: of all.
        options: of `glocal.pretrain`; `still`: of the world.

    Returns:
        verb, the share of clips of whose eight sentences with its noun its own is nearest; noun, likewise of 16 nouns;
        bias, the slope over verbs of how near sentences with it are on average, by how often it is a negative: cosine a
        deviation.
    """
    still = options.get("still", False)
    world = MovingWorld(TRAINED, FRAMES, SIZE, still=still, seed=seed)
    negatives = folder / "negatives.csv"
    often = _write_negatives(negatives, world, seed)
    asked = {name: value for name, value in options.items() if name != "still"}
    told = {"method": "vfc", "frames": FRAMES, "image_size": SIZE, "seed": seed, "negatives": str(negatives), **MACHINE}
    run = glocal.pretrain(world, out=str(folder / "run"), epochs=10_000, **told, **asked)
    method: Any = glocal.load_method(run, trust_code=True)
    test = MovingWorld(TESTED, FRAMES, SIZE, still=still, split="test", seed=seed)
    near, clips = _nearness(method, test)
    share = (often - often.mean()) / often.std()
    row, noun, verb = torch.arange(len(clips)), torch.from_numpy(test.noun[clips]), torch.from_numpy(test.verb[clips])
    return {
        "verb": float((near[row, noun].argmax(1) == verb).float().mean()),
        "noun": float((near[row, :, verb].argmax(1) == noun).float().mean()),
        "bias": float((near.mean((0, 1)).numpy() * share).mean()),
    }


def _write_negatives(path: Path, world: MovingWorld, seed: int) -> np.ndarray:
    """Five of each caption, with other verbs, some, which the seed draws, more often; how often each, (8,)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw, often = np.random.default_rng(seed), np.zeros(len(VERBS))
    share = 1.6 ** draw.permutation(len(VERBS))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["caption", "negative"])
        for n, noun in enumerate(NOUNS):
            for v, verb in enumerate(VERBS):
                chance = np.where(np.arange(len(VERBS)) == v, 0, share)
                for other in draw.choice(len(VERBS), 5, replace=False, p=chance / chance.sum()):
                    rows.writerow([f"a {noun} {verb}", f"a {noun} {VERBS[other]}"])
                    often[other] += ((world.noun == n) & (world.verb == v)).sum()
    return often


@torch.no_grad()
def _nearness(method: Any, test: MovingWorld) -> tuple[Tensor, np.ndarray]:
    """Cosine similarity (N, 16, 8) of clips to sentences of each noun with each verb, and which clips, (N,)."""
    sentences = [f"a {noun} {verb}" for noun in NOUNS for verb in VERBS]
    tokens, _ = method.text.model.pack(method.text.model.split(sentences))
    texts = F.normalize(method.read(tokens), dim=1)
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    loader = ViewLoader(
        test, method.recipe, batch_size=50, seed=0, shuffle=False, drop_last=False, appearance=appearance
    )
    near, clips = [], []
    for batch in loader.epoch(0):
        near.append(F.normalize(method.watch(batch.views), dim=1) @ texts.T)
        clips.append(test.groups["video"].of[batch.index.numpy()])
    return torch.cat(near).view(-1, len(NOUNS), len(VERBS)), np.concatenate(clips)
