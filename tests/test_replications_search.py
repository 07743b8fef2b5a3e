"""What tuning on judged queries is measured by: the others, which it has not seen."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import torch

from glocal.backbones.text import TextBackbone, TextModel, learn_tokenizer
from replications import searching


def test_tuning_on_some_queries_helps_others_that_say_the_same_in_other_words(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    theirs = ("wing", "flow", "heat", "lift", "drag", "mach", "shock", "plate")
    ours = ("ala", "fluxus", "calor", "vis", "mora", "nux", "ictus", "lamina")
    rows = draw.permuted(np.tile(np.arange(8), (60, 1)), axis=1)[:, :3]
    texts = [" ".join(theirs[word] for word in row) for row in rows]
    queries = [" ".join(ours[word] for word in row) for row in rows]
    for name, said in {"corpus": texts, "queries": queries}.items():
        lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(said)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    same = {str(n): [str(m) for m in range(60) if {*rows[m]} == {*rows[n]}] for n in range(60)}
    (tmp_path / "qrels.json").write_text(json.dumps(same))

    def load(path: str) -> TextBackbone:
        torch.manual_seed(0)
        model = TextModel(32, 1, 2)
        model.adopt(learn_tokenizer(texts + queries, 400))
        return TextBackbone(model, {"name": "tiny", "pretrained": False})

    monkeypatch.setattr(searching.glocal, "load", load)
    for name, value in {"JUDGED": 40, "STEPS": 60, "LR": 1e-2}.items():
        monkeypatch.setattr(searching, name, value)
    run = SimpleNamespace(path=tmp_path, config=lambda: {"data": [f"text:{tmp_path}"], "seed": 0})
    found = searching.tuned(run)
    assert found["tuned"] > found["before tuning"] + 0.2
    assert searching.tuned(run) == found
