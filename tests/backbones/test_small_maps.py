"""Convolutions over small maps as products: the same numbers, and used only where they are meant to be."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from glocal.backbones import build_backbone, small_maps
from glocal.backbones.small_maps import Limits, SmallMaps, Window, fastest_limits, fold, unfold

LIMITS = Limits(49, 9)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
margins = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(deadline=None, max_examples=30)
@given(kernel=pairs, stride=pairs, dilation=pairs, padding=margins, last=st.booleans())
def test_products_are_the_convolution_and_its_gradients(kernel, stride, dilation, padding, last):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 9, 8, requires_grad=True), torch.randn(5, 4, *kernel, requires_grad=True)
    y = F.conv2d(x, weight, None, stride, padding, dilation)
    grad = torch.randn_like(y)
    y.backward(grad)
    window = Window(kernel, stride, padding, dilation)
    assert window.cells(9, 8) == y.shape[2:]
    layout = torch.channels_last if last else torch.contiguous_format
    unfolded = unfold(x.detach().contiguous(memory_format=layout), window)
    outwards, back = "bhwijc,ocij->bohw", "bohw,ocij->bhwijc"
    torch.testing.assert_close(torch.einsum(outwards, unfolded, weight), y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.einsum("bohw,bhwijc->ocij", grad, unfolded), weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fold(torch.einsum(back, grad, weight), window, 9, 8), x.grad, atol=1e-4, rtol=1e-4)


@pytest.fixture
def counted(monkeypatch):
    """The shapes of the maps that were unfolded, in either direction."""
    made = []

    def spy(x: torch.Tensor, window: Window) -> torch.Tensor:
        made.append(window.cells(*x.shape[2:]))
        return unfold(x, window)

    monkeypatch.setattr(small_maps, "unfold", spy)
    return made


def learn(layer: nn.Module, x: torch.Tensor, *, dtype: torch.dtype | None = torch.bfloat16) -> list[torch.Tensor]:
    """Output and gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y = layer(x)
    y.float().square().mean().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize("size", [3, 6])  # all as products; only the gradient of the weights
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 2, "dilation": 2}])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(size, options, counted):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(256, 32, 3, bias=False, **{"padding": 1, **options}), torch.randn(4, 256, size, size)
    plain = learn(layer, x)
    assert not counted
    with SmallMaps(LIMITS):
        changed = learn(layer, x)
    assert len(counted) == (2 if counted[0][0] <= 3 else 1)
    exact = learn(layer, x, dtype=None)
    for ours, theirs, truth in zip(changed, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        error, usual = (ours - truth).norm() / truth.norm(), (theirs - truth).norm() / truth.norm()
        assert error < 1.3 * usual  # bfloat16's own error


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 2, "dilation": 2}])
def test_in_float32_they_are_the_same_to_rounding(options, counted):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(256, 32, 3, bias=False, **{"padding": 1, **options}), torch.randn(4, 256, 3, 3)
    plain = learn(layer, x, dtype=None)
    with SmallMaps(LIMITS):
        changed = learn(layer, x, dtype=None)
    assert len(counted) == 2
    for ours, theirs in zip(changed, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "size", "dtype"),
    [
        (nn.Conv2d(256, 8, 3, bias=False), 10, torch.bfloat16),  # a map of 8×8
        (nn.Conv2d(128, 8, 3, bias=False), 6, torch.bfloat16),  # few channels
        (nn.Conv2d(256, 8, 3), 6, torch.bfloat16),  # a bias
        (nn.Conv2d(256, 256, 3, groups=256, bias=False), 6, torch.bfloat16),
        (nn.Conv2d(256, 8, 3, padding="same", bias=False), 6, torch.bfloat16),
        (nn.Conv2d(256, 8, 1, bias=False), 6, torch.bfloat16),  # a product as it is
        (nn.Conv2d(256, 8, 3, bias=False).double(), 6, None),
        (nn.Conv2d(256, 8, 3, bias=False).requires_grad_(False), 6, torch.bfloat16),
    ],
)
def test_all_else_is_left_alone(layer, size, dtype, counted):
    x = torch.randn(2, layer.in_channels, size, size, dtype=layer.weight.dtype)
    with SmallMaps(LIMITS), torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        layer(x.requires_grad_()).float().sum().backward()
    assert not counted


