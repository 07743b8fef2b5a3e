"""What a language model behind an endpoint is asked: are these labels right, where in a video is the answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.api.opening import opened_encoder
from glocal.errors import UsageError, did_you_mean
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from glocal.language import Endpoint


def curate(
    encoder: str | Any,
    data: str | list[str],
    *,
    kb: str,
    endpoint: str,
    model: str,
    out: str,
    max_calls: int = 200,
    allow_remote: bool = False,
    concurrency: int = 4,
    timeout: float = 120.0,
    split: Literal["train", "val", "test", "all"] | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    trust_code: bool = False,
) -> Path:
    """Check labels by a language model with an encyclopaedia beside it.

    The labels that the nearest images speak against most are asked about, and kept, corrected or dropped. Nothing is
    deleted: `out` gets curation.csv (old and new label, reason, questions and answers), labels.csv, which is data for
    all other commands, and curation.html to look through. Answers that could be used are kept, and not asked for again.

    Args:
        encoder: what `load` takes, or a Backbone: it says which images are alike.
        data: labelled images.
        kb: a .jsonl file of what there is, {"name": "hat", "text": "A hat is ...", "aliases": ["cap"]} a line.
        endpoint: of the chat-completions protocol, such as http://127.0.0.1:8000/v1. If it wants a key, that is in the
            environment variable GLOCAL_API_KEY.
        model: its name there.
        out: the folder to write.
        max_calls: images to ask about, and requests that are sent, at most.
        allow_remote: send images to another machine.
        concurrency: requests under way at once.
        timeout: seconds for an answer.
        split: of data that has splits; by default its training images.
        image_size: of the encoder; by default its own.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        workers: loader processes; by default none on the CPU, elsewhere one per core.
        trust_code: as for `load`.

    Returns:
        The page.

    Raises:
        UsageError: for data or a knowledge base that does not serve, and where the endpoint does not; what it had
            answered until then is in `out` or kept.
    """
    from glocal.data import open_source
    from glocal.evaluation.extract import placed
    from glocal.language import read_knowledge
    from glocal.pipeline.curate import curate_source

    knowledge, source = read_knowledge(kb), open_source(data, split=split)
    settings: dict[str, Any] = {"max_calls": max_calls, "allow_remote": allow_remote, "concurrency": concurrency}
    settings["timeout"] = timeout
    settings["texts"] = "their labels and captions, and entries of --kb,"
    asked = _endpoint(endpoint, model, images=min(max_calls, len(source)), **settings)
    opened = opened_encoder(encoder, "student", None, image_size, trust_code)
    options: dict[str, Any] = {"image_size": image_size or opened.image_size, "batch_size": batch_size}
    options |= {"most": max_calls, "workers": workers}
    with placed(opened, device) as there, shown_progress() as progress:
        return curate_source(there, source, knowledge, asked, out=Path(out), progress=progress, **options)


def ask(
    video: str,
    question: str,
    *,
    endpoint: str,
    model: str,
    strategy: Literal["dynamic", "hierarchical", "single", "uniform", "embedding"] = "dynamic",
    segments: int = 12,
    frames: int = 64,
    context: int = 120,
    example: str | None = None,
    encoder: str | None = None,
    page: str | None = None,
    max_calls: int = 100,
    allow_remote: bool = False,
    concurrency: int = 4,
    timeout: float = 120.0,
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Ask a language model about a video; it chooses its own frames.

    Args:
        video: a folder of frames, a list of them, or a film (with PyAV: pip install 'glocal[video]').
        question: about it.
        endpoint: of the chat-completions protocol, such as http://127.0.0.1:8000/v1. If it wants a key, that is in the
            environment variable GLOCAL_API_KEY.
        model: its name there.
        strategy: "dynamic" asks of every segment which frames matter; "hierarchical" of the whole, then of what lies
            around the choice, until that is stable; "single" once of the whole; "uniform" takes frames spread evenly;
            "embedding" those nearest to `example`, else those whose captions are nearest to the question.
        segments: of equal length, for "dynamic".
        frames: shown to the model in each call that chooses, spread over the segment.
        context: shown to it in the call that answers, a quarter of them spread over the whole.
        example: an image of what is looked for, for "embedding".
        encoder: what `load` takes, by which frames are like the example.
        page: a page of the answer and its frames, .html.
        max_calls: requests that are sent, at most.
        allow_remote: send frames to another machine.
        concurrency: requests under way at once.
        timeout: seconds for an answer.
        image_size: of the encoder; by default its own.
        batch_size: images per forward pass of the encoder.
        device: of the encoder, "auto", "cpu", "cuda", "cuda:1" or "mps".
        workers: loader processes of the encoder.
        trust_code: as for `load`.

    Returns:
        {"answer", "justification", "frames": names of those that show it, "seen": names of those it answered from}.

    Raises:
        UsageError: for frames or options that do not serve, and where the endpoint does not.
    """
    from glocal.data.video import VideoSource
    from glocal.evaluation.extract import placed
    from glocal.language import STRATEGIES, ask_frames
    from glocal.language.endpoint import EMBEDDED, picture
    from glocal.pipeline.ask import SIDE, frame, nearest_to_example, nearest_to_question, open_frames, write_reply
    from glocal.run import check_place

    check_place("--page", page, video, example)
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise UsageError(f"no --strategy {strategy}{hint}; there are {', '.join(STRATEGIES)}")
    if min(segments, frames, context) < 1:
        raise UsageError(f"--segments {segments} --frames {frames} --context {context}: at least 1 each")
    if not question.strip():
        raise UsageError('ask something: glocal ask video/ "When does the car turn left?"')
    source = open_frames(video)
    told = [caption for caption in source.captions or [] if caption]
    by_words = strategy == "embedding" and not example
    needed = {"dynamic": min(segments, len(source)) + 1, "hierarchical": 2, "single": 2}.get(strategy, 1)
    needed += -(-(len(told) + 1) // EMBEDDED) if by_words else 0
    if max_calls < needed:
        given = f"--segments {segments}" if strategy == "dynamic" else f"--strategy {strategy}"
        raise UsageError(
            f"{given} take{'s' * (strategy != 'dynamic')} {needed} calls, of --max-calls {max_calls}; allow more"
        )
    if (example or encoder) and not (example and encoder and strategy == "embedding"):
        raise UsageError("--example IMAGE and --encoder runs/NAME go together, with --strategy embedding")
    if strategy == "embedding" and not source.captions and not example:
        raise UsageError("--strategy embedding needs frames with captions, or --example IMAGE and --encoder runs/NAME")
    settings: dict[str, Any] = {"max_calls": max_calls, "allow_remote": allow_remote, "concurrency": concurrency}
    settings["timeout"] = timeout
    if by_words:
        settings["texts"] = f"the captions of {len(told):,} frames"
    chosen_from = {"dynamic": segments * frames, "hierarchical": max_calls * frames, "single": frames}.get(strategy, 0)
    asked = _endpoint(endpoint, model, images=min(chosen_from + context, len(source)), **settings)

    def ranked() -> list[int]:
        if not (example and encoder):
            return nearest_to_question(asked, source.captions or [], question)
        opened = opened_encoder(encoder, "student", None, image_size, trust_code)
        options: dict[str, Any] = {"image_size": image_size or opened.image_size, "batch_size": batch_size}
        with placed(opened, device) as there, shown_progress() as progress:
            return nearest_to_example(there, source, example, workers=workers, progress=progress, **options)

    reply = ask_frames(
        asked, lambda i: picture(frame(source, i), SIDE), len(source), question,
        strategy=strategy, segments=segments, frames=frames, context=context, ranked=ranked,
        when=source.key if isinstance(source, VideoSource) else None,
    )  # fmt: skip
    print("\n".join([*reply.notes, asked.spent]), file=sys.stderr)
    if page is not None:
        write_reply(Path(page), source, question, reply)
    names = {"frames": [source.key(i) for i in reply.frames], "seen": [source.key(i) for i in reply.seen]}
    return {"answer": reply.answer, "justification": reply.justification, **names}


def _endpoint(url: str, model: str, **settings: Any) -> Endpoint:
    """The endpoint, with answers kept where decoded images are."""
    from glocal.language import Endpoint
    from glocal.views.cache import ANSWERS, cache_folder

    folder = cache_folder()
    return Endpoint(url, model, cache=folder / ANSWERS if folder else None, **settings)
