"""Contriever: unsupervised dense retrieval by contrast (Izacard et al., TMLR 2022, arXiv:2112.09118)."""

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F

from glocal.errors import UsageError
from glocal.heads import IndexedQueue
from glocal.losses import Loss, contrast_queue
from glocal.losses.loss import upcast
from glocal.methods.published import Optimization, Preset
from glocal.methods.teacher import ema_copy, update_ema
from glocal.views import Batch, Recipe, Span, TokenView


class Contriever(torch.nn.Module):
    """A stretch of a text finds, among those of thousands of others, another stretch of the same text.

    Reads texts: `text:corpus.jsonl`, with `--backbone text_small`. Needs: texts of some sentences, and a second network
    in memory. Choose it to search texts by meaning, with no queries to learn from. Expect, BERT-base, 500,000 steps of
    2,048: R@100 above BM25's on 11 of the 15 sets of BEIR; of a small corpus read from nothing, less than BM25's.
    The rate is one to learn from nothing with; the paper, from BERT's weights, has `--lr 5e-5` at a batch of 2,048, and
    20,000 steps of warm-up.

    Args:
        backbone: the encoder to train, one that reads texts.
        image_size: of no meaning; texts have none.
        tokenizer: a tokenizer.json of the library tokenizers; by default word pieces are learnt from the texts.
        share: length of a stretch as a share of its text's, (least, most); in the paper's text from .05.
        deleted: probability with which a word piece is left out of a stretch.
        chunk: word pieces of a long text that both stretches are from.
        queue: stretches of steps before, of which none is to be found; those of the same text are left out.
        momentum: of the network that reads the stretches to be found.
        temperature: τ of the softmax over dot products.
        normalize: contrast directions. The paper does not; read from nothing, in a short run, all texts then get one
            vector, whose length grows from what the queue holds to what is to be found.
    """

    title = "Contriever"
    paper = (
        "Izacard, Caron, Hosseini, Riedel, Bojanowski, Joulin, Grave. Unsupervised Dense Information Retrieval with"
        " Contrastive Learning. TMLR 2022. arXiv:2112.09118"
    )
    pool = "mean"
    reads = "text"
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"queue": 16 * batch, "momentum": 0.99, "normalize": True},
    }

    def __init__(
        self,
        backbone: Any,
        *,
        image_size: int = 224,
        tokenizer: str | None = None,
        share: tuple[float, float] = (0.1, 0.5),
        deleted: float = 0.1,
        chunk: int = 256,
        queue: int = 131_072,
        momentum: float = 0.9995,
        temperature: float = 0.05,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if tokenizer is not None:
            backbone.model.adopt(_content(tokenizer))
        self.encoder, self.teacher = backbone, ema_copy(backbone)
        self.queue = IndexedQueue(queue, backbone.dim)
        self.momentum, self.temperature, self.normalize = momentum, temperature, normalize
        self.recipe = Recipe((), spans=(Span(share, deleted, chunk),) * 2)
        self.optimization = Optimization("adamw", lr=5e-4, weight_decay=0.01, beta2=0.98)

    def forward(self, batch: Batch) -> Loss:
        queries, keys = cast(list[TokenView], batch.views)
        q = self.encoder(queries.tokens, queries.mask).pooled
        with torch.no_grad():
            k = self.teacher(keys.tokens, keys.mask).pooled
        if self.normalize:
            q, k = F.normalize(upcast(q), dim=1), F.normalize(upcast(k), dim=1)
        index = batch.index.to(q.device)
        same = index[:, None] == self.queue.index  # few texts come again soon: stretches of a query's own are in there
        loss = contrast_queue(q, k, self.queue.embeddings.clone(), self.temperature, same)
        self.queue.push(k, index)
        return Loss.of({"contrast": loss})

    def after_step(self, progress: float) -> None:
        update_ema(self.teacher, self.encoder, self.momentum)


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--tokenizer {path} cannot be read: {error}") from error
