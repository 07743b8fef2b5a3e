"""Labels checked by a model behind an endpoint, and what became of them on disk; see `glocal.curate`."""

import csv
import io
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from glocal.data.files import shown
from glocal.data.source import ImageSource, Unreadable, path_of
from glocal.errors import UsageError, did_you_mean
from glocal.evaluation.extract import extract, suited
from glocal.language.curate import Checked, check_labels, votes
from glocal.language.endpoint import Endpoint
from glocal.language.knowledge import KnowledgeBase
from glocal.progress import Progress
from glocal.report.predictions import Card, write_page
from glocal.run import write_atomically

CURATION, LABELS = "curation.csv", "labels.csv"
SHOWN = 200
"""Images of the page, at most."""
SIDE = 256
ORDER = ("correct", "drop", "no answer", "keep")
"""What the page shows first."""


def curate_source(
    encoder: Any,
    source: ImageSource,
    knowledge: KnowledgeBase,
    endpoint: Endpoint,
    *,
    out: Path,
    most: int,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Ask about the most doubtful labels, and write what is known of all, whatever happens meanwhile.

    Raises:
        UsageError: if there are no labels, none of them is in the knowledge base, or answers are missing.
    """
    if source.labels is None or source.classes is None:
        raise UsageError(
            f"{source.name} has no labels to check: a folder for each class, or a list with a column label"
        )
    unknown = [name for name in source.classes if not knowledge.find(name)]
    if len(unknown) == len(source.classes):
        names = [entity.name for entity in knowledge.entities]
        raise UsageError(
            f"no class of {source.name} is in --kb: not even '{unknown[0]}'{did_you_mean(unknown[0], names)}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made a folder: {error.strerror}") from error
    _refuse_work(out)
    workers, precision = suited(encoder, workers, None)
    bank = extract(encoder, source, workers=workers, precision=precision, progress=progress, **options)
    rows = [Checked("not asked", source.classes[label]) for label in source.labels]
    for i in set(range(len(source))) - set(bank.index.tolist()):
        rows[i] = Checked("unreadable", rows[i].label)
    assert bank.labels is not None
    shares, number = votes(bank.pooled, bank.labels, len(source.classes)), min(most, len(bank.pooled))
    asked: list[int] = []
    try:
        found = check_labels(source, bank.index.numpy(), shares, knowledge, endpoint, most=most)
        for i, checked in found:
            asked.append(i)
            rows[i] = checked
            if progress is not None:
                progress("labels checked", len(asked), number)
    finally:
        remarks = _remarks(rows, unknown, endpoint)
        page = _write(out, source, rows, asked, remarks)
        print("\n".join([*remarks, f"page: {page}"]), file=sys.stderr)
    if missing := [i for i in asked if rows[i].decision == "no answer"]:
        first = f"{source.key(missing[0])}: {rows[missing[0]].rationale}"
        raise UsageError(
            f"{len(missing)} of {len(asked)} answers cannot be used, the first of {first}; all else is in {out}"
        )
    return page


def _refuse_work(out: Path) -> None:
    """A labels.csv that the curation beside it did not write, or that was changed since, is somebody's work."""
    try:
        labels = [row["label"] for row in _read_csv(out / LABELS)]
        made = [row["new_label"] for row in _read_csv(out / CURATION) if row["new_label"]]
    except FileNotFoundError:
        same = not (out / LABELS).exists()
    except (OSError, ValueError, KeyError, csv.Error):
        same = False
    else:
        same = labels == made
    if not same:
        raise UsageError(f"{out / LABELS} is not as glocal curate leaves it: give another --out, or move that file")


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _remarks(rows: list[Checked], unknown: list[str], endpoint: Endpoint) -> list[str]:
    count = Counter(row.decision for row in rows)
    said = f"{len(rows):,} labels: {count['keep']:,} right, {count['correct']:,} corrected, {count['drop']:,} dropped"
    said += "".join(f", {count[other]:,} {other}" for other in ("no answer", "not asked", "unreadable") if count[other])
    lacking = [f"without an entry in the knowledge base: {', '.join(unknown[:5])}{', …' * (len(unknown) > 5)}"]
    return [said, *(lacking if unknown else []), endpoint.spent]


def _write(out: Path, source: ImageSource, rows: list[Checked], asked: list[int], remarks: list[str]) -> Path:
    """curation.csv, labels.csv, curation.html."""
    assert source.classes is not None
    assert source.labels is not None
    old = [source.classes[label] for label in source.labels]
    table = [
        [source.key(i), old[i], row.label or "", row.decision, _cell(row.rationale), _cell(_questions(row))]
        for i, row in enumerate(rows)
    ]
    head = ["path", "old_label", "new_label", "decision", "rationale", "qa"]
    _write_csv(out / CURATION, [head, *table])
    kept = [[_path(source, i, out), row.label] for i, row in enumerate(rows) if row.label is not None]
    _write_csv(out / LABELS, [["path", "label"], *kept])
    first = sorted(asked, key=lambda i: ORDER.index(rows[i].decision))[:SHOWN]
    cards = [Card(source.key(i), _words(old[i], rows[i]), _pictures(source, i)) for i in first]
    write_page(out / "curation.html", f"Labels: {source.name}", remarks, cards)
    return out / "curation.html"


def _words(old: str, row: Checked) -> str:
    what = {"keep": old, "correct": f"{old} → {row.label}", "drop": f"{old} → none", "no answer": f"{old} (no answer)"}
    return ". ".join(part.rstrip(".") for part in (what[row.decision], row.rationale, _questions(row)) if part)


def _questions(row: Checked) -> str:
    return " ".join(f"{question} {answer}" for question, answer in row.qa)


def _cell(text: str) -> str:
    """A model's text as a cell: no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _path(source: ImageSource, i: int, out: Path) -> str:
    """Where an image is, from the table that names it; the key of one that is no file."""
    path = path_of(source, i)
    return source.key(i) if path is None else shown(os.path.relpath(path, out))


def _pictures(source: ImageSource, i: int) -> list[Image.Image]:
    try:
        opened = source.open(i)
        image = Image.fromarray(opened.decode(min(1.0, SIDE / max(opened.size))))
    except Unreadable:  # since it was asked about
        return []
    image.thumbnail((SIDE, SIDE))
    return [image]


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())
