"""Where in a video is the answer? Temporal Chain of Thought (Arnab et al. 2025, arXiv:2507.02001).

The model that answers first says which frames it needs: asked segment by segment of frames spread over each, or once
for the whole, or again and again for what lies around the last choice. It answers from the chosen frames and from some
spread over everything.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glocal.errors import UsageError
from glocal.language.endpoint import Endpoint, Question
from glocal.language.schema import NUMBERS, TEXT, Unusable, record

Strategy = Literal["dynamic", "hierarchical", "single", "uniform", "embedding"]
STRATEGIES: tuple[Strategy, ...] = ("dynamic", "hierarchical", "single", "uniform", "embedding")
SPREAD = 0.25
"""The share of the final frames that are spread over the whole."""

CHOOSE = """Return the numbers of the frames that can answer the question, as JSON: {"frame_ids": [...],
"justification": "..."}. An empty list is right where no frame helps."""
ANSWER = """Answer the question from these frames, in the order of time, as JSON: {"answer": "...", "frame_ids": [...],
"justification": "..."}, with the numbers of the frames that show it."""
CHOICE = record(frame_ids=NUMBERS, justification=TEXT)
FINAL = record(answer=TEXT, frame_ids=NUMBERS, justification=TEXT)


@dataclass(frozen=True)
class Reply:
    """What a model says of a video.

    Attributes:
        answer: to the question.
        justification: why.
        frames: positions of the frames that it names.
        seen: positions of those that it answered from.
        notes: what went otherwise than it should.
    """

    answer: str
    justification: str
    frames: list[int]
    seen: list[int]
    notes: tuple[str, ...] = ()


def spread(number: int, most: int) -> list[int]:
    """Positions spread evenly over 0 … number - 1: the middles of `most` equal parts, or all if they are no more."""
    if number <= most:
        return list(range(number))
    return [(2 * k + 1) * number // (2 * most) for k in range(most)]


def in_bounds(numbers: Iterable[int], frames: Sequence[int]) -> list[int]:
    """The frames with these numbers, from 1 on as the model sees them: ascending, each once, others left out."""
    return [frames[n - 1] for n in sorted(set(numbers)) if 1 <= n <= len(frames)]


def within_budget(found: Iterable[int], number: int, context: int) -> list[int]:
    """Found frames, and some spread over all of `number`, one at least: at most `context`, ascending.

    Found ones that are too many are thinned evenly.
    """
    found, common = sorted(set(found)), max(1, int(SPREAD * context))
    kept = [found[k] for k in spread(len(found), context - common)]
    return sorted({*kept, *spread(number, common)})


def ask_frames(
    endpoint: Endpoint,
    picture: Callable[[int], bytes],
    number: int,
    question: str,
    *,
    strategy: Strategy = "dynamic",
    segments: int = 12,
    frames: int = 64,
    context: int = 120,
    ranked: Callable[[], Sequence[int]] | None = None,
    when: Callable[[int], str] | None = None,
) -> Reply:
    """An answer from the frames that the strategy finds.

    Args:
        endpoint: the model.
        picture: a frame as JPEG, by its position; threads call it.
        number: of frames.
        question: about them.
        strategy: "dynamic" asks of every segment which frames matter; "hierarchical" of the whole, then of what lies
            around the choice, until that is stable; "single" once of the whole; "uniform" takes frames spread evenly;
            "embedding" the first ones of `ranked`.
        segments: of equal length, for "dynamic".
        frames: shown in each call that chooses.
        context: shown in the call that answers.
        ranked: positions by how near they are to what is asked for.
        when: the time of a frame, in words, for the model.

    Raises:
        UsageError: if there is no answer.
    """
    notes: list[str] = []
    lock, kept = threading.Lock(), dict[int, bytes]()

    def image(i: int) -> bytes:
        with lock:  # decoders of videos are not for several threads
            if i not in kept:
                kept[i] = picture(i)
            return kept[i]

    def choose(parts: list[range]) -> list[list[int]]:
        """Of each part the frames that the model asks for: all that it saw, where its answer cannot be used."""
        shown = [[part[k] for k in spread(len(part), frames)] for part in parts]
        asked = lambda k: _question(question, shown[k], image, when, CHOOSE, CHOICE)
        found = []
        for part, answer in zip(shown, endpoint.ask_all(asked, len(parts)), strict=True):
            if isinstance(answer, Unusable):
                notes.append(f"frames {part[0] + 1} to {part[-1] + 1} are all taken: {answer}")
            found.append(part if isinstance(answer, Unusable) else in_bounds(answer["frame_ids"], part))
        return found

    match strategy:
        case "uniform":
            seen = spread(number, context)
        case "embedding":
            assert ranked is not None
            seen = sorted(list(ranked())[:context])
        case "single":
            seen = within_budget(choose([range(number)])[0], number, context)
        case "hierarchical":
            more = lambda: endpoint.calls + 1 < endpoint.max_calls  # the last one is for the answer
            seen = within_budget(_zoomed(choose, number, frames, more), number, context)
        case _:
            edges = [k * number // segments for k in range(segments + 1)]
            parts = [range(a, b) for a, b in itertools.pairwise(edges) if a < b]
            seen = within_budget((i for part in choose(parts) for i in part), number, context)
    try:
        final = endpoint.ask(_question(question, seen, image, when, ANSWER, FINAL))
    except Unusable as error:
        raise UsageError(f"the model's answer cannot be used, which is {error}") from error
    return Reply(final["answer"], final["justification"], in_bounds(final["frame_ids"], seen), seen, tuple(notes))


def _zoomed(
    choose: Callable[[list[range]], list[list[int]]], number: int, frames: int, more: Callable[[], bool]
) -> list[int]:
    """Frames chosen from ever less of the video: what lies between the neighbours of the first and the last choice."""
    part, found = range(number), list[int]()
    while True:
        chosen = choose([part])[0]
        if not chosen:
            return found
        found, shown = chosen, [part[k] for k in spread(len(part), frames)]
        first, last = shown.index(found[0]), shown.index(found[-1])
        start = shown[first - 1] + 1 if first else part.start
        stop = shown[last + 1] if last + 1 < len(shown) else part.stop
        if range(start, stop) == part or len(shown) == len(part) or not more():
            return found
        part = range(start, stop)


def _question(
    question: str,
    shown: Sequence[int],
    image: Callable[[int], bytes],
    when: Callable[[int], str] | None,
    task: str,
    schema: dict[str, Any],
) -> Question:
    parts: list[str | bytes] = []
    for number, i in enumerate(shown, start=1):
        parts += [f"Frame {number} ({when(i)}):" if when else f"Frame {number}:", image(i)]
    return Question((*parts, f"Question: {question}", task), schema)
