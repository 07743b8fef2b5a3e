"""Search: Contriever, which learns from texts alone, on the abstracts of Cranfield."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim, Statement

LEARN = {"method": "contriever"}
TUNED = "replications.searching:tuned"
CONTRIEVER = Claim(
    name="contriever",
    world="cranfield",
    arms=(
        Arm("untrained", {**LEARN, "max_steps": 1, "lr": 0.0}, measure=TUNED),
        Arm("contriever", LEARN, measure=TUNED),
    ),
    seeds=tuple(range(5)),
    minutes=7,
    paper="Izacard et al. Contriever. TMLR 2022",
    text="Without a query to learn from, an encoder learns to search: more of what answers a query is among the first"
    " 100 texts than by BM25; and to begin from it makes few judged queries worth more.",
    published="BERT-base, 500,000 steps of 2,048, BEIR: R@100 above BM25's on 11 of 15 sets; tuned on few queries,"
    " above the same network tuned alone.",
    statements=(
        more("it learns: recall@100 above that of its random initialisation", "recall", "contriever", "untrained"),
        Statement("recall@100 above BM25's", "recall - bm25", ("contriever",)),
        more(
            "tuned on 100 judged queries, nDCG@10 on 125 others above tuning alone",
            "tuned",
            "contriever",
            "untrained",
            premise=Statement("tuning alone helps", "tuned - before tuning", ("untrained",)),
        ),
    ),
    missing="Below BM25 it stays: 300 steps of 32 on 1,400 abstracts, from nothing, where the paper begins with BERT"
    " and reads a billion stretches. Directions are contrasted (the small preset): with the paper's plain dot products,"
    " on seed 100, every text got the same vector. BM25 counts a title once: recall .699 (.706 where titles stand in"
    " the texts again). Other collections, which are not at hand, BERT's weights to begin from, and the cross-lingual"
    " claim.",
)
CLAIMS = (CONTRIEVER,)
