"""Has it collapsed? Where, why, and which option to change."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.evaluation.rank import rankme, spread

LEAST_SPREAD = 0.01  # below it all features point the same way; a ResNet at random initialisation has about .2
LEAST_RANK = 3.0  # below it features vary along a line or a plane; at random initialisation 20 and more
LEAST_VARIATION = 0.003  # spread of the locations about their image's mean, below which a map is a constant
VANISHED = 0.02  # part of its first value below which a loss has vanished: no method's healthy loss gets there
LEAST_WITHIN = 0.03  # variance of the frames of a clip, as a share of that between clips, below which they are one
SAME = 0.9  # share of frames nearest to one of their own clip, above which clips are told apart by what stays in them
FALL = 4.0  # how many times lower than its best the rank must be to be called falling

PAINTING = {"loss/reconstruction", "loss/velocity"}
"""What the log has of methods that make images: features from which they can do that have not collapsed."""
COMPLETE, DIMENSIONAL, LOCAL = "complete collapse", "dimensional collapse", "local collapse"
BACKGROUND = "the code is the background"
REMEDIES: dict[str, tuple[str, tuple[str, ...]]] = {
    COMPLETE: (
        "every image gets the same feature, which satisfies what asks views to agree",
        (
            "raise --variance-weight",
            "lower --invariance-weight",
            "raise --momentum",
            "raise --entropy-weight",
            "lower --lr",
            "check that the images differ",
        ),
    ),
    DIMENSIONAL: (
        "the features use few of their dimensions",
        ("raise --covariance-weight", "raise --redundancy-weight", "lower --lr", "give a larger --batch-size"),
    ),
    LOCAL: (
        "all locations of an image get the same feature although images differ",
        (
            "lower --alpha (more weight on the local loss)",
            "raise --local-weight",
            "raise --dense-weight",
            "set --output-stride 8 for larger maps",
        ),
    ),
    BACKGROUND: (
        "what stays the same throughout a clip is predicted best, and what moves in it was forgotten",
        (
            "change --objective to reconstruction",
            "lower --max-gap, if there is one",
            "take clips whose background changes",
        ),
    ),
    "not finite": (
        "the training diverged, or half precision overflowed",
        ("lower --lr", "set --clip 1", "use --precision 32"),
    ),
    "stuck": (
        "the learning rate is too low, or too high to settle, or the loss sits at its collapsed value",
        ("change --lr by a factor of three either way", "see that --warmup-epochs is shorter than the run"),
    ),
}
"""What is wrong -> the usual cause, and what helps: a remedy counts where the run has the option that it names."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, by its name in `REMEDIES`, and the numbers that say so."""

    name: str
    evidence: str

    def told(self, options: Collection[str]) -> str:
        """In a sentence, with what helps a run that has these options (named as in Python)."""
        cause, remedies = REMEDIES[self.name]
        helps = [words for words in remedies if set(_OPTION.findall(words.replace("-", "_"))) <= set(options)]
        return f"{self.name} ({self.evidence}): {cause}; {', or '.join(helps)}"

    def __str__(self) -> str:
        return f"{self.name} ({self.evidence})"


_OPTION = re.compile("__([a-z_]+)")


def check_features(pooled: Tensor, dense: Tensor | None = None) -> Diagnosis | None:
    """Whether features of different images have collapsed beyond doubt; None if not, or with too few images to tell.

    Args:
        pooled: (N, D), one feature per image. Fewer than 16 say nothing of rank.
        dense: (N·S, D'), S locations of each image one after the other, or None. Local collapse needs S ≥ 2.
    """
    if not bool(pooled.isfinite().all()) or (dense is not None and not bool(dense.isfinite().all())):
        return Diagnosis("not finite", "the features became NaN or infinite")
    images = len(pooled)
    if images < 2:
        return None
    width = spread(pooled)
    if width < LEAST_SPREAD:
        return Diagnosis(COMPLETE, f"features of {images} images differ by {width:.1e} of their length")
    rank = rankme(pooled, centred=True)
    if images >= 16 and pooled.shape[1] >= 16 and rank < LEAST_RANK:
        return Diagnosis(
            DIMENSIONAL, f"pooled features of {images} images vary in {rank:.1f} of {pooled.shape[1]} dimensions"
        )
    if dense is not None and len(dense) >= 2 * images and len(dense) % images == 0:
        tokens = dense.detach().double().unflatten(0, (images, -1))
        away = tokens - tokens.mean(1, keepdim=True)
        variation = float(away.norm(dim=-1).mean() / tokens.norm(dim=-1).mean().clamp_min(1e-30))
        if variation < LEAST_VARIATION:
            return Diagnosis(LOCAL, f"locations of one image differ by {variation:.1e} of their length")
    return None


