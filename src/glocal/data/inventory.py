"""What a collection holds, written down, so that a run that goes on can tell what has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from glocal.data.paths import shown
from glocal.data.source import ImageSource

_SHOWN = 3


def sizes(source: ImageSource) -> list[int] | None:
    """Bytes of each file. Asks `source.sizes()`, which a collection that is no files leaves out: None."""
    return getattr(source, "sizes", lambda: None)()


def inventory(source: ImageSource) -> str:
    """The classes (JSON), and on a line for each sample, in order: its label, the bytes of its file, its key.

    What is not known is "-". The files are asked for their sizes, not opened.
    """
    labels = ["-"] * len(source) if source.labels is None else source.labels.tolist()
    files: list[Any] = sizes(source) or ["-"] * len(source)
    rows = (
        f"{label}\t{size}\t{shown(source.key(i))}" for i, (label, size) in enumerate(zip(labels, files, strict=True))
    )
    return "\n".join([json.dumps(source.classes), *rows]) + "\n"


def changes(before: str, now: str) -> str:
    """What differs between two inventories of the same collection, in a few words; "" for nothing."""
    if before == now:
        return ""
    (old_classes, *old_rows), (new_classes, *new_rows) = before.rstrip("\n").split("\n"), now.rstrip("\n").split("\n")
    old, new = (
        {key: (label, size) for label, size, key in (row.split("\t", 2) for row in rows)}
        for rows in (old_rows, new_rows)
    )
    both = [key for key in old if key in new]
    relabelled = [f"{key} from {old[key][0]} to {new[key][0]}" for key in both if old[key][0] != new[key][0]]
    said = [
        _some("gone", [key for key in old if key not in new]),
        _some("new", [key for key in new if key not in old]),
        _some("of another size", [key for key in both if old[key][1] != new[key][1]]),
        _some("of another label", relabelled),
    ]
    if old_classes != new_classes:
        said.append(f"classes {old_classes}, now {new_classes}")
    found = [text for text in said if text]
    return "; ".join(found) or "another order"


def _some(what: str, names: Sequence[str]) -> str:
    """'2 new: a.jpg, b.jpg', or '' for none."""
    more = ", …" if len(names) > _SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:_SHOWN])}{more}" if names else ""
