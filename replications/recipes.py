"""A number for each method's recipe, raised whenever its numbers change: results of two recipes never mix."""

from __future__ import annotations

RECIPES: dict[str, int] = {
    "random": 1,
    "vicreg": 1,
    "simclr": 1,
    "byol": 1,
}
PROBES: dict[str, int] = {"knn": 1, "linear": 1, "segment": 1, "rank": 1, "correspond": 1}
