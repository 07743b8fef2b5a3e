"""Scores group by group (Goyal et al. 2022, arXiv 2202.08360): of people, places, cameras that a person's table names.

Intervals are of the bootstrap over the images of each group, 95%. A gap is judged by what the same images give in
groups of the same sizes made at random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from glocal import random
from glocal.data import Groups, ImageSource, Subset
from glocal.data.filelist import read_groups
from glocal.errors import UsageError, did_you_mean

LEAST = 20
"""Images of a group without which nothing is said of it but its score."""
MOST = 20
"""Groups, small ones among them, that are listed one by one."""
DRAWS = 1000


def ratio(sums: np.ndarray) -> np.ndarray:
    """Sums and counts (..., 2) -> means (...), NaN where nothing was counted."""
    total, count = sums[..., 0], sums[..., 1]
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


@dataclass(frozen=True)
class PerImage:
    """What each test image adds to a score: what a task says for scores by group.

    Attributes:
        name: of the score.
        index: (N,) positions among the test images.
        parts: (N, S) float64, whose sum over images the score is a function of.
        score: sums (..., S) -> scores (...); by default the first of two by the second.
        top: (N, k) classes that each image most likely has, or None.
    """

    name: str
    index: np.ndarray
    parts: np.ndarray
    score: Callable[[np.ndarray], np.ndarray] = ratio
    top: np.ndarray | None = None

    @classmethod
    def mean(cls, name: str, index: ArrayLike, values: ArrayLike, top: np.ndarray | None = None) -> Self:
        """Of a score that is the mean over images of `values` (N,), such as whether each is right."""
        found = np.asarray(values, dtype=np.float64)
        parts = np.stack([found, np.ones_like(found)], 1)
        return cls(name, np.asarray(index), parts, top=top)


def difference(each: PerImage, other: PerImage, *, seed: int = 0) -> tuple[float, list[float]]:
    """How much more one encoder scores than another on the images that both were scored on, and its 95% interval.

    Paired: by the bootstrap over the images, each drawn for both.
    """
    _, mine, theirs = np.intersect1d(each.index, other.index, return_indices=True)
    parts, width = np.concatenate([each.parts[mine], other.parts[theirs]], 1), each.parts.shape[1]
    more = lambda sums: each.score(sums[..., :width]) - other.score(sums[..., width:])
    return float(more(parts.sum(0))), _interval(more(_resampled(parts, random.derive(seed, "difference"))))


def with_groups(train: ImageSource, test: ImageSource, table: Path) -> tuple[ImageSource, ImageSource]:
    """Both collections with the groups of a table (see `read_groups`), which has to name a test image."""
    made = []
    for source in (train, test):
        grouped = Subset(source, np.arange(len(source)))
        grouped.groups = read_groups(table, [source.key(i) for i in range(len(source))])
        made.append(grouped)
    if all((groups.of < 0).all() for groups in (made[1].groups or {}).values()):
        raise UsageError(f"{table} names none of the {len(test):,} test images of {test.name}, such as {test.key(0)}")
    return made[0], made[1]


def by_group(each: PerImage, groups: Groups, *, seed: int = 0, higher_is_better: bool = True) -> dict[str, Any]:
    """A score in each group, the worst, and how far it is from the best.

    Returns:
        score (its name) and groups, by name: images, score and, of `LEAST` images at least, interval. Where two have
        that many, also worst and best, gap (of these two) and gap_interval, ratio (of the lower to the higher score)
        and ratio_interval, and chance: what random groups of the same sizes reach in 5% of draws only.
    """
    of = groups.of[each.index]
    rows = {name: np.flatnonzero(of == number) for number, name in enumerate(groups.names)}
    shown: dict[str, dict[str, Any]] = {}
    drawn: dict[str, np.ndarray] = {}
    for number, (name, at) in enumerate(rows.items()):
        if len(at):
            shown[name] = {"images": len(at), "score": float(each.score(each.parts[at].sum(0)))}
        if len(at) >= LEAST:
            drawn[name] = each.score(_resampled(each.parts[at], random.derive(seed, "groups", number)))
            shown[name]["interval"] = _interval(drawn[name])
    result: dict[str, Any] = {"score": each.name, "groups": shown}
    if len(drawn) < 2:
        return result
    low, *_, high = sorted(drawn, key=lambda name: shown[name]["score"])
    a, b = shown[low]["score"], shown[high]["score"]
    ratios = np.ones(DRAWS)  # of draws in which no image of the better group is right, there is no ratio
    np.divide(drawn[low], drawn[high], out=ratios, where=drawn[high] > 0)
    return result | {
        "worst": low if higher_is_better else high,
        "best": high if higher_is_better else low,
        "gap": b - a,
        "gap_interval": _interval(drawn[high] - drawn[low]),
        "ratio": a / b if b else 1.0,
        "ratio_interval": _interval(ratios),
        "chance": _chance(each, [rows[name] for name in drawn], seed),
    }


def scores_by_group(
    each: PerImage, source: ImageSource, harmful: Sequence[int], *, seed: int, higher_is_better: bool
) -> dict[str, Any]:
    """`by_group` of each kind of groups that the test images have, and of the share of images that get a harmful label.

    Args:
        each: what a task says of each image.
        source: the test images.
        harmful: the classes that none of the likeliest labels of an image should be; empty for no such share.
        seed: of the bootstrap.
        higher_is_better: of the task's score.

    Returns:
        "groups", and "harmful" where the task says labels, by kind of group.
    """
    kinds = source.groups or {}
    found: dict[str, Any] = {}
    if kinds:
        found["groups"] = {
            kind: by_group(each, groups, seed=seed, higher_is_better=higher_is_better) for kind, groups in kinds.items()
        }
    if kinds and harmful and each.top is not None:
        met = PerImage.mean("harmful", each.index, np.isin(each.top, harmful).any(1))
        found["harmful"] = {
            kind: by_group(met, groups, seed=seed, higher_is_better=False) for kind, groups in kinds.items()
        }
    return found


def classes_listed(words: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """The classes that words name, or the lines of the file that the only word names; `UsageError` for an unknown."""
    if len(words) == 1 and Path(words[0]).is_file():
        words = [line.strip() for line in Path(words[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
    known = list(classes or [])
    for word in words:
        if word not in known:
            raise UsageError(f"--harmful: no class is called '{word}'{did_you_mean(word, known)}")
    return [known.index(word) for word in words]


def listed(groups: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The groups that are listed one by one, of many only the large ones, and the number of the others."""
    large = {name: group for name, group in groups.items() if len(groups) <= MOST or "interval" in group}
    return large, len(groups) - len(large)


