"""Frames to ask about, and the page of an answer; see `glocal.ask`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image

from glocal.data import ArraySource, Subset, open_source
from glocal.data.files import EXTENSIONS, existing, is_a
from glocal.data.images import open_image
from glocal.data.source import ImageSource, Unreadable
from glocal.data.video import VideoSource
from glocal.errors import UsageError
from glocal.evaluation.extract import extract, suited
from glocal.language.ask import Reply
from glocal.language.endpoint import Endpoint
from glocal.progress import Progress
from glocal.report.predictions import Card, write_page

SIDE = 384
"""Longer side of a frame, pixels."""


def open_frames(video: str) -> ImageSource:
    """The frames of a film; the images of a folder or a list in the order of the numbers in their names."""
    if Path(video).is_file() and not is_a(video, EXTENSIONS | {".txt", ".csv"}):
        return VideoSource(video)
    source = open_source(video)
    if len(folders := sorted({str(Path(source.key(i)).parent) for i in range(len(source))})) > 1:
        raise UsageError(f"{video} holds {len(folders)} folders of frames ({folders[0]}, …): give one of them")

    def place(i: int) -> list[tuple[int, str]]:
        return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", source.key(i))]

    return Subset(source, np.array(sorted(range(len(source)), key=place)))


def frame(source: ImageSource, i: int) -> np.ndarray:
    """The pixels of a frame, not much larger than `SIDE`."""
    try:
        opened = source.open(i)
        return opened.decode(min(1.0, SIDE / max(opened.size)))
    except Unreadable as error:
        raise UsageError(f"the frame {source.key(i)} cannot be read ({error}); take it away") from error


def nearest_to_example(
    encoder: Any, source: ImageSource, example: str, *, workers: int | None, progress: Progress | None, **options: Any
) -> list[int]:
    """Positions of the frames, those most like an image first."""
    try:
        pixels = open_image(existing(Path(example))).decode()
    except Unreadable as error:
        raise UsageError(f"--example {example} cannot be read: {error}") from error
    workers, precision = suited(encoder, workers, None)
    query = extract(encoder, ArraySource(pixels[None]), precision=precision, **options).pooled
    bank = extract(encoder, source, workers=workers, precision=precision, progress=progress, **options)
    order = F.cosine_similarity(bank.pooled, query).argsort(descending=True, stable=True)
    return bank.index[order].tolist()


def nearest_to_question(endpoint: Endpoint, captions: Sequence[str | None], question: str) -> list[int]:
    """Positions of the frames that have captions, those whose caption is nearest to the question first."""
    told = [(i, caption) for i, caption in enumerate(captions) if caption]
    if len(told) < len(captions):
        print(f"{len(captions) - len(told):,} of {len(captions):,} frames have no caption: left out", file=sys.stderr)
    vectors = endpoint.embed([question, *(caption for _, caption in told)])
    return [told[k][0] for k in (-(vectors[1:] @ vectors[0])).argsort(kind="stable")]


def write_reply(path: Path, source: ImageSource, question: str, reply: Reply) -> None:
    """A page with the answer, the frames that show it, and the others that the model saw."""
    cards = []
    for i in [*reply.frames, *(i for i in reply.seen if i not in set(reply.frames))]:
        image = Image.fromarray(frame(source, i))
        image.thumbnail((SIDE, SIDE))
        cards.append(Card(source.key(i), "shows it" if i in reply.frames else "", [image]))
    write_page(path, question, [reply.answer, reply.justification, *reply.notes], cards)
    print(f"page: {path}", file=sys.stderr)
