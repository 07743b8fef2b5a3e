"""A recipe's numbers do not change under its version: see replications/recipes.py for what to do when this fails."""

from __future__ import annotations

import json

import pytest

from glocal.methods import method_names
from replications import recipes


@pytest.mark.parametrize("name", [*recipes.methods(), *recipes.networks()])
def test_its_numbers_are_those_of_its_version(name):
    assert recipes.differing(name, recipes.numbers(name)) == []


def test_every_method_has_a_recipe():
    assert sorted(recipes.methods()) == method_names("images")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "GOLDEN", tmp_path / "recipes.json")
    monkeypatch.setattr(recipes, "methods", lambda: ["vicreg"])
    monkeypatch.setattr(recipes, "networks", list)
    found = {"first loss": 20.0, "lr": 0.1}
    monkeypatch.setattr(recipes, "numbers", lambda method: found)
    assert recipes.store() == 0
    return found


def test_a_change_is_seen_and_stored_with_the_next_version_only(stored, monkeypatch, capsys):
    assert recipes.differing("vicreg", stored | {"first loss": 20.01}) == []  # as sums round elsewhere
    assert recipes.differing("vicreg", stored | {"lr": 0.11}) == ["lr is 0.11, stored is 0.1"]
    assert recipes.differing("vicreg", {"first loss": 20.0, "rate": 0.2}) == []  # renamed
    stored["first loss"] = 21.0
    assert recipes.store() == 1
    assert "vicreg: first loss is 21.0, stored is 20.0; raise its version" in capsys.readouterr().err
    assert json.loads(recipes.GOLDEN.read_text())["vicreg"]["numbers"]["first loss"] == 20.0
    monkeypatch.setitem(recipes.RECIPES, "vicreg", recipes.RECIPES["vicreg"] + 1)
    assert "not stored" in recipes.differing("vicreg", stored)[0]
    assert recipes.store() == 0
    assert recipes.differing("vicreg", stored) == []
