"""BYOL, DINO, MoCo-v3 and their CO- variants: what enters their losses, what moves."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from joint import PAIRS, TINY, build, same_gradients, sizes, train, views

from glocal.commands import options_of
from glocal.errors import UsageError
from glocal.methods import Optimization, method_class, method_options, resolve_options
from glocal.methods.joint import cross_view
from glocal.training.optimizers import build_optimizer

NAMES = list(PAIRS)


def unit(v):
    return v / v.norm(dim=1, keepdim=True)


@pytest.mark.parity("byol", oracle="squared distances, float64")
def test_byol_is_the_papers_loss():
    """Grill et al. 2020, eq. 2, both directions summed, is 4 + 4 × ours."""
    method, batch = build("byol").double(), views(4, dtype=torch.float64)
    loss = method(batch).total
    x, y = (view.pixels for view in batch.views)
    p = [method.heads.predictor(method.heads.projector(method.encoder(v).pooled)) for v in (x, y)]
    z = [method.heads.teacher(method.teacher(v).pooled) for v in (x, y)]
    paper = sum((unit(a) - unit(b)).square().sum(1).mean() for a, b in ((p[0], z[1]), (p[1], z[0])))
    same_gradients(method, 4 + 4 * loss, paper)


def test_byol_moves_as_with_the_papers_loss_and_rates():
    """Two steps of LARS on 4 × ours, with the published decay and one rate, and on ours with `optimization`."""
    ours, paper = build("byol").double(), build("byol").double()
    published = Optimization("lars", lr=0.3, weight_decay=1e-6)
    for method, spec, scale in ((ours, ours.optimization, 1), (paper, published, 4)):
        optimizer = build_optimizer(method, spec, 0.3)
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_share"]
        for seed in (0, 1):
            (scale * method(views(4, seed=seed, dtype=torch.float64)).total).backward()
            optimizer.step()
            optimizer.zero_grad()
    moved = build("byol").double().state_dict()
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p, paper.get_parameter(name), rtol=1e-9, atol=1e-12)
        assert "teacher" in name.split(".") or not torch.equal(p, moved[name]) or p.abs().max() == 0


@pytest.mark.parity("mocov3", oracle="cross-entropy over the batch, float64")
def test_mocov3_is_the_authors_loss():
    """Chen et al. 2021, algorithm 1: 2τ · CE of each direction, summed."""
    method, batch = build("mocov3").double(), views(4, dtype=torch.float64)
    loss = method(batch).total
    x, y = (view.pixels for view in batch.views)
    q = [F.normalize(method.heads(method.encoder(v).pooled), dim=1) for v in (x, y)]
    k = [F.normalize(method.heads.teacher(method.teacher(v).pooled), dim=1) for v in (x, y)]
    paper = sum(2 * 0.5 * F.cross_entropy(a @ b.T / 0.5, torch.arange(4)) for a, b in ((q[0], k[1]), (q[1], k[0])))
    same_gradients(method, loss, paper)


def test_dino_forwards_sizes_together_and_moves_its_centre_after_the_step():
    method, batch = build("dino").double(), views(4, sizes("dino"), dtype=torch.float64)
    method.heads.center.normal_()
    before, reference = method.heads.center.clone(), copy.deepcopy(method)
    loss = method(batch).total
    large, small = (torch.cat([v.pixels for v in batch.views[i : i + 2]]) for i in (0, 2))
    logits = [reference.heads.teacher(x) for x in reference.teacher(large).pooled.chunk(2)]
    q = [((x - before) / method.temperature).softmax(1) for x in logits]
    s = [reference.heads(x) for v in (large, small) for x in reference.encoder(v).pooled.chunk(2)]
    terms = [F.cross_entropy(s[v] / 0.1, q[i]) for i in (0, 1) for v in range(4) if v != i]
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    method.heads.follow(1.0)
    torch.testing.assert_close(method.heads.center, 0.9 * before + 0.1 * torch.cat(logits).mean(0))
    method.eval()(batch)
    method.heads.follow(1.0)
    torch.testing.assert_close(method.heads.center, 0.9 * before + 0.1 * torch.cat(logits).mean(0))


def test_dinos_head_with_batch_norm_sees_all_crops_together():
    method = build("dino", head_norm="batch").double()
    students, teachers = method.represent(views(4, sizes("dino"), dtype=torch.float64))
    head = copy.deepcopy(method.heads.student)
    method.objective(students, teachers)
    head(torch.cat([f.pooled for f in students]))
    for name, buffer in method.heads.student.named_buffers():  # running statistics of one pass over 16 crops
        torch.testing.assert_close(buffer, head.get_buffer(name))
        assert not name.endswith("num_batches_tracked") or buffer == 1


def test_dinos_crops_are_the_authors():
    """Blur 1, .1 and, small ones, .5; solarized is the second alone; without small crops large ones may be smaller."""
    views = build("dino", small_crops=3).recipe.views
    assert [(v.size, v.scale, v.blur, v.solarize) for v in views] == [
        *((32, (0.4, 1.0), 1.0, 0.0), (32, (0.4, 1.0), 0.1, 0.2)),
        *[(16, (0.05, 0.4), 0.5, 0.0)] * 3,
    ]
    small = resolve_options(method_class("dino"), "small", 64, {})
    assert (small["small_crops"], small["scale"]) == (0, (0.14, 1.0))


def test_dinos_teacher_warms_up():
    method = build("dino", temperature_warmup=0.5)
    for progress, expected in ((0.25, 0.055), (0.5, 0.07), (0.9, 0.07)):
        method.after_step(progress)
        assert method.temperature.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["byol", "dino", "mocov3"])
@pytest.mark.parametrize("co", [False, True])
def test_teachers_get_no_gradient_and_follow_by_ema(name, co):
    method = build(name, co, momentum=0.8)
    method(views(4, sizes(name))).total.backward()
    learns = {n for n, p in method.named_parameters() if p.grad is not None}
    teachers = {n for n, _ in method.named_parameters() if "teacher" in n.split(".")}
    assert teachers
    assert learns == {n for n, _ in method.named_parameters()} - teachers
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.randn_like(p))
    before = {n: p.clone() for n, p in method.named_parameters()}
    method.after_step(0.0)
    for n, p in method.named_parameters():
        student = n.replace("heads.teacher", "heads.student" if name == "dino" else "heads.projector")
        student = student.replace("teacher.", "encoder.") if n.startswith("teacher.") else student
        expected = 0.8 * before[n] + 0.2 * before[student] if n in teachers else before[n]
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)
    method.after_step(1.0)
    still = {n: p.clone() for n, p in method.named_parameters()}
    method.after_step(1.0)
    assert all(torch.equal(p, still[n]) for n, p in method.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_co_without_weight_is_the_method_to_the_bit(name):
    """After three steps: parameters, buffers and the caller's generator; with a weight, at the start."""
    plain = train(build(name), name, 3).state_dict()
    co = train(build(name, co=True, local_weight=0.0), name, 3).state_dict()
    assert plain.keys() == co.keys()
    assert all(torch.equal(plain[key], co[key]) for key in plain)
    first, drawn = build(name).state_dict(), torch.rand(())
    weighted, drawn_too = build(name, co=True).state_dict(), torch.rand(())
    assert drawn == drawn_too
    assert all(torch.equal(first[key], weighted[key]) for key in first)
    assert any(key.startswith("local_heads") for key in weighted)
    trained = train(build(name, co=True), name, 3).state_dict()
    assert any(not torch.equal(trained[key], plain[key]) for key in plain if key.startswith("encoder."))


