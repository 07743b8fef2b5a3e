"""LARS against a loop written from the paper; the schedule against its closed form."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.backbones import build_backbone
from glocal.methods import Optimization, method_class
from glocal.training import LARS
from glocal.training.optimizers import (
    build_optimizer,
    clip_per_parameter,
    decay_at,
    frozen_until,
    set_rates,
    warmup_cosine,
)


def test_lars_is_the_papers_update():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, bias=False)).double()
    spec = Optimization("lars", lr=0.3, weight_decay=0.1, momentum=0.8, trust_coefficient=0.02)
    optimizer = build_optimizer(module, spec, lr=0.3)
    assert isinstance(optimizer, LARS)
    naive = {name: (p.detach().clone(), torch.zeros_like(p)) for name, p in module.named_parameters()}
    for _ in range(4):
        module.zero_grad()
        module(torch.randn(7, 5, dtype=torch.float64)).square().sum().backward()
        for name, p in module.named_parameters():
            w, v = naive[name]
            d = p.grad.clone()
            if w.ndim > 1:
                d = d + 0.1 * w
                d = d * 0.02 * math.sqrt(float((w * w).sum())) / math.sqrt(float((d * d).sum()))
            v = 0.8 * v + d
            naive[name] = (w - 0.3 * v, v)
        optimizer.step()
        for name, p in module.named_parameters():
            torch.testing.assert_close(p.detach(), naive[name][0], rtol=1e-12, atol=1e-12)


def test_lars_leaves_a_zero_weight_and_a_zero_gradient_unscaled():
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([w], lr=1.0, momentum=0.0)
    w.grad = torch.full((2, 2), 2.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -2.0))
    w.grad = torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -2.0))


def test_parameters_of_one_dimension_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for name in ("adamw", "sgd", "lars"):
        groups = build_optimizer(module, Optimization(name, lr=1.0, weight_decay=0.5), lr=0.1).param_groups
        decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in groups}
        assert decays == {0.5: {2}, 0.0: {1}}


def decay_of(method, spec):
    """Weight decay of each parameter, when a quarter of the schedule has passed."""
    optimizer = build_optimizer(method, spec, lr=0.1)
    set_rates(optimizer, spec, 25, lr=0.1, steps=100, warmup_steps=10)
    names = {p: name for name, p in method.named_parameters()}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(
    ("name", "backbone", "spared"),
    [
        ("msn", "test_vit", {"prototypes"}),
        ("deepcluster", "test_resnet", {"top.bias"}),
        ("deepercluster", "test_resnet", {"super.bias", "sub.bias"}),
        ("deepcluster", "test_vit", {"top.bias"}),
    ],
)
def test_prototypes_and_biases_of_many_classifiers_are_not_decayed(name, backbone, spared):
    few = {"prototypes": 8} if name == "msn" else {"clusters": 8}
    method = method_class(name)(build_backbone(backbone, image_size=32), image_size=32, **few)
    decays = decay_of(method, method.optimization)
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    assert decays.keys() == trained.keys()
    for key, parameter in trained.items():
        assert (decays[key] == 0) == (parameter.ndim <= 1 or key in spared), key


def test_lars_does_not_adapt_what_is_not_decayed():
    module = nn.Linear(2, 2, bias=False)
    spec = Optimization("lars", lr=0.3, weight_decay=0.1, bias_lr_scale=0.5, no_decay=("weight",))
    (group,) = build_optimizer(module, spec, lr=0.3).param_groups
    assert (group["adapt"], group["weight_decay"], group["lr_share"]) == (False, 0.0, 0.5)


@pytest.mark.parametrize(("name", "option"), [("swav", "prototypes"), ("seer", "prototypes")])
def test_layernorm_networks_hold_the_prototypes_still_too(name, option):
    method = method_class(name)(build_backbone("test_vit", image_size=32), image_size=32, prototypes=8)
    spec = method.optimization
    assert spec.optimizer == "adamw"
    assert dict(spec.frozen) == {option: method.frozen_epochs}


def test_layernorm_networks_end_at_the_papers_rate():
    assert method_class("paws")(build_backbone("test_vit", image_size=32), image_size=32).optimization.final_lr == 0.01


def test_schedule():
    values = [warmup_cosine(step, 100, 10, 0.01) for step in range(101)]
    assert values[0] > 0
    assert values[:11] == sorted(values[:11])
    assert values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)
    assert math.isclose(values[55], 0.01 + 0.99 / 2)
    assert math.isclose(values[100], 0.01)


def test_weight_decay_rises_along_a_cosine_or_stays():
    spec = Optimization("adamw", lr=1.0, weight_decay=0.04, final_weight_decay=0.4)
    assert [round(decay_at(p, spec), 6) for p in (0.0, 0.5, 1.0)] == [0.04, 0.22, 0.4]
    assert math.isclose(decay_at(0.25, spec), 0.4 - 0.36 * (1 + math.sqrt(0.5)) / 2)
    assert decay_at(0.7, Optimization("adamw", lr=1.0, weight_decay=0.05)) == 0.05


def test_each_gradient_is_clipped_by_itself():
    large, small, none = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    large.grad, small.grad = torch.full((4,), 5.0), torch.full((4,), 1.0)
    clip_per_parameter([large, small, none], 3.0)
    torch.testing.assert_close(large.grad, torch.full((4,), 1.5))  # norm 10 -> 3
    assert torch.equal(small.grad, torch.full((4,), 1.0))
    assert none.grad is None


def test_frozen_parameters_by_the_beginning_of_their_names():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert frozen_until(module, {"1.": 7}) == [(module[1].weight, 7), (module[1].bias, 7)]


def names_of(optimizer, module):
    """The parameters' names of each group."""
    name = {p: name for name, p in module.named_parameters()}
    return [[name[p] for p in group["params"]] for group in optimizer.param_groups]


