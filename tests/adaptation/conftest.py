"""A fine-tuned classifier and a fine-tuned segmenter of the generated world, made once."""

import pytest
from tuned import DATA, FAST, network

import glocal


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "classes"
    settings = {"train": "all", "head": "classify", "lr": 1e-3, "layer_decay": 1.0, "max_steps": 40}
    return glocal.finetune(network(), DATA, out=str(out), **settings, **FAST)


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "masks"
    settings = {"train": "all", "lr": 2e-3, "layer_decay": 1.0, "max_steps": 40}
    return glocal.finetune(network(), DATA, out=str(out), **settings, **FAST)
