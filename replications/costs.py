"""What a step of one arm costs over a step of another: processor time, measured side by side, short runs in turns.

`python -m replications costs` prints the ratios that `COST` in replications/claims/arms.py holds, by which arms get as
long as others take.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import glocal
from replications.cells import Cell
from replications.claims import architectures, co_ssl, multi_crop, vicregl
from replications.claims.arms import COST
from replications.data import place
from replications.plan import Claim
from replications.queue import cells_of
from replications.worlds import RUN

PAIRS: dict[str, tuple[Claim, str, str]] = {
    "vicregl": (vicregl.ON_PARTS, "vicregl-0.75", "vicreg"),
    "co-byol": (co_ssl.AGAINST_BYOL, "co-byol", "byol"),
    "multi-crop": (multi_crop.CLAIMS[0], "swav-multi", "swav"),
    **{c.name: (c, c.name, c.name.replace("xcit", "vit")) for c in architectures.CROSS_COVARIANCE},
}
SHORT, LONG, TURNS = 10, 40, 3


def ratio(claim: Claim, slow: str, fast: str, data: Path) -> float:
    """Processor seconds of a step of `slow` over those of a step of `fast`; the median over turns."""
    by_name = {cell.arm.name: cell for cell in cells_of(claim)}
    seconds(by_name[fast], SHORT, data)  # fills the cache
    return statistics.median(a_step(by_name[slow], data) / a_step(by_name[fast], data) for _ in range(TURNS))


def a_step(cell: Cell, data: Path) -> float:
    return (seconds(cell, LONG, data) - seconds(cell, SHORT, data)) / (LONG - SHORT)


def seconds(cell: Cell, steps: int, data: Path) -> float:
    """Of a run of so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        options = {**RUN, **cell.options, "max_steps": steps}
        began = time.process_time()
        glocal.pretrain([place(data, cell.named(name)) for name in cell.world.sets], out=f"{folder}/run", **options)
        return time.process_time() - began


def table(data: Path) -> str:
    """Each ratio, as measured now and as it is held."""
    lines = [f"{name}: {ratio(*pair, data):.2f} (the plan has {COST[name]})" for name, pair in PAIRS.items()]
    return "\n".join(lines)
