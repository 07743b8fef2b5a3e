"""What encoders are compared with: the weights that their training started from, whatever those were."""

from __future__ import annotations

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import glocal
from glocal.backbones import build_backbone, load_encoder, save_encoder
from glocal.evaluation import baseline, evaluate_encoder
from glocal.evaluation.baseline import score_with_baselines, start_of, start_words

DATA = "parts:n=20,size=40"
RUN = {
    "method": "vicreg", "image_size": 32, "batch_size": 8, "max_steps": 1, "projector": (8, 8), "precision": "32",
    "workers": 0, "report": False, "quiet": True,
}  # fmt: skip
STILL = {"optimizer": "sgd", "lr": 0.0, "weight_decay": 0.0}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_it_is_the_very_network_that_the_run_began_with_and_pools_alike(tmp_path):
    run = glocal.pretrain(DATA, out=str(tmp_path / "run"), backbone="test_vit", seed=3, drop_path=0.1, **RUN | STILL)
    encoder = glocal.load(str(run))
    before = torch.get_rng_state()
    start = start_of(encoder, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert same(start, encoder)
    assert not same(start_of(encoder), encoder)  # seed 0
    assert not start.training
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(start(image).pooled, encoder(image).pooled)
        assert not torch.allclose(start(image).pooled, start(image).tokens.mean(1))  # VICReg takes what the ViT gives
    assert start.config == encoder.config
    assert start_words(encoder) == "random initialisation"


def test_pretrained_weights_are_where_a_run_started_that_was_given_them(tmp_path):
    torch.manual_seed(5)
    given = build_backbone("test_resnet", image_size=32, pool="mean")
    place = tmp_path / "given"
    save_encoder(given, place)
    settings = {**RUN, "optimizer": "sgd", "lr": 0.1, "gentle": False, "guard": False}
    run = glocal.pretrain(DATA, out=str(tmp_path / "run"), backbone="test_resnet", pretrained=str(place), **settings)
    for encoder in (glocal.load(str(run)), glocal.load_method(run).encoder):
        assert not same(encoder, given)
        assert start_words(encoder) == str(place)
        assert same(start_of(encoder), given)
        assert not same(start_of(encoder, random=True), given)
    save_encoder(glocal.load(str(run)), tmp_path / "exported")
    assert same(start_of(load_encoder(tmp_path / "exported")), given)

    (place / "encoder.safetensors").unlink()
    scores = score_with_baselines(glocal.load(str(run)), DATA, tasks=["knn"])
    assert scores.keys() == {"knn", "meta", "pixels"}
    assert scores["meta"]["start"] == f"{place}, no longer to be had"


def test_released_weights(monkeypatch):
    """Where training went on from them they are the start; an encoder that is nothing but them started at random."""
    encoder = build_backbone("test_resnet")
    monkeypatch.setattr("glocal.backbones.encoder.build_backbone", lambda name, **options: encoder)
    encoder.pretrained = True
    assert start_words(encoder) == "timm's released weights of test_resnet"
    asked = []
    monkeypatch.setattr(baseline, "build_backbone", lambda **config: asked.append(config) or encoder)
    start_of(encoder)
    start_of(encoder, random=True)
    assert [config["pretrained"] for config in asked] == [True, False]
    assert start_words(load_encoder("timm:test_resnet")) == "random initialisation"


def test_scores_stand_beside_those_of_the_start_and_of_pixels():
    torch.manual_seed(1)
    encoder = build_backbone("test_resnet", image_size=32, pool="mean").eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    settings = {"tasks": ["knn", "rank"], "limit": 15, "seed": 2}
    scores = score_with_baselines(encoder, DATA, **settings)
    assert scores.keys() == {"knn", "rank", "meta", "start", "pixels"}
    assert scores["meta"]["start"] == "random initialisation"
    assert (baseline.Pixels.mean, baseline.Pixels.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    alone = {"start": start_of(encoder, seed=2), "pixels": baseline.Pixels(stride=encoder.stride, image_size=32)}
    for name, arm in alone.items():
        again = evaluate_encoder(arm, DATA, **settings)
        assert scores[name]["knn"] == again["knn"]
        assert scores[name]["rank"]["rank_pooled"] == again["rank"]["rank_pooled"]
    assert scores["start"]["rank"]["rank_pooled"] != scores["rank"]["rank_pooled"]


@pytest.mark.parametrize("pool", ["mean", "cls", "native"])
def test_the_pool_is_the_encoders_also_when_it_was_changed(pool):
    encoder = build_backbone("test_vit", image_size=32, pool="mean")
    encoder.pool = pool
    assert start_of(encoder).pool == pool
