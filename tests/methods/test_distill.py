"""Distillation: its loss in plain numpy, where the teacher's map is read, and a teacher that stays as it is."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from support import random_view
from torch import nn

import glocal
from glocal.backbones import build_backbone, save_encoder
from glocal.cli import main
from glocal.errors import UsageError
from glocal.features import Features
from glocal.losses.distillation import standardised
from glocal.methods import method_class, resolve_options
from glocal.methods.distill import Distill
from glocal.methods.frozen import Frozen
from glocal.training.optimizers import build_optimizer
from glocal.views import Batch

RANDOM = "timm:test_vit:random"
SIZE, IMAGES = 48, 6


def saved(folder, name="test_resnet", seed=0, **options):
    """A folder with a random encoder."""
    torch.manual_seed(seed)
    save_encoder(build_backbone(name, **options), folder)
    return str(folder)


def build(teacher=RANDOM, backbone="test_resnet", seed=0, **options):
    torch.manual_seed(seed)
    encoder = backbone if isinstance(backbone, nn.Module) else build_backbone(backbone, image_size=SIZE)
    return Distill(encoder, image_size=SIZE, teacher=teacher, **options)


def batch_of(seed=0, views=1):
    return Batch([random_view(IMAGES, SIZE, seed + n) for n in range(views)], torch.arange(IMAGES))


def read_naively(dense, at, stride, offset):
    """A map (D, H, W) at the places (N, 2) in pixels: the four cells around each, by how near they are."""
    _, height, width = dense.shape
    found = []
    for x, y in at:
        column = min(max((x - offset) / stride, 0), width - 1)
        row = min(max((y - offset) / stride, 0), height - 1)
        left, top = int(column), int(row)
        right, below, u, v = min(left + 1, width - 1), min(top + 1, height - 1), column - left, row - top
        upper = (1 - u) * dense[:, top, left] + u * dense[:, top, right]
        lower = (1 - u) * dense[:, below, left] + u * dense[:, below, right]
        found.append((1 - v) * upper + v * lower)
    return np.stack(found)


@pytest.mark.parity("distill", oracle="plain numpy, cell by cell")
def test_the_loss_and_its_gradient_are_those_of_plain_numpy() -> None:
    method = build(pooled_weight=2.0, dense_weight=0.5).eval()  # a student of stride 32, a teacher of patches of 16
    view = batch_of().views[0]
    loss = method(Batch([view], torch.arange(IMAGES)))
    loss.total.backward()

    student, teacher = method.encoder, method.teacher.encoder
    assert (student.stride, student.offset) != (teacher.stride, teacher.offset)
    column = lambda numbers: np.asarray(numbers, dtype=np.float32)[:, None, None]
    plain = view.pixels.numpy() * column(student.std) + column(student.mean)
    normalised = torch.from_numpy((plain - column(teacher.mean)) / column(teacher.std))
    with torch.no_grad():
        mine, theirs = student(view.pixels), teacher(normalised)
    read = [
        read_naively(dense, mine.positions.numpy(), teacher.stride, teacher.offset) for dense in theirs.dense.numpy()
    ]
    pairs = {
        "pooled": (mine.pooled.numpy(), theirs.pooled.numpy(), 2.0),
        "dense": (mine.tokens.flatten(0, 1).numpy(), np.concatenate(read), 0.5),
    }
    for name, (x, target, weight) in pairs.items():
        target = target.astype(np.float64)
        target = (target - target.mean(0)) / np.sqrt(((target - target.mean(0)) ** 2).mean())
        head = method.heads[name]
        error = x @ head.weight.detach().numpy().T + head.bias.detach().numpy() - target
        np.testing.assert_allclose(loss.terms[f"distill_{name}"], weight * (error**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(head.weight.grad, weight * 2 / error.size * error.T @ x, rtol=1e-3, atol=1e-6)
    assert loss.total.item() == pytest.approx(sum(map(float, loss.terms.values())))


def test_targets_are_centred_and_of_one_scale() -> None:
    x = np.random.default_rng(0).normal([3, -1, 0], [5, 1, 0.1], (50, 3))
    found = standardised(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    assert (found**2).mean() == pytest.approx(1)
    distance = lambda points: np.linalg.norm(points[:, None] - points[None], axis=-1)
    ratio = distance(found)[0, 1:] / distance(x)[0, 1:]
    np.testing.assert_allclose(ratio, ratio[0])  # near stays near
    assert standardised(torch.ones(4, 3)).abs().max() == 0


@pytest.mark.parametrize(("stride", "offset"), [(8, 4.0), (16, 0.5), (32, 16.0)])
def test_a_map_is_read_where_its_cells_look(stride, offset) -> None:
    """Planted: each cell holds the place that it looks at; read elsewhere, it says that place."""
    teacher = build().teacher
    teacher.encoder.stride, teacher.encoder.offset = stride, offset
    sides = 5, 4  # cells across, and down
    x, y = (offset + stride * torch.arange(float(side)) for side in sides)
    dense = torch.stack([x.expand(4, 5), y[:, None].expand(4, 5)])[None].repeat(2, 1, 1, 1)
    features = Features(torch.zeros(2, 2), dense.flatten(2).mT, torch.zeros(20, 2), (4, 5))
    last = torch.tensor([x[-1], y[-1]])
    places = offset + torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * (last - offset)
    torch.testing.assert_close(teacher.at(features, places), places.expand(2, -1, -1), rtol=1e-5, atol=1e-4)
    beyond = torch.tensor([[-9.0, y[1]], [999.0, 999.0]])
    torch.testing.assert_close(teacher.at(features, beyond)[1], torch.stack([torch.stack([x[0], y[1]]), last]))


def test_a_map_of_one_cell_is_that_cell_everywhere() -> None:
    features = Features(torch.zeros(1, 3), torch.tensor([[[1.0, 2.0, 3.0]]]), torch.zeros(1, 2), (1, 1))
    read = build().teacher.at(features, torch.tensor([[0.0, 0.0], [40.0, 7.0]]))
    assert read.tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_a_student_that_is_the_teacher_has_no_loss(tmp_path) -> None:
    """With heads that centre and scale as the targets are nothing is left; a map shifted by a pixel is seen."""
    spec = saved(tmp_path, image_size=SIZE)
    method = build(spec, glocal.load(spec)).eval()
    batch = batch_of()
    with torch.no_grad():
        features = method.encoder(batch.views[0].pixels)
        for name, x in {"pooled": features.pooled, "dense": features.tokens.flatten(0, 1)}.items():
            scale = 1 / (x - x.mean(0)).square().mean().sqrt()
            method.heads[name].weight.copy_(torch.eye(x.shape[1]) * scale)
            method.heads[name].bias.copy_(-x.mean(0) * scale)
        assert method(batch).total < 1e-6
        method.teacher.encoder.offset += 1
        assert method(batch).total > 1e-4


def test_it_learns_its_teacher(tmp_path) -> None:
    method = build(saved(tmp_path), "test_resnet", seed=1)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    batch = batch_of()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = method(batch).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_teacher_stays_as_it_is_and_in_no_checkpoint() -> None:
    method = build(teacher="timm:test_resnet:random").train()
    before = copy.deepcopy(method.teacher.encoder.state_dict())
    assert not any(module.training for module in method.teacher.modules())
    assert method.encoder.training
    optimizer = build_optimizer(method, method.optimization, 0.1)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*method.encoder.parameters(), *method.heads.parameters()]}
    method(batch_of()).total.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.encoder.state_dict().items())
    state = method.state_dict()
    assert [name for name in state if name.startswith("teacher")] == ["teacher.digest"]
    again = build(teacher="timm:test_resnet:random", seed=0)
    again.load_state_dict(state)  # strictly
    first = next(iter(state))
    with pytest.raises(RuntimeError, match=f"Missing key.*{first}"):
        again.load_state_dict({name: value for name, value in state.items() if name != first})


@pytest.mark.parametrize(
    "student", ["test_resnet", "test_convnext", "test_vit", "mobilenet_v1_025", "test_efficientnet"]
)
def test_any_network_learns_of_any(student) -> None:
    for teacher in ("timm:test_vit:random", "timm:test_convnext:random"):
        loss = build(teacher, student)(batch_of())
        loss.total.backward()
        assert loss.total.isfinite()


@pytest.mark.parametrize(("off", "left"), [("dense_weight", "pooled"), ("pooled_weight", "dense")])
def test_of_one_kind_of_features_alone_no_head_is_idle(off, left) -> None:
    method = build(**{off: 0.0})
    loss = method(batch_of())
    loss.total.backward()
    assert list(loss.terms) == [f"distill_{left}"]
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_beside_another_method_both_losses_count() -> None:
    method = build(beside="byol", beside_batch=16)
    batch = batch_of(views=2)
    torch.manual_seed(0)
    loss = method(batch)
    torch.manual_seed(0)
    alone, other = Distill.forward(_without(method), batch), method.beside(batch)
    assert loss.total.item() == pytest.approx(alone.total.item() + other.total.item(), rel=1e-5)
    assert loss.terms.keys() == alone.terms.keys() | other.terms.keys()
    assert len(method.recipe.views) == 2
    target = next(method.beside.heads.teacher.parameters())
    before = target.clone()
    with torch.no_grad():
        for p in method.beside.heads.projector.parameters():
            p.add_(1)
    method.after_step(0.5)
    assert not torch.equal(target, before)


def _without(method):
    alone = copy.copy(method)
    alone._modules = {**method._modules, "beside": None}
    return alone


def test_beside_another_its_optimisation_is_that_ones_of_the_same_parameters() -> None:
    cls = method_class("dino")
    options = resolve_options(cls, "small", 16, {"image_size": SIZE})
    alone = cls(build_backbone("test_resnet"), **options).optimization
    method = build(beside="dino", beside_batch=16)
    assert method.optimization.lr == alone.lr
    assert list(method.optimization.frozen) == [f"beside.{start}" for start in alone.frozen]
    names = [name for name, _ in method.named_parameters()]
    assert any(name.startswith(start) for name in names for start in method.optimization.frozen)
    assert method.encoder.pool == cls.pool


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"teacher": ""}, r"needs an encoder to learn from: give --teacher"),
        ({"teacher": "nowhere/a"}, r"no encoder at nowhere/a"),
        ({"teacher": "timm:resnet7"}, r"unknown backbone 'resnet7'"),
        ({"teacher": "timm:xcit_nano_12_p8_224:random", "backbone": "test_resnet", "size": 44}, "--teacher timm:xcit"),
        ({"pooled_weight": 0.0, "dense_weight": 0.0}, "one has to be above 0"),
        ({"dense_weight": -1.0}, "one has to be above 0"),
        ({"beside": "deepcluster"}, "--beside deepcluster: DeepCluster cannot stand beside"),
        ({"beside": "distill"}, "--beside distill"),
        ({"beside": "vicrg"}, "did you mean vicreg"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, says) -> None:
    options = {"image_size": options.pop("size", SIZE), "teacher": RANDOM, **options}
    with pytest.raises(UsageError, match=says) as refused:
        Distill(build_backbone(options.pop("backbone", "test_resnet")), **options)
    assert "\n" not in str(refused.value)


def test_a_teacher_that_changed_since_is_refused_and_a_run_goes_on_with_the_one_it_had(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a", "test_vit", image_size=32)
    settings = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "max_steps": 4, "workers": 0}
    settings |= {"method": "distill", "teacher": "a", "report": False, "quiet": True, "checkpoint_steps": 1}
    whole = glocal.pretrain("parts:n=40,size=32", out="whole", **settings)
    expected = torch.load(whole / "checkpoints" / "last.pt", weights_only=True)["method"]
    previous = whole / "checkpoints" / "previous.pt"  # a step or so before
    previous.replace(whole / "checkpoints" / "last.pt")

    kept = (tmp_path / "a" / "encoder.safetensors").read_bytes()
    saved(tmp_path / "a", "test_vit", seed=1, image_size=32)
    with pytest.raises(UsageError) as refused:
        glocal.pretrain(resume="whole", quiet=True)
    says = "the teacher a is no longer the one that the run began with; bring that one back"
    assert str(refused.value) == f"whole cannot be resumed: {says}"
    (tmp_path / "a" / "encoder.safetensors").write_bytes(kept)
    glocal.pretrain(resume="whole", quiet=True)
    found = torch.load(whole / "checkpoints" / "last.pt", weights_only=True)["method"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    main(["pretrain", "--config", "whole/config.yaml", "--out", "again", "--quiet"])  # as it stands there
    found = torch.load(tmp_path / "again" / "checkpoints" / "last.pt", weights_only=True)["method"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert isinstance(glocal.load_method("whole").teacher, Frozen)


def test_code_that_a_teachers_file_names_runs_only_with_consent(tmp_path, module_here) -> None:
    folder = saved(tmp_path / "a", image_size=32)
    about = json.loads((tmp_path / "a" / "encoder.json").read_text())
    about["config"]["name"] = "mine:net"
    (tmp_path / "a" / "encoder.json").write_text(json.dumps(about))
    module_here("import timm\n\n\ndef net(**options):\n    return timm.create_model('test_resnet', **options)\n")
    settings = {"method": "distill", "backbone": "test_resnet", "image_size": 32, "batch_size": 8, "max_steps": 1}
    settings |= {"teacher": folder, "workers": 0, "report": False, "quiet": True}
    with pytest.raises(UsageError, match="would run code that is not registered: mine:net"):
        glocal.pretrain("parts:n=16,size=32", out="run", **settings)
    assert glocal.pretrain("parts:n=16,size=32", out="run", trust_code=True, **settings).is_dir()
    with pytest.raises(UsageError, match="mine:net"):  # the consent was for that call
        glocal.load(folder)