def test_a_backbone_trains_so_and_is_evaluated_as_before(counted):
    torch.manual_seed(0)
    backbone, x = build_backbone("resnet18", image_size=96), torch.randn(2, 3, 96, 96)
    backbone.small_maps = LIMITS
    with torch.autocast("cpu", torch.bfloat16):
        backbone.eval()(x).pooled.float().sum().backward()
        assert not counted
        backbone.train()(x).pooled.float().sum().backward()
    # of the third stage three convolutions have channels enough; of the fourth all four and the shortcut, both ways
    assert sorted(counted) == [(3, 3)] * 10 + [(6, 6)] * 3


def test_a_second_derivative_is_refused(counted):
    layer, x = nn.Conv2d(256, 8, 3, bias=False), torch.randn(2, 256, 5, 5, requires_grad=True)
    with SmallMaps(LIMITS):
        (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    assert counted
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_outputs_can_be_changed_in_place(counted):
    layer, x = nn.Conv2d(256, 8, 3, bias=False), torch.randn(2, 256, 5, 5)
    with SmallMaps(LIMITS):
        ours = learn(nn.Sequential(layer, nn.ReLU(inplace=True)), x)
    assert len(counted) == 2
    for a, b in zip(ours, learn(nn.Sequential(layer, nn.ReLU(inplace=True)), x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=2e-2)


@pytest.mark.parametrize(
    "x", [torch.randn(2, 256, 2, 2), torch.randn(2, 255, 5, 5), torch.randn(0, 256, 5, 5), torch.randn(256, 5, 5)]
)
def test_odd_inputs_are_answered_as_ever(x, counted):
    layer = nn.Conv2d(256, 8, 3, bias=False)

    def answer() -> tuple[int, ...] | str:
        try:
            with torch.autocast("cpu", torch.bfloat16):
                return tuple(layer(x).shape)
        except RuntimeError as error:
            return str(error)

    plain = answer()
    with SmallMaps(LIMITS):
        assert answer() == plain
    assert not counted


@pytest.mark.parametrize(
    ("seconds", "limits"),
    [
        (lambda cells, gradient, rest: 1.0, (0, 0)),
        (lambda cells, gradient, rest: 1.0 - 0.2 * gradient - 0.2 * rest, (49, 49)),
        (lambda cells, gradient, rest: 1.0 - 0.2 * gradient + rest, (49, 0)),
        (lambda cells, gradient, rest: 1.0 - gradient * (0.2 if cells <= 16 else 0.01) - rest * (cells <= 4), (16, 4)),
        (lambda cells, gradient, rest: 1.0 + gradient * 0.1 - rest * (0.5 if cells <= 9 else 0.0), (9, 9)),
        (
            lambda cells, gradient, rest: 1.0 - gradient * (cells > 1),
            (0, 0),
        ),  # chance
    ],
)
def test_the_limits_are_up_to_where_products_pay(monkeypatch, seconds, limits):
    def timed(layer, x, ways):
        cells = x.shape[2] * x.shape[3]
        return [seconds(cells, cells <= way.gradient, cells <= way.rest) for way in ways]

    monkeypatch.setattr(small_maps, "_seconds", timed)
    assert fastest_limits(bf16=False) == limits


def test_each_way_is_really_gone(counted):
    layer, ways = nn.Conv2d(256, 8, 3, bias=False), [Limits(0, 0), Limits(9, 0), Limits(9, 9)]
    times = small_maps._seconds(layer, torch.randn(2, 256, 5, 5), ways)
    assert len(times) == 3
    assert len(counted) == 1 + 2
