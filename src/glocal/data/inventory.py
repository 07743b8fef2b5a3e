"""What a collection holds, written down, so that a run that goes on can tell what has changed."""

import json
from typing import Any

from glocal.data.files import shown
from glocal.data.source import ImageSource, sizes
from glocal.data.stream import Stream


def inventory(source: ImageSource) -> str:
    """The classes (JSON), and on a line for each sample, in order: its label, the bytes of its file, its key.

    What is not known is "-". The files are asked for their sizes, not opened. Of a stream, no sample.
    """
    unknown = ["-"] * (0 if isinstance(source, Stream) else len(source))
    labels = unknown if source.labels is None else source.labels.tolist()
    files: list[Any] = sizes(source) or unknown
    rows = [f"{a}\t{b}\t{shown(source.key(i))}" for i, (a, b) in enumerate(zip(labels, files, strict=True))]
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
    found = {
        "gone": [key for key in old if key not in new],
        "new": [key for key in new if key not in old],
        "of another size": [key for key in both if old[key][1] != new[key][1]],
        "of another label": [f"{k} from {old[k][0]} to {new[k][0]}" for k in both if old[k][0] != new[k][0]],
    }
    said = [
        f"{len(keys):,} {what}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
        for what, keys in found.items()
        if keys
    ]
    if old_classes != new_classes:
        said.append(f"classes {old_classes}, now {new_classes}")
    return "; ".join(said) or "another order"
