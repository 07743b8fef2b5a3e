"""Evaluation, embedding and reports on an accelerator: pretended, where there is none."""

import importlib

import numpy as np
import pytest
import torch

import glocal
from glocal.backbones import build_backbone
from glocal.data import Keypoints
from glocal.devices import cores
from glocal.evaluation import all_tasks, find_task
from glocal.evaluation.context import EvalContext
from pretended import pretended

# the package's attributes of these names are functions, some of them
extract, knn, linear = (importlib.import_module(f"glocal.evaluation.{name}") for name in ("extract", "knn", "linear"))
TASKS = [*all_tasks()]
TASKS = [name for name in TASKS if name not in ("attack", "information")]  # these differentiate, which takes a driver
TASKS = [name for name in TASKS if name not in ("search", "generation", "optimum")]  # of texts, of runs
TASKS.remove("dimension")  # of many images that differ
QUICK = {
    "incremental": {"steps": 2, "memory": 2, "epochs": 2},
    "linear": {"epochs": 2, "lrs": (0.1,), "wds": (0.0, 0.1)},
    "lowshot": {"shots": (1,), "shares": (0.3,), "draws": 1},
    "segment": {"steps": 5, "lrs": (0.3, 3.0)},
    "robustness": {"severities": (3,), "corruptions": ("gaussian_noise", "glass_blur", "fog", "jpeg_compression")},
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_scores_on_the_device_as_on_the_cpu(made, name, monkeypatch):
    training = linear.Training
    monkeypatch.setattr(linear, "Training", lambda epochs, *rest: training(min(epochs, 2), *rest))
    images, masks = made.blocks(16, 0)
    source = made.Scenes(images, masks, ignore_index=7, labels=np.arange(16) % 2)
    border = (masks == 7).argmax(2)[:, :1].astype(np.float32)  # two joints, above and below
    places = np.stack([np.repeat(border, 2, 1), np.tile([10.0, 30.0], (16, 1)), np.ones((16, 2))], 2)
    source.keypoints = Keypoints(["upper", "lower"], places.astype(np.float32))
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


@pytest.mark.parametrize("whole", [True, False])
def test_probes_learn_from_features_in_main_memory_what_they_learn_from_those_on_the_device(monkeypatch, whole):
    monkeypatch.setattr(linear, "RESIDENT", 2**31 if whole else 0)
    monkeypatch.setattr(linear, "AT_ONCE", 2**27 if whole else 2000)
    draw = np.random.default_rng(0)
    y = torch.from_numpy(draw.integers(0, 4, 10_000))
    x = (torch.eye(64)[y] + torch.from_numpy(draw.normal(0, 1, (10_000, 64)))).float()
    settings, training = [(0.1, 0.0), (0.01, 0.1)], linear.Training(epochs=1)
    standardise, probe, chosen = linear.linear_probe(x, y, 4, settings, training)
    with pretended() as device:
        there = linear.linear_probe(x, y, 4, settings, training, device.device)
        assert (device.peak < x.nbytes / 4) != whole
        assert torch.equal(linear.classify(*there[:2], x), linear.classify(standardise, probe, x))
        torch.testing.assert_close(there[1].weight.cpu(), probe.weight, rtol=1e-3, atol=1e-5)
        assert there[2] == pytest.approx(chosen, rel=1e-5)


def test_neighbours_are_sought_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(knn, "_ROWS", 64)
    monkeypatch.setattr(knn, "_COLUMNS", 512)
    draw = np.random.default_rng(0)
    bank, queries = (torch.from_numpy(draw.normal(size=(n, 64))).float() for n in (20_000, 300))
    similarity = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(bank, dim=1).T
    with pretended() as device:
        values, positions = knn.nearest_neighbours(queries, bank, 7, device.device)
        assert device.peak < bank.nbytes / 4
    torch.testing.assert_close(values, similarity.topk(7).values)
    torch.testing.assert_close(similarity.gather(1, positions), values)


@pytest.fixture
def colours(made):
    images, labels = made.coloured(20, 0)
    return made.ArraySource(images, labels)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_backbone_goes_to_the_gpu_for_a_measurement_and_comes_back(monkeypatch, colours, bf16):
    monkeypatch.setattr(extract, "cores", lambda: 0)  # workers could not see what is pretended
    backbone = build_backbone("test_resnet", image_size=32).eval()
    before = {name: (parameter, parameter.clone()) for name, parameter in backbone.named_parameters()}
    with pretended(bf16=bf16) as device:
        meta = glocal.evaluate(backbone, colours, tasks=["knn"])["meta"]
        table = glocal.embed(backbone, colours)
        computed = device.dtypes["convolution"]
        assert sum(size for size, pinned in device.sent if pinned) == 2 * 20 * 3 * 32**2  # all pixels, twice
    assert computed == {torch.bfloat16 if bf16 else torch.float32}
    assert meta["precision"] == table.about["precision"] == ("bf16" if bf16 else "fp32")
    for name, parameter in backbone.named_parameters():
        assert parameter is before[name][0]
        assert parameter.device.type == "cpu"
        assert torch.equal(parameter, before[name][1])
    exact = glocal.embed(backbone, colours, device="cpu").pooled
    np.testing.assert_allclose(table.pooled, exact, rtol=0.1 if bf16 else 1e-4, atol=0.05 if bf16 else 1e-5)


def test_the_device_that_is_asked_for_is_the_one(colours):
    backbone = build_backbone("test_resnet", image_size=32).eval()
    with pretended() as device:
        glocal.evaluate(backbone, colours, tasks=["knn"], device="cpu")
        assert not device.dtypes
        assert not device.sent
        with extract.placed(backbone.to("cuda:0"), "auto") as stays:
            assert extract.device_of(stays) == device.device


def test_what_is_left_open_goes_by_the_device(made):
    encoder = made.Cells()
    assert extract.suited(encoder, None, None) == (0, "fp32")
    with pretended():
        there = made.Cells().to("cuda:0")
        assert extract.suited(there, None, None) == (cores(), "bf16")
        assert extract.suited(there, 0, "fp32") == (0, "fp32")
    with pretended(bf16=False):  # or by emulation
        assert extract.suited(made.Cells().to("cuda:0"), None, None) == (cores(), "fp32")


def test_workers_are_no_more_than_there_is_shared_memory_or_work_for(monkeypatch, colours):
    asked = []
    monkeypatch.setattr(extract, "DataLoader", lambda *_, **settings: asked.append(settings["num_workers"]) or [])
    monkeypatch.setattr(extract, "can_share", lambda size: size <= 3 * 3 * 4 * 3 * 32**2)
    for batch_size, workers in ((4, 2), (4, 16), (16, 16), (20, 16)):
        extract.load(colours, image_size=32, batch_size=batch_size, workers=workers)
    assert asked == [2, 3, 0, 0]
    monkeypatch.setattr(extract, "can_share", lambda size: True)
    extract.load(colours, image_size=32, batch_size=16, workers=64)
    assert asked[-1] == 2
