"""A model that is asked: about labels (REW) and about videos (Temporal Chain of Thought)."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim

TEN = tuple(range(10))
BETTER = more("the model alone is righter than the labels", "precision", "predict", "raw")
STAND_IN = (
    "A small replication: no language model could be had, the model is MobileNet's posterior, which reads by shared"
    " words."
)
CURATE = Claim(
    name="rew",
    world="own",
    arms=tuple(
        Arm(arm, {"arm": arm}, run="replications.asking:curate") for arm in ("raw", "predict", "without", "with")
    ),
    seeds=TEN,
    minutes=1.5,
    paper="Caron et al. REW. NeurIPS 2024",
    text="Asked whether a label is right, with what an encyclopaedia says of it, a model makes better labels than asked"
    " without, than asked to name the image, than the labels as they are; and better classifiers are learnt from them.",
    published="Labels of web images, corrected by a multimodal LLM with Wikipedia beside it: models trained on them are"
    " 6.9 points better on the entities of OVEN than the best before.",
    statements=(
        more("context helps to correct", "precision", "with", "without"),
        more("correcting is better than predicting", "precision", "without", "predict"),
        more("predicting is better than nothing", "precision", "predict", "raw"),
        more("neighbours learn more with context", "knn", "with", "without"),
        more("neighbours learn more by correcting", "knn", "without", "predict"),
        more("neighbours learn more by predicting", "knn", "predict", "raw", premise=BETTER),
        more("GER learns more with context", "ger", "with", "without"),
        more("GER learns more by correcting", "ger", "without", "predict"),
        more("GER learns more by predicting", "ger", "predict", "raw", premise=BETTER),
    ),
    missing=f"{STAND_IN} The candidate is the label, where the paper takes the name nearest to a caption; a name that"
    " the knowledge base lacks is dropped, where a name near to it might be meant. What the encyclopaedia says was"
    " written for it, in ImageNet's words. On seed 103 it names"
    " .53 of all images at all, and .64 of these rightly, where .70 of the labels are. Another regime was tried on"
    " seed 101: of clothes alone, which the model can hardly tell apart (with context .66, without .72, raw .70).",
)
ASK = Claim(
    name="tcot",
    world="own",
    arms=(
        *(
            Arm(strategy, {"strategy": strategy}, run="replications.asking:ask")
            for strategy in ("uniform", "single", "dynamic")
        ),
        Arm("uniform-20", {"strategy": "uniform", "context": 20}, run="replications.asking:ask"),
    ),
    seeds=tuple(range(1, 11)),  # trials saw 0
    minutes=1,
    paper="Arnab et al. Temporal Chain of Thought. 2025",
    text="At equal frames a call, a model that first says of each segment which frames matter answers better than one"
    " that says it once of the whole, and that than one shown frames spread evenly; the more so the longer the video.",
    published="LVBench: uniform 50.3, single-step 48.3, hierarchical 53.3, dynamic segments 61.7;"
    " Egoschema: 72.6, 74.8, 74.0, 75.2.",
    statements=(
        more("segments are better than one look", "mean", "dynamic", "single", least=0.05),
        more(
            "one look is better than even frames",
            "mean",
            "single",
            "uniform",
            least=0.05,
            premise=more("choosing is better than to see four more", "mean", "single", "uniform-20"),
        ),
        more("segments lose less over 16 times the length", "x16 - x1", "dynamic", "uniform", least=0.05),
        more("segments are better at 16 times the length", "x16", "dynamic", "uniform", least=0.05),
    ),
    missing=f"{STAND_IN} Its answer is the largest over frames, so that leaving some of those out that even frames"
    " show changes nothing: one look gains by its few further frames alone. Two other regimes were tried on seeds 0,"
    " 100 and 101: an answer by the mean over frames, which"
    " whatever is frequent in the street decides; and clips that the model mostly does not know even alone.",
)
CLAIMS = (CURATE, ASK)
