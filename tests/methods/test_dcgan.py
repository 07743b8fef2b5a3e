"""Each network of DC-GAN learns from its own terms only; spectral norm and R1 are what they are called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import random_view

from glocal.backbones import build_backbone
from glocal.backbones.fold import fold
from glocal.errors import UsageError
from glocal.generation import load_generator, save_generator
from glocal.methods import DCGAN
from glocal.views import Batch

SIZE, IMAGES = 32, 4


@pytest.fixture
def method():
    torch.manual_seed(0)
    return DCGAN(build_backbone("strided_small", image_size=SIZE), image_size=SIZE, latent=5, width=8).double()


@pytest.fixture
def batch():
    return Batch([random_view(IMAGES, SIZE, 3, torch.float64)], torch.arange(IMAGES))


def step(method, batch, name=None):
    """A step's loss, and the gradient of one of its terms, or of all, by parameter."""
    torch.manual_seed(1)
    method.zero_grad()
    for module in method.modules():  # the same weights each time
        module.eval() if hasattr(module, "left") else None
    loss = method(batch)
    (loss.total if name is None else loss_term(method, batch, name)).backward()
    return loss, {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}


def loss_term(method, batch, name):
    """One term, written down plainly, of all parameters."""
    torch.manual_seed(1)
    real = batch.views[0].pixels
    mean, std = (torch.tensor(x).double()[:, None, None] for x in (method.encoder.mean, method.encoder.std))
    fake = (method.generator(torch.randn(IMAGES, 5, dtype=torch.float64)) - mean) / std
    judge = lambda images: method.generator.realism(method.encoder(images).pooled)[:, 0]
    if name == "discriminator":
        real_odds, fake_odds = torch.sigmoid(judge(real)), torch.sigmoid(judge(fake.detach()))
        return -(real_odds.log() + (1 - fake_odds).log()).mean()
    if name == "generator":
        return -torch.sigmoid(judge(fake)).log().mean()
    slopes = [
        torch.autograd.functional.jacobian(lambda x: judge(x[None]), image, create_graph=True)[0] for image in real
    ]
    return method.penalty / 2 * torch.stack([slope.square().sum() for slope in slopes]).mean()


@pytest.mark.parity("dcgan", oracle="its terms written plainly, image by image")
def test_each_network_learns_from_its_own_terms_only(method, batch):
    loss, found = step(method, batch)
    for name, value in loss.terms.items():
        torch.testing.assert_close(value, loss_term(method, batch, name).detach(), rtol=1e-8, atol=1e-10)
    parts = {name: step(method, batch, name)[1] for name in loss.terms}
    for key, gradient in found.items():
        terms = ["generator"] if key.startswith("generator.decode") else ["discriminator", "penalty"]
        expected = sum(parts[name].get(key, torch.zeros_like(gradient)) for name in terms)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-10, msg=key)
    assert set(found) == {name for name, _ in method.named_parameters()}


def test_the_encoders_weights_have_the_largest_singular_value_one_and_are_plain_in_the_end(method, batch):
    for _ in range(30):
        method(batch)
    for conv in method.eval().encoder.model.convs:
        assert float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)) == pytest.approx(1, rel=0.02)
    features = method.encoder(batch.views[0].pixels).pooled
    fold(method)
    assert set(method.encoder.state_dict()) == set(build_backbone("strided_small", image_size=SIZE).state_dict())
    torch.testing.assert_close(method.encoder(batch.views[0].pixels).pooled, features)


def test_its_generator_is_saved_with_how_real_images_look(method, tmp_path):
    fold(method)
    save_generator(method.eval().float().generator, tmp_path)
    again, z = load_generator(tmp_path), torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(z), method.generator(z))
    x = F.normalize(torch.ones(1, method.encoder.dim))
    assert torch.equal(again.realism(x), method.generator.realism(x))
    assert again.latent_shape == (5,)


def test_networks_by_which_images_tell_of_each_other_are_refused():
    with pytest.raises(UsageError, match=r"has BatchNorm.*strided_small"):
        DCGAN(build_backbone("tiny:Net", image_size=SIZE), image_size=SIZE)
