import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.evaluation import (
    EvalContext,
    all_tasks,
    evaluate_encoder,
    find_task,
    label_free,
    possible_tasks,
    robustness,
)
from glocal.evaluation.attack import fgsm, pgd
from glocal.evaluation.extract import eval_mode
from glocal.evaluation.label_free import pearson, similarity_of_cells
from glocal.evaluation.rank import similarity_within
from glocal.evaluation.robustness import Classifier, find_stage, masked, photographs, relative_drop
from glocal.features import Features

ON_REQUEST = ["robustness", "internal", "attack", "crops", "redundancy"]


@pytest.fixture
def context(made):
    (a, la), (b, lb) = made.coloured(60, 0), made.coloured(30, 1)
    return EvalContext(made.Cells(), made.ArraySource(a, la), made.ArraySource(b, lb), 32, batch_size=16)


@pytest.fixture
def resnet(made):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_backbone("test_resnet", image_size=32, pool="mean").eval()
    (a, la), (b, lb) = made.coloured(40, 0), made.coloured(20, 1)
    return EvalContext(encoder, made.ArraySource(a, la), made.ArraySource(b, lb), 32, batch_size=16)


def test_they_run_on_request_only_and_write_flat_numbers(made, tmp_path):
    images, labels = made.coloured(45, 0)
    source = made.ArraySource(images, labels)
    assert not set(ON_REQUEST) & set(possible_tasks(source))
    assert all(all_tasks()[name].on_request for name in ON_REQUEST)
    options = {"robustness": {"corruptions": ["fog", "contrast"], "severities": [1, 5]}, "attack": {"radii": [1, 0.25]}}
    scores = evaluate_encoder(made.Cells(), source, tasks=["linear", *ON_REQUEST], limit=30, options=options)
    assert json.loads(json.dumps(scores)) == scores
    assert {"clean", "mean", "relative_drop", "fog", "contrast", "severity_1", "severity_5"} <= set(
        scores["robustness"]
    )
    assert {"pgd_1", "pgd_0.25", "fgsm_1"} <= set(scores["attack"])
    clean = [scores["linear"]["top1"]] + [scores[name]["clean"] for name in ("robustness", "internal", "attack")]
    assert clean == [clean[0]] * 4
    assert scores["crops"]["area_1"] == clean[0]
    assert scores["robustness"]["images"] == scores["meta"]["n_test"]


def test_clean_accuracy_is_that_of_the_linear_task(resnet):
    expected = find_task("linear")(resnet)["top1"]
    assert find_task("robustness")(resnet, corruptions=["fog"], severities=[1])["clean"] == expected
    assert find_task("internal")(resnet, shares=[0.5])["clean"] == expected
    assert find_task("attack")(resnet, radii=[1], steps=1)["clean"] == expected
    assert find_task("crops")(resnet, areas=[1.0])["area_1"] == expected


def test_means_and_drop_are_those_of_the_table(context):
    scores = find_task("robustness")(context, corruptions=["contrast", "gaussian_noise"], severities=[1, 5], images=12)
    table = np.array(list(scores["table"].values()))
    assert table.shape == (2, 2)
    assert scores["images"] == 12
    assert scores["mean"] == pytest.approx(table.mean())
    assert scores["gaussian_noise"] == pytest.approx(table[1].mean())
    assert scores["severity_5"] == pytest.approx(table[:, 1].mean())
    assert scores["relative_drop"] == pytest.approx((scores["clean"] - table.mean()) / scores["clean"])
    assert scores["benchmark_size"] == 32
    again = find_task("robustness")(context, corruptions=["contrast", "gaussian_noise"], severities=[1, 5], images=12)
    assert again == scores


def test_what_is_classified_are_the_corrupted_images(context, monkeypatch):
    asked = []

    def black_fog(pixels, name, severity, **settings):
        asked.append((name, severity, settings["seed"], settings["samples"]))
        return torch.zeros_like(pixels) if name == "fog" else pixels

    monkeypatch.setattr(robustness, "corrupt", black_fog)
    scores = find_task("robustness")(context, corruptions=["fog", "contrast"], severities=[1, 5])
    classes = np.bincount(context.test.labels) / len(context.test)
    assert scores["fog"] in classes  # all look the same
    assert scores["contrast"] == scores["clean"] > classes.max()
    halves = [(0, list(range(16))), (0, list(range(16, 30)))]
    assert asked == [(name, level, *half) for name in ("fog", "contrast") for level in (1, 5) for half in halves]


