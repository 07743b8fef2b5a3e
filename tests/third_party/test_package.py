"""Somebody else's method, backbone, source and task, by their names on the command line."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file


def test_it_trains_and_is_evaluated(glocal_beside_stripes, tmp_path):
    run = tmp_path / "run"
    options = "--method centred --memory .5 --backbone stripe_net --image-size 32 --batch-size 8 --max-steps 3"
    machine = "--accelerator cpu --workers 0 --precision 32 --checkpoint-steps 1 --report false --quiet"
    glocal_beside_stripes("pretrain", "stripes:48", "--out", str(run), *f"{options} {machine}".split(), ranks=2)
    center = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]["center"]
    assert center.shape == (32,)
    assert center.abs().min() > 0
    assert load_file(run / "encoder.safetensors").keys() == {
        f"{part}.{kind}" for part in ("stem", "body") for kind in ("weight", "bias")
    }
    scores = tmp_path / "scores.json"
    glocal_beside_stripes("evaluate", str(run), "--data", "stripes:24", "--tasks", "separation", "--json", str(scores))
    found = json.loads(scores.read_text())
    assert found["separation"]["distance"] > 0
    assert (found["meta"]["n_train"], found["meta"]["n_test"], found["meta"]["split"]) == (24, 24, "test")
