"""What heads share that choose among many names: lists of these, and answers that are the few likeliest."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from glocal.adaptation.classify import Classify
from glocal.adaptation.codebook import Codebook
from glocal.data.files import existing
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.run import write_atomically

TOP = 5
"""Names that are said of an image, at most."""
NONE = "none of these"


def read_names(path: str | Path) -> list[str]:
    """The names in a file, one a line, or in the codes.json of a run.

    Raises:
        UsageError: if there is none, or an empty one.
    """
    path = existing(Path(path))
    if path.suffix == ".json":
        return Codebook.open(path).names
    try:
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from error
    if "" in lines:
        raise UsageError(f"{path}: the name in line {lines.index('') + 1} is empty; write one, or delete the line")
    return lines


def twins(names: list[str]) -> list[str]:
    """A sentence on the names that are there more than once, if any."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    some = ", ".join(twice[:3]) + (", …" if len(twice) > 3 else "")
    one = len(twice) == 1
    said = (
        f"{len(twice):,} name{'' if one else 's'} {'is' if one else 'are'} there more than once ({some}): each time is"
    )
    said += " a name of its own, and a label means the first"
    return [said] if twice else []


class Ranked(Classify):
    """A head whose answer is (k, 2): the numbers of the likeliest names, the first one first, and their probabilities.

    `threshold` is the probability under which it says that it is none of them.
    """

    few = 10**9
    lr = 1e-4
    threshold: float = 0.0

    def tally(self, answer: np.ndarray, source: ImageSource, i: int) -> np.ndarray:
        """Whether the first is right, whether one of the first five is, and 1."""
        assert source.labels is not None
        right = answer[:, 0] == source.labels[i]
        return np.array([right[0], right.any(), 1], dtype=np.float64)

    def scores(self, tallies: np.ndarray) -> dict[str, float]:
        """The share of images whose first name is right, and of those with the right one among five."""
        return {"top1": float(tallies[0] / max(tallies[2], 1)), "top5": float(tallies[1] / max(tallies[2], 1))}

    def write(self, out: Path, answers: Iterable[tuple[str, np.ndarray]]) -> None:
        """A table: image_path, label, probability, then the likeliest names, each with its probability."""
        if out.suffix.lower() != ".csv":
            raise UsageError(f"names are written as a table: end '{out.name}' in .csv")
        text, width = io.StringIO(), min(TOP, len(self.classes))
        table = csv.writer(text, lineterminator="\n")
        columns = [f"{what}_{n}" for n in range(1, width + 1) for what in ("name", "probability")]
        table.writerow(["image_path", "label", "probability", *columns])
        for key, answer in answers:
            row = [cell for n, p in answer for cell in (self.classes[int(n)], f"{p:.6g}")]
            table.writerow([key, self.said(answer), row[1], *row])
        write_atomically(out, text.getvalue().encode("utf-8", "backslashreplace").decode())

    def said(self, answer: np.ndarray) -> str:
        """The first name, or that it is none."""
        return self.classes[int(answer[0, 0])] if answer[0, 1] >= self.threshold else NONE

    def shown(self, image: Image.Image, answer: np.ndarray, scale: float = 1.0) -> tuple[list[Image.Image], str]:
        """The image; what is said of it, and the names that come first."""
        ranked = ", ".join(f"{self.classes[int(n)]} {p:.0%}" for n, p in answer[:3])
        return [image], ranked if self.said(answer) != NONE else f"{NONE} ({ranked})"
