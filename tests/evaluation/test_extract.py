import random as python_random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from glocal.errors import UsageError
from glocal.evaluation.extract import eval_image, extract, frozen, stream


def numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (64, 64), (20, 30)])
def test_eval_image_is_torchvisions_resize_and_centre_crop(size):
    image = picture(*size)
    ours = np.asarray(eval_image(image, 28))
    resized = tv.resize(image, [32], interpolation=tv.InterpolationMode.BICUBIC)
    assert (ours == np.asarray(tv.center_crop(resized, [28, 28]))).all()


def test_eval_image_keeps_the_centre_and_the_whole():
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, 59:61] = 255  # a line down the middle
    for crop_pct in (0.875, None):
        columns = np.asarray(eval_image(Image.fromarray(image), 32, crop_pct))[:, :, 0].sum(0).astype(float)
        assert abs((columns * (np.arange(32) + 0.5)).sum() / columns.sum() - 16) < 0.05
    edges = np.zeros((60, 120, 3), np.uint8)
    edges[:, :3] = 255
    assert np.asarray(eval_image(Image.fromarray(edges), 32, None))[:, 0].min() > 100
    assert np.asarray(eval_image(Image.fromarray(edges), 32))[:, 0].max() == 0


def test_bank_holds_every_image_in_order_with_its_label(made):
    images, labels = made.coloured(11, 0)
    source = made.ArraySource(images, labels)
    bank = extract(made.Cells(), source, image_size=32, batch_size=4, dense=True)
    assert bank.pooled.shape == (11, 6)
    assert bank.dense.shape == (11, 6, 4, 4)
    assert bank.labels.tolist() == labels.tolist()
    assert bank.keys == [str(i) for i in range(11)]
    torch.testing.assert_close(bank.dense.float().mean((2, 3)), bank.pooled, atol=2e-3, rtol=1e-2)
    one = extract(made.Cells(), source, image_size=32, batch_size=1)
    torch.testing.assert_close(one.pooled, bank.pooled)


def test_pixels_are_normalised_as_the_encoder_asks(made):
    images = np.full((2, 40, 40, 3), 51, np.uint8)
    bank = extract(made.Cells(), made.ArraySource(images), image_size=32)
    torch.testing.assert_close(bank.pooled[:, :3], torch.full((2, 3), (0.2 - 0.5) / 0.25))


def test_unreadable_images_are_skipped_and_named(made):
    images, labels = made.coloured(6, 0)
    source = made.Scenes(images, None, broken={0, 3, 4}, labels=labels)
    bank = extract(made.Cells(), source, image_size=32, batch_size=2)
    assert bank.index.tolist() == [1, 2, 5]
    assert bank.labels.tolist() == labels[[1, 2, 5]].tolist()
    assert bank.skipped == [("0", "truncated"), ("3", "truncated"), ("4", "truncated")]
    with pytest.raises(UsageError, match="none of the 6 images"):
        extract(made.Cells(), made.Scenes(images, None, broken=range(6)), image_size=32)


def test_nothing_draws_from_global_generators_and_workers_change_nothing(made):
    source = made.ArraySource(made.coloured(7, 0)[0])
    torch.manual_seed(0)
    before = torch.get_rng_state(), numpy_state(), python_random.getstate()
    plain = extract(made.Cells(), source, image_size=32, batch_size=3)
    two = extract(made.Cells(), source, image_size=32, batch_size=3, workers=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (numpy_state() == before[1]).all()
    assert python_random.getstate() == before[2]
    assert torch.equal(plain.pooled, two.pooled)


def test_frozen_restores_each_modules_mode(made):
    encoder = made.Cells().train()
    encoder.drop.eval()
    with frozen(encoder):
        assert not encoder.training
        assert not (encoder.scale * 2).requires_grad
    assert encoder.training
    assert not encoder.drop.training


def test_a_stream_left_early_leaves_the_encoder_as_it_was(made):
    encoder = made.Cells().train()
    batches = stream(encoder, made.ArraySource(made.coloured(6, 0)[0]), image_size=32, batch_size=2)
    next(batches)
    assert encoder.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_bf16_is_close_and_float32(made):
    source = made.ArraySource(made.coloured(3, 0)[0])
    exact, half = (extract(made.Cells(), source, image_size=32, precision=p).pooled for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.05)
    with pytest.raises(UsageError, match="precision"):
        extract(made.Cells(), source, image_size=32, precision="int8")


def test_progress_reaches_the_total(made):
    seen = []
    extract(
        made.Cells(),
        made.ArraySource(made.coloured(5, 0)[0]),
        image_size=32,
        batch_size=2,
        progress=lambda what, done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
