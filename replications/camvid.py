"""CamVid by its sequences: `python -m replications.camvid FOLDER groups.csv [ENCODER ...] [--image-size N] [--page]`.

Writes the table of groups that the names of its files give, for `glocal evaluate --groups`. The splits share sequences,
so that a frame's neighbours were trained on; each encoder's segmentation is therefore scored on each sequence after
training on the others. `--page` puts these scores into docs/fair.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data import ImageSource, Subset, open_source
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.groups import by_group, group_lines, with_groups
from glocal.run import write_atomically
from replications.pages import insert, table as table_of

COLUMN = "sequence"


def table(source: ImageSource) -> str:
    """The sequence of each frame: what stands before the first _ in its name."""
    keys = [source.key(i) for i in range(len(source))]
    return "\n".join([f"image,{COLUMN}", *(f"{key},{Path(key).name.partition('_')[0]}" for key in keys)]) + "\n"


def leave_one_out(encoder: Any, source: ImageSource, *, image_size: int, task: str = "segment", **options: Any) -> dict:
    """`by_group` of a task that is scored on each sequence after learning from the others."""
    groups = (source.groups or {})[COLUMN]
    found = []
    for sequence in range(len(groups.names)):
        own = np.flatnonzero(groups.of == sequence)
        others = np.setdiff1d(np.arange(len(source)), own)
        context = EvalContext(encoder, Subset(source, others), Subset(source, own), image_size)
        find_task(task)(context, **options)
        assert context.each is not None
        found.append(replace(context.each, index=own[context.each.index]))
    index, parts = (np.concatenate([getattr(each, name) for each in found]) for name in ("index", "parts"))
    return by_group(replace(found[0], index=index, parts=parts, top=None), groups)


def rows(results: dict[str, dict[str, Any]]) -> str:
    """A table: each encoder's score in each sequence, the gap between the extremes, and the gap by chance."""
    sequences = list(next(iter(results.values()))["groups"])
    lines = []
    for encoder, found in results.items():
        scores = [f"{100 * found['groups'][name]['score']:.1f}" for name in sequences]
        low, high = (100 * end for end in found["gap_interval"])
        lines.append(
            [encoder, *scores, f"{100 * found['gap']:.1f} [{low:.1f}, {high:.1f}]", f"{100 * found['chance']:.1f}"]
        )
    images = [f"{name} ({next(iter(results.values()))['groups'][name]['images']})" for name in sequences]
    return table_of(["encoder", *images, "gap", "by chance"], lines)


def main() -> None:
    from glocal import load

    parser = argparse.ArgumentParser(prog="python -m replications.camvid", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("encoders", nargs="*")
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--page", action="store_true", help="write the scores into docs/fair.md")
    asked = parser.parse_args()
    source = open_source(asked.folder, split="all")
    write_atomically(asked.table, table(source))
    source, _ = with_groups(source, source, asked.table)
    results = {}
    for encoder in asked.encoders:
        results[Path(encoder).stem] = found = leave_one_out(load(encoder), source, image_size=asked.image_size)
        print("\n".join([f"{encoder}, each sequence after training on the others:", *group_lines(COLUMN, found)]))
    if asked.page:
        insert("fair.md", rows(results))


if __name__ == "__main__":
    main()
