"""A page of images and what is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glocal.report.page import templates
from glocal.run import write_atomically


@dataclass(frozen=True)
class Card:
    """An image: its name, what is said of it, and pictures."""

    key: str
    words: str
    pictures: list[Image.Image]


def write_page(
    path: Path, title: str, remarks: Sequence[str], cards: Sequence[Card], legend: Mapping[str, str] | None = None
) -> None:
    """One HTML file that needs no network; every text in it is escaped. `legend`: what the colours (CSS) mean."""
    page = templates().get_template("predictions.html")
    write_atomically(path, page.render(title=title, remarks=remarks, cards=cards, legend=legend or {}))
