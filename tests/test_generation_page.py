"""docs/generation.md, executed: its commands as they stand there, the long ones cut short."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glocal import cli
from glocal.backbones import build_backbone, save_encoder
from glocal.run import Run

PAGE = (Path(__file__).parent.parent / "docs" / "generation.md").read_text()
SHORT = ["--max-steps", "2", "--batch-size", "8", "--threads", "1", "--report", "false", "--quiet", "--precision", "32"]
SHORT += ["--workers", "0"]
CUT = {
    "pretrain photos/ --method flow": [*SHORT, "--backbone", "unet_tiny"],
    "pretrain photos/ --method irmae": SHORT,
    "generate runs/flow": ["--steps", "2"],
    "evaluate runs/flow": ["--task-options", "{generation: {images: 8, steps: 2}}"],
}


def test_the_page(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_backbone("test_resnet", image_size=32), "runs/a")
    draw = np.random.default_rng(0)
    for n in range(60):
        file = Path("photos", "light" if n % 2 else "dark", f"{n}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 100 + 100 * (n % 2), (36, 40, 3)).astype(np.uint8)).save(file)
    commands = re.findall(r"^    glocal (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    said = []
    for words in commands:
        more = next((cut for start, cut in CUT.items() if words.startswith(start)), [])
        cli.run([*words.split(), *more])
        said.append(capsys.readouterr().out)
    assert Image.open("grid.png").size == Image.open("drawn.png").size == (8 * 33 + 1, 8 * 33 + 1)
    assert all(f"{score} " in said[2] for score in ("generation.kid", "generation.fid", "knn.top1"))
    assert "dimension.effective" in said[4]
    assert Run("runs/flow").encoder()["dim"] == 64
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], {})
    assert Path("two.png").is_file()
