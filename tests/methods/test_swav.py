"""SwAV and SEER: the queue, the frozen prototypes, half precision."""

import copy

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.losses import sinkhorn
from glocal.losses.distillation import dino_loss
from glocal.methods.seer import SEER
from glocal.methods.swav import SwAV, embed_together
from glocal.training.optimizers import frozen_until
from glocal.views import Batch, View

TINY = {"image_size": 32, "small_size": 16, "small_crops": 2, "projector": (16, 8), "prototypes": 12}


def views(images=8, seed=0, dtype=torch.float32, small=16):
    """Two large and two small crops; no ids, no labels."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in (32, 32, small, small):
        pixels = torch.randn(images, 3, size, size, generator=generator).to(dtype)
        parts.append(View(pixels, torch.zeros(len(pixels), 2, 3)))
    return Batch(parts, torch.full((len(parts[0].pixels),), -1))


def build(cls=SwAV, **options):
    torch.manual_seed(0)
    return cls(build_backbone("test_resnet", image_size=32), **{**TINY, **options})


def test_the_queue_waits_for_its_time_then_helps_to_balance():
    method = build(queue=16, queue_from=0.5)
    method.eval()  # the prototypes stay as they are
    other = method.queues[0].embeddings.clone()
    z, scores = torch.nn.functional.normalize(torch.randn(8, 8), dim=1), torch.randn(8, 12) / 4
    torch.testing.assert_close(method.codes(1, z, scores), sinkhorn(scores))
    method.after_step(0.4)
    torch.testing.assert_close(method.codes(1, -z, scores), sinkhorn(scores))
    method.after_step(0.5)
    past = torch.cat([z, -z]) @ method.prototypes.weight.T  # what came before, in order
    fresh = torch.nn.functional.normalize(torch.randn(8, 8), dim=1)  # enters after it was of use to none
    torch.testing.assert_close(method.codes(1, fresh, scores), sinkhorn(torch.cat([past, scores]))[16:])
    torch.testing.assert_close(method.queues[1].embeddings, torch.cat([fresh, -z]))
    assert torch.equal(method.queues[0].embeddings, other)  # each view has its own
    assert method.state_dict()["use_queue"]
    resumed = build(queue=16, queue_from=0.5).eval()
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.codes(0, z, scores), method.codes(0, z, scores))


def test_the_queue_is_compared_in_float32_whatever_the_autocast():
    method = build(queue=16, queue_from=0.0).eval()
    z, scores = torch.nn.functional.normalize(torch.randn(8, 8), dim=1), torch.randn(8, 12) / 4
    twin = copy.deepcopy(method)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = twin.codes(0, z, scores)
    assert torch.equal(rounded, method.codes(0, z, scores))


def test_the_loss_is_the_swapped_prediction_of_all_crops():
    method, batch = build(), views()
    loss = method(batch).total
    z = embed_together(method.encoder, method.projector, batch.views)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4, 8))
    scores = z @ torch.nn.functional.normalize(method.prototypes.weight, dim=1).T
    expected = dino_loss(list(scores), [sinkhorn(s.detach()) for s in scores[:2]], 0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(12))


def test_prototypes_are_frozen_first():
    method = build()
    held = frozen_until(method, dict.fromkeys(method.optimization.frozen, 7))
    assert [(p is method.prototypes.weight, step) for p, step in held] == [(True, 7)]


@pytest.mark.parametrize("cls", [SwAV, SEER])
def test_bfloat16_and_batch_16(cls):
    method = build(cls)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views(16, small=32)).total  # of 16 px layer4 sees one: oneDNN's bf16 gradient is undefined there
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
