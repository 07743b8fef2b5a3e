"""DeepCluster serves its clusters equally often, else the largest swallow the others (Caron et al., ECCV 2018).

Claim (section 3.3, without a number): where most images are in few clusters, learning these labels leads to a trivial
parametrisation, in which the features tell ever fewer images apart; serving images uniformly over the clusters prevents
it. The authors' code serves clusters in proportion to their size all the same, by a mistaken index.

Protocol, written before it was run. Pretrain a ResNet of 8 convolutions on edges without colour
(replications/thin_resnet.py, 64 px) by DeepCluster (128 clusters of 64 whitened components, its preset for small data)
on the training images of clothing + pets + camvid together (3,735), 406 steps of 64 images: seven clusterings and
epochs. `balanced` is the method; `plain` serves every image once an epoch, in random order. After the last step the
training images are clustered once more: the share of them in the largest cluster, and the number of clusters with less
than a quarter of the mean (empty ones too). Also kNN and linear on clothing, test split. Three seeds, differences
paired by seed; about 2 processor minutes an arm and seed.

Verdict rule. Each difference below is "reproduced" if its 95% interval lies above 0, "not reproduced" if below 0, else
"undecided"; the claim is reproduced if both are, and not reproduced if one is not.

    python -m replications.deepcluster --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.deepcluster --table         # from what is kept
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from glocal.clustering import kmeans, whiten
from glocal.data import open_source
from glocal.evaluation.extract import extract
from glocal.methods import DeepCluster
from glocal.views import EpochPlan, PlainImages
from replications.protocol import Arm, Claim, Score, claims_table, place, replicate, run_arm


class PlainOrder(DeepCluster):
    """DeepCluster that serves every image once an epoch."""

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        return replace(super().before_epoch(bank), order=None)


NAME = "deepcluster"
CLUSTERS, COMPONENTS = 128, 64
SETS = ("clothing", "pets", "camvid")
COMMON: dict[str, Any] = {
    "backbone": "replications.thin_resnet:sobel_thin_rf195",
    "image_size": 64,
    "batch_size": 64,
    "max_steps": 406,
}
OPTIONS = {"clusters": CLUSTERS, "components": COMPONENTS}
ARMS = [
    Arm("random"),
    Arm("balanced", {"method": "deepcluster", **OPTIONS}),
    Arm("plain", {"method": "replications.deepcluster:PlainOrder", **OPTIONS}),
]
SCORES = {"knn": Score("clothing kNN", "clothing", "knn"), "linear": Score("clothing linear", "clothing", "linear")}
CLAIMS = (Claim("plain", "balanced", "largest"), Claim("balanced", "plain", "linear"))


def clusters(encoder: Any, data: Path, seed: int) -> dict[str, float]:
    """How unequal the clusters of the training images are."""
    images = open_source([place(data, name) for name in SETS])
    features = extract(encoder, images, image_size=encoder.image_size).pooled
    x = F.normalize(whiten(features, COMPONENTS), dim=1)
    sizes = torch.bincount(kmeans(x, CLUSTERS, iterations=20, seed=seed).assignment, minlength=CLUSTERS)
    return {"largest": float(sizes.max() / len(x)), "small": float((sizes < len(x) / CLUSTERS / 4).sum())}


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train, score, and cluster once more."""
    return run_arm(sys.modules[__name__], arm, seed, data, runs, lambda encoder: clusters(encoder, data, seed))


def table() -> str:
    """Markdown: scores by arm, paired differences, verdict."""
    return claims_table(sys.modules[__name__], {"largest": "share of the largest cluster", "small": "small clusters"})


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
