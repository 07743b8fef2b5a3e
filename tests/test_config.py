"""The configuration of a run: typed, checked, the same in Python, on the command line and in config.yaml."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import yaml

import glocal
from glocal.config import RENAMED, PretrainConfig, reserved_names
from glocal.errors import UsageError
from glocal.methods import method_class, method_names, method_options


def test_pretrain_has_the_configurations_options_with_its_defaults():
    parameters = inspect.signature(glocal.pretrain).parameters
    own = {"out", "resume", "quiet", "trust_code", "accept_changed_data", "fps"}  # of one call, not of the run
    keywords = {name: p.default for name, p in parameters.items() if name not in own and p.kind is not p.VAR_KEYWORD}
    assert keywords.pop("backbone") is None, "the method's own, resnet50 of most"
    assert keywords == {f.name: f.default for f in fields(PretrainConfig) if f.name not in ("options", "backbone")}


def test_no_method_has_an_option_of_a_runs_name():
    for name in method_names():
        assert not reserved_names() & method_options(method_class(name)).keys(), name


def test_it_is_what_was_written():
    config = PretrainConfig(data=["a", "b"], method="vicregl", lr=0.1, options={"alpha": 0.5, "scale": (0.1, 1.0)})
    written = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    again = PretrainConfig.from_dict(written)
    assert again == replace(config, options={"alpha": 0.5, "scale": [0.1, 1.0]})
    assert written["alpha"] == 0.5  # flat, as on the command line
    with pytest.raises(FrozenInstanceError):
        config.lr = 0.2


def test_options_by_their_older_names_are_read():
    for old, new in RENAMED.items():
        assert getattr(PretrainConfig.from_dict({old: 0.02}), new) == 0.02


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_size": "big"}, "--image-size 'big' is not a whole number"),
        ({"image_size": 10**20}, "--image-size 100000000000000000000 is too large"),
        ({"image_size": 4}, "too small; it must be at least 8"),
        ({"epochs": 0}, "--epochs 0 is too small"),
        ({"epochs": 2.5}, "--epochs 2.5 is not a whole number"),
        ({"report": "yes"}, "--report 'yes' is not true or false"),
        ({"devices": True}, "--devices True is not a whole number"),
        ({"lr": float("nan")}, "--lr nan is too"),
        ({"lr": float("inf")}, "--lr inf is too large"),
        ({"workers": -1}, "--workers -1 is too small"),
        ({"optimizer": "adam"}, "--optimizer 'adam' is not lars or adamw or sgd"),
        ({"data": [3]}, "--data [3] is not a word or a list"),
        ({"batch_size": 10, "accumulate": 4}, "--batch-size 10 is not a multiple of --accumulate 4"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(options, says):
    with pytest.raises(UsageError) as refused:
        PretrainConfig.from_dict(options, origin="config.yaml")
    assert says in str(refused.value)
    assert str(refused.value).startswith("config.yaml: ")
    assert "\n" not in str(refused.value)


def test_a_number_without_a_point_is_one():
    assert PretrainConfig.from_dict(yaml.safe_load("lr: 1e-3\nclip: 1")).lr == 1e-3


@pytest.mark.parametrize(
    ("method", "backbone"), [("vicreg", "resnet50"), ("flow", "unet_small"), ("irmae", "conv_coder")]
)
def test_a_method_may_say_which_network_it_takes(method, backbone, monkeypatch):
    asked = []
    monkeypatch.setattr("glocal.pipeline.start_run", lambda config, *rest, **more: asked.append(config.backbone))
    glocal.pretrain("photos/", method=method)
    glocal.pretrain("photos/", method=method, backbone="resnet18")
    assert asked == [backbone, "resnet18"]
