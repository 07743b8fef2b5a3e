"""A fine-tuned classifier, segmenter and detector of keypoints of the generated world, made once."""

import json

import numpy as np
import pytest
from PIL import Image
from tuned import FAST, network

import glocal
from glocal.data import PartsWorld
from glocal.data.parts import PART_NAMES


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """64 training images and 32 others of two classes, with masks and places of their parts."""
    out = tmp_path_factory.mktemp("world")
    for split, images in (("train", 64), ("val", 32)):
        source = PartsWorld(images, 64, split=split, classes=2, difficulty=0, nuisance=0)
        places = {}
        for i in range(len(source)):
            sample, name = source.sample(i), f"{source.classes[source.labels[i]]}/{i:02d}.png"
            places[name] = np.c_[sample.keypoints, sample.visible]
            for kind, pixels in (("images", sample.image), ("masks", source.mask(i))):
                (out / split / kind / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(out / split / kind / name)
        np.save(out / split / "joints.npy", np.stack([places[name] for name in sorted(places)]))
        (out / split / "joints.json").write_text(json.dumps(PART_NAMES))
    return str(out)


@pytest.fixture(scope="session")
def classifier(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "classes"
    settings = {"train": "all", "head": "classify", "lr": 1e-3, "layer_decay": 1.0, "max_steps": 24}
    return glocal.finetune(network(world), world, out=str(out), **settings, **FAST)


@pytest.fixture(scope="session")
def segmenter(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "masks"
    settings = {"train": "all", "lr": 2e-3, "layer_decay": 1.0, "max_steps": 24}
    return glocal.finetune(network(world), world, out=str(out), **settings, **FAST)


@pytest.fixture(scope="session")
def locator(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "joints"
    settings = {"head": "keypoints", "lr": 6e-4, "max_steps": 32}
    return glocal.finetune(network(world), world, out=str(out), **settings, **FAST)
