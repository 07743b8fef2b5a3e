"""Texts from files, and what is asked of them."""

import json

import pytest

from glocal.data import describe, inventory, is_text, open_source, open_texts
from glocal.errors import UsageError


def texts(source):
    return [(source.key(i), source.text(i)) for i in range(len(source))]


def lines(path, *objects):
    path.write_text("".join(f"{json.dumps(one)}\n" for one in objects))


@pytest.fixture
def corpus(tmp_path):
    titled = {"_id": "c", "title": "Wings", "text": "lift them"}
    lines(tmp_path / "corpus.jsonl", {"id": "a", "text": "a wing"}, {"text": "", "title": ""}, titled)
    lines(tmp_path / "queries.jsonl", {"id": "q1", "text": "what lifts?"}, {"id": "q2", "text": "none?"})
    (tmp_path / "qrels.json").write_text(json.dumps({"q1": ["c", "a"]}))
    return tmp_path


@pytest.mark.parametrize("name", ["", "/corpus.jsonl"])
def test_objects_line_by_line_and_the_queries_beside_them(corpus, name):
    source = open_texts(f"text:{corpus}{name}")
    assert texts(source) == [("a", "a wing"), ("2", ""), ("c", "Wings lift them")]
    assert (source.queries.keys, source.queries.relevant) == (["q1", "q2"], [[2, 0], []])
    assert source.queries.texts == ["what lifts?", "none?"]
    assert (source.name, describe(source)) == (corpus.name, "3 texts")
    assert inventory(source).splitlines()[1] == "-\t6\ta"
    assert is_text(f"text:{corpus}")
    assert is_text(source)
    assert not is_text(str(corpus))


def test_lines_and_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    source = open_texts(f"text:{tmp_path}/a.txt")
    assert (texts(source), source.queries) == ([("1", "one"), ("3", " two ")], None)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("three\nfour")
    assert texts(open_texts(f"text:{tmp_path}")) == [("a.txt", "one\n\n two \n"), ("sub/b.txt", "three\nfour")]


@pytest.mark.parametrize("judged", [["c", "a", "c"], {"c": 2, "b": 0, "a": 1, "2": -1}])
def test_relevant_texts_count_once_and_where_they_are_judged_so(corpus, judged):
    (corpus / "qrels.json").write_text(json.dumps({"q1": judged}))
    assert open_texts(f"text:{corpus}").queries.relevant == [[2, 0], []]


def test_a_line_ends_where_it_ends(tmp_path):
    (tmp_path / "a.txt").write_text("one\x0cpage\u2028still\x85one\r\ntwo\n", encoding="utf-8", newline="")
    assert texts(open_texts(f"text:{tmp_path}/a.txt")) == [("1", "one\x0cpage\u2028still\x85one"), ("2", "two")]


def test_what_is_no_text_is_refused_in_a_line(corpus):
    mistakes = {
        "none.txt": "no data at",
        "a.png": "is no text: give a .jsonl or .txt file",
        "empty.txt": "holds no text",
        "prose.jsonl": "line 2 is no object like",
        "list.jsonl": "line 1 is no object like",
        "twice.jsonl": "two texts have one id, 7",
        "null.jsonl": "line 1 is no object like",
        "nobody.jsonl": "line 1 is no object like",
    }
    lines(corpus / "null.jsonl", {"id": "1", "text": None})
    lines(corpus / "nobody.jsonl", {"id": None, "text": "a"})
    (corpus / "a.png").write_bytes(b"\x89PNG")
    (corpus / "empty.txt").write_text(" \n")
    (corpus / "prose.jsonl").write_text('{"text": "a"}\nonce upon a time\n')
    (corpus / "list.jsonl").write_text("[1]\n")
    lines(corpus / "twice.jsonl", {"id": 7, "text": "a"}, {"id": "7", "text": "b"})
    for name, said in mistakes.items():
        with pytest.raises(UsageError, match=said) as error:
            open_texts(f"text:{corpus / name}")
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"is text: that is for --method contriever"):
        open_source(f"text:{corpus}")
    for judged, said in {
        '{"q1": ["d"]}': "names the text 'd', which is not there",
        "[]": "is not of the form",
        '{"q1": "ca"}': "is not of the form",
        '{"q1": {"c": "1"}}': "is not of the form",
    }.items():
        (corpus / "qrels.json").write_text(judged)
        with pytest.raises(UsageError, match=said):
            open_texts(f"text:{corpus}")
