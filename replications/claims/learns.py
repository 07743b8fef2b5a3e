"""Every method learns, by its recipe for small data."""

from __future__ import annotations

from replications.claims.arms import BEGIN, RANDOM, method, more
from replications.plan import Claim
from replications.worlds import CIFAR10

METHODS = (
    *("vicreg", "vicregl", "byol", "co-byol", "simclr", "dino", "mocov3", "barlow_twins", "swav", "co-dino"),
    *("co-mocov3", "co-vicreg", "dcl", "dclw", "nnclr", "directclr", "paws", "msn", "loca", "seer"),
    *("deepcluster", "deepcluster_v2", "deepercluster"),
)


def claim(name: str) -> Claim:
    begin = BEGIN.get(name, "random")
    return Claim(
        name=f"learns-{name}",
        world="cifar10",
        arms=(RANDOM[begin], method(name)),
        seeds=tuple(range(5)),
        minutes=6,
        paper=f"{name} learns",
        text=f"{name}, by its recipe for small data, has better features than the weights that it began with.",
        statements=tuple(more(f"better {score}", score, name, begin) for score in CIFAR10.usual),
    )


CLAIMS = tuple(claim(name) for name in METHODS)
