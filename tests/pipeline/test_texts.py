"""A run that learns from texts: what is looked at while it trains."""

import pytest
import torch
from torch import nn

from glocal.config import PretrainConfig
from glocal.data.text import Texts
from glocal.pipeline.texts import look_at_texts
from glocal.training import Harmed


class Same(nn.Module):
    """Reads the same in every text."""

    def read(self, texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 8)


def test_a_collapse_stops_training_and_says_what_helps(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(f"text {i}" for i in range(20)))
    look = look_at_texts(Texts(file), PretrainConfig(method="contriever"))
    with pytest.raises(Harmed, match=r"after epoch 3: complete collapse \(.*lower --lr"):
        look(Same(), 3)
