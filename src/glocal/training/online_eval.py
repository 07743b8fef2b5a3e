"""`OnlineEval`: what a run looks at every few epochs while it trains."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal import random
from glocal.data import ImageSource, Subset
from glocal.diagnostics.collapse import check_features
from glocal.evaluation.extract import stream
from glocal.evaluation.knn import knn_predict
from glocal.evaluation.rank import rankme
from glocal.evaluation.split import held_out
from glocal.training.stopping import TrainingStopped

IMAGES = 1000  # at most so many training images are looked at
CELLS = 4  # at most so many different cells of each map enter the rank of dense features


class OnlineEval:
    """Online kNN accuracy, where the training images have labels, and effective rank of pooled and dense features.

    Looks at a fixed sample of the *training* images only, at their centre crop of `image_size` pixels; a fifth of it is
    classified by the rest. No test image is seen before training ends.
    """

    def __init__(self, source: ImageSource, *, image_size: int, seed: int) -> None:
        chosen = np.sort(random.permutation(len(source), seed, "watch")[:IMAGES])
        self.sample, self.image_size, self.seed = Subset(source, chosen), image_size, seed

    def __call__(self, encoder: nn.Module, epoch: int) -> dict[str, float]:
        """The numbers for the log; `TrainingStopped` with the diagnosis if the representation has collapsed."""
        pooled, dense, index = self.features(encoder)
        diagnosis = check_features(pooled, dense if len(dense) > len(pooled) else None)
        if diagnosis is not None:
            raise TrainingStopped(f"stopped after epoch {epoch}: {diagnosis}")
        numbers = {"rank_pooled": rankme(pooled), "rank_dense": rankme(dense)}
        if self.sample.labels is not None:
            labels = torch.from_numpy(self.sample.labels)[index]
            bank, queries = held_out(len(labels), self.seed, "watch", labels=labels.numpy())
            predicted = knn_predict(pooled[queries], pooled[bank], labels[bank])
            numbers["knn_top1"] = float((predicted == labels[queries]).float().mean())
        return numbers

    def features(self, encoder: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features (N, D), a few dense ones of each image (N·S, D), and positions in the sample (N,)."""
        pooled, dense, indices = [], [], []
        batches: Any = stream(encoder, self.sample, image_size=self.image_size, batch_size=64)
        for index, features in batches:
            pooled.append(features.pooled.float().cpu())
            tokens = features.tokens.float().cpu()
            order = random.uniform(self.seed, "watch cells", index.numpy(), n=tokens.shape[1]).argsort(1)[:, :CELLS]
            dense.append(tokens[torch.arange(len(index))[:, None], torch.from_numpy(order)].flatten(0, 1))
            indices.append(index)
        return torch.cat(pooled), torch.cat(dense), torch.cat(indices)
