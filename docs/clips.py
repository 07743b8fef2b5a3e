"""The pictures of *frames and procedures* and *has it learnt the wallpaper?*: `python docs/clips.py [salads.npz]`.

dots.png     the generated world: six frames of a clip over each kind of noise
phases.png   a video of 50Salads: the truth and the marks, the nearest mark, a random walk; prints the means over all
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from glocal.data.dots import NOISES, DotsWorld
from glocal.sequences import from_marks, segments, similarity

FIGURES = Path(__file__).parent / "figures"


def dots(out: Path) -> None:
    figure, axes = plt.subplots(4, 6, figsize=(6, 4.2))
    for row, noise in zip(axes, NOISES[1:], strict=True):
        world = DotsWorld(1, noise=noise, seed=1)
        for k, axis in enumerate(row):
            axis.imshow(world.draw(2 * k)[..., 0], cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(noise.replace("_", "\n"), fontsize=8)
    save(figure, out)


def phases(file: str, out: Path) -> None:
    with np.load(file) as kept:
        names = sorted({name.rpartition("/")[0] for name in kept if name.startswith("eval")})
        videos = [(kept[f"{name}/scores"].astype(np.float32), kept[f"{name}/labels"].astype(int)) for name in names]
    draw, right = np.random.default_rng(0), []
    for number, (scores, truth) in enumerate(videos):
        frames = np.array([draw.integers(first, end) for _, first, end in segments(truth)])
        nearest = truth[frames][np.abs(np.arange(len(truth))[:, None] - frames).argmin(1)]
        walk = from_marks(similarity(scores), frames, truth[frames]).argmax(1)
        borders = between(scores, frames, truth[frames])
        right.append([(found == truth).mean() for found in (nearest, walk, borders)])
        if number == 0:
            figure, axes = plt.subplots(3, 1, figsize=(9, 1.6), sharex=True)
            for axis, found, said in zip(axes, (truth, nearest, walk), ("truth", "nearest mark", "walk"), strict=True):
                axis.imshow(found[None], aspect="auto", cmap="tab20", vmin=0, vmax=19, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.set_ylabel(said, rotation=0, ha="right", va="center", fontsize=8)
            axes[0].plot(frames, np.zeros(len(frames)), "|", color="black", ms=12)
            save(figure, out)
    print("nearest mark {:.3f}, walk {:.3f}, best borders {:.3f}".format(*np.mean(right, axis=0)))


def between(scores: np.ndarray, frames: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Phases (T,): between each two marks the border that makes the sum of the scores largest."""
    found = np.full(len(scores), phases[-1])
    found[: frames[0]] = phases[0]
    for k in range(len(frames) - 1):
        first, end = frames[k], frames[k + 1]
        gain = np.concatenate([[0.0], np.cumsum(scores[first:end, phases[k]] - scores[first:end, phases[k + 1]])])
        border = first + int(gain.argmax())
        found[first:border], found[border:end] = phases[k], phases[k + 1]
    return found


def save(figure: plt.Figure, out: Path) -> None:
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    dots(FIGURES / "dots.png")
    if sys.argv[1:]:
        phases(sys.argv[1], FIGURES / "phases.png")
