"""Tables of phases: the frames that somebody marked, and what was made of them, to be corrected and read again."""

import csv
import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glocal.data.clips import ClipSource
from glocal.data.filelist import rows_of
from glocal.errors import UsageError, did_you_mean
from glocal.run import write_atomically


@dataclass(frozen=True)
class Marks:
    """Marked frames.

    Attributes:
        names: of the K phases, in the order in which they are first met.
        frames: (M,) different frames, in the order of time.
        phases: (M,) positions in `names`.
    """

    names: list[str]
    frames: np.ndarray
    phases: np.ndarray


def read_marks(
    path: str | Path, source: ClipSource, names: list[str] | None = None, *, all_of_them: bool = True
) -> Marks:
    """The marks of a table with the column `frame`, a number from 0 or a frame's name, or `time`, seconds; and `phase`.

    Where there is a column `mark`, as in the table that `write_phases` writes, it is that, where it is not empty.

    Args:
        path: a .csv file.
        source: the frames of the video.
        names: the phases there are; None: those that are marked.
        all_of_them: whether each has to be marked.

    Raises:
        UsageError: for marks outside the video, two phases on one frame, an unknown phase, or one never marked.
    """
    rows = rows_of(path)
    columns = set(rows[0]) if rows else set()
    said, where = "mark" if "mark" in columns else "phase", "frame" if "frame" in columns else "time"
    if not {said, where} <= columns:
        raise UsageError(f"{path} has no marks: its first line is to be frame,phase or time,phase")
    by_key = {source.key(i): i for i in range(len(source))}
    found: dict[int, str] = {}
    for line, row in enumerate(rows, start=2):
        word, phase = row[where], row[said]
        if not phase:
            continue
        frame = by_key.get(word) if where == "frame" else None
        frame = _frame(word, where, source) if frame is None else frame
        if frame is None:
            raise UsageError(f"{path}, line {line}: {where} {word!r} is not in the video, of {_extent(source)}")
        if found.setdefault(frame, phase) != phase:
            raise UsageError(f"{path}, line {line}: the frame {word} is both {found[frame]!r} and {phase!r}")
        if names is not None and phase not in names:
            raise UsageError(f"{path}, line {line}: no phase is called {phase!r}{did_you_mean(phase, names)}")
    frames = sorted(found)
    marked = list(dict.fromkeys(found[frame] for frame in frames))
    if lacking := [name for name in names or [] if all_of_them and name not in marked]:
        raise UsageError(f"{path} never marks the phase {lacking[0]!r}: mark a frame of it, or leave it out")
    if not marked:
        raise UsageError(f"{path} marks no frame: write a phase beside some")
    order = names or marked
    return Marks(order, np.array(frames), np.array([order.index(found[frame]) for frame in frames]))


def write_phases(
    path: Path, source: ClipSource, names: list[str], probability: np.ndarray, marks: Marks | None
) -> Path | None:
    """A line for each frame: its number, name, second, phase, how sure that is, and `mark`, where it was marked.

    To correct it, write the right phase under `mark` beside some frames, and give the table as --marks. A table that is
    there and has marks that this one lacks is kept beside it.

    Returns:
        Where that is now, if so.
    """
    phase, sure = probability.argmax(1), probability.max(1)
    mark = {int(i): names[k] for i, k in zip(marks.frames, marks.phases, strict=True)} if marks else {}
    kept = None
    if path.exists() and not _marks_in(path) <= {(str(i), name) for i, name in mark.items()}:
        places = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(1))
        path.rename(kept := next(place for place in places if not place.exists()))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["frame", "name", "time", "phase", "probability", "mark"])
    for i in range(len(source)):
        second = f"{source.time[i]:.3f}"
        table.writerow([i, source.key(i), second, names[phase[i]], f"{sure[i]:.3f}", mark.get(i, "")])
    write_atomically(path, text.getvalue())
    return kept


def _marks_in(path: Path) -> set[tuple[str, str]]:
    """Frame and phase of the marks of a table that `write_phases` wrote; of any other file, one that no table has."""
    try:
        return {(row["frame"], row["mark"]) for row in rows_of(path) if row["mark"]}
    except (UsageError, KeyError):
        return {("", "")}


def _frame(word: str, where: str, source: ClipSource) -> int | None:
    """The frame of this number, or the one that is shown at this second."""
    try:
        value = float(word)
    except ValueError:
        return None
    if where == "frame":
        return int(value) if value.is_integer() and 0 <= value < len(source) else None
    step = source.time[-1] - source.time[-2]
    inside = source.time[0] <= value < source.time[-1] + step
    return int(np.abs(source.time - value).argmin()) if inside else None


def _extent(source: ClipSource) -> str:
    return f"{len(source):,} frames, {source.time[0]:g} to {source.time[-1]:g} s"
