"""Names and aliases; lines that are none."""

from __future__ import annotations

import json

import pytest

from glocal.errors import UsageError
from glocal.language import Entity, KnowledgeBase, read_knowledge

BASE = KnowledgeBase(
    [
        Entity("crane (bird)", "A bird with long legs.", ("crane",)),
        Entity("crane (machine)", "It lifts.", ("crane", "hoist")),
        Entity("hoist"),
        Entity("Deutsche Dogge", aliases=("Great Dane",)),
    ]
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Crane (bird)", ["crane (bird)"]),
        ("great_dane", ["Deutsche Dogge"]),
        ("crane", ["crane (bird)", "crane (machine)"]),
        ("hoist", ["hoist"]),  # its name comes before another's alias
        ("great  danes", []),
        ("a bird", []),
        ("", []),
    ],
)
def test_what_a_text_names(text, names):
    assert [entity.name for entity in BASE.find(text)] == names


def test_a_file_is_read(tmp_path):
    lines = [{"name": "hat", "text": "On\nheads.", "aliases": ["cap"]}, {"name": "s\ud800hoe"}]
    (tmp_path / "kb.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    assert read_knowledge(tmp_path / "kb.jsonl").entities == [Entity("hat", "On\nheads.", ("cap",)), Entity("shoe")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "nameless"}', "line 2 has no name"),
        ('{"name": " "}', "line 2 has no name"),
        ('{"name": "\\u200b"}', "line 2 has no name"),
        ('["hat"]', "line 2 has no name"),
        ("hat", "line 2 is no JSON"),
        ("[" * 10**5, "line 2 is no JSON"),
        ('{"name": "HAT"}', "line 2: line 1 has the name 'HAT', too"),
        ('{"name": "cap", "aliases": "hat"}', "`aliases` a list of texts"),
        ('{"name": "cap", "text": 3}', "`text` is a text"),
    ],
)
def test_a_line_that_is_none(tmp_path, line, said):
    (tmp_path / "kb.jsonl").write_text('{"name": "hat"}\n' + line)
    with pytest.raises(UsageError, match=said):
        read_knowledge(tmp_path / "kb.jsonl")


def test_nothing_in_it(tmp_path):
    (tmp_path / "kb.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        read_knowledge(tmp_path / "kb.jsonl")
    (tmp_path / "kb.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no UTF-8"):
        read_knowledge(tmp_path / "kb.jsonl")
    with pytest.raises(UsageError, match="did you mean kb"):
        read_knowledge(tmp_path / "kp.jsonl")
