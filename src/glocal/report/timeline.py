"""A page of the phases of a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glocal.report.page import templates
from glocal.run import write_atomically


@dataclass(frozen=True)
class Stretch:
    """One phase of a video, from one second to another, how sure that is (0 to 1), and its middle frame."""

    phase: int
    start: float
    end: float
    sure: float
    picture: Image.Image | None

    @property
    def when(self) -> str:
        """From when to when, minutes:seconds."""
        return " to ".join(f"{int(at) // 60}:{int(at) % 60:02d}" for at in (self.start, self.end))


def write_timeline(
    path: Path,
    title: str,
    remarks: Sequence[str],
    names: Sequence[str],
    stretches: Sequence[Stretch],
    marks: Sequence[float],
) -> None:
    """One HTML file that needs no network: a bar of all stretches, with the seconds of the marks, and a card each."""
    page = templates().get_template("timeline.html")
    length = max(stretches[-1].end, 1e-9)
    write_atomically(
        path,
        page.render(title=title, remarks=remarks, names=names, stretches=stretches, marks=marks, length=length),
    )
