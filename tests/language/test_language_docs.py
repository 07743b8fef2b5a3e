"""*Clean your labels* and *ask a video*: their commands, as the pages show them, with a server of ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from seeing import judge, watch

from glocal import cli
from glocal.data import open_source
from glocal.language import read_knowledge

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "model"), [("curate", judge), ("ask", watch)])
def test_a_page_says_what_its_commands_print(page, model, server, labelled, frames, capsys, monkeypatch):
    server.say = model
    monkeypatch.chdir(labelled.parent)
    (block,) = re.findall(r"```\n\$ (.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    line, _, shown = block.partition("\n")
    _, *words = shlex.split(line.replace("runs/a", "timm:test_resnet:random").replace("$URL", server.url))
    cli.main([*words, *(["--image-size", "32"] if page == "curate" else [])])
    out, err = capsys.readouterr()
    if page == "curate":
        assert err == shown
        assert out == "curated/curation.html\n"
        assert len(open_source("curated/labels.csv")) == 14
    else:
        assert out == shown


def test_the_knowledge_base_of_the_page_is_one(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", (DOCS / "curate.md").read_text(), re.DOTALL)
    (tmp_path / "kb.jsonl").write_text(block)
    known = read_knowledge(tmp_path / "kb.jsonl")
    assert [entity.name for entity in known.entities] == ["crane (bird)", "crane (machine)"]


@pytest.mark.parametrize("page", ["curate", "ask"])
def test_a_page_says_that_no_language_model_was_run(page):
    assert "**No language model has been run here.**" in (DOCS / f"{page}.md").read_text()
