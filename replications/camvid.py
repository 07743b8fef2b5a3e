"""CamVid by its sequences: `python -m replications.camvid FOLDER groups.csv [ENCODER ...] [--image-size N]`.

Writes the table of groups that the names of its files give, for `glocal evaluate --groups`. The splits share sequences,
so that a frame's neighbours were trained on; each encoder's segmentation is therefore scored on each sequence after
training on the others.
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


def main() -> None:
    from glocal import load

    parser = argparse.ArgumentParser(prog="python -m replications.camvid", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("encoders", nargs="*")
    parser.add_argument("--image-size", type=int, default=192)
    asked = parser.parse_args()
    source = open_source(asked.folder, split="all")
    write_atomically(asked.table, table(source))
    source, _ = with_groups(source, source, asked.table)
    for encoder in asked.encoders:
        found = leave_one_out(load(encoder), source, image_size=asked.image_size)
        print("\n".join([f"{encoder}, each sequence after training on the others:", *group_lines(COLUMN, found)]))


if __name__ == "__main__":
    main()
