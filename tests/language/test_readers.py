"""What reads texts: a run, a table, an endpoint; kept in a folder, each reads there as it did."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glocal.backbones import build_backbone, save_encoder
from glocal.backbones.text import learn_tokenizer, pieces_of
from glocal.errors import UsageError
from glocal.language.readers import open_reader

TEXTS = ["a red crane", "", "red"]


def drawn(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()


@pytest.fixture
def table(tmp_path):
    tokenizer, folder = learn_tokenizer(["a red crane"]), tmp_path / "table"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer)
    save_file(
        {"embedding.weight": drawn(len(json.loads(tokenizer)["model"]["vocab"]), 5).half()}, folder / "w.safetensors"
    )
    return folder


@pytest.fixture
def run(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone("text_small")
        backbone.model.adopt(learn_tokenizer(["a red crane"]))
    save_encoder(backbone, tmp_path / "run")
    return tmp_path / "run"


def test_a_table_says_the_mean_of_its_pieces(table):
    found = open_reader(str(table)).read(TEXTS)
    rows = pieces_of((table / "tokenizer.json").read_text(), TEXTS)
    vectors = drawn(len(open_reader(str(table)).table), 5).half().float()
    assert found.shape == (3, 5)
    assert not found[1].any()
    assert len(rows[2]) == 1
    torch.testing.assert_close(found[2], vectors[int(rows[2][0])])
    torch.testing.assert_close(found[0], sum(vectors[int(k)] for k in rows[0]) / len(rows[0]))


@pytest.mark.parametrize("kind", ["table", "run", "endpoint"])
def test_kept_it_reads_the_same(kind, table, run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))

    def say(request):
        vectors = [{"index": n, "embedding": [len(text), 1.0]} for n, text in enumerate(request["input"])]
        return 200, json.dumps({"data": vectors}).encode(), {}

    server.say = say
    place = {"table": str(table), "run": str(run), "endpoint": f"{server.url}#small"}[kind]
    reader = open_reader(place)
    reader.keep(tmp_path / "kept" / "text")
    again = open_reader(str(tmp_path / "kept" / "text"))
    assert again.dim == reader.dim == reader.read(TEXTS).shape[1]
    assert torch.equal(again.read(TEXTS), reader.read(TEXTS))
    if kind == "endpoint":
        assert json.loads(server.bodies[0])["model"] == "small"
        assert len(server.bodies) == 2, "asked for its width, and once for the texts"


def test_what_reads_no_texts(table, tmp_path):
    def refused(place, match):
        with pytest.raises(UsageError, match=match) as raised:
            open_reader(str(place))
        assert "\n" not in str(raised.value)

    refused("http://192.0.2.1/v1#small", "no other machine")
    refused("timm:test_resnet:random", "reads images")
    save_file({"x": torch.zeros(2, 2)}, table / "another.safetensors")
    refused(table, "one .safetensors file with one table")
    (table / "another.safetensors").unlink()
    save_file({"x": torch.zeros(2, 2)}, table / "w.safetensors")
    with pytest.raises(UsageError, match="of 2 has no vector"):
        open_reader(str(table)).read(["a red crane"])
    save_file({"x": torch.full((2, 2), torch.nan)}, table / "w.safetensors")
    refused(table, r"one table \(V, D\) of numbers")
    (table / "w.safetensors").write_bytes(b"junk")
    refused(table, "one .safetensors file with one table")
    for text in ("[]", '{"url": 5}', '{"url": "http://127.0.0.1:1", "model": "m", "dim": null}'):
        (tmp_path / "endpoint.json").write_text(text)
        refused(tmp_path, "is damaged")


def test_an_endpoint_that_gives_other_vectors_now_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    server.say = lambda request: (200, b'{"data": [{"index": 0, "embedding": [1.0, 2.0]}]}', {})
    reader = open_reader(f"{server.url}#small")
    server.say = lambda request: (200, b'{"data": [{"index": 0, "embedding": [1.0, 2.0, 3.0]}]}', {})
    with pytest.raises(UsageError, match=r"now gives vectors of 3 numbers, and of 2 when this was fine-tuned"):
        reader.read(["red"])
