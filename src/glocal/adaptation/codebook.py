"""Names as codes of four word pieces, none twice (GER-ALD, Caron et al. 2024, arXiv:2403.02041), and the trie of them.

A code is the three rarest word pieces of its name, rarest first, and an end. Where that is taken, the next rarest piece
stands in place of the end, and where that is too, the first code that is free: in the published code, which draws three
times and then overwrites, names can share one.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from glocal.backbones.text import learn_tokenizer, pieces_of
from glocal.data.files import existing
from glocal.errors import UsageError
from glocal.run import write_atomically

LENGTH = 4
_READ = 200_000  # names that word pieces are learnt from, at most
_BLOCK = 10_000  # names that are split at once


@dataclass
class Codebook:
    """Names and their codes.

    Attributes:
        names: N of them; one that is there twice has two codes.
        codes: (N, 4) int64, word pieces from 0 to `size` - 1, of which the last is the end.
        size: how many word pieces there are.
        tokenizer: of the names, JSON as `tokenizers` writes it.
    """

    names: list[str]
    codes: np.ndarray
    size: int
    tokenizer: str

    @classmethod
    def of(cls, names: list[str]) -> Self:
        """Codes for names, by word pieces learnt from them; the same names in the same order have the same ones."""
        tokenizer = learn_tokenizer(names[:: -(-len(names) // _READ)])
        size = len(json.loads(tokenizer)["model"]["vocab"]) + 1
        return cls([], np.zeros((0, LENGTH), np.int64), size, tokenizer).extended(names)

    def extended(self, names: list[str]) -> Self:
        """With those names that it does not have, as often as they are there; all codes that there are stay."""
        known = self.rows(names)
        new = [name for name, row in zip(names, known, strict=True) if row < 0]
        if not new:
            return self
        every = self.names + new
        ids, lengths = _split(self.tokenizer, every)
        amounts = np.bincount(ids, minlength=self.size).tolist()
        ends = lengths.cumsum().tolist()
        steps = self.size ** np.arange(LENGTH - 1, -1, -1)
        taken, free = set((self.codes @ steps).tolist()), dict[tuple[int, int], Iterator[int]]()
        found, end = np.empty(len(new), np.int64), self.size - 1
        for n, stop in enumerate(ends[len(self.names) :], start=len(self.names)):
            pieces = dict.fromkeys(ids[stop - lengths[n] : stop].tolist())
            rarest = sorted(pieces, key=amounts.__getitem__)[:LENGTH]
            first = rarest[: LENGTH - 1]
            code = _number([*first, *[end] * (LENGTH - len(first))], self.size)
            if code in taken and len(rarest) == LENGTH:
                code = _number(rarest, self.size)
            if code in taken:
                code = _free(code, taken, free, self.size)
            taken.add(code)
            found[n - len(self.names)] = code
        codes = found[:, None] // steps % self.size
        return type(self)(every, np.concatenate([self.codes, codes]), self.size, self.tokenizer)

    def rows(self, names: list[str]) -> np.ndarray:
        """Where these names are (M,), the second of two equal ones at the second such place; -1 where one is not."""
        place = {key: row for row, key in enumerate(_numbered(self.names))}
        return np.array([place.get(key, -1) for key in _numbered(names)], np.int64)

    def save(self, path: str | Path) -> None:
        """Write codes.json, whole or not at all."""
        said = {"names": self.names, "codes": self.codes.tolist(), "size": self.size, "tokenizer": self.tokenizer}
        write_atomically(Path(path), json.dumps(said))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The codes in a file; `UsageError` if they are none, or one is there twice."""
        path = existing(Path(path))
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            names, codes, size = list(map(str, said["names"])), np.array(said["codes"], np.int64), int(said["size"])
            if codes.shape != (len(names), LENGTH) or len(np.unique(codes, axis=0)) < len(names):
                raise ValueError("not a code of its own for each name")
            if not ((codes >= 0) & (codes < size)).all():
                raise ValueError("a word piece that is not there")
            return cls(names, codes, size, str(said["tokenizer"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} holds no codes, or damaged ones ({error}); fine-tune again") from error


class Trie(NamedTuple):
    """The beginnings of some codes: at depth d the nodes are the different first d + 1 word pieces, in order.

    Attributes:
        pieces: of each depth, the last word piece of each node.
        first: of each depth but the last, where the children of each node begin at the next, and their end.
        rows: which code each node of the last depth is.
    """

    pieces: list[Tensor]
    first: list[Tensor]
    rows: Tensor

    def to(self, device: torch.device) -> "Trie":
        """On this device."""
        pieces, first = ([each.to(device) for each in part] for part in (self.pieces, self.first))
        return Trie(pieces, first, self.rows.to(device))

    @classmethod
    def of(cls, codes: np.ndarray) -> "Trie":
        """The trie of codes (N, L), no two alike."""
        order = np.lexsort(codes.T[::-1])
        ranked = codes[order]
        new = np.ones((len(codes), codes.shape[1]), bool)
        new[1:] = np.logical_or.accumulate(ranked[1:] != ranked[:-1], axis=1)
        starts = [np.flatnonzero(column) for column in new.T]
        first = [np.append(np.searchsorted(below, above), len(below)) for above, below in pairwise(starts)]
        pieces = [torch.from_numpy(ranked[start, depth]) for depth, start in enumerate(starts)]
        return cls(pieces, [torch.from_numpy(each) for each in first], torch.from_numpy(order))


def _numbered(names: list[str]) -> Iterator[tuple[str, int]]:
    """Each name, and how often it was there before."""
    before: dict[str, Iterator[int]] = {}
    for name in names:
        yield name, next(before.setdefault(name, count()))


def _split(tokenizer: str, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The word pieces of all names, one name after the other, and how many each has (N,)."""
    ids, lengths = [np.zeros(0, np.int64)], list[int]()
    for start in range(0, len(names), _BLOCK):
        rows = pieces_of(tokenizer, names[start : start + _BLOCK])
        ids.append(np.concatenate(rows))
        lengths += map(len, rows)
    return np.concatenate(ids), np.array(lengths)


def _number(code: list[int], size: int) -> int:
    number = 0
    for piece in code:
        number = number * size + piece
    return number


def _free(code: int, taken: set[int], free: dict[tuple[int, int], Any], size: int) -> int:
    """The first number that is not taken among the codes with as many of the same first word pieces as can be."""
    for last in range(1, LENGTH + 1):
        low = code - code % size**last
        for other in free.setdefault((last, low), iter(range(low, low + size**last))):
            if other not in taken:
                return other
    raise UsageError(f"{size**LENGTH:,} codes are too few for these names")
