"""Names become objects by one rule, and each way to be wrong is told from the others."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from glocal import plugins
from glocal.errors import UsageError


def told(group: str, name: str) -> str:
    with pytest.raises(UsageError) as error:
        plugins.find(group, name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A function that installs a package of one module, with these entry points, where this process finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._registered.cache_clear()

    def install(package: str, text: str, **registered: str) -> None:
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[glocal.{group}]\n{line}\n" for group, line in registered.items()]
        (about / "entry_points.txt").write_text("".join(lines))
        (tmp_path / f"{package}.py").write_text(text)

    yield install
    plugins._registered.cache_clear()


def test_names_are_listed_without_importing_anything():
    code = "import sys; from glocal import plugins; print(plugins.names('methods')); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(plugins.names("methods"))
    assert plugins.names("methods") == sorted(plugins.names("methods"))
    assert {"vicregl", "co-byol"} <= set(plugins.names("methods"))
    assert {"parts", "torchvision"} <= set(plugins.names("sources"))


def test_all_that_we_register_is_there():
    for group in plugins.GROUPS:
        for point in entry_points(group=f"glocal.{group}"):
            assert plugins.find(group, point.name) is point.load()


@pytest.mark.parametrize(
    ("group", "name", "says"),
    [
        ("methods", "vicregel", "unknown method 'vicregel' (did you mean vicregl?); there are barlow_twins, "),
        ("tasks", "knnn", "unknown task 'knnn' (did you mean knn?)"),
        ("methods", "vicregel:alpha=.5", "(did you mean vicregl?)"),
        ("sources", "prts:n", "source 'prts:n': prts is neither an installed module nor one in this folder"),
        ("sources", "prts:n", "(did you mean parts?)"),
        ("methods", "glocal.methods:", "unknown method 'glocal.methods:'"),
        ("methods", ":VICReg", "unknown method ':VICReg'"),
        ("methods", "glocal.methods.vicreg:VICRge", "vicreg.py) has no 'VICRge' (did you mean VICReg?)"),
        ("methods", "glocal.methods.no.such:X", "glocal.methods.no.such is neither an installed module"),
    ],
)
def test_the_nearest_name_is_told(group, name, says):
    assert says in told(group, name)


def test_a_module_in_the_current_folder_is_found_last(module_here, tmp_path):
    file = module_here("class Spread:\n    class Inner:\n        pass\n")
    before = list(sys.path)
    assert plugins.find("methods", "mine:Spread").__module__ == "mine"
    assert plugins.find("methods", "mine:Spread.Inner").__name__ == "Inner"
    assert sys.path == [*before, str(file.parent)], "for imports inside its functions, and for worker processes"
    assert f"mine ({file}) has no 'Spred' (did you mean Spread?)" in told("methods", "mine:Spred")

    elsewhere = tmp_path / "installed"
    elsewhere.mkdir()
    (elsewhere / "twice.py").write_text("class Spread:\n    installed = True\n")
    (file.parent / "twice.py").write_text("class Spread:\n    installed = False\n")
    sys.path.insert(0, str(elsewhere))  # the fixture's list
    assert plugins.find("methods", "twice:Spread").installed
    del sys.modules["twice"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "x = 1\nimport no_such_dependency\n",
            "ModuleNotFoundError: No module named 'no_such_dependency' ({}, line 2)",
        ),
        ("import mine.deeper\n", "ModuleNotFoundError: No module named 'mine.deeper'"),
        ("def broken(:\n", "(mine.py, line 1)"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "ZeroDivisionError: division by zero ({}, line 2)"),
    ],
)
def test_a_module_that_is_there_but_fails_is_told_from_one_that_is_missing(module_here, text, says):
    before = list(sys.path)
    assert "mine is neither an installed module nor one in this folder" in told("backbones", "mine:net")
    file = module_here(text)
    message = told("backbones", "mine:net")
    assert message.startswith("backbone 'mine:net': mine is there, but its import fails: ")
    assert says.format(file) in message
    assert sys.path == before


def test_a_registered_plug_in_that_fails_names_its_package(packages):
    packages("seals", "import no_such_dependency\n", methods="seal = seals:Seal")
    message = told("methods", "seal")
    assert message.startswith("method 'seal' of the package seals: seals is there, but its import fails: ")


def test_a_name_that_two_packages_register_is_refused(packages):
    packages("seals", "class Seal: pass\n", methods="seal = seals:Seal")
    assert plugins.find("methods", "seal").__module__ == "seals"
    plugins._registered.cache_clear()
    packages("otters", "class Seal: pass\n", methods="seal = otters:Seal")
    message = told("methods", "seal")
    assert "seals" in message
    assert "otters" in message


def test_what_follows_a_name_is_its_argument():
    assert plugins.split("methods", "vicregl") == ("vicregl", "")
    assert plugins.split("methods", "vicregl:alpha=.5") == ("vicregl", "alpha=.5")
    assert plugins.split("methods", "mine:Spread") == ("mine:Spread", "")
    assert plugins.split("methods", "mine:Spread:width=64,at=a:b") == ("mine:Spread", "width=64,at=a:b")
    assert plugins.split("sources", "torchvision:CIFAR10:/data") == ("torchvision", "CIFAR10:/data")


def test_names_from_a_file_are_imported_only_with_consent(monkeypatch):
    def refusal(*names: str) -> str:
        with pytest.raises(UsageError) as error:
            plugins.refuse_untrusted(names, origin="run/encoder.json", trust_code=False, command="glocal.load('run')")
        return str(error.value)

    plugins.refuse_untrusted(["vicregl", "resnet50"], origin="run", trust_code=False, command="")
    plugins.refuse_untrusted(["evil:f"], origin="run", trust_code=True, command="")
    message = refusal("vicregl", "evil:f", "worse.still:g")
    assert message.startswith("run/encoder.json would run code that is not registered: evil:f, worse.still:g;")
    assert message.endswith("if you trust it: glocal.load('run')")
    for program in ("/usr/bin/glocal", "/lib/glocal/__main__.py"):
        monkeypatch.setattr(sys, "argv", [program, "embed", "my run", "photos"])
        typed = shlex.split(refusal("evil:f").partition("if you trust it: ")[2])
        assert typed == ["glocal", "embed", "my run", "photos", "--trust-code"]
