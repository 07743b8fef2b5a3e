import pytest
import torch
from torch import nn

from glocal.errors import UsageError
from glocal.heads import BatchNorm, projector


def test_layers_are_those_of_the_paper():
    batch, layer = projector((4, 6, 7, 5), "batch"), projector((4, 6, 7, 5), "layer")
    kinds = lambda head: [type(module) for module in head]
    assert kinds(batch) == [nn.Linear, BatchNorm, nn.ReLU] * 2 + [nn.Linear]
    assert kinds(layer) == [nn.Linear, nn.LayerNorm, nn.ReLU] * 2 + [nn.Linear]
    assert [(m.in_features, m.out_features) for m in batch if isinstance(m, nn.Linear)] == [(4, 6), (6, 7), (7, 5)]
    assert [m.bias is not None for m in batch if isinstance(m, nn.Linear)] == [False, False, False]
    assert [m.bias is not None for m in layer if isinstance(m, nn.Linear)] == [True, True, False]


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("lead", [(6,), (3, 4), (3, 2, 4)])
def test_leading_dimensions_are_flattened_and_given_back(norm, lead):
    head = projector((4, 6, 5), norm)
    x = torch.randn(*lead, 4)
    out = head(x)
    assert out.shape == (*lead, 5)
    torch.testing.assert_close(out, head(x.reshape(-1, 4)).reshape(*lead, 5))


def test_batch_norm_spans_batch_and_locations():
    hidden = []
    head = projector((4, 6, 5), "batch")
    head[1].register_forward_hook(lambda module, args, output: hidden.append(output.clone()))
    head(torch.randn(3, 8, 4))
    torch.testing.assert_close(hidden[0].mean(dim=0), torch.zeros(6), atol=1e-6, rtol=0)
    assert hidden[0].shape == (24, 6)


def test_a_single_layer_is_linear():
    assert [type(module) for module in projector((4, 5), "batch")] == [nn.Linear]


def test_mistakes_are_said_in_one_line():
    with pytest.raises(UsageError, match="input and of the output"):
        projector((4,), "batch")
    with pytest.raises(UsageError, match="'batch', 'layer' or 'none'"):
        projector((4, 5), "group")
