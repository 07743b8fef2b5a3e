"""What asking a model is worth, with the noisy model of replications/noisy.py in the place of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import glocal
from glocal.adaptation.codes import Codes
from glocal.data import ConcatSource, ImageSource, Subset, open_source
from glocal.evaluation.extract import FeatureBank, extract, frozen
from glocal.evaluation.knn import knn_predict
from glocal.language import Endpoint, Entity, KnowledgeBase, ask_frames
from glocal.language.curate import check_labels, votes
from glocal.language.endpoint import picture
from replications import noisy
from replications.data import released
from replications.naming import ENCODER, of, taught
from replications.noisy import NoisyModel, serving

SIZE = 128
IMAGES, TESTED = 400, 400
"""Half of them clothes, half of them pets."""
WRONG = 0.3
DECODED = 300
"""Steps in which codes of names are learnt."""
_TOLD = {
    "abyssinian": ("A breed of cats, slender and ruddy, like the Egyptian cats of old paintings.", "egyptian cat"),
    "american_bulldog": (
        "A breed of dogs, heavy and short-haired: kin of boxers, mastiffs and bull terriers.",
        "boxer/bull mastiff/french bulldog/staffordshire bullterrier/american staffordshire terrier",
    ),
    "bengal": ("A breed of cats, spotted like a leopard, bred from tabby cats.", "tabby/tiger cat"),
    "dress": ("A garment in one piece, bodice and skirt together; a long and formal one is a gown.", "gown"),
    "hat": (
        "It covers the head: cowboy hats, sombreros, bonnets, caps, bathing caps.",
        "cap/cowboy hat/sombrero/bonnet/bathing cap",
    ),
    "longsleeve": ("A shirt or jersey with long sleeves; a heavy one is a sweatshirt.", "sweatshirt"),
    "outwear": (
        "Worn over other clothes: coats, trench coats, jackets, cardigans, ponchos, parkas.",
        "trench coat/cardigan/poncho/fur coat",
    ),
    "pants": ("Trousers: they cover each leg by itself, down to the feet; of denim they are jeans.", "jean"),
    "shirt": ("It covers the upper body, with collar, buttons and sleeves, under a suit worn with a tie.", "suit"),
    "shoes": (
        "They cover the feet: running shoes, loafers, sandals, clogs, boots.",
        "shoe/running shoe/loafer/sandal/clog/cowboy boot",
    ),
    "shorts": ("Trousers that end above the knee; those for bathing are swimming trunks.", "swimming trunks"),
    "skirt": (
        "It hangs from the waist and covers both legs: miniskirts, hoopskirts, overskirts, sarongs.",
        "miniskirt/hoopskirt/overskirt/sarong",
    ),
    "t-shirt": ("A light shirt without collar and buttons: a tee shirt, or jersey.", "jersey"),
}
"""What an encyclopaedia says of each class, and what it is called among the classes that the model knows."""
KNOWLEDGE = KnowledgeBase([Entity(name, text, tuple(also.split("/"))) for name, (text, also) in _TOLD.items()])
THINGS = {"abyssinian": "cat", "american_bulldog": "bulldog/boxer", "shoes": "shoe", "pants": "jean", "hat": "hat"}
"""Classes of photographs, and what the question calls them."""
VIDEOS = 40
LENGTHS = {"x1": 64, "x4": 256, "x16": 1024}
CLIP = 3
SHOWN = 16
"""Frames a call."""


def curate(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Labels of which some are wrong, after the model was asked about each.

    Args:
        data: the folders of data.
        folder: not used.
        seed: of the images and of what is wrong.
        options: "arm": "raw" asks nothing; "predict" asks what it is; "without" about the label; "with" tells what the
            knowledge base says, too.

    Returns:
        precision, of what still has a label the share whose label is right; kept, of all images that share; knn and
        ger, the accuracy on the test images of neighbours with these labels, and of codes of names (GER) learnt from
        them.
    """
    arm, encoder = options["arm"], glocal.load(released(data, ENCODER))
    draw = np.random.default_rng(seed)
    source, test = _clothes_and_pets(data, "train", IMAGES, draw), _clothes_and_pets(data, "test", TESTED, draw)
    classes = source.classes or []
    bank, tested = (extract(encoder, images, image_size=SIZE, dense=True) for images in (source, test))
    truth, pooled = np.asarray(source.labels), bank.pooled
    source.labels = given = corrupted(truth, pooled, len(classes), draw)
    now = {i: classes[label] for i, label in enumerate(given)}
    if arm != "raw":
        shares = votes(pooled, torch.from_numpy(given), len(classes))
        told = {"candidate": arm != "predict", "context": arm == "with"}
        with serving(_model(data)) as url:
            model = Endpoint(url, "noisy", max_calls=2 * IMAGES, images=IMAGES, concurrency=1)
            found = check_labels(source, np.arange(IMAGES), shares, KNOWLEDGE, model, most=IMAGES, **told)
            now = {i: checked.label for i, checked in found if checked.label is not None}
    known = [i for i, name in now.items() if name in classes]
    labels = np.array([classes.index(now[i]) for i in known])
    if len({*labels.tolist()}) < 2:  # nothing can be learnt from them
        return {"precision": 0.0, "kept": 0.0, "knn": 0.0, "ger": 0.0}
    right = labels == truth[known]
    said = knn_predict(tested.pooled, pooled[known], torch.from_numpy(labels))
    named = decoded(bank, np.array(known), torch.from_numpy(labels), tested, classes, seed)
    return {
        "precision": float(right.sum() / len(now)),
        "kept": float(right.mean() * len(known) / IMAGES),
        "knn": float((said == tested.labels).float().mean()),
        "ger": float((named == tested.labels).float().mean()),
    }


