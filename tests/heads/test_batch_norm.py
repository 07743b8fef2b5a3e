"""On one process; tests/test_distributed.py has two."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from glocal.errors import UsageError
from glocal.heads import BatchNorm, sync_batch_norms


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_is_pytorchs_on_one_process(options):
    ours, theirs = BatchNorm(5, **options), nn.BatchNorm1d(5, **options)
    x = (3 + 2 * torch.randn(7, 5)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    for _ in range(2):
        a, b = ours(x), theirs(y)
        a.square().sum().backward()
        b.square().sum().backward()
        assert a.equal(b)
    assert x.grad.equal(y.grad)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(value.equal(theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert ours.eval()(x).equal(theirs.eval()(y))


def test_state_dicts_are_interchangeable():
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    theirs(torch.randn(7, 5))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert ours.running_var.equal(theirs.running_var)


def test_conversion_changes_no_parameter_name_or_output():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(BatchNormAct2d(4)), nn.BatchNorm3d(2))
    x = torch.randn(2, 3, 6, 6)
    names, parameters = list(backbone.state_dict()), list(backbone.parameters())
    before = backbone[:3](x)
    assert sync_batch_norms(backbone) is backbone
    assert [isinstance(backbone[i], BatchNorm) for i in (1, 3)] == [True, True]
    assert isinstance(backbone[2][0], BatchNorm)
    assert list(backbone.state_dict()) == names
    assert all(a is b for a, b in zip(backbone.parameters(), parameters, strict=True))
    assert backbone[:3](x).equal(before)
    assert before.min() == 0  # BatchNormAct2d still has its ReLU
    sync_batch_norms(backbone)  # a second time changes nothing
    assert backbone[:3](x).equal(before)


def test_an_unknown_batch_norm_is_refused_by_name():
    class Strange(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match=r"stem\.norm, a Strange"):
        sync_batch_norms(nn.ModuleDict({"stem": nn.ModuleDict({"norm": Strange(3)})}))
