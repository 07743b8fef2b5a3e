"""What makes a class a method; a breach is told to its author, in one line."""

import inspect

import pytest
import torch
from torch import nn

from glocal.api import pretrain
from glocal.backbones import build_backbone
from glocal.config import SHARED, reserved_names
from glocal.errors import UsageError
from glocal.losses import Loss
from glocal.methods import VICReg, check_built, check_loss, method_class, method_names, method_options, resolve_options

HEAD = "from torch import nn\nfrom glocal.methods import Optimization\nfrom glocal.views import two_views\n\n"
SHORTEST = """
class Spread(nn.Module):
    def __init__(self, backbone, image_size, width=2048):
        super().__init__()
        self.encoder, self.recipe = backbone, two_views(image_size)
        self.optimization = Optimization("adamw", lr=5e-4, weight_decay=0.05)

    def forward(self, batch):
        pass
"""


def told() -> str:
    with pytest.raises(UsageError) as error:
        method_class("mine:Spread")
    assert "\n" not in str(error.value)
    assert "see docs/architecture.md" in str(error.value)
    return str(error.value)


def test_an_unregistered_method_goes_by_its_place():
    assert method_class("glocal.methods.vicreg:VICReg") is VICReg


@pytest.mark.parametrize("name", ["nowhere:VICReg", "glocal.methods:Nothing", "glocal.methods:", ":VICReg"])
def test_a_place_without_a_class_is_refused(name):
    with pytest.raises(UsageError, match=f"method '{name}'"):
        method_class(name)


def test_what_a_method_leaves_out_is_taken_for_granted(module_here):
    module_here(HEAD + SHORTEST)
    cls = method_class("mine:Spread")
    assert (cls.title, cls.paper, cls.pool, cls.least_cells) == ("Spread", "", "native", 0)
    assert list(method_options(cls)) == ["image_size", "width"]
    for preset in ("paper", "small"):
        assert resolve_options(cls, preset, 64, {"image_size": 32}) == {"image_size": 32, "width": 2048}
    with pytest.raises(UsageError, match=r"Spread has no option 'widht' \(did you mean width\?\)"):
        resolve_options(cls, "small", 64, {"widht": 3})
    with pytest.raises(UsageError, match=r"no preset 'large' \(there are: paper, small\)"):
        resolve_options(cls, "large", 64, {})


def test_what_a_method_says_stands(module_here):
    said = '    title, paper, pool = "S", "p", "mean"\n    presets = {"small": lambda batch: {"width": 8 * batch}}\n'
    module_here(HEAD + SHORTEST.replace("Module):\n", f"Module):\n{said}"))
    cls = method_class("mine:Spread")
    assert (cls.title, cls.paper, cls.pool) == ("S", "p", "mean")
    assert resolve_options(cls, "small", 4, {"image_size": 32})["width"] == 32
    assert resolve_options(cls, "small", 4, {"image_size": 32, "width": 9})["width"] == 9
    assert resolve_options(cls, "paper", 4, {"image_size": 32})["width"] == 2048


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (SHORTEST.replace("image_size, width", "width"), "`Spread` lacks `image_size` in its constructor"),
        (SHORTEST.replace("width=2048", "width"), "the option `width` of `Spread` has no default"),
        (SHORTEST.replace("forward", "foward"), "`Spread` lacks `forward(batch) -> Loss`"),
        (SHORTEST.replace("nn.Module", "object"), "`Spread` is not a class of nn.Module"),
        ("def Spread(backbone, *, image_size=224):\n    pass\n", "`Spread` is not a class of nn.Module"),
    ],
)
def test_a_breach_is_told_to_the_author(module_here, wrong, says):
    module_here(HEAD + wrong)
    assert told().startswith(f"method 'mine:Spread': {says}")


@pytest.mark.parametrize("option", ["epochs", "resume", "data"])
def test_an_option_of_every_run_is_refused(module_here, option):
    module_here(HEAD + SHORTEST.replace("width", option))
    assert f"the option `{option}` of `Spread` is one of every run's" in told()
    assert set(inspect.signature(pretrain).parameters) - {"backbone", *SHARED} <= reserved_names()


def test_ours_keep_to_the_contract():
    for name in method_names():
        assert method_class(name).title


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"self.encoder, self.recipe = backbone,": "self.student, self.recipe = backbone,"}, "`encoder`"),
        ({"two_views(image_size)": "two_views"}, "`recipe`, of type Recipe"),
        ({"self.optimization": "self.optimiser"}, "`optimization`, of type Optimization"),
    ],
)
def test_what_the_loop_asks_for_is_checked_when_a_method_is_built(module_here, wrong, says):
    backbone, text = build_backbone("test_resnet"), SHORTEST
    for right, other in wrong.items():
        assert right in text
        text = text.replace(right, other)
    module_here(HEAD + text)
    with pytest.raises(UsageError, match="`Spread` sets no ") as error:
        check_built(method_class("mine:Spread")(backbone, image_size=32))
    assert says in str(error.value)


def test_a_method_is_built(module_here):
    module_here(HEAD + SHORTEST)
    backbone = build_backbone("test_resnet")
    method = check_built(method_class("mine:Spread")(backbone, image_size=32))
    assert isinstance(method, nn.Module)
    assert method.encoder is backbone
    assert method.recipe.views[0].size == 32


def test_a_forward_without_a_loss_is_told_to_the_author():
    loss = Loss.of({"zero": torch.zeros(())})
    assert check_loss(loss, nn.Linear(1, 1)) is loss
    with pytest.raises(UsageError, match=r"`Linear.forward` returns Tensor, not a Loss: give Loss.of"):
        check_loss(loss.total, nn.Linear(1, 1))