def test_each_corrupted_set_passes_the_encoder_once(context):
    find_task("linear")(context)
    calls = []
    context.encoder.register_forward_hook(lambda *_: calls.append(1))
    find_task("robustness")(context, corruptions=["contrast", "fog"], severities=[1, 2, 3])
    assert len(calls) == (1 + 6) * 2  # 30 images are two batches


def test_masked_activations_are_the_shares_asked_for_and_nested():
    layer, x = nn.Identity(), torch.rand(3, 8, 20, 20) + 0.1
    lost = {}
    for share in (0.0, 0.3, 0.7, 1.0):
        with masked(layer, share, seed=1, samples=[4, 5, 6]):
            y = layer(x)
        lost[share] = y == 0
        assert torch.equal(y[~lost[share]], x[~lost[share]])
        assert lost[share].float().mean((1, 2, 3)).tolist() == pytest.approx([share] * 3, abs=0.03)
    assert not lost[0.0].any()
    assert lost[1.0].all()
    assert (lost[0.7] | ~lost[0.3]).all()
    assert (lost[0.3][0] != lost[0.3][1]).any()
    with masked(layer, 0.3, seed=1, samples=[6]):
        assert torch.equal(layer(x[2:]) == 0, lost[0.3][2:])
    assert torch.equal(layer(x), x)


def test_internal_finds_stages_and_says_which_there_are(resnet, made):
    scores = find_task("internal")(resnet, shares=[1e-9, 1.0])
    assert scores["stage"] == "layer4"
    assert scores["masked_1e-09"] == scores["clean"]
    assert scores["masked_1"] < 0.5  # all features are the same: one class is answered
    assert find_stage(resnet.encoder, "layer2")[0] == "model.layer2"
    with pytest.raises(UsageError, match=r"no stage 'layer9' \(there are: act1, layer1"):
        find_task("internal")(resnet, stage="layer9")
    assert find_stage(made.Cells(), None)[0] == "pooled"


def test_means_are_over_what_was_asked_for(resnet):
    scores = find_task("internal")(resnet, shares=[0.2, 0.6, 1.0], images=15)
    assert scores["images"] == 15
    assert scores["mean"] == pytest.approx(np.mean([scores[f"masked_{share:g}"] for share in (0.2, 0.6, 1.0)]))
    assert scores["relative_drop"] == pytest.approx(1 - scores["mean"] / scores["clean"])
    scores = find_task("crops")(resnet, areas=[0.1, 0.5, 1.0], images=15)
    assert scores["images"] == 15
    assert scores["mean"] == pytest.approx(np.mean([scores[f"area_{area:g}"] for area in (0.1, 0.5, 1.0)]))
    assert relative_drop(0.8, 0.2) == pytest.approx(0.75)
    assert relative_drop(0.0, 0.0) == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("robustness", {"corruptions": ["fog", "contrast"], "severities": [1, 2]}),
        ("internal", {"shares": [0.5, 0.9]}),
        ("attack", {"radii": [1.0], "steps": 1}),
        ("redundancy", {}),
    ],
)
def test_progress_rises_to_the_total(context, name, options):
    seen = []
    context.progress = lambda what, done, total: seen.append((what, done, total))
    find_task(name)(context, images=20, **options)
    _, _, total = seen[-1]
    done = [done for what, done, _ in seen if what == seen[-1][0]]
    assert done == sorted(set(done))
    assert done[-1] == total == {"robustness": 4, "internal": 2}.get(name, 20)


