"""What a fine-tuned encoder says of images, written where a person wants it; see `glocal.predict`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glocal.adaptation import Predictions, predictions
from glocal.adaptation.heads import has
from glocal.adaptation.ranked import read_names, twins
from glocal.data import open_source
from glocal.data.source import ImageSource, fingerprint
from glocal.errors import UsageError
from glocal.evaluation.extract import suited
from glocal.report.predictions import Card, write_page
from glocal.run import OutFiles, write_atomically

SHOWN = 200
"""Images of a page, at most."""
SIDE = 256
"""Longer side of a picture on it, pixels."""


def told(encoder: Any, head: Any, names: str | None, memory: str | None, **options: Any) -> None:
    """Let a head choose among these names, and look at these images with captions."""
    for option, given, needed in (("names", names, "choose"), ("memory", memory, "look_at")):
        if given is not None and not hasattr(head, needed):
            raise UsageError(f"--{option} is nothing for this head, which knows its {len(head.classes)} classes")
    if memory is not None:
        options["workers"], options["precision"] = suited(encoder, options["workers"], options["precision"])
        head.look_at(encoder, open_source(memory, split="all"), **options)
    if names is not None:
        head.choose(listed := read_names(names))
        for remark in twins(listed):
            print(remark, file=sys.stderr)


def predict_source(
    encoder: Any,
    head: Any,
    source: ImageSource,
    *,
    out: str | None = None,
    page: str | None = None,
    draw: str | None = None,
    workers: int | None = None,
    precision: Any = None,
    **options: Any,
) -> Predictions | Path:
    """Go through the images once: write, show and, where their answers are known, count."""
    workers, precision = suited(encoder, workers, precision)
    skipped: list[tuple[str, str]] = []
    said = predictions(encoder, head, source, **options, workers=workers, precision=precision, skipped=skipped)
    result = Predictions([], [], head.classes, skipped)
    truth, shown, tallies = _truth(head, source), list[Card](), []
    if out is not None and out.endswith(".html"):
        out, page = None, out
    for option, folder in (("--out", out), ("--draw", draw)):
        if folder is not None and Path(folder).resolve() in _places(source):
            raise UsageError(f"{option} {folder} is where the photographs are: name a place of its own")
    drawn = OutFiles(Path(draw or ""), ".png")
    chosen = {n * len(source) // min(SHOWN, len(source)) for n in range(min(SHOWN, len(source)))} if page else set()

    def answers() -> Iterator[tuple[str, np.ndarray]]:
        for i, answer in said:
            if i in truth:
                tallies.append(head.tally(answer, *truth[i]))
            if i in chosen:
                shown.append(_card(head, source, i, answer))
            if draw is not None:
                _draw(head, source, i, answer, drawn)
            yield source.key(i), answer

    if out is not None:
        head.write(Path(out), answers())
    else:
        for key, answer in answers():
            if page is None:
                result.paths.append(key)
                result.answers.append(answer)
    count = len(source) - len(skipped)
    lines = [f"{count:,} of {len(source):,} images predicted"]
    if skipped:
        lines[0] += f"; the others could not be read, the first being {skipped[0][0]} ({skipped[0][1]})"
    if tallies:
        found = "  ".join(f"{name} {value:.3f}" for name, value in head.scores(sum(tallies)).items())
        lines.append(f"{found} on the {len(tallies):,} whose answers are known")
    if draw is not None:
        lines.append(f"drawn: {draw}")
    if page is not None:
        remarks = [*lines, *(f"{key}: {why}" for key, why in skipped)]
        legend = head.legend() if hasattr(head, "legend") else None
        write_page(Path(page), f"Predictions: {source.name}", remarks, shown, legend)
        lines.append(f"page: {page}")
    print("\n".join(lines), file=sys.stderr)
    return Path(out or page) if out or page else result  # type: ignore[arg-type]


def _places(source: ImageSource) -> set[Path]:
    """The folder and list of a collection, where it is of files."""
    found = fingerprint(source)
    place = Path(found[0] if found else source.name)
    return {place, place.parent} if place.is_file() else {place}


def _truth(head: Any, source: ImageSource) -> dict[int, tuple[ImageSource, int]]:
    """By position, where the answer of an image is known: in which collection, and its position there."""
    if not has(source, head.needs):
        return {}
    try:
        known: Any = head.read(source, head.classes).source
    except UsageError as refusal:  # its folders mean something else, perhaps
        print(f"not scored: {refusal}", file=sys.stderr)
        return {}
    return {int(i): (known, row) for row, i in enumerate(known.positions)}


def _card(head: Any, source: ImageSource, i: int, answer: np.ndarray) -> Card:
    opened = source.open(i)
    image = Image.fromarray(opened.decode(min(1.0, SIDE / max(opened.size))))
    image.thumbnail((SIDE, SIDE))
    pictures, words = head.shown(image, answer, image.width / opened.size[0])
    return Card(source.key(i), words, pictures)


def _draw(head: Any, source: ImageSource, i: int, answer: np.ndarray, files: OutFiles) -> None:
    """The last of an image's pictures, in its full size, as PNG."""
    pictures, _ = head.shown(Image.fromarray(source.open(i).decode()), answer)
    write_atomically(files.of(source.key(i)), lambda path: pictures[-1].save(path, format="PNG"))
