"""docs/find.md, executed: its commands as they stand there, the long ones cut short."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glocal import cli
from glocal.backbones import build_backbone, save_encoder

PAGE = (Path(__file__).parent.parent / "docs" / "find.md").read_text()
CUT = {"pretrain": "--max-steps 2 --batch-size 8 --threads 1 --report false --quiet", "index": "--workers 0"}


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_backbone("test_resnet", image_size=64), "runs/a")
    draw = np.random.default_rng(0)
    Path("photos").mkdir()
    for name in (*(f"photos/{n}.jpg" for n in range(14)), "query.jpg"):
        Image.fromarray(draw.integers(0, 256, (90, 100, 3)).astype(np.uint8)).save(name)
    Path("cranfield").mkdir()
    words = [" ".join(draw.choice(["wing", "flow", "heat", "drag"], 20)) for _ in range(12)]
    for file, texts in {"corpus": ["", *words], "queries": words[:2]}.items():
        lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
        Path(f"cranfield/{file}.jsonl").write_text("\n".join(lines))
    Path("cranfield/qrels.json").write_text(json.dumps({"0": ["1"], "1": ["2", "5"]}))
    commands = re.findall(r"^    glocal (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 7
    said = []
    for words in commands:
        cli.run([*words.split(), *CUT.get(words.split()[0], "").split()])
        said.append(capsys.readouterr())
    assert len(said[1].out.splitlines()) == 12
    assert all(" at " in line for line in said[3].out.splitlines())
    assert "14 images in photos.index: 0 new or changed, 0 gone" in said[4].err
    assert "search.ndcg_at_10" in said[6].out
    assert "search.bm25_recall_at_100" in said[6].out
    assert Path("out.html").read_text().count("<img") == 13
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], {})
    assert "photos" not in (found := capsys.readouterr().out)
    assert found.count(".jpg") == 5 + 30
