"""LOCA as a module: where patches lie, and its loss number by number."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support import build, make_batch, random_view

from glocal.losses import sinkhorn
from glocal.methods.loca import some_consecutive
from glocal.views import Batch, View


def crop(images=3, size=64, left=0.0, flip=False, dtype=torch.float64):
    affine = torch.tensor([[-1.0, 0, left + size], [0, 1, 0]]) if flip else torch.tensor([[1.0, 0, left], [0, 1, 0]])
    return View(torch.randn(images, 3, size, size, dtype=dtype), affine.repeat(images, 1, 1))


def test_a_query_that_is_the_reference_lies_where_it_lies_and_a_flip_reverses_each_row():
    reference = crop(size=224)
    places = lambda view: reference.cell_of(view.centers(14, 14), 14, 14)
    assert torch.equal(places(reference), torch.arange(196).view(14, 14).expand(3, 14, 14))
    assert torch.equal(places(crop(size=224, flip=True)), places(reference).flip(2))
    assert (places(crop(size=224, left=224.0)) == -1).all()
    half = places(crop(size=224, left=112.0))
    assert torch.equal(half[:, :, :7], places(reference)[:, :, 7:])
    assert (half[:, :, 7:] == -1).all()


def test_places_are_those_of_box_arithmetic():
    """Boxes and mirrors of random crops, without matrices; the reference mirrored too."""
    reference, query = random_view(40, 64, 1), random_view(40, 32, 2)
    ours = reference.cell_of(query.centers(3, 3), 4, 4)
    box = lambda affine, size: (min(affine[0, 2], affine[0, 2] + affine[0, 0] * size), affine[1, 2])
    number = 0
    for b in range(40):
        (rx, ry), (qx, qy) = box(reference.affine[b], 64), box(query.affine[b], 32)
        rw, rh = reference.affine[b, 0, 0].abs() * 64, reference.affine[b, 1, 1] * 64
        qw, qh = query.affine[b, 0, 0].abs() * 32, query.affine[b, 1, 1] * 32
        for row in range(3):
            for column in range(3):
                u = (2 - column if query.flipped[b] else column) + 0.5
                x, y = (qx + qw * u / 3 - rx) / rw, (qy + qh * (row + 0.5) / 3 - ry) / rh
                x = 1 - x if reference.flipped[b] else x
                inside = 0 <= x < 1 and 0 <= y < 1
                number += inside
                assert ours[b, row, column] == (int(y * 4) * 4 + int(x * 4) if inside else -1)
    assert 30 < number < 300
    assert query.flipped.any()
    assert reference.flipped.any()


@pytest.mark.parity("loca", oracle="float64 loops over tokens")
def test_loca_is_the_papers_loss():
    """Token by token, from what its networks say."""
    method, batch = build("loca").double(), make_batch("loca", 3, torch.float64)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.mul_(1.1)
    torch.manual_seed(5)
    loss = method(batch)
    torch.manual_seed(5)
    kept, first = torch.randperm(16)[:6], int(torch.randint(16 - 3 + 1, ()))  # .357 and .2 of 16
    reference, *queries = batch.views
    seen = method.teacher(reference.pixels).tokens
    assigned = sinkhorn((method.teacher_head(seen) / 0.05).flatten(0, 1), 1.0, 0).log()
    assigned = sinkhorn(assigned, 1.0, 3).unflatten(0, (3, 16))
    position, cluster, predictions, inside = 0.0, 0.0, [], 0
    for n, query in enumerate(queries):
        patches = kept if n == 0 else torch.arange(4)
        tokens = method.encoder(query.pixels, kept if n == 0 else None).tokens
        side = query.pixels.shape[-1] // 16
        ids = reference.cell_of(query.centers(side, side), 4, 4).flatten(1)
        for b in range(3):
            for token, patch in zip(tokens[b], patches, strict=True):
                p = method.head(token[None])[0] / 0.1
                predictions.append(p.softmax(-1))
                place = int(ids[b, patch])
                if place < 0:
                    continue
                inside += 1
                logits = method.where(method.decoder(token[None, None], seen[b : b + 1, first : first + 3]))[0, 0]
                position = position - logits.log_softmax(-1)[place]
                cluster = cluster - (assigned[b, place] * p.log_softmax(-1)).sum()
    assert 0 < inside < len(predictions)
    mean = torch.stack(predictions).mean(0)
    expected = (position + cluster) / inside + math.log(12) + (mean * mean.log()).sum()
    torch.testing.assert_close(loss.total, expected)
    parameters = [p for n, p in method.named_parameters() if not n.startswith("teacher")]
    ours, theirs = (torch.autograd.grad(total, parameters) for total in (loss.total, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)  # targets are single precision


def test_queries_outside_of_the_reference_cost_nothing_but_entropy():
    method = build("loca")
    far = [crop(size=64, left=500.0, dtype=torch.float32), crop(size=32, left=900.0, dtype=torch.float32)]
    loss = method(Batch([crop(dtype=torch.float32), *far], torch.arange(3)))
    assert loss.terms["position"] == loss.terms["cluster"] == 0
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_whole_queries_of_a_convolutional_network():
    method = build("loca", backbone="test_resnet", query_keep=1.0)
    loss = method(make_batch("loca", 4))
    loss.total.backward()
    assert loss.total.isfinite()
    assert method.where[-1].out_features == method.teacher(torch.zeros(1, 3, 64, 64)).tokens.shape[1]


def test_the_context_is_a_run_of_consecutive_tokens():
    tokens = torch.arange(196.0)[None, :, None].expand(2, 196, 1)
    starts = set()
    for seed in range(50):
        torch.manual_seed(seed)
        run = some_consecutive(tokens, 0.2)[0, :, 0]
        assert len(run) == 39
        assert (run.diff() == 1).all()
        starts.add(int(run[0]))
    assert min(starts) < 20 < 130 < max(starts)
    assert torch.equal(some_consecutive(tokens, 1.0), tokens)


def test_cross_attention_is_the_block_of_a_transformer():
    """By hand, head by head; tokens do not look at each other."""
    block = copy.deepcopy(build("loca").decoder).double()
    block.heads = 2
    x, context = torch.randn(2, 5, 64, dtype=torch.float64), torch.randn(2, 7, 64, dtype=torch.float64)
    q = block.query(F.layer_norm(x, (64,), block.norm_queries.weight, block.norm_queries.bias, 1e-6))
    k, v = block.key_value(block.norm_context(context)).split(64, dim=2)
    heads = []
    for at in (slice(0, 32), slice(32, 64)):
        heads.append((q[..., at] @ k[..., at].mT / math.sqrt(32)).softmax(-1) @ v[..., at])
    y = x + block.out(torch.cat(heads, dim=2))
    torch.testing.assert_close(block(x, context), y + block.mlp(block.norm_mlp(y)))
    torch.testing.assert_close(block(x[:, :2], context), block(x, context)[:, :2])
