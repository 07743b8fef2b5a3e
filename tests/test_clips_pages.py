"""docs/procedures.md and docs/wallpaper.md, executed: their commands as they stand there, the long ones cut short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glocal import cli

DOCS = Path(__file__).parent.parent / "docs"
FAST = "--batch-size 8 --threads 1 --report false --quiet --workers 0"
CUT = {
    "pretrain videos/": f"--max-steps 2 {FAST}",
    "pretrain dots": f"--max-steps 2 --frames 3 {FAST}",
    "evaluate runs/dots": "--limit 60",
    "evaluate runs/v ": "--task-options '{segment: {steps: 40}}'",
}


def commands(page):
    found = re.findall(r"^    glocal (.*)$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    cut = [next((more for start, more in CUT.items() if line.startswith(start)), "") for line in found]
    return [[*line.split(), *shlex.split(more)] for line, more in zip(found, cut, strict=True)]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Three videos; frames of five with masks and labels; a procedure and its labelled neighbours."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)

    def image(path, size=32):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)

    for k in range(12):
        image(Path(f"videos/{k // 4}/{k}.png"))
    rows = ["image,video"]
    for k in range(20):
        name = f"{'ab'[k % 2]}/v{k // 4}_{k}.png"
        image(Path("frames/images") / name)
        Path("frames/masks", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 2, (32, 32), dtype=np.uint8)).save(Path("frames/masks", name))
        rows.append(f"images/{name},v{k // 4}")
    Path("frames/groups.csv").write_text("\n".join(rows))
    for k in range(40):
        image(Path(f"video/{k:04d}.png"), 8)
    for k in range(8):
        image(Path(f"labelled_videos/{k // 4}/{k}.png"))
    table = [f"{k // 4}/{k}.png,{k // 4},{('incision', 'suture')[k % 2]}" for k in range(8)]
    Path("labelled_videos/groups.csv").write_text("\n".join(["image,video,phase", *table]))
    (marks,) = re.findall(r"```\n(time,phase\n.*?)```", (DOCS / "procedures.md").read_text(), re.DOTALL)
    Path("marks.csv").write_text(marks)


def test_frames_and_procedures(lab, capsys):
    said = []
    for words in commands("procedures"):
        words = [{"vit_tiny_patch16_224": "test_vit"}.get(word, word) for word in words]
        words += ["--image-size", "32"] if words[0] == "pretrain" else []
        cli.run(words)
        said.append(capsys.readouterr().out)
    assert len(said) == 4
    assert "knn.top1" in said[1]
    assert "segment.miou" in said[1]
    assert [line.split()[-1] for line in said[2].splitlines()] == ["incision", "suture"]
    assert "labelled" not in said[3]
    assert Path("phases/timeline.html").is_file()
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "procedures.md").read_text(), re.DOTALL)
    exec(code, {})
    assert float(capsys.readouterr().out) > 0.95


def test_has_it_learnt_the_wallpaper(lab, capsys):
    for words in commands("wallpaper"):
        cli.run([word.replace("noise=fixed", "noise=fixed,n=20,frames=3") for word in words])
    assert "keypoints" in capsys.readouterr().out


def test_the_pictures_are_made_by_the_command_that_the_pages_name(tmp_path):
    names: dict = {"__name__": "clips"}
    exec((DOCS / "clips.py").read_text().replace("__file__", repr(str(DOCS / "clips.py"))), names)
    names["dots"](tmp_path / "dots.png")
    made, kept = (np.asarray(Image.open(folder / "dots.png").convert("L")) for folder in (tmp_path, DOCS / "figures"))
    assert made.shape == kept.shape