def group_lines(column: str, found: dict[str, Any]) -> list[str]:
    """What `by_group` found, in words."""
    said = lambda pair: f"[{pair[0]:.3f}, {pair[1]:.3f}]"
    lines, (groups, others) = [f"  {found['score']} by {column}:"], listed(found["groups"])
    if not groups:
        return [f"{lines[0]} none of {others:,} groups has {LEAST} images, nothing is compared"]
    for name, group in groups.items():
        beside = said(group["interval"]) if "interval" in group else "too few for a verdict"
        lines.append(f"    {name:<28} {group['score']:.3f} {beside}, {group['images']:,} images")
    if others:
        lines.append(f"    {others:,} groups of fewer than {LEAST} images: too few for a verdict")
    if "gap" not in found:
        return [*lines, f"    no two groups of {LEAST} images: nothing is compared"]
    more = "more than chance" if found["gap"] > found["chance"] else "no more than chance"
    gap = f"gap {found['gap']:.3f} {said(found['gap_interval'])}, {more} gives ({found['chance']:.3f})"
    return [*lines, f"    worst {found['worst']}: {gap}; ratio {found['ratio']:.2f} {said(found['ratio_interval'])}"]


def _resampled(parts: np.ndarray, seed: int) -> np.ndarray:
    """Sums (DRAWS, S) over as many images as there are, drawn anew with replacement."""
    draw, number = np.random.default_rng(seed), len(parts)
    pieces = np.array_split(np.arange(DRAWS), 1 + DRAWS * number // 10**7)
    even = np.full(number, 1 / number)
    return np.concatenate([draw.multinomial(number, even, len(piece)) @ parts for piece in pieces])


def _interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.025, 0.975))]


def _chance(each: PerImage, rows: list[np.ndarray], seed: int) -> float:
    """The gap between the extremes of random groups of these sizes that 95% of draws stay below."""
    together, sizes = np.concatenate(rows), [len(at) for at in rows]
    parts, starts = each.parts[together], np.cumsum([0, *sizes[:-1]])
    draw = np.random.default_rng(random.derive(seed, "chance"))
    gaps = [np.ptp(each.score(np.add.reduceat(parts[draw.permutation(len(parts))], starts))) for _ in range(DRAWS)]
    return float(np.quantile(gaps, 0.95))
