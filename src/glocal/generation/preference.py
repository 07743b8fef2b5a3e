"""Pictures found by choosing: what one likes best of a few, again and again; nothing but ranks is asked for."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.run import read_json, write_json

STEP, SMALLER, LARGER = 1.2, 0.85, 1.1
"""By how far candidates are turned from the best at first, in radians; and how that changes with each answer."""


class Session:
    """Questions "which is best?" about latents, and the answers, in a file from which it goes on.

    The first question is about standard normal draws. Each other is about the best so far and the same turned towards
    new draws, by an angle that grows where one of them is better, and shrinks where none is: a (1 + λ) evolution
    strategy on the sphere where latents lie. All that is drawn follows from the seed, so that the answers are all that
    is kept.

    Args:
        file: of the answers; made with the first of them.
        shape: of a latent.
        count: of candidates, 2 to 5.
        seed: of what is drawn.
        about: what the pictures are of, such as the generator's digest; kept and compared.

    Raises:
        UsageError: if the file is of other questions.
    """

    def __init__(
        self, file: str | Path, shape: tuple[int, ...], *, count: int = 4, seed: int = 0, about: str = ""
    ) -> None:
        if not 2 <= count <= 5:
            raise UsageError(f"one chooses among 2 to 5 pictures, not {count}")
        self.file, self.shape, self.count, self.seed = Path(file), tuple(shape), count, seed
        self.about, self.answers, self.step = about, list[int](), STEP
        self.best: Tensor | None = None
        found = read_json(self.file, "delete it to begin again")
        if found and {**self._about(), "answers": found.get("answers")} != found:
            raise UsageError(f"{file} holds answers about other pictures, --n or --seed: give another --out")
        if not isinstance(answers := found.get("answers", []), list):
            raise UsageError(f"{self.file}: its answers are no list; delete it to begin again")
        for answer in answers:
            self._learn(answer)

    def ask(self) -> Tensor:
        """Candidates (count, *shape), the best so far first."""
        key = random.derive(self.seed, "question", len(self.answers))
        drawn = torch.randn((self.count, *self.shape), generator=torch.Generator().manual_seed(key))
        if self.best is None:
            return drawn
        return torch.cat([self.best[None], math.cos(self.step) * self.best + math.sin(self.step) * drawn[1:]])

    def tell(self, best: int) -> None:
        """The place, from 0, of the best of what `ask` gave; kept at once."""
        self._learn(best)
        write_json(self.file, self._about() | {"answers": self.answers})

    def _learn(self, best: int) -> None:
        if not (isinstance(best, int) and 0 <= best < self.count):
            raise UsageError(f"{self.file}: {best} is none of {self.count} pictures")
        chosen = self.ask()[best]
        if self.best is not None:
            self.step = min(STEP, self.step * (LARGER if best else SMALLER))
        self.best = chosen
        self.answers.append(best)

    def _about(self) -> dict[str, Any]:
        return {"about": self.about, "latent_shape": list(self.shape), "count": self.count, "seed": self.seed}