def test_unreadable_images_are_left_out_with_their_labels(made):
    (a, la), (b, lb) = made.coloured(60, 0), made.coloured(12, 1)
    test = made.Scenes(b, None, broken={0, 4, 5}, labels=lb)
    context = EvalContext(made.Cells(), made.ArraySource(a, la), test, 32, batch_size=4)
    shown = photographs(context, 12)
    assert shown.index.tolist() == [1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert shown.labels.tolist() == lb[shown.index].tolist()
    assert sorted(context.skipped) == [("0", "truncated"), ("4", "truncated"), ("5", "truncated")]
    assert find_task("internal")(context, shares=[1e-9])["images"] == 9
    with pytest.raises(UsageError, match=r"none of the 12 images of scenes can be read \(truncated\)"):
        photographs(EvalContext(made.Cells(), test, made.Scenes(b, None, broken=range(12), labels=lb), 32), 12)


def test_attacks_are_those_of_an_attack_library(resnet):
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = Classifier(resnet).eval()
    x, y = torch.rand(6, 3, 32, 32), torch.arange(6) % 3
    theirs = PyTorchClassifier(classifier, nn.CrossEntropyLoss(), (3, 32, 32), 3, clip_values=(0.0, 1.0))
    radius = 2 / 255
    with eval_mode(resnet.encoder):
        ours = fgsm(classifier, x, y, radius), pgd(classifier, x, y, radius, steps=5)
        first = FastGradientMethod(theirs, eps=radius).generate(x.numpy(), y=y.numpy())
        more = ProjectedGradientDescent(
            theirs, norm=np.inf, eps=radius, eps_step=radius / 4, max_iter=5, num_random_init=0, verbose=False
        ).generate(x.numpy(), y=y.numpy())
    for mine, other in zip(ours, (first, more), strict=True):
        # Where a derivative is zero but for rounding its sign is arbitrary.
        different = (mine - torch.from_numpy(other)).abs() > 1e-6
        assert different.float().mean() < 1e-3


def test_attacks_of_a_linear_classifier_are_known_in_closed_form():
    torch.manual_seed(0)
    weight = torch.randn(2, 3 * 4 * 4)
    x, y = torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    away = (weight[1 - y] - weight[y]).sign().view_as(x)
    logits = lambda images: images.flatten(1) @ weight.T
    expected = (x + 0.1 * away).clamp(0, 1)
    torch.testing.assert_close(fgsm(logits, x, y, 0.1), expected)
    torch.testing.assert_close(pgd(logits, x, y, 0.1, steps=4), expected)
    torch.testing.assert_close(pgd(logits, x, y, 0.1, steps=9), expected)  # no further than the ball
    torch.testing.assert_close(pgd(logits, x, y, 0.1, steps=2), (x + 0.05 * away).clamp(0, 1))


def test_attacks_hurt_more_with_their_radius_and_leave_the_encoder_as_it_was(resnet):
    resnet.encoder.train()
    scores = find_task("attack")(resnet, radii=[1e-9, 8.0, 64.0], steps=4)
    assert scores["pgd_1e-09"] == scores["fgsm_1e-09"] == scores["clean"]
    assert scores["pgd_64"] <= scores["pgd_8"] <= scores["clean"]
    assert scores["pgd_64"] <= scores["fgsm_64"]
    assert scores["pgd_64"] < scores["clean"]
    assert resnet.encoder.training
    assert all(p.requires_grad and p.grad is None for p in resnet.encoder.parameters())


def test_a_crop_is_the_central_part_of_the_photograph(made):
    """Only the centre, a fifth of the area, tells the class: cropping to less than that must not hurt, more must."""
    images, labels = made.coloured(60, 0, side=40)
    rim = np.random.default_rng(3).integers(0, 255, images.shape).astype(np.uint8)
    inner = slice(11, 29)
    rim[:, inner, inner] = images[:, inner, inner]
    encoder = made.Cells()
    context = EvalContext(
        encoder, made.ArraySource(images[:30], labels[:30]), made.ArraySource(rim[30:], labels[30:]), 32
    )
    every = find_task("crops")(context)
    assert [name for name in every if name.startswith("area")] == [f"area_{a}" for a in (0.1, 0.2, 0.3, 0.4, 0.7, 1)]
    scores = find_task("crops")(context, areas=(0.1, 1.0))
    assert scores["area_0.1"] == 1.0
    assert scores["area_0.1"] >= scores["area_1"]


def test_similarity_of_cells_and_pearson():
    tokens = torch.tensor([[[1.0, 0], [2, 0], [0, 3]], [[1, 1], [2, 2], [3, 3]]])
    torch.testing.assert_close(similarity_of_cells(tokens), torch.tensor([1 / 3, 1.0]))
    maps = torch.randn(4, 5, 3, 2)
    within = similarity_of_cells(maps.flatten(2).transpose(1, 2)).double().mean()
    assert float(within) == pytest.approx(similarity_within(maps)[0], abs=1e-6)
    a, b = torch.randn(20), torch.randn(20)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.numpy(), b.numpy())[0, 1], abs=1e-6)
    assert pearson(a, -3 * a + 1) == pytest.approx(-1)
    assert pearson(a, torch.ones(20)) is None


