"""Write docs/backbones.md: `python docs/backbones.py`, on a machine that does nothing else."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.environment import machine
from glocal.backbones import list_backbones
from glocal.backbones.details import HEAD, describe

PAGE = Path(__file__).with_suffix(".md")
NAMES = {
    "Convolutional": ["resnet18", "resnet50", "regnety_016", "convnext_tiny", "convnextv2_atto", "mobilenet_v1_025"],
    "Of a set receptive field": ["co_resnet50_rf99", "rf109_resnet18", "bagnet17"],
    "Vision transformers": ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch14_reg4_dinov2"],
    "Whose patch can be set": ["flexivit_tiny", "flexivit_small", "flexivit_base"],
    "For photographs of any shape": ["navit_tiny", "navit_small", "navit_base"],
    "Attention between channels": ["xcit_nano_12_p16_224", "xcit_nano_12_p8_224", "xcit_small_12_p16_224"],
    "Without attention or convolutions": ["resmlp_12_224"],
    "Made to be large": ["vit22b_tiny", "vit22b_small", "vit22b_22b"],
}
TEXT = """# Which backbone

Any of timm's networks will do (`glocal backbones` lists them), and ours; every method trains every one of them, or says
in one line, before it begins, why not and what to do. What each costs here and what it can do:

    glocal backbones 'xcit*12_p16_224' --details

- **Nothing special**: `resnet50`, or `vit_small_patch16_224` for DINO, MSN and LOCA. On a CPU `resnet18` at 96 px.
- **Dense features**: a small stride counts more than a large network: `--output-stride 8` of a ResNet, a patch of 8.
- **Large images**: an XCiT's cost grows linearly with the number of tokens, a vision transformer's with its square
  ([measured](performance.md)). XCiT cannot leave out patches, so that MSN and LOCA need `--patch-drop 0` and
  `--query-keep 1`.
- **One model for several speeds**: FlexiViT, whose patch is chosen after training:
  [one model, many speeds](many_speeds.md).
- **Small images of one size**: ResMLP mixes its N tokens by an N×N matrix: it takes the size it was built for and no
  other.
- **Rates that make others diverge**: the blocks of ViT-22B normalise queries and keys (`vit22b_*`).
- **Larger than memory**: `--recompute` keeps what enters each block and computes the rest again; for several devices
  `glocal.backbones.sharding.block_policy(encoder.model)` is the policy by which FSDP wraps one block at a time.

"""
NOTE = """
FLOPs are of one image of the size in the column px, forward; a multiplication and an addition are two. Images a second
are of that size, forward, in float32, {where}. *Any size* takes sides that its patches divide. *Drops patches*: runs on
some of an image's patches. Without a receptive field, a cell sees the whole image.
"""


def main() -> None:
    parts, known = [], set(list_backbones())
    for kind, names in NAMES.items():
        rows = [describe(name).cells() for name in names if name in known]
        if not rows:
            continue
        lines = [HEAD, [":--", *["--:"] * (len(HEAD) - 2), ":--"], *rows]
        parts += [f"## {kind}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    about = machine()
    where = about["gpu"] or f"on {torch.get_num_threads()} thread(s) of {about['cpu']} under a load of {about['load']}"
    PAGE.write_text(TEXT + "\n\n".join(parts) + "\n" + NOTE.format(where=where))


if __name__ == "__main__":
    main()
