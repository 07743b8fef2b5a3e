"""An index of photographs, made or brought up to date, and what is found in it; see `glocal.index`, `glocal.search`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from glocal.data import ImageSource, Subset, Unreadable, code_of, open_source
from glocal.data.files import existing
from glocal.data.images import open_image
from glocal.data.source import OpenImage, fingerprint, stamps
from glocal.errors import UsageError
from glocal.evaluation.extract import CROP_PCT, NothingReadable, eval_image, extract, suited
from glocal.plugins import refuse_untrusted
from glocal.progress import Progress
from glocal.report.predictions import Card, write_page
from glocal.report.visuals import features_of
from glocal.retrieval import Index

SIDE = 256
"""Longer side of a picture of a page, pixels."""
MADE = "image_size", "crop_pct", "data", "split", "which"
"""What the features of one index have in common."""


@dataclass(frozen=True)
class Match:
    """A photograph that was found: its name, its cosine similarity, and where, (x, y) in its pixels."""

    key: str
    score: float
    place: tuple[float, float] | None = None


def absolute(spec: Any) -> Any:
    """A spec of data or of an encoder, or a list of such, that means the same from any folder."""
    if isinstance(spec, list):
        return [absolute(part) for part in spec]
    return str(Path(spec).resolve()) if isinstance(spec, str) and Path(spec).exists() else spec


def index_source(
    encoder: Any,
    source: ImageSource,
    out: Path,
    about: dict[str, Any],
    *,
    dense: bool,
    batch_size: int,
    workers: int | None,
    precision: Any,
    progress: Progress | None = None,
) -> Path:
    """The index of a collection at `out`; of one that is there, only what is new, has changed or is gone is touched."""
    keys = [source.key(i) for i in range(len(source))]
    if len(set(keys)) < len(keys):
        raise UsageError(f"two images of {source.name} have one name: index the folder that all are in")
    states: list[Any] = stamps(source) or [list(fingerprint(source) or ())] * len(keys)
    now = dict(zip(keys, states, strict=True))
    about |= {"image_size": about["asked_size"] or encoder.image_size, "crop_pct": None if dense else CROP_PCT}
    index, before = None, dict[str, Any]()
    if out.exists():
        index = open_index(out)
        if (index.dense is not None) != dense:
            made = "with" if index.dense is not None else "without"
            raise UsageError(f"{out} was made {made} --dense: do so again, or give another --out")
        _refuse_others(index, encoder, about, out)
        before = index.about.get("state", {})
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"--out {out} cannot be written in {folder}")
    fresh = [i for i, key in enumerate(keys) if not now[key] or before.get(key) != now[key]]
    gone = before.keys() - now.keys()
    workers, precision = suited(encoder, workers, precision)
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision}
    settings |= {"image_size": about["image_size"], "crop_pct": about["crop_pct"]}
    unreadable: dict[str, str] = {} if index is None else index.about.get("unreadable", {})
    unreadable = {key: why for key, why in unreadable.items() if key in now and before.get(key) == now[key]}
    bank = None
    if fresh:
        try:
            bank = extract(encoder, Subset(source, np.array(fresh)), dense=dense, progress=progress, **settings)
            unreadable |= dict(bank.skipped)
        except NothingReadable:
            if index is None:
                raise
            unreadable |= {keys[i]: "unreadable" for i in fresh}
    about |= {"state": now, "unreadable": unreadable}
    if index is None:
        assert bank is not None
        about["cells"] = None if bank.cells is None else bank.cells.flatten(0, 1).tolist()
        index = Index.build(bank, encoder, about)
        index.save(out)
    elif fresh or gone:
        index.add(bank, {*gone, *(keys[i] for i in fresh)})
        index.about |= about
        if not len(index):
            raise UsageError(f"none of the {len(keys)} images of {source.name} can be read")
        index.save(out)
    said = f"{len(index):,} images in {out}: {len(fresh):,} new or changed, {len(gone):,} gone"
    first = next(iter(unreadable.items()), None)
    said += f"; {len(unreadable):,} could not be read, the first being {first[0]} ({first[1]})" if first else ""
    print(f"{said}; {source.note}" if source.note else said, file=sys.stderr)
    return out


def _refuse_others(index: Index, encoder: nn.Module, about: dict[str, Any], out: Path) -> None:
    """What an index can be brought up to date with is of the same encoder, photographs and settings."""
    hint = f"give another --out, or remove {out}"
    try:
        index.check(encoder)
    except UsageError as error:
        raise UsageError(f"{error}, or {hint}") from error
    for name in MADE:
        if index.about.get(name) != about[name]:
            what = name.replace("_", " ")
            raise UsageError(f"{out} has {what} {index.about.get(name)}, not {about[name]}: {hint}")


def open_index(path: str | Path) -> Index:
    """The index that `index_source` made; `UsageError` if it is another, from which nobody can tell the photographs."""
    index = Index.open(path)
    about: dict[str, Any] = index.about
    crop: Any = about.get("crop_pct")
    cells: Any = about.get("cells")
    number = lambda x: type(x) in (int, float)
    sizes = [about.get("image_size"), about.get("asked_size") or 1]
    good = all(type(size) is int and 1 <= size <= 8192 for size in sizes)
    good &= crop is None or (number(crop) and 0.01 <= crop <= 1)
    good &= all(isinstance(about.get(name, {}), dict) for name in ("state", "unreadable"))
    if index.dense is not None:
        good &= isinstance(cells, list) and len(cells) == index.dense.shape[1]
        good = good and all(isinstance(cell, list) and len(cell) == 2 and all(map(number, cell)) for cell in cells)
    if not good:
        raise UsageError(f"{path} does not say how its photographs were looked at; glocal index makes such that do")
    return index


def search_index(
    encoder: Any,
    index: Index,
    query: Path,
    k: int,
    *,
    at: tuple[int, int] | None = None,
    page: Path | None = None,
    trust_code: bool = False,
) -> list[Match]:
    """What is most like an image, or like a place (x, y) of it, in its pixels; also on a page, if one is asked for."""
    index.check(encoder)
    about, size = index.about, index.about["image_size"]
    try:
        image = open_image(existing(query))
        target = size if about["crop_pct"] is None else round(size / about["crop_pct"])
        pixels = Image.fromarray(image.decode(min(1.0, target / min(image.size))))  # as photographs are looked at
    except Unreadable as error:
        raise UsageError(f"{query}: {error}") from error
    features = next(features_of(encoder, [eval_image(pixels, size, about["crop_pct"])]))
    asked: tuple[float, float] | None = None
    if at is None:
        vector = features.pooled[0]
    else:
        if not (0 <= at[0] < image.size[0] and 0 <= at[1] < image.size[1]):
            raise UsageError(f"--at {at[0]},{at[1]} is outside of {query}, which is {image.size[0]}×{image.size[1]}")
        looks = features.positions.reshape(-1, features.tokens.shape[1], 2)[0].cpu()
        inside = torch.tensor([at[0] * size / image.size[0], at[1] * size / image.size[1]])
        cell = int((looks - inside).square().sum(1).argmin())
        x, y = (float(part) * side / size for part, side in zip(looks[cell], image.size, strict=True))
        vector, asked = features.tokens[0, cell], (x, y)
    vector = vector.float().cpu()
    scores, ids = index.search(vector[None], k, dense=at is not None)
    found = [Match(index.keys[i], score) for i, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True)]
    if at is None and page is None:
        return found
    code = code_of(about.get("data"))
    refuse_untrusted(code, origin="the index", trust_code=trust_code, command="glocal search ... --trust-code")
    try:
        source = open_source(about.get("data"), split=about.get("split"))
    except UsageError as gone:
        print(f"the photographs cannot be shown: {gone}", file=sys.stderr)
        return found
    row = {source.key(i): i for i in range(len(source))}
    cards = [_card("the query", str(query), image, asked, encoder.stride / size)]
    for n, match in enumerate(found):
        opened, words = None, f"{match.score:.3f}"
        try:
            opened = source.open(row[match.key])
        except (KeyError, Unreadable):
            words += ", no longer there"
        if at is not None and opened is not None:
            cell = about["cells"][index.cell_of(vector, int(ids[0, n]))]
            place = tuple(part * side / size for part, side in zip(cell, opened.size, strict=True))
            found[n] = match = Match(match.key, match.score, (place[0], place[1]))
        if source.captions and opened is not None:
            words += f": {source.captions[row[match.key]] or ''}"
        if page is not None:
            cards.append(_card(words, match.key, opened, match.place, encoder.stride / size))
    if page is not None:
        write_page(page, f"Search: {query.name}", [f"{len(index):,} images of {source.name}"], cards)
        print(f"page: {page}", file=sys.stderr)
    return found


def _card(words: str, key: str, image: OpenImage | None, place: Sequence[float] | None, side: float) -> Card:
    """A picture, with a square around a place, of a side that is such a part of the image's."""
    if image is None:
        return Card(key, words, [])
    try:
        picture = Image.fromarray(image.decode(min(1.0, SIDE / max(image.size))))
    except Unreadable as error:
        return Card(key, f"{words}, {error}", [])
    picture.thumbnail((SIDE, SIDE))
    if place is not None:
        x, y = (part * now / before for part, now, before in zip(place, picture.size, image.size, strict=True))
        w, h = (max(4.0, side * now / 2) for now in picture.size)
        ImageDraw.Draw(picture).rectangle((x - w, y - h, x + w, y + h), outline="red", width=2)
    return Card(key, words, [picture])
