"""Cells about time: what moves and what stays (dots), phases from a few marks (50Salads), frames by video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import glocal
from glocal.data import ConcatSource, ImageSource, Subset, open_source
from glocal.data.dots import DotsWorld
from glocal.diagnostics import diagnose
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.baseline import Pixels, start_of
from glocal.evaluation.extract import extract
from glocal.pipeline.phases import classified
from glocal.run import Run
from glocal.sequences import from_marks, from_prior, segments, similarity
from glocal.training.online_eval import OnlineEval
from replications.data import released
from replications.worlds import RUN

CLIPS, PROBED = 1000, 300
BETAS, NEIGHBOURS, TRUSTS = (3.0, 10.0, 30.0, 100.0), (0, 5), (0.01, 0.03, 0.1, 0.3)
ACTIONS = 18
SIZE = 96


def dots(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """How well a linear probe finds the dot in the codes of a run on `dots`, and whether its diagnosis fires.

    Args:
        data: not used.
        folder: for the run.
        seed: of the world and of the run.
        options: "noise", its "level", and those of `glocal.pretrain`; without "max_steps" it is judged after one.

    Returns:
        px, the root of the mean squared distance in pixels; log px; place, −px; fires, 1 or 0, and silent, the other.
    """
    given = dict(options)
    noise, level = given.pop("noise"), given.pop("level", 1.0)
    spec = f"dots:noise={noise},level={level},n={CLIPS},seed={seed}"
    settings = {**RUN, "cache": False, "backbone": "menet5", "image_size": 28, "seed": seed}
    settings |= {"max_steps": 1, "batch_size": 64, "method": "jepa"} | given
    run = Run(glocal.pretrain(spec, out=str(folder / "run"), **settings))
    encoder, sides = glocal.load(str(run.path)), []
    watch = OnlineEval(open_source(spec), image_size=28, seed=seed)
    within, same = watch.by_clip(encoder)
    seen = {"clips/within": within, "clips/same": same, "clips/pixels": watch.by_clip(Pixels(image_size=28))[0]}
    fires = any(found.name == "the code is the background" for found in diagnose([*run.metrics(), seen]))
    for split in ("train", "test"):
        world = DotsWorld(PROBED, noise=noise, level=level, seed=seed, split=split)
        # whole frames, as in training
        x = extract(encoder, world, image_size=28, crop_pct=None).pooled.double()
        sides.append((x, torch.from_numpy(world.place.reshape(-1, 2))))
    (x, y), (test, truth) = sides
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, test = (torch.cat([(z - mean) / scale, torch.ones(len(z), 1)], 1) for z in (x, test))
    gram = x.T @ x
    wrong = []
    for ridge in (1e-1, 1e1, 1e3):  # the probe gets its best: it is the codes that are judged
        guess = test @ torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), x.T @ y)
        wrong.append(float((guess - truth).square().sum(1).mean().sqrt()))
    px = min(wrong)
    return {"px": px, "log px": math.log(px), "place": -px, "fires": float(fires), "silent": float(not fires)}


def salads(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy of frames in eight videos of 50Salads, given one random mark a segment, or two labelled videos.

    β and the number of neighbours, or the trust in the classifier, are chosen on the other two videos.

    Args:
        data: has salads.npz.
        folder: not used.
        seed: of the marks and of which two videos are labelled; its remainder by 5 is the split.
        options: "arm": "nearest" mark; "walk"; the best "split" between each two marks by their scores; a classifier
            on the two videos "alone", and with a walk ("few").
    """
    arm, draw = options["arm"], np.random.default_rng(seed)
    with np.load(data / "salads.npz") as kept:
        names = [f"eval/{seed % 5 + 1}/{k}/" for k in range(10)]
        videos = [(kept[f"{name}scores"].astype(np.float32), kept[f"{name}labels"].astype(int)) for name in names]
    marked = []
    for scores, truth in videos:
        frames = np.array([draw.integers(first, end) for _, first, end in segments(truth)])
        marked.append((scores, truth, frames))
    marked = [marked[k] for k in draw.permutation(len(marked))]
    chosen, judged = marked[:2], marked[2:]
    right = lambda found, truth: float((found == truth).mean())

    def walk(scores: np.ndarray, truth: np.ndarray, frames: np.ndarray, beta: float, neighbours: int) -> np.ndarray:
        weights = similarity(scores, beta=beta, neighbours=neighbours)
        return from_marks(weights, frames, truth[frames]).argmax(1)

    if arm == "nearest":
        found = [
            truth[frames][np.abs(np.arange(len(truth))[:, None] - frames).argmin(1)] for _, truth, frames in judged
        ]
    elif arm == "split":
        found = [best_split(*video) for video in judged]
    else:
        grid = [(beta, k) for beta in BETAS for k in NEIGHBOURS]
        beta, k = max(grid, key=lambda pair: sum(right(walk(*video, *pair), video[1]) for video in chosen))
        found = [walk(*video, beta, k) for video in judged]
    if arm in ("alone", "few"):
        known = [str(action) for action in range(ACTIONS + 1)]
        (a, of_a, _), (b, of_b, _) = chosen
        one = [(a, classified(b, of_b, known, a), of_a), (b, classified(a, of_a, known, b), of_b)]  # each by the other
        pairs = [(beta, trust) for beta in (1.0, *BETAS) for trust in TRUSTS]

        def smoothed(scores: np.ndarray, prior: np.ndarray, beta: float, trust: float) -> np.ndarray:
            return from_prior(similarity(scores, beta=beta), prior, trust=trust).argmax(1)

        best = max(pairs, key=lambda pair: sum(right(smoothed(x, q, *pair), y) for x, q, y in one))
        both = np.concatenate([a, b]), np.concatenate([of_a, of_b])
        prior = [classified(*both, known, scores) for scores, *_ in judged]
        walked = [smoothed(scores, q, *best) for (scores, *_), q in zip(judged, prior, strict=True)]
        found = [q.argmax(1) for q in prior] if arm == "alone" else walked
    return {"accuracy": float(np.mean([right(f, truth) for f, (_, truth, _) in zip(found, judged, strict=True)]))}