@pytest.mark.parametrize("name", NAMES)
def test_one_cell_equals_the_global_formula(name):
    """On 1×1 maps with shared heads L_l is L_g; the total is then (1 + w_s)·L_g."""
    method = build(name, co=True, separate_heads=False, local_weight=0.3)
    batch = views(4)  # stride 32: one cell
    students, teachers = method.represent(batch)
    students = [copy.copy(f) for f in students]
    one = [type(f)(f.pooled, f.pooled[:, None], f.positions[:1], (1, 1)) for f in students]
    whole = cross_view(method, method.heads, [f.pooled for f in one], [f.pooled for f in teachers])
    cells = cross_view(method, method.heads, [f.tokens for f in one], [f.pooled for f in teachers])
    torch.testing.assert_close(cells, whole)
    method.represent = lambda _: (one, teachers if name != "vicreg" else one)
    loss = method(batch)
    terms = {**loss.terms}
    local = terms.pop("local")
    torch.testing.assert_close(loss.total.detach(), sum(terms.values()) + local)
    torch.testing.assert_close(local, 0.3 * sum(terms.values()))
    if name == "dino":  # what both losses have seen moves the centre once
        logits = torch.cat([method.heads.teacher(f.pooled) for f in teachers])
        method.after_step(0.0)
        torch.testing.assert_close(method.heads.center, 0.1 * logits.mean(0))


