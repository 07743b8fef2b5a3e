"""What is done with videos: their phases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glocal.api.opening import opened_encoder
from glocal.errors import UsageError
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from glocal.backbones import Backbone


def phases(
    encoder: str | Backbone,
    video: str,
    *,
    out: str,
    marks: str | None = None,
    few: str | None = None,
    names: list[str] | None = None,
    features: str | None = None,
    truth: str | None = None,
    fps: float | None = None,
    beta: float | None = None,
    window: int = 1,
    neighbours: int = 0,
    trust: float = 0.1,
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Divide a video into phases, from marks or a few labelled videos.

    A random walk carries what is known to all frames, on to those that look alike.

    Args:
        encoder: what `load` takes, or a Backbone; not looked at where there are `features`.
        video: a folder of frames, a list of them, or a film.
        out: a folder: phases.csv, which can be corrected and given as `marks`, and timeline.html.
        marks: a CSV file with the columns frame (its number from 0, or its name) or time (seconds), and phase: a frame
            of each stretch is enough.
        few: videos whose frames all have phases, in the column phase of a list or groups.csv: a classifier that learns
            from them says what is likely, the walk makes that agree along the video. Marks, if any, are kept.
        names: the phases there are; each has to be marked.
        features: a .npy file (frames, numbers) to walk on in place of an encoder's features.
        truth: a CSV file as `marks` of all frames: how right the answer is.
        fps: frames a second that are taken of films, and were taken of frames without times.
        beta: how fast links between frames fade with the distance of their features; by default 30, with `few` 1.
        window: frames before and after that each is linked with.
        neighbours: frames anywhere in the video, the most similar ones, that each is linked with, too.
        trust: in the classifier against the links.
        image_size: by default the encoder's own.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        workers: loader processes.
        trust_code: as for `load`.

    Returns:
        {"frames", "stretches": (phase, first frame, frame after the last)} and, with `truth`, scores.

    Raises:
        UsageError: for a video, marks or features that do not serve.
    """
    from glocal.evaluation.extract import placed
    from glocal.pipeline.phases import Walk, classified, embedded, labelled, open_video, read_features, solve, write_all
    from glocal.sequences.marks import read_marks

    if marks is None and few is None:
        raise UsageError("say what is known: --marks FILE.csv, or --few VIDEOS")
    if few is not None and features is not None:
        raise UsageError("--few learns from an encoder's features: leave out --features, or give --marks")
    if few is not None and names is not None:
        raise UsageError("--few says which phases there are: leave out --names")
    beta = (1.0 if few else 30.0) if beta is None else beta
    if not (beta >= 0 and window >= 1 and neighbours >= 0 and trust > 0):
        raise UsageError("--beta and --neighbours are 0 at least, --window is 1 at least, --trust is above 0")
    source = open_video(video, fps)
    training = labelled(few) if few else None
    known = training[1] if training else names
    marked = read_marks(marks, source, known, all_of_them=training is None) if marks else None
    prior = None
    if features is not None:
        found = read_features(features, source)
    else:
        opened = opened_encoder(encoder, "student", None, image_size, trust_code)
        options: dict[str, Any] = {"image_size": image_size or opened.image_size, "batch_size": batch_size}
        options["workers"] = workers
        with placed(opened, device) as model, shown_progress() as progress:
            found = embedded(model, source, progress, **options)
            if training:
                prior = classified(embedded(model, training[0], progress, **options), training[2], training[1], found)
    probability = solve(found, Walk(beta, window, neighbours, trust), marked, prior)
    called = training[1] if training else marked.names if marked else []
    true = read_marks(truth, source, called, all_of_them=False) if truth else None
    if true and len(true.frames) < len(source):
        raise UsageError(f"--truth {truth} says the phase of {len(true.frames):,} of {len(source):,} frames")
    return write_all(Path(out), source, called, probability, marked, true)