def decoded(
    bank: FeatureBank, rows: np.ndarray, labels: Tensor, tested: FeatureBank, classes: list[str], seed: int
) -> Tensor:
    """The class (M,) of each tested image whose name's code is likeliest, learnt from some images' labels (GER)."""
    torch.manual_seed(seed)
    head = Codes(bank.pooled.shape[1], classes)
    head.begin(head.looked_at(of(bank, rows)), Subset(open_source("parts:n=1"), np.zeros(1, int)), torch.empty(0))
    taught(head, lambda some: of(bank, rows[some]), labels, seed, DECODED)
    with frozen(head):
        parts = np.array_split(np.arange(len(tested.pooled)), 8)
        return torch.cat([head(of(tested, part))[:, 0, 0] for part in parts]).long()


def _clothes_and_pets(data: Path, split: str, number: int, draw: np.random.Generator) -> Subset:
    """Some images of each collection, with the classes of both."""
    parts = [open_source(data / name, split=split) for name in ("clothing", "pets")]
    names = np.concatenate([np.array(part.classes)[part.labels] for part in parts])
    rows = [draw.permutation(len(part))[: number // 2] for part in parts]
    found = Subset(ConcatSource(parts), np.concatenate([rows[0], len(parts[0]) + rows[1]]))
    known, labels = np.unique(names, return_inverse=True)
    found.classes, found.labels = known.tolist(), labels[found.positions]
    return found


def corrupted(truth: np.ndarray, pooled: Tensor, classes: int, draw: np.random.Generator) -> np.ndarray:
    """Labels (N,) of which a share is wrong: half of these are of the nearest other class, half of any other."""
    means = torch.stack([pooled[truth == c].mean(0) for c in range(classes)])
    near = torch.cdist(means, means).fill_diagonal_(torch.inf).argmin(1).numpy()
    given, wrong = truth.copy(), draw.permutation(len(truth))[: round(WRONG * len(truth))]
    half = len(wrong) // 2
    given[wrong[:half]] = near[truth[wrong[:half]]]
    given[wrong[half:]] = (truth[wrong[half:]] + draw.integers(1, classes, len(wrong) - half)) % classes
    return given


def ask(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """What is seen in a clip of some frames within a street scene, at three lengths of the scene.

    The model knows it when it sees the clip alone: what is asked is whether it comes to see it.

    Args:
        data: the folders of data.
        folder: not used.
        seed: of the clips and their places.
        options: "strategy", of `glocal ask`; "context" in place of 16 frames in the last call.

    Returns:
        The share of right answers by length, and their mean.
    """
    street, photos = _street(data), [open_source(data / name, split="test") for name in ("clothing", "pets")]
    question = f"Which is seen: {', '.join(THINGS.values())}?"
    right = dict.fromkeys(LENGTHS, 0)
    with serving(_model(data)) as url:
        model = Endpoint(url, "noisy", max_calls=10**6, images=10**6, concurrency=1)
        for name, length in LENGTHS.items():
            draw = np.random.default_rng((seed, length))
            for _ in range(VIDEOS):
                wanted, clip = _recognised(_model(data), photos, draw)
                begin, place = int(draw.integers(len(street))), int(draw.integers(length - CLIP + 1))

                def frame(i: int, place: int = place, begin: int = begin, clip: bytes = clip) -> bytes:
                    at = (begin + i) % (2 * len(street))  # there and back
                    return clip if place <= i < place + CLIP else _jpeg(street, min(at, 2 * len(street) - 1 - at))

                told = {"segments": 12, "frames": SHOWN, "context": SHOWN, **options}
                reply = ask_frames(model, frame, length, question, **told)
                right[name] += reply.answer == wanted
    found = {name: count / VIDEOS for name, count in right.items()}
    return found | {"mean": float(np.mean(list(found.values())))}


def _recognised(model: NoisyModel, photos: list[ImageSource], draw: np.random.Generator) -> tuple[str, bytes]:
    """Something, and a photograph of it which the model names when it sees it alone."""
    by_class = {name: (source, k) for source in photos for k, name in enumerate(source.classes or [])}
    while True:
        name = str(draw.choice(list(THINGS)))
        source, label = by_class[name]
        clip = _jpeg(source, int(draw.choice(np.flatnonzero(source.labels == label))))
        if model.watch(model.posterior(clip)[None], list(THINGS.values()))["answer"] == THINGS[name]:
            return THINGS[name], clip


def _jpeg(source: ImageSource, i: int) -> bytes:
    return picture(source.open(i).decode(), SIZE)


@cache
def _model(data: Path) -> NoisyModel:
    return NoisyModel(Path(released(data, noisy.WEIGHTS)))


@cache
def _street(data: Path) -> ImageSource:
    """All frames of CamVid, by their names: sequence after sequence."""
    every: Sequence[ImageSource] = [open_source(data / "camvid", split=split) for split in ("train", "val", "test")]
    whole = ConcatSource(every)
    names = [Path(whole.key(i)).name for i in range(len(whole))]
    return Subset(whole, np.argsort(names, kind="stable"))