def of_cell(name, method, prediction, target):
    """What one cell of each image says against the whole's targets, written out."""
    if name == "byol":
        return -torch.cosine_similarity(prediction, target).mean()
    if name == "mocov3":
        return 4 * 0.5 * F.cross_entropy(unit(prediction) @ unit(target).T / 0.5, torch.arange(len(target)))
    if name == "dino":
        q = ((target - method.local_heads.center) / method.temperature).softmax(1)
        return F.cross_entropy(prediction / 0.1, q)
    terms = [25 * F.mse_loss(prediction, target)]
    for z in (prediction, target):
        terms.append(25 / 2 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean())
        terms.append((z.T.cov() - z.T.cov().diag().diag()).square().sum() / z.shape[1])
    return sum(terms)


@pytest.mark.parity("co-byol", "co-mocov3", "co-dino", "co-vicreg", oracle="float64 loops over cells")
@pytest.mark.parametrize("name", NAMES)
def test_co_adds_what_each_cell_says_of_the_other_whole(name):
    """L = L_g + w/n² Σ_i of cell i of one view against the whole of the other, both ways (Aubret et al. 2025)."""
    method, batch = build(name, co=True, local_weight=0.3).double(), views(4, (64, 64), dtype=torch.float64)
    if name != "vicreg":
        with torch.no_grad():
            for p in method.teacher.parameters():
                p.mul_(1.1)
    if name == "dino":
        method.local_heads.center.normal_()
    heads, reference = method.local_heads, copy.deepcopy(method)
    loss = method(batch)
    students, teachers = reference.represent(batch)
    whole = reference.objective(students, teachers).total  # compared with the papers by itself
    to_whole = reference.local_heads.teacher if name != "vicreg" else reference.local_heads
    targets, sums = [to_whole(f.pooled).detach() for f in teachers], []
    for x, y in ((0, 1), (1, 0)):
        cells = students[x].dense.permute(0, 2, 3, 1)
        said = reference.local_heads(torch.stack([cells[:, i, j] for i in (0, 1) for j in (0, 1)], dim=1)).unbind(1)
        sums.append(sum(of_cell(name, reference, p, targets[y]) for p in said) / len(said))
    expected = whole + 0.3 * sum(sums) / 2
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    expected.backward()
    assert any(p.grad.abs().max() > 0 for p in heads.parameters() if p.grad is not None)
    for a, b in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


def test_co_byol_is_the_papers_equation():
    """−1/n² Σ_i cos(q2(g2(h_i(x1))), sg[g2_EMA(G_EMA(x2))]), both ways, cell by cell."""
    method, batch = build("byol", co=True, local_weight=0.5).double(), views(3, (64, 64), dtype=torch.float64)
    loss = method(batch)
    heads, sums = method.local_heads, []
    for x, y in ((0, 1), (1, 0)):
        h = method.encoder(batch.views[x].pixels).dense
        z = heads.teacher(method.teacher(batch.views[y].pixels).pooled)
        p = heads.predictor(heads.projector(h.permute(0, 2, 3, 1).flatten(0, 2))).unflatten(0, (3, -1))
        sums.append(sum(torch.cosine_similarity(p[:, i], z).mean() for i in range(p.shape[1])) / p.shape[1])
    assert p.shape[1] > 1
    torch.testing.assert_close(loss.terms["local"], -0.5 * sum(sums).detach() / 2)