def within_clips(pooled: Tensor, clip: Tensor) -> tuple[float, float]:
    """How much of the features of frames is of the frame, and how much of the clip.

    Args:
        pooled: (N, D) features.
        clip: (N,) int64, which of at least two clips each frame is of.

    Returns:
        The variance of frames about the mean of their clip over that of the means; the share of frames whose nearest
        neighbour, by cosine, is of their clip.
    """
    x = pooled.double()
    numbers = clip.unique(return_inverse=True)[1]
    own = F.one_hot(numbers).double()
    means = (own.T @ x) / own.sum(0)[:, None]
    within, between = (x - means[numbers]).square().sum(1).mean(), (means - means.mean(0)).square().sum(1).mean()
    unit = F.normalize(x - x.mean(0), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(1)
    return float(within / between.clamp_min(1e-30)), float((clip[nearest] == clip).double().mean())


def diagnose(history: Sequence[Mapping[str, Any]]) -> list[Diagnosis]:
    """What the log of a run says is wrong; empty for a healthy one.

    Args:
        history: the lines of metrics.jsonl: training lines with "loss" and "loss/<term>", monitor lines with
            "rank_pooled" and "rank_dense", and of clips "clips/within" and "clips/same" (`within_clips`) and
            "clips/pixels", the first of these of plain pixels.
    """
    checks = (
        (_finite, _progress, _background) if paints(history) else (_finite, _ranks, _embeddings, _progress, _background)
    )
    return [found for check in checks if (found := check(history)) is not None]


def paints(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log is of a method that makes images: few dimensions are then none of its failures."""
    return any(PAINTING & line.keys() for line in history)


def _finite(history: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    for line in history:
        broken = [k.removeprefix("loss/") for k, v in line.items() if k.startswith("loss") and not _is_finite(v)]
        if broken:
            terms = [name for name in broken if name != "loss"] or broken
            where = f"at step {line.get('step', '?')}"
            return Diagnosis("not finite", f"the loss ({', '.join(terms)}) became NaN or infinite {where}")
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _ranks(history: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    looks = [line for line in history if _is_finite(line.get("rank_pooled"))]
    if not looks:
        return None
    last, best = looks[-1]["rank_pooled"], max(line["rank_pooled"] for line in looks)
    if last < 1.5:
        return Diagnosis(COMPLETE, f"effective rank {last:.1f} of pooled features")
    if last < LEAST_RANK:
        return Diagnosis(DIMENSIONAL, f"effective rank {last:.1f} of pooled features")
    if last < best / FALL:
        return Diagnosis(DIMENSIONAL, f"effective rank of pooled features fell from {best:.0f} to {last:.0f}")
    dense = [line["rank_dense"] for line in looks if _is_finite(line.get("rank_dense"))]
    if dense and (dense[-1] < LEAST_RANK or dense[-1] < max(dense) / FALL):
        return Diagnosis(
            LOCAL, f"effective rank of dense features {dense[-1]:.1f}, at best {max(dense):.1f}; pooled {last:.1f}"
        )
    return None


def _embeddings(history: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """Collapse behind the projector, which the encoder's own features follow only slowly."""
    lines = [line for line in history if _is_finite(line.get("loss"))]
    if len(lines) < 5:
        return None
    start, end = lines[0]["loss"], fmean([line["loss"] for line in lines[-3:]])
    if 0 <= end < VANISHED * start:
        return Diagnosis(COMPLETE, f"the loss fell from {start:.3g} to {end:.3g}, nothing is left to learn")
    invariance, variance = (fmean([_term(line, name) for line in lines[-3:]]) for name in ("invariance", "variance"))
    if variance > 0.9 * end and 0 < invariance < 0.001 * end:
        return Diagnosis(
            COMPLETE, f"the variance term is {variance / end:.0%} of the loss, the invariance term {invariance:.1e}"
        )
    return None


def _background(history: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """Codes that are one for a whole clip, though its frames differ."""
    looks = [line for line in history if _is_finite(line.get("clips/within"))]
    if not looks:
        return None
    within, same, pixels = (looks[-1][f"clips/{name}"] for name in ("within", "same", "pixels"))
    if within >= min(LEAST_WITHIN, pixels / FALL) or same <= SAME:
        return None
    seen = f"codes vary {within:.1e} times as much within clips as between them, pixels {pixels:.1e} times"
    return Diagnosis(BACKGROUND, f"{seen}; {same:.0%} are nearest to one of their own clip")


def _term(line: Mapping[str, Any], name: str) -> float:
    """The sum of "loss/<name>", "loss/global_<name>" and their like."""
    return sum(value for key, value in line.items() if key.replace("/", "_").split("_")[-1] == name)


def _progress(history: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    losses = [line["loss"] for line in history if _is_finite(line.get("loss"))]
    if len(losses) < 20:
        return None
    size = len(losses) // 5
    late = losses[-size:]
    before, after = max(fmean(losses[:5]), fmean(losses[:size])), fmean(late)
    noise = math.sqrt(fmean([(value - after) ** 2 for value in late]))
    if before - after > max(0.5 * noise, 0.01 * abs(before)):
        return None
    return Diagnosis("stuck", f"loss {before:.3g} at the beginning of the log, {after:.3g} at its end")
