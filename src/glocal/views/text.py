"""`TextLoader`: from a collection of texts to batches of token views, repeatable to the word piece."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal import random
from glocal.data.source import TextSource
from glocal.errors import UsageError
from glocal.views.recipe import Span
from glocal.views.view import Batch, TokenView


class TextLoader:
    """Batches of views of texts; a `Loader`.

    What text i looks like in epoch e is a pure function of (seed, epoch, text, view). Empty texts are left out.

    Args:
        source: the texts; `UsageError` if not enough for one batch.
        spans: the views to take of each.
        model: what splits texts into word pieces and packs these: `glocal.backbones.text.TextModel`.
        batch_size: texts per step, per process.
        seed: the run's seed.
        rank, world_size: index of this process, and their number.

    Attributes:
        notes: what a person should know.
    """

    def __init__(
        self,
        source: TextSource,
        spans: tuple[Span, ...],
        model: Any,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.spans, self.model, self.seed = source, spans, model, seed
        self.batch_size, self.rank, self.total = batch_size, rank, batch_size * world_size
        empty = [i for i in range(len(source)) if not source.text(i).strip()]
        self.ids = np.setdiff1d(np.arange(len(source)), empty)
        self.images, self.steps_per_epoch = len(self.ids), len(self.ids) // self.total
        if self.steps_per_epoch == 0:
            few = f"{source.name} has {self.images} texts, fewer than one batch of {self.total}"
            raise UsageError(f"{few}: choose a smaller batch size or add texts")
        first = ", ".join(source.key(i) for i in empty[:3]) + (", …" if len(empty) > 3 else "")
        self.notes = [f"{len(empty):,} texts are empty and left out: {first}"] if empty else []

    def epoch(self, epoch: int, start: int = 0, order: Tensor | None = None) -> Iterator[Batch]:
        """The batches of one epoch but for the first `start`; `order`: ids to serve in place of a shuffle."""
        served = self.ids[random.permutation(len(self.ids), self.seed, "order", epoch)]
        served = served if order is None else order.numpy()
        for step in range(start, self.steps_per_epoch):
            first = step * self.total + self.rank * self.batch_size
            ids = served[first : first + self.batch_size]
            pieces = self.model.split([self.source.text(int(i)) for i in ids])
            views = [self._view(n, span, epoch, ids, pieces) for n, span in enumerate(self.spans)]
            yield Batch(views, torch.from_numpy(ids))  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing is held."""

    def _view(self, number: int, span: Span, epoch: int, ids: np.ndarray, pieces: list[np.ndarray]) -> TokenView:
        chunk = random.uniform(self.seed, "chunk", epoch, ids, n=1)[:, 0]  # the views of a text are of one chunk
        draws = random.uniform(self.seed, "span", epoch, ids, number, n=2)
        stay = random.uniform(self.seed, "deleted", epoch, ids, number, n=span.chunk) >= span.deleted
        rows = [span.cut(*given) for given in zip(pieces, chunk, draws, stay, strict=True)]
        return TokenView(*self.model.pack(rows))
