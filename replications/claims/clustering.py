"""Labels from clusters: DeepCluster, its successors, and images that nobody chose."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import EDGES, RANDOM, WHOLE_EPOCHS, Arm, learns, method, more
from replications.plan import Claim, Statement

FIVE = tuple(range(5))
EDGES_LEARN = learns("deepcluster", "random-edges")
DEEPCLUSTER = Claim(
    name="deepcluster",
    world="cifar10",
    arms=(
        RANDOM["random-edges"],
        RANDOM["random"],
        method("deepcluster"),
        method("deepcluster_v2"),
        Arm("deepcluster-plain", {"method": "replications.variants:PlainOrder", **EDGES, **WHOLE_EPOCHS}),
    ),
    seeds=FIVE,
    minutes=6,
    paper="Caron et al. DeepCluster. ECCV 2018",
    text="Clusters served equally often learn better than in proportion to their size; the clusterings of successive"
    " epochs agree more and more; DeepCluster-v2 learns better features.",
    published="AlexNet on ImageNet, linear on conv5: 38.2; ResNet-50, DeepCluster-v2, 800 epochs: 75.2.",
    statements=(
        more("better with balanced clusters", "linear", "deepcluster", "deepcluster-plain", premise=EDGES_LEARN),
        Statement("the clusterings agree more and more", "nmi rise", ("deepcluster",), least=0.02),
        Statement(
            "DeepCluster-v2 gains more over what it began with",
            "linear",
            more=("deepcluster_v2", "random-edges"),
            less=("deepcluster", "random"),
            premise=learns("deepcluster_v2"),
        ),
    ),
)
MIX: dict[str, Any] = {**EDGES, "max_steps": 1233}
"""Nine epochs of the mix, a multiple of three."""
NOBODYS = ("mix",)
MIX_LEARNS = learns("deepercluster-mix", "random-edges")
ONE_CLUSTER = {"clusters": 1, "super_clusters": 1, "every": 10_000}  # so that the classifier of turns is kept
DEEPERCLUSTER = Claim(
    name="deepercluster-mix",
    world="cifar10",
    arms=(
        RANDOM["random-edges"],
        Arm("deepercluster-mix", {"method": "deepercluster", **MIX}, sets=NOBODYS),
        Arm("deepcluster-mix", {"method": "deepcluster", **MIX}, sets=NOBODYS),
        Arm("rotations-mix", {"method": "deepercluster", **ONE_CLUSTER, **MIX}, sets=NOBODYS),
    ),
    seeds=FIVE,
    minutes=6,
    paper="Caron et al. DeeperCluster. ICCV 2019",
    text="On images that nobody chose, clusters and rotations are ahead of DeepCluster, and of rotations alone.",
    published="VGG-16 on 96 million Flickr images, linear on ImageNet: 45.6.",
    statements=(
        more("ahead of DeepCluster", "linear", "deepercluster-mix", "deepcluster-mix", premise=MIX_LEARNS),
        more("ahead of rotations alone", "linear", "deepercluster-mix", "rotations-mix", premise=MIX_LEARNS),
    ),
)
SEEN: dict[str, Any] = {"method": "seer", "max_steps": 490, "batch_size": 64}
"""One pass over the stream, of some 31,900 images."""
STREAM = {"epochs": None, "cache": None}
SAME_WARMUP = {"warmup_epochs": 0.415, "frozen_epochs": 0.0163}
"""In steps: an epoch of the curated set has 78, the stream, which is one, 490."""
SEER = Claim(
    name="seer-stream",
    world="cifar10",
    arms=(
        RANDOM["random"],
        Arm("seer-stream", {**SEEN, **STREAM}, sets=("stream-mix",)),
        Arm("seer-curated", {**SEEN, **SAME_WARMUP}, sets=("cifar10-tenth",)),
    ),
    seeds=FIVE,
    minutes=3,
    paper="Goyal et al. SEER. 2021",
    text="One pass over a stream of images that nobody chose, unbalanced, is no worse than as many steps over a"
    " curated, balanced set of 5,000.",
    published="RegNetY-256GF, a billion images, fine-tuned on ImageNet: 84.2.",
    statements=(
        more(
            "no worse than epochs over a curated set",
            "linear",
            "seer-stream",
            "seer-curated",
            margin=0.01,
            premise=more("seer-curated learns, three points", "linear", "seer-curated", "random", margin=-0.03),
        ),
    ),
)
CLAIMS = (DEEPCLUSTER, DEEPERCLUSTER, SEER)