def best_split(scores: np.ndarray, truth: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Between each two marks, the one border at which the scores of both phases add up to the most."""
    found = np.empty(len(truth), int)
    found[: frames[0] + 1], found[frames[-1] :] = truth[frames[0]], truth[frames[-1]]
    for a, b in pairwise(frames):
        first, second = truth[a], truth[b]
        gain = np.cumsum(np.r_[0, scores[a + 1 : b, first] - scores[a + 1 : b, second]])
        border = a + 1 + int(gain.argmax())
        found[a + 1 : border], found[border : b + 1] = first, second
    return found


def frames(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Frozen segmentation from some of the labels, of the weights that MSN starts from, and after it, without labels.

    Args:
        data: the folders of data.
        folder: for the run.
        seed: of the run and of the labels; its remainder by 4 is the sequence of CamVid that is held out.
        options: "data": "kvasir", or "camvid", held out by sequence, or "camvid-frames", as many frames of all of them;
            "start": "random" or "released"; "max_steps" of MSN.

    Returns:
        The mean IoU of the "start" and "after" MSN, with all labels of the training frames, and with "half"; without
        steps of the start with all.
    """
    train, test = _sides(data, options["data"], seed)
    begin = released(data, "mobilenet_v1_025") if options["start"] == "released" else False
    settings = {**RUN, "method": "msn", "patch_drop": 0.0, "small_crops": 2, "small_size": 48, "image_size": SIZE}
    settings |= {"backbone": "mobilenet_v1_025", "output_stride": 8, "batch_size": 32, "guard": False}
    settings |= {"seed": seed, "cache": False}
    steps = options["max_steps"]
    trained = glocal.pretrain(train, out=str(folder / "run"), pretrained=begin, max_steps=max(1, steps), **settings)
    encoder, order = glocal.load(str(trained)), np.random.default_rng(seed).permutation(len(train))
    half = Subset(train, np.sort(order[: len(train) // 2]))
    miou = lambda of, some: find_task("segment")(EvalContext(of, some, test, SIZE))["miou"]
    start = start_of(encoder, seed=seed)
    found = {"start": miou(start, train)}
    if steps:
        found |= {"start half": miou(start, half), "after": miou(encoder, train), "after half": miou(encoder, half)}
    return found


def _sides(data: Path, name: str, seed: int) -> tuple[ImageSource, ImageSource]:
    if name == "kvasir":
        return open_source(data / name, split="train"), open_source(data / name, split="test")
    whole = ConcatSource([open_source(data / "camvid", split=split) for split in ("train", "val", "test")])
    videos = [Path(whole.key(i)).name.partition("_")[0] for i in range(len(whole))]
    names, of = np.unique(videos, return_inverse=True)
    held = of == seed % len(names)
    if name == "camvid-frames":
        held = held[np.random.default_rng(seed).permutation(len(whole))]
    return Subset(whole, np.flatnonzero(~held)), Subset(whole, np.flatnonzero(held))
