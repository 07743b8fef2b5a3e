"""Generators are kept in two files that nothing is unpickled from, and are the same when they are opened."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.velocity import FlowSampler
from glocal.errors import UsageError
from glocal.generation import load_generator, save_generator, write_samples
from glocal.heads.decoder import GaussianCodes
from glocal.run import Run


class Mine(nn.Module):
    """A generator of somebody else's."""

    def __init__(self, colours):
        super().__init__()
        self.paint, self.latent_shape = nn.Linear(2, 3 * colours), (2,)
        self.config = {"name": f"{__name__}:Mine", "colours": colours}

    def forward(self, z):
        return self.paint(z).sigmoid()[..., None, None].unflatten(1, (3, -1)).flatten(2, 3).expand(-1, -1, -1, 4)


def flow() -> FlowSampler:
    made = FlowSampler(build_backbone("unet_tiny").config, 4, 16)
    made.frequencies.copy_(torch.tensor([4.0, 3, 2, 1]))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.1)
    return made.eval()


@pytest.mark.parametrize("make", [flow, lambda: GaussianCodes(5, 16).eval()], ids=["flow", "codes"])
def test_what_is_opened_makes_the_same_images(make, tmp_path) -> None:
    made = make()
    save_generator(made, tmp_path, method="m")
    opened = load_generator(tmp_path)
    z = torch.randn(2, *made.latent_shape)
    assert opened.latent_shape == made.latent_shape
    assert torch.equal(opened(z), made(z))
    assert opened.state_dict().keys() == made.state_dict().keys()
    about = json.loads((tmp_path / "generator.json").read_text())
    assert about["extra"] == {"method": "m"}
    assert not opened.training


def test_somebody_elses_is_opened_only_where_its_code_is_trusted(tmp_path) -> None:
    made = Mine(4)
    save_generator(made, tmp_path)
    with pytest.raises(UsageError, match="trust"):
        load_generator(tmp_path)
    z = torch.randn(3, 2)
    assert torch.equal(load_generator(tmp_path, trust_code=True)(z), made(z))


def test_what_is_not_there_or_damaged_is_said_in_a_line(tmp_path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_generator(tmp_path / "gone")
    with pytest.raises(UsageError, match="makes no images"):
        load_generator(tmp_path)
    save_generator(GaussianCodes(5, 16), tmp_path)
    weights, about = Run(tmp_path).generator_files
    kept = weights.read_bytes()
    weights.write_bytes(kept[:100])
    with pytest.raises(UsageError, match="damaged"):
        load_generator(tmp_path)
    weights.write_bytes(kept)
    about.write_text(about.read_text().replace('"dim": 5', '"dim": 6'))
    with pytest.raises(UsageError, match="damaged"):
        load_generator(tmp_path)
    about.write_text("{}")
    with pytest.raises(UsageError, match="does not say how"):
        load_generator(tmp_path)


def test_samples_are_one_picture_of_so_many_images(tmp_path) -> None:
    off = {"guidance": None, "steps": None, "solver": None}
    out = write_samples(GaussianCodes(5, 16).eval(), tmp_path / "grid.png", n=5, seed=0, settings=off)
    assert Image.open(out).size == (3 * 17 + 1, 2 * 17 + 1)
    again = write_samples(GaussianCodes(5, 16).eval(), tmp_path / "grid.jpg", n=5, seed=0, settings=off)
    assert Image.open(again).format == "JPEG"
    with pytest.raises(UsageError, match=r"grid\.png"):
        write_samples(flow(), tmp_path / "grid", n=1, seed=0, settings=off)
    with pytest.raises(UsageError, match="--steps is for flows"):
        write_samples(GaussianCodes(5, 16), tmp_path / "a.png", n=1, seed=0, settings=off | {"steps": 3})


def test_settings_of_the_sampler_are_taken(tmp_path) -> None:
    made = flow()
    write_samples(made, tmp_path / "a.png", n=1, seed=0, cluster=2, settings={"guidance": 1.5, "steps": 2})
    assert (made.guidance, made.steps) == (1.5, 2)
