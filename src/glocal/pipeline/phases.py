"""From a video and what somebody knows of it to a table and a page of its phases; see `glocal.phases`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glocal.data import ClipSource, open_source
from glocal.data.clips import as_clips
from glocal.data.files import existing
from glocal.data.source import Unreadable
from glocal.errors import UsageError
from glocal.evaluation.extract import extract, suited
from glocal.progress import Progress
from glocal.report.timeline import Stretch, write_timeline
from glocal.sequences import from_marks, from_prior, phase_scores, segments, similarity
from glocal.sequences.marks import Marks, write_phases

SIDE = 240
"""Longer side of a picture on the page, pixels."""


@dataclass(frozen=True)
class Walk:
    """How frames are linked (`similarity`), and how much a classifier is trusted against that (`from_prior`)."""

    beta: float
    window: int
    neighbours: int
    trust: float


def open_video(path: str, fps: float | None) -> ClipSource:
    """The frames of one video."""
    source = open_source(as_clips(path, fps or 1.0) if fps or Path(path).exists() else path)
    if not isinstance(source, ClipSource):
        raise UsageError(f"{path} is no video: give a folder of frames, a list of them, or a film")
    if len(source.clips()) > 1:
        first = ", ".join(source.groups["video"].names[:3])
        raise UsageError(f"{path} holds {len(source.clips())} videos ({first}, …): give one of them")
    return source


def read_features(path: str, source: ClipSource) -> np.ndarray:
    """(N, D) of a .npy file; `UsageError` if it is no such array, or of another length than the video."""
    try:
        found = np.load(existing(Path(path)), allow_pickle=False)
        if found.ndim != 2 or found.dtype.kind not in "fiu":
            raise ValueError(f"shape {found.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--features {path} is no array (frames, numbers): {error}") from error
    if len(found) != len(source):
        raise UsageError(f"--features {path} has {len(found):,} rows, the video {len(source):,} frames")
    return found


def embedded(encoder: Any, source: ClipSource, progress: Progress | None, **options: Any) -> np.ndarray:
    """(N, D) pooled features; a frame that cannot be read has those of the nearest one that can."""
    workers, precision = suited(encoder, options.pop("workers"), None)
    bank = extract(encoder, source, workers=workers, precision=precision, progress=progress, **options)
    there, frames = bank.index.numpy(), np.arange(len(source))
    after = np.searchsorted(there, frames).clip(0, len(there) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(frames - there[before] <= there[after] - frames, before, after)
    nearest = np.where(there[after] == frames, after, nearest)
    return bank.pooled.numpy()[nearest]


def labelled(path: str) -> tuple[ClipSource, list[str], np.ndarray]:
    """Videos whose frames have phases, in the column `phase` or as labels; the names of these, and which each has."""
    try:
        source = open_source(as_clips(path))
    except UsageError as error:
        raise UsageError(f"--few {path} holds no videos with phases: {error}") from error
    assert isinstance(source, ClipSource)
    of = source.groups.get("phase")
    if of is None and source.labels is not None and source.classes is not None:
        return source, source.classes, source.labels
    if of is None or (of.of < 0).any():
        raise UsageError(
            f"--few {path}: not all frames have phases; a list or groups.csv says them in the column phase"
        )
    return source, of.names, of.of


def classified(train: np.ndarray, phases: np.ndarray, names: list[str], features: np.ndarray) -> np.ndarray:
    """(N, K) probabilities of a logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression

    if len(present := np.unique(phases)) < 2:
        raise UsageError(f"the labelled videos have one phase only, {names[present[0]]!r}: label another")
    mean, scale = train.mean(0), train.std(0) + 1e-6
    fitted = LogisticRegression(C=0.1, max_iter=300).fit((train - mean) / scale, phases)
    prior = np.zeros((len(features), len(names)))
    prior[:, present] = fitted.predict_proba((features - mean) / scale)
    return prior


def solve(features: np.ndarray, walk: Walk, marks: Marks | None, prior: np.ndarray | None) -> np.ndarray:
    """The probability (N, K) of each phase at each frame; what is marked is certain."""
    weights = similarity(features, beta=walk.beta, window=walk.window, neighbours=walk.neighbours)
    if prior is None:
        assert marks is not None
        return from_marks(weights, marks.frames, marks.phases)
    trust = np.full(len(prior), walk.trust)
    if marks:
        prior, trust[marks.frames] = prior.copy(), 1e9
        prior[marks.frames] = np.eye(prior.shape[1])[marks.phases]
    return from_prior(weights, prior, trust=trust)


def write_all(
    out: Path, source: ClipSource, names: list[str], probability: np.ndarray, marks: Marks | None, truth: Marks | None
) -> dict[str, Any]:
    """phases.csv and timeline.html in a folder; what they hold in numbers, and how right it is where that is known."""
    phase, sure = probability.argmax(1), probability.max(1)
    if kept := write_phases(out / "phases.csv", source, names, probability, marks):
        print(f"the phases.csv that was there, with other marks, is now {kept}", file=sys.stderr)
    time = source.time - source.time[0]
    ends = np.append((time[1:] + time[:-1]) / 2, time[-1] + (time[-1] - time[-2]) / 2)
    found = segments(phase)
    stretches = [
        Stretch(
            k,
            float(ends[a - 1]) if a else 0.0,
            float(ends[b - 1]),
            float(sure[a:b].mean()),
            _picture(source, (a + b) // 2),
        )
        for k, a, b in found
    ]
    scores = phase_scores(phase, truth.phases) if truth else {}
    remarks = [f"{len(source):,} frames, {len(found)} stretches of {len(names)} phases"]
    if marks:
        remarks.append(f"{len(marks.frames)} marked frames; to correct it, write into the column mark of phases.csv")
    if scores:
        remarks.append(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    at = [float(time[i]) for i in marks.frames] if marks else []
    write_timeline(out / "timeline.html", f"Phases of {source.name}", remarks, names, stretches, at)
    print(f"page: {out / 'timeline.html'}", file=sys.stderr)
    return {"frames": len(source), "stretches": [(names[k], a, b) for k, a, b in found], **scores}


def _picture(source: ClipSource, i: int) -> Image.Image | None:
    try:
        opened = source.open(i)
        image = Image.fromarray(opened.decode(min(1.0, SIDE / max(opened.size))))
    except Unreadable:
        return None
    image.thumbnail((SIDE, SIDE))
    return image