def two_layers():
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(3, 3), "head": nn.Linear(3, 3), "scores": nn.Linear(3, 2, bias=False)})


@pytest.mark.parametrize("kind", ["lars", "adamw", "sgd"])
def test_without_factors_the_groups_are_those_of_older_checkpoints(kind):
    module = two_layers()
    optimizer = build_optimizer(
        module, Optimization(kind, lr=1.0, weight_decay=0.5, bias_lr_scale=0.1, no_momentum=("head",)), lr=0.2
    )
    weights, biases, light = (
        ["encoder.weight", "scores.weight"],
        ["encoder.bias"],
        [["head.weight"], ["head.bias"]],
    )
    if kind == "adamw":  # has no momentum to leave out
        weights, biases, light = ["encoder.weight", "head.weight", "scores.weight"], ["encoder.bias", "head.bias"], []
    assert names_of(optimizer, module) == [weights, biases, *light]
    assert [group["lr_share"] for group in optimizer.param_groups] == [1.0, 0.1, 1.0, 0.1][: 2 + len(light)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0, 0.5, 0.0][: 2 + len(light)]
    assert not any("constant" in group for group in optimizer.param_groups)
    if light:
        assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9, 0.0, 0.0]


def test_rates_by_the_beginning_of_names():
    module = two_layers()
    spec = Optimization(
        "adamw", lr=1.0, weight_decay=0.5, bias_lr_scale=0.1, final_lr=0.0, final_weight_decay=0.0,
        lr_of={"s": 7.0, "scores": 50.0, "head": 2.0}, constant=("scores", "head.b"),
    )  # fmt: skip
    optimizer = build_optimizer(module, spec, lr=0.2)
    assert names_of(optimizer, module)[0] == ["encoder.weight"]  # whose rate the log shows
    assert sum(map(len, names_of(optimizer, module))) == 5
    set_rates(optimizer, spec, 50, lr=0.2, steps=100, warmup_steps=0)
    groups = zip(names_of(optimizer, module), optimizer.param_groups, strict=True)
    rates = {name: (group["lr"], group["weight_decay"]) for names, group in groups for name in names}
    assert rates == {
        "encoder.weight": (pytest.approx(0.1), pytest.approx(0.25)),
        "encoder.bias": (pytest.approx(0.01), 0.0),
        "head.weight": (pytest.approx(0.2), pytest.approx(0.25)),
        "head.bias": (pytest.approx(0.2 * 0.1 * 2), 0.0),
        "scores.weight": (pytest.approx(0.2 * 50), pytest.approx(0.25)),
    }
    set_rates(optimizer, spec, 0, lr=0.2, steps=100, warmup_steps=9)
    rates = {
        name: group["lr"]
        for names, group in zip(names_of(optimizer, module), optimizer.param_groups, strict=True)
        for name in names
    }
    assert rates["encoder.weight"] == pytest.approx(0.02)
    assert rates["scores.weight"] == pytest.approx(10.0)


