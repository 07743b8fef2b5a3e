import pytest
import torch

from glocal.features import Features


def features(grid):
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 4)
    return Features(tokens.mean(1), tokens, torch.rand(6, 2), grid)


def test_dense_is_row_major():
    some = features((2, 3))
    assert some.dense.shape == (2, 4, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(some.dense[:, :, row, column], some.tokens[:, row * 3 + column])


def test_dense_is_a_channels_last_view_of_the_tokens():
    some = features((2, 3))
    assert some.dense.data_ptr() == some.tokens.data_ptr()
    assert some.dense.is_contiguous(memory_format=torch.channels_last)


def test_tokens_without_a_grid_have_no_map():
    with pytest.raises(ValueError, match="6 tokens do not fill a grid"):
        _ = features(None).dense
