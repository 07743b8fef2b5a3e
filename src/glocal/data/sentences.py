"""What is said of clips: a sentence each, its verb phrase, and sentences that are almost it, and wrong."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from glocal import random
from glocal.data.clips import ClipSource
from glocal.data.filelist import rows_of
from glocal.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Sentences:
    """Of each of N clips.

    Attributes:
        captions: what it shows.
        verbs: the words of it that say what happens, "" where that is not known.
        negatives: hard negatives: sentences that differ from the caption in the verb.
    """

    captions: list[str]
    verbs: list[str]
    negatives: list[list[str]]

    @property
    def texts(self) -> list[str]:
        """All that is said."""
        return [*self.captions, *self.verbs, *(text for texts in self.negatives for text in texts)]

    def rows(self, hard: int, seed: int = 0) -> list[list[str]]:
        """Of each clip its caption, `hard` of its negatives, drawn, "" where there are fewer, and its verb phrase."""
        wrong = []
        for clip, texts in enumerate(self.negatives):
            order = random.permutation(len(texts), seed, "negatives", clip)[:hard]
            wrong.append([*(texts[n] for n in order), *[""] * (hard - len(order))])
        return [[caption, *texts, verb] for caption, texts, verb in zip(self.captions, wrong, self.verbs, strict=True)]

    def calibrated(self, seed: int = 0) -> "Sentences":
        """Without the negatives by which a verb alone would tell that it is wrong (Momeni et al. 2023, section 3.2).

        No verb is more often in a negative than in a caption. Which of its negatives stay is drawn; one whose verb is
        in no caption goes.
        """
        known = {*self.verbs} - {""}
        places = [(clip, n) for clip, texts in enumerate(self.negatives) for n in range(len(texts))]
        left, kept = Counter(self.verbs), set[tuple[int, int]]()
        for at in random.permutation(len(places), seed, "calibrate"):
            clip, n = places[at]
            verb = _verb_of(self.negatives[clip][n], self.captions[clip], self.verbs[clip], known)
            if verb and left[verb]:
                left[verb] -= 1
                kept.add((clip, n))
        negatives = [[t for n, t in enumerate(texts) if (c, n) in kept] for c, texts in enumerate(self.negatives)]
        return replace(self, negatives=negatives)


def sentences_of(source: ClipSource, captions: str | None, negatives: str | None) -> Sentences:
    """What is said of the clips of a collection.

    Args:
        source: the clips.
        captions: a table with the columns `video`, `caption` and, if known, `verb`, the words of the caption that say
            what happens. None: what the collection itself says of the first frame of each clip (`captions`, `verbs`).
        negatives: a table with the columns `caption` and `negative`. None: the caption with each other verb in place
            of its own.

    Raises:
        UsageError: if a clip has no caption, a table lacks a column, or names what is not there.
    """
    names = source.groups["video"].names
    if captions is not None:
        said = _captions(captions, names)
        pairs = [said[name] for name in names]
    else:
        at = [clip.start for clip in source.clips()]
        if source.captions is None:
            raise UsageError(f"nothing is said of the clips of {source.name}: give --captions FILE, with video,caption")
        verbs = getattr(source, "verbs", None) or [""] * len(source)
        pairs = [(source.captions[i] or "", verbs[i]) for i in at]
    if wrong := [name for name, (caption, _) in zip(names, pairs, strict=True) if not caption]:
        raise UsageError(f"{source.name}: {len(wrong)} clips have no caption, the first being {wrong[0]}")
    if odd := [(caption, verb) for caption, verb in pairs if verb and not _word(verb).search(caption)]:
        raise UsageError(f"the verb '{odd[0][1]}' is not in the caption '{odd[0][0]}'")
    whole, verbs = [caption for caption, _ in pairs], [verb for _, verb in pairs]
    if negatives is not None:
        hard = _negatives(negatives, whole)
        return Sentences(whole, verbs, [hard.get(caption, []) for caption in whole])
    if "" in verbs:
        raise UsageError("hard negatives are to be made: give --negatives FILE, or the column verb with the captions")
    others = sorted({*verbs})
    swapped = [[_word(own).sub(verb.replace("\\", r"\\"), caption, count=1) for verb in others if verb != own]
               for caption, own in pairs]  # fmt: skip
    return Sentences(whole, verbs, swapped)


def _word(verb: str) -> re.Pattern[str]:
    """Where these words are in a sentence, and not a part of others."""
    return re.compile(rf"(?<!\w){re.escape(verb)}(?!\w)")


def _verb_of(negative: str, caption: str, own: str, known: Collection[str]) -> str | None:
    """The verb of a hard negative of a caption with a verb of its `own`: what stands in its place, else a known one."""
    if own and (place := _word(own).search(caption)):
        start, end = caption[: place.start()], caption[place.end() :]
        if negative.startswith(start) and negative.endswith(end) and len(negative) > len(start) + len(end):
            middle = negative[len(start) : len(negative) - len(end)]
            return middle if middle in known else None
    there = [verb for verb in known if _word(verb).search(negative) and not _word(verb).search(caption)]
    return max(there, key=lambda verb: (len(verb), verb), default=None)


def _captions(path: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    rows = rows_of(path, "video", "caption")
    if unknown := [row["video"] for row in rows if row["video"] not in names]:
        raise UsageError(f"{path} names the video {unknown[0]}, which is not there{did_you_mean(unknown[0], names)}")
    said = {row["video"]: (row["caption"], row.get("verb", "")) for row in rows}
    if len(said) < len(rows):
        raise UsageError(f"{path} says something of a video twice: leave one sentence each")
    if silent := [name for name in names if name not in said]:
        raise UsageError(f"{path} says nothing of {len(silent)} videos, the first being {silent[0]}")
    return said


def _negatives(path: str, captions: Sequence[str]) -> dict[str, list[str]]:
    known, found = {*captions}, dict[str, list[str]]()
    for row in rows_of(path, "caption", "negative"):
        if row["caption"] not in known:
            raise UsageError(f"{path} has negatives of '{row['caption']}', which is no caption")
        if row["negative"] and row["negative"] != row["caption"]:
            found.setdefault(row["caption"], []).append(row["negative"])
    return found