@pytest.mark.parametrize("name", ["mocov3", "vicreg", "dino"])
def test_comparing_cells_is_the_mean_of_comparing_each(name):
    method = build(name) if name != "vicreg" else build(name, co=True)
    prediction = torch.randn(6, 5, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, 8, dtype=torch.float64).softmax(1)
    ours = method.compare(prediction, target)
    each = torch.stack([method.compare(cell, target) for cell in prediction.unbind(1)]).mean()
    torch.testing.assert_close(ours, each)
    a, b = (torch.autograd.grad(loss, prediction)[0] for loss in (ours, each))
    torch.testing.assert_close(a, b)


def test_cells_are_drawn_without_replacement():
    method = build("byol", co=True, cells=4)
    tokens = torch.arange(9.0)[None, :, None].expand(5, 9, 2)
    drawn = method.drawn(tokens)
    assert drawn.shape == (5, 4, 2)
    assert all(len(set(row.tolist())) == 4 for row in drawn[..., 0])
    assert len({tuple(sorted(row.tolist())) for row in drawn[..., 0]}) > 1
    assert torch.equal(build("byol", co=True, cells=9).drawn(tokens), tokens)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_bf16_and_batch_16(name, backbone):
    method = build(name, co=True, backbone=backbone)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views(16))
        loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["byol", "dino", "mocov3", "vicreg"])
def test_registered_with_a_signature_that_is_its_configuration(name):
    plain, co = method_class(name), method_class(f"co-{name}")
    added = method_options(co).keys() - method_options(plain).keys()
    assert added == {"local_weight", "separate_heads", "cells"}
    assert co.title == f"CO-{plain.title}"
    options = resolve_options(co, "small", 64, {"cells": 3})
    assert options["cells"] == 3
    assert options["local_weight"] == 0.5
    said, inherited = ({option.name: said for option, said in options_of(cls)} for cls in (co, plain))
    assert said == inherited | {name: said[name] for name in added}
    assert all(said[name] for name in added)
    assert inspect.signature(co).parameters["backbone"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_a_negative_weight_is_a_users_mistake():
    with pytest.raises(UsageError, match="local_weight"):
        build("byol", co=True, local_weight=-1.0)


@pytest.mark.parametrize("co", [False, True])
@pytest.mark.parametrize("name", ["byol", "mocov3"])
@pytest.mark.parametrize("predictor", [(16, 4), ()])
def test_a_prediction_as_wide_as_its_target_is_asked_for(name, co, predictor):
    with pytest.raises(UsageError, match=r"projector \(16, 8\) and predictor .* give both the same last width"):
        build(name, co=co, predictor=predictor)
    build(name, co=co, projector=[12, 8])  # of a file; the hidden widths may differ


def test_co_vicreg_does_not_pass_for_published():
    paper = method_class("co-vicreg").paper
    assert paper.startswith("Not published: ours")
    assert paper.endswith(method_class("vicreg").paper)


def test_dino_starts_at_ln_k_and_collapses_without_centring_and_sharpening():
    """The teacher's entropy, after training with a centre that stays at 0 and a temperature that does not sharpen."""
    method = build("dino", co=False, outputs=12)
    entropy = lambda m: m.target(m.heads, [m.teacher(views(16).views[0].pixels).pooled])[0]
    measured = lambda q: -(q * q.clamp_min(1e-30).log()).sum(1).mean().item() / math.log(12)
    assert 0.05 < measured(entropy(method)) < 0.999
    flat = build("dino", teacher_temperature=(10.0, 10.0), center_momentum=1.0)
    assert measured(entropy(flat)) > 0.999
    sharp = build("dino", teacher_temperature=(1e-3, 1e-3), center_momentum=1.0)
    assert measured(entropy(sharp)) < 0.05


assert TINY.keys() == PAIRS.keys()
