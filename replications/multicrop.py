"""Small crops help SwAV, at equal epochs and at equal compute (Caron et al., NeurIPS 2020, section 3.3).

Claim: further crops of low resolution, which only predict, improve the features by more than their cost. Published,
ResNet-50 on ImageNet, linear: 70.1 with 2 crops of 224 px (400 epochs), 74.6 with 6 more of 96 px (400 epochs).

Protocol, written before it was run. Pretrain a ResNet of 8 convolutions (replications/thin_resnet.py) on the training
images of clothing + pets + camvid together (3,735), batch 64, with SwAV's preset for small data: `two` sees 2 crops of
64 px for 400 steps, `multi` 4 more of 32 px for as many, `two-longer` 2 crops for 600 steps, the same number of pixels
as `multi`. Evaluate the last step: kNN and linear on clothing, test split. Three seeds, differences paired by seed;
about 2 to 4 processor minutes an arm and seed.

Verdict rule. Each difference below is "reproduced" if its 95% interval lies above 0, "not reproduced" if below 0, else
"undecided"; the claim is reproduced if both are, and not reproduced if one is not.

    python -m replications.multicrop --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.multicrop --table         # from what is kept
"""

from __future__ import annotations

import sys
from typing import Any

from replications.protocol import Arm, Claim, Score, claims_table, replicate

NAME = "multicrop"
STEPS = 400
SETS = ("clothing", "pets", "camvid")
COMMON: dict[str, Any] = {
    "backbone": "replications.thin_resnet:thin_rf195",
    "image_size": 64,
    "batch_size": 64,
    "max_steps": STEPS,
}
ARMS = [
    Arm("random"),
    Arm("two", {"method": "swav", "small_crops": 0}),
    Arm("multi", {"method": "swav", "small_crops": 4, "small_size": 32}),
    Arm("two-longer", {"method": "swav", "small_crops": 0, "max_steps": round(STEPS * 1.5)}),
]
SCORES = {"knn": Score("clothing kNN", "clothing", "knn"), "linear": Score("clothing linear", "clothing", "linear")}
CLAIMS = (Claim("multi", "two", "linear"), Claim("multi", "two-longer", "linear"))


def table() -> str:
    """Markdown: scores by arm, paired differences, verdict."""
    return claims_table(sys.modules[__name__])


if __name__ == "__main__":
    replicate(sys.modules[__name__])
