"""Labels from clusters: DeepCluster, its successors, and images that nobody chose."""

from __future__ import annotations

from replications.claims.arms import EDGES, RANDOM, Arm, learns, method, more
from replications.plan import Claim, Statement

FIVE = tuple(range(5))
EDGES_LEARN = learns("deepcluster", "random-edges")
DEEPCLUSTER = Claim(
    name="deepcluster",
    world="cifar10",
    arms=(
        RANDOM["random-edges"],
        method("deepcluster"),
        method("deepcluster_v2"),
        Arm("deepcluster-plain", {"method": "replications.variants:PlainOrder", **EDGES}),
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
        more("DeepCluster-v2 better", "linear", "deepcluster_v2", "deepcluster"),
    ),
)
MIX = ("mix",)
DEEPERCLUSTER = Claim(
    name="deepercluster-mix",
    world="cifar10",
    arms=(
        RANDOM["random-edges"],
        Arm("deepercluster-mix", {"method": "deepercluster", **EDGES}, sets=MIX),
        Arm("deepcluster-mix", {"method": "deepcluster", **EDGES}, sets=MIX),
        Arm("rotations-mix", {"method": "deepercluster", "clusters": 1, "super_clusters": 1, **EDGES}, sets=MIX),
    ),
    seeds=FIVE,
    minutes=6,
    paper="Caron et al. DeeperCluster. ICCV 2019",
    text="On images that nobody chose, clusters and rotations are ahead of DeepCluster, and of rotations alone.",
    published="VGG-16 on 96 million Flickr images, linear on ImageNet: 45.6.",
    statements=(
        more("ahead of DeepCluster", "linear", "deepercluster-mix", "deepcluster-mix"),
        more("ahead of rotations alone", "linear", "deepercluster-mix", "rotations-mix"),
    ),
)
ONE_PASS = {"max_steps": 430}
SEER = Claim(
    name="seer-stream",
    world="cifar10",
    arms=(
        RANDOM["random"],
        Arm("seer-mix", {"method": "seer", **ONE_PASS}, sets=("whole-mix",)),
        Arm("seer-curated", {"method": "seer", **ONE_PASS}, sets=("cifar10-tenth",)),
    ),
    seeds=FIVE,
    minutes=3,
    paper="Goyal et al. SEER. 2021",
    text="One pass over images that nobody chose is no worse than ten over a curated tenth of them.",
    published="RegNetY-256GF, a billion images, fine-tuned on ImageNet: 84.2.",
    statements=(more("no worse than epochs over a curated set", "linear", "seer-mix", "seer-curated", margin=0.01),),
)
CLAIMS = (DEEPCLUSTER, DEEPERCLUSTER, SEER)
