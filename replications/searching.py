"""What a few judged queries add to an encoder of texts: a measure of `replications.claims.search`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

import glocal
from glocal import random
from glocal.data import open_texts
from glocal.evaluation.extract import frozen
from glocal.evaluation.search import ranked
from glocal.losses import contrast_queue
from glocal.run import Run

JUDGED, STEPS, BATCH, LR, TEMPERATURE, PIECES = 100, 100, 16, 1e-4, 0.05, 128


def tuned(run: Run) -> dict[str, float]:
    """nDCG@10 on the queries that were not tuned on, after and before tuning; the same 100 for all seeds.

    Each step 16 queries, each with one of the texts that answer it, the beginning of it, which is to be found among
    those of the other queries, by cosine: AdamW, 1e-4, 100 steps.
    """
    encoder = glocal.load(str(run.path))
    source, seed = open_texts(run.config()["data"]), int(run.config()["seed"])
    asked = source.queries
    assert asked is not None
    order = random.permutation(len(asked.texts), 0, "judged")
    judged, others = order[:JUDGED], order[JUDGED:]
    texts = [source.text(i) for i in range(len(source))]

    def score() -> float:
        with frozen(encoder):
            read = (encoder.read(words) for words in (texts, [asked.texts[n] for n in others]))
            bank, queries = (F.normalize(vectors, dim=1) for vectors in read)
        found = [ranked(torch.mv(bank, q).numpy(), asked.relevant[n]) for n, q in zip(others, queries, strict=True)]
        return float(np.mean(found, axis=0)[0])

    before = score()
    model, optimizer = encoder.model, torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=0.01)
    pieces = model.split(texts)
    encoder.train()
    for step in range(STEPS):
        u = random.uniform(seed, "tuned", step, n=2 * JUDGED)
        chosen = judged[u[:JUDGED].argsort()[:BATCH]]
        rows = [asked.relevant[n][int(v * len(asked.relevant[n]))] for n, v in zip(chosen, u[JUDGED:], strict=False)]
        read = (model.split([asked.texts[n] for n in chosen]), [pieces[row][:PIECES] for row in rows])
        q, k = (F.normalize(encoder(*model.pack(texts)).pooled, dim=1) for texts in read)
        losses = []
        for i, row in enumerate(rows):
            wrong = [j for j, other in enumerate(rows) if other not in asked.relevant[chosen[i]] and other != row]
            losses.append(contrast_queue(q[i : i + 1], k[i : i + 1], k[wrong], TEMPERATURE))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return {"tuned": score(), "before tuning": before}
