"""What a run on clips looks at while it trains: whether features are of the background or of what moves."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import glocal
from glocal.data.dots import DotsWorld
from glocal.diagnostics import diagnose
from glocal.features import Features
from glocal.training.online_eval import OnlineEval
from processes import Command


class Eyes(nn.Module):
    """Sees the corners, where no dot ever is, or the place of the brightest spot."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, corners):
        super().__init__()
        self.corners = corners

    def forward(self, x):
        grey = nn.functional.avg_pool2d(x[:, :1], 3, 1)
        if self.corners:
            pooled = torch.cat([x[:, 0, y : y + 2, at : at + 2].flatten(1) for y in (0, 26) for at in (0, 26)], 1)
        else:
            at = grey.flatten(1).argmax(1)
            place = torch.stack([at % grey.shape[-1], at // grey.shape[-1]], 1) / 8
            pooled = torch.cat([torch.sin(k * place) for k in range(1, 12)], 1)
        return Features(pooled, pooled[:, None] + torch.eye(4, pooled.shape[1]), torch.zeros(4, 2), grid=(2, 2))


@pytest.mark.parametrize(
    ("noise", "corners", "fires"),
    [("fixed", True, True), ("fixed", False, False), ("changing", False, False), ("changing", True, False)],
)
def test_it_is_the_background_where_that_is_all_an_encoder_sees(noise, corners, fires):
    world = DotsWorld(60, noise=noise, level=2.0)
    look = OnlineEval(world, image_size=28, seed=0)(Eyes(corners), 1)
    assert look.numbers["clips/pixels"] > 0
    assert [found.name for found in diagnose([look.numbers])] == ["the code is the background"] * fires


def test_of_one_clip_nothing_is_compared():
    look = OnlineEval(DotsWorld(1, frames=20), image_size=28, seed=0)(Eyes(False), 1)
    assert not [name for name in look.numbers if name.startswith("clips")]


def test_a_run_on_dots_ends_with_the_diagnosis(tmp_path):
    options = ["--max-steps", "6", "--batch-size", "16", "--frames", "4", "--workers", "0", "--report", "false"]
    what = ["dots:noise=fixed,n=60,frames=4", "--method", "jepa", "--backbone", "menet5", "--image-size", "28"]
    command = Command("pretrain", *what, *options, "--out", tmp_path / "run")
    out, err = command.communicate()
    assert command.returncode == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "clips/within" in line][-1]
    said = "the code is the background" in out
    assert said == bool(diagnose([last]))
    assert glocal.load(str(tmp_path / "run")).dim == 512