def test_an_older_checkpoint_loads_into_the_groups_and_is_set_right():
    module, spec = two_layers(), Optimization("adamw", lr=1.0, weight_decay=0.5)
    optimizer = build_optimizer(module, spec, lr=0.2)
    optimizer.load_state_dict(build_optimizer(two_layers(), spec, lr=0.7).state_dict())
    set_rates(optimizer, spec, 0, lr=0.3, steps=10, warmup_steps=0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.3])


class Count(TorchDispatchMode):
    """Operations in this context, but for those that are one call for each tensor by their nature."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_steps_cost_few_operations_however_many_parameters_there_are():
    def cost(layers: int) -> dict[str, int]:
        module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))
        optimizer = build_optimizer(module, Optimization("lars", 0.1, 1e-4), 0.1)
        spent = {}
        for _ in range(2):  # the first makes the velocities
            module(torch.ones(2, 3)).sum().backward()
            with Count() as clip:
                clip_per_parameter(module.parameters(), 3.0)
            with Count() as lars:
                optimizer.step()
            spent = {"clip": len(clip.names), "lars": len(lars.names)}
        return spent

    assert cost(2) == cost(40)


def shares(backbone: str, decay: float, **more) -> dict[str, float]:
    """Of each parameter that trains, by name, its group's share of the rate."""
    encoder = build_backbone(backbone, image_size=32)
    method = method_class("vicreg")(encoder, image_size=32, projector=(8, 8))
    optimizer = build_optimizer(method, Optimization("adamw", 1.0, 0.1, layer_decay=decay, **more), lr=1.0)
    of = {p: group["lr_share"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[p] for name, p in method.named_parameters()}


DEEP = "resnet18", "test_vit", "mobilenet_v1_025", "rf109_resnet18", "sobel_alexnet", "sobel_resnet18", "convnext_atto"


@pytest.mark.parametrize("backbone", DEEP)
def test_each_layer_of_the_encoder_gets_a_share_of_the_rate_of_that_above_as_timm_has_it(backbone):
    found = shares(backbone, 0.5)
    model = build_backbone(backbone, image_size=32).model
    groups = timm.optim.param_groups_layer_decay(model, layer_decay=0.5)
    timms = {p: group["lr_scale"] for group in groups for p in group["params"]}
    assert {name: found[f"encoder.model.{name}"] for name, _ in model.named_parameters()} == {
        name: timms[p] for name, p in model.named_parameters()
    }
    assert len(set(timms.values())) > 4
    assert {value for name, value in found.items() if name.startswith("projector.")} == {1.0}
    assert set(shares(backbone, 1.0).values()) == {1.0}


def test_layers_by_hand():
    """The last block is the top; below the first there is the stem. MobileNet's pairs of convolutions are one layer."""
    vit, mobilenet = shares("test_vit", 0.5), shares("mobilenet_v1_025", 0.5, lr_of={"": 10.0, "encoder.": 1.0})
    assert [vit[f"encoder.model.blocks.{k}.attn.qkv.weight"] for k in range(6)] == [2.0 ** (k - 5) for k in range(6)]
    assert vit["encoder.model.patch_embed.proj.weight"] == vit["encoder.model.pos_embed"] == 2.0**-6
    found = [mobilenet[f"encoder.model.layers.{n}.conv.weight"] for n in range(27)]
    assert found == [2.0**-13, *(2.0 ** (pair - 12) for pair in range(13) for _ in range(2))]
    assert mobilenet["projector.0.weight"] == 10.0
