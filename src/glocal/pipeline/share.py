"""One look at the data for all processes that see the same files."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist

from glocal.data import ImageSource, inventory, is_text, listed, open_source, open_texts
from glocal.data.source import fingerprint
from glocal.distributed import PATIENCE, each_says, on_each, rank, world_size
from glocal.errors import UsageError


def open_together(spec: Any) -> tuple[Any, ImageSource]:
    """The data as `glocal.data.listed` has it, and its images to pretrain on, the same ones on all processes.

    Of those that see one folder, by path and by what the file system says of it, the first looks through it and asks
    the files for their sizes and times; the others hear from it, and wait however long it takes. Hosts with copies of
    their own look each for itself.

    Raises:
        UsageError: on all processes, where one cannot open the data, or sees other images, labels or classes.
    """
    if is_text(spec):  # each process reads it for itself
        return spec, on_each(lambda: open_texts(spec))  # type: ignore[return-value]
    if world_size() == 1:
        data = listed(spec)
        return data, open_source(data)
    places = each_says(_place(spec))
    same = [[r for r, place in enumerate(places) if place == other] for other in dict.fromkeys(places)]
    groups: tuple[Any, Any] = dist.new_subgroups_by_enumeration(same, timeout=PATIENCE, backend="gloo")
    first = places.index(places[rank()])
    found = on_each(lambda: _look(spec) if rank() == first else None)
    heard = [found and found[0]]
    if places.count(places[rank()]) > 1:  # what is in memory stays there
        dist.broadcast_object_list(heard, src=first, group=groups[0])
    source = on_each(lambda: found[1] if found else open_source(heard[0]))
    seen = each_says(hashlib.sha256(inventory(source).encode()).hexdigest())
    if other := [str(r) for r, digest in enumerate(seen) if digest != seen[0]]:
        who = f"rank {', '.join(other)} not the data that rank 0 sees"
        raise UsageError(f"the processes see different data at {source.name}, {who}; give all of them the same files")
    return heard[0], source


def _look(spec: Any) -> tuple[Any, ImageSource]:
    data = listed(spec)
    source = open_source(data)
    fingerprint(source)  # the others need not ask the files, either
    return data, source


def _place(spec: Any) -> Any:
    """Equal on processes that see the same files; of what is in memory nobody knows."""
    if isinstance(spec, list | tuple):
        return tuple(map(_place, spec))
    if not isinstance(spec, str | Path):
        return rank()
    try:
        found = os.stat(spec)
    except OSError:  # a plug-in, or nothing
        return str(spec)
    return str(Path(spec).resolve()), found.st_ino, found.st_ctime_ns
