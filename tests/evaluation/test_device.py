"""Evaluation, embedding and reports on an accelerator: pretended, where there is none."""

import numpy as np
import pytest
import torch

from glocal.evaluation import find_task
from glocal.evaluation.context import EvalContext
from pretended import pretended

TASKS = ["knn", "linear", "segment", "correspond", "rank", "stability", "robustness", "internal", "crops", "redundancy"]
QUICK = {
    "linear": {"epochs": 2, "lrs": (0.1,), "wds": (0.0, 0.1)},
    "segment": {"steps": 5, "lrs": (0.3, 3.0)},
    "robustness": {"severities": (3,), "corruptions": ("gaussian_noise", "glass_blur", "fog", "jpeg_compression")},
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_scores_on_the_device_as_on_the_cpu(made, name):
    images, masks = made.blocks(16, 0)
    source = made.Scenes(images, masks, ignore_index=7, labels=np.arange(16) % 2)
    scores = []

    def score(encoder):
        context = EvalContext(encoder, source, source, 32, batch_size=5)
        scores.append(find_task(name)(context, **QUICK.get(name, {})))

    score(made.Cells())
    with pretended() as device:
        score(made.Cells().to("cuda:0"))
    assert "avg_pool2d" in device.dtypes  # the encoder ran there
    assert torch.float64 not in set.union(*device.dtypes.values())  # which MPS has none of
    for key, value in scores[0].items():
        assert scores[1][key] == (pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value), key
