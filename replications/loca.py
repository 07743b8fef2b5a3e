"""LOCA's features segment better than those of image-level methods (Caron, Houlsby, Schmid, WACV 2024).

Claim: predicting where a patch lies, and which cluster lies there, gives a vision transformer better dense features
than objectives on whole images. Published, ViT-B/16 on ImageNet, 100 epochs: 46.2 mIoU on ADE20k with a linear decoder.

Protocol, written before it was run. Pretrain a vision transformer of width 64 (timm's `test_vit`, 16 px patches; crops
of 96 px, hence 36 patches, and small ones of 48 px) on the training images of clothing + pets + camvid together
(3,735), 400 steps of 64 images, with each method's preset for small data: LOCA a reference, a query and 3 small
queries; DINO 2 large crops and 2 small; MSN target, anchor and 2 small. AdamW at lr 1e-3 for all, since the papers'
rates are made for 10^5 steps. Evaluate the last step, test splits: frozen linear segmentation on camvid (192 px) and
pets (128 px); linear on clothing for comparison. Three seeds, differences paired by seed; about 3 processor minutes an
arm and seed.

Verdict rule. With the mean of the two mIoUs: each difference below is "reproduced" if its 95% interval lies above 0,
"not reproduced" if below 0, else "undecided"; the claim is reproduced if both are, and not reproduced if one is not.

    python -m replications.loca --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.loca --table         # from what is kept
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from replications.protocol import Arm, Claim, Score, claims_table, replicate, run_arm

NAME = "loca"
SETS = ("clothing", "pets", "camvid")
COMMON: dict[str, Any] = {
    "backbone": "test_vit",
    "image_size": 96,
    "batch_size": 64,
    "max_steps": 400,
    "lr": 1e-3,
    "precision": "32-true",  # the faster one for so narrow a network
}
ARMS = [
    Arm("random"),
    Arm("loca", {"method": "loca"}),
    Arm("dino", {"method": "dino", "small_crops": 2, "small_size": 48}),
    Arm("msn", {"method": "msn"}),
]
SCORES = {
    "camvid": Score("camvid mIoU", "camvid", "segment", "miou", image_size=192),
    "pets": Score("pets mIoU", "pets", "segment", "miou", image_size=128),
    "linear": Score("clothing linear", "clothing", "linear"),
}
CLAIMS = (Claim("loca", "dino", "miou"), Claim("loca", "msn", "miou"))


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train and score; with the mean of the two mIoUs."""
    result = run_arm(sys.modules[__name__], arm, seed, data, runs)
    result["scores"]["miou"] = (result["scores"]["camvid"] + result["scores"]["pets"]) / 2
    return result


def table() -> str:
    """Markdown: scores by arm, paired differences, verdict."""
    return claims_table(sys.modules[__name__], {"miou": "mean mIoU"})


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