def test_redundancy_of_plain_images_is_one(made):
    plain = np.stack([np.full((40, 40, 3), 30 + 8 * i, np.uint8) for i in range(12)])
    from glocal.views import Crop

    scores = find_task("redundancy")(
        EvalContext(made.Cells(), made.ArraySource(plain), made.ArraySource(plain), 32), crop=Crop(0, scale=(0.5, 1.0))
    )
    assert scores["local"] == pytest.approx(1, abs=1e-5)
    assert scores["global"] <= 1 + 1e-6
    assert scores["n"] == 12


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        *((name, {"images": 0}, "images is 0; look at one at least") for name in ON_REQUEST),
        *((name, {"images": -3}, "images is -3;") for name in ON_REQUEST),
        ("robustness", {"severities": []}, "robustness: severities is empty; give at least one"),
        ("robustness", {"severities": [1, 0]}, "robustness: severities holds 0; each must be one of 1, 2, 3, 4, 5"),
        ("robustness", {"severities": [6]}, "robustness: severities holds 6;"),
        ("robustness", {"severities": [1.5]}, "robustness: severities holds 1.5;"),
        ("robustness", {"corruptions": []}, "robustness: corruptions is empty; give at least one, each one of"),
        ("robustness", {"corruptions": ["fog", "mist"]}, "robustness: corruptions holds 'mist'; each must be one of"),
        ("internal", {"shares": []}, "internal: shares is empty; give at least one, each above 0 and at most 1"),
        ("internal", {"shares": [0.5, 0.0]}, "internal: shares holds 0.0; each must be above 0 and at most 1"),
        ("internal", {"shares": [1.5]}, "internal: shares holds 1.5;"),
        ("internal", {"shares": [float("nan")]}, "internal: shares holds nan;"),
        ("attack", {"radii": []}, "attack: radii is empty; give at least one, each above 0"),
        ("attack", {"radii": [1, 0]}, "attack: radii holds 0; each must be above 0"),
        ("attack", {"radii": [-1.0]}, "attack: radii holds -1.0;"),
        ("attack", {"steps": 0}, "attack: steps is 0; take one at least"),
        ("crops", {"areas": []}, "crops: areas is empty; give at least one, each above 0 and at most 1"),
        ("crops", {"areas": [0]}, "crops: areas holds 0; each must be above 0 and at most 1"),
        ("crops", {"areas": [1.0, 1.01]}, "crops: areas holds 1.01;"),
    ],
)
def test_options_that_cannot_be_are_told_before_any_work(context, monkeypatch, name, options, said):
    monkeypatch.setattr(type(context), "extract", lambda *_, **__: pytest.fail("features were extracted"))
    context.encoder.register_forward_pre_hook(lambda *_: pytest.fail("an image passed the encoder"))
    with pytest.raises(UsageError, match="^" + re.escape(said)):
        find_task(name)(context, **options)


def test_a_map_of_one_cell_has_no_redundancy(made, monkeypatch):
    two_cells = Features(torch.eye(2), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]] * 2), torch.zeros(2, 2), (1, 2))
    encoder, source = made.Cells(), made.ArraySource(made.coloured(4, 0)[0])
    encoder.stride = 32
    with pytest.raises(UsageError, match="one cell at 32 px; give a larger image size"):
        find_task("redundancy")(EvalContext(encoder, source, source, 32))
    assert -1 <= find_task("redundancy")(EvalContext(encoder, source, source, 64))["local"] <= 1
    monkeypatch.setattr(label_free, "two_crops", lambda *_, **__: iter([(None, two_cells, two_cells)]))
    assert find_task("redundancy")(EvalContext(encoder, source, source, 64))["local"] == pytest.approx(0.6)
