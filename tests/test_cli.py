"""The command line: each mistake is one clear line and exit code 2; each command's help has an example."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from glocal.cli import COMMANDS, POSITIONAL, main


def stderr_of(argv: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything one can get wrong in it."""
    root = tmp_path_factory.mktemp("place")
    (root / "empty").mkdir()
    (root / "notes").mkdir()
    (root / "notes" / "a.docx").write_text("no image")
    (root / "broken").mkdir()
    for k in range(3):
        (root / "broken" / f"{k}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (root / "few").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / "few" / f"{k}.png")
    (root / "list.txt").write_text("few/0.png\nfew/gone.png\n")
    (root / "single.png").write_bytes((root / "few" / "0.png").read_bytes())
    (root / "weights.pth").write_bytes(b"not weights")
    (root / "bad.yaml").write_text("method: [vicreg\n")
    (root / "unknown.yaml").write_text("data: few\nbach_size: 4\n")
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text("method: vicreg\n")
    (root / "notrun").mkdir()
    return root


TINY = ["--backbone", "resnet18", "--image-size", "32", "--batch-size", "4", "--max-steps", "1", "--report", "false"]
# arguments ({} is the folder above) and what the line must say
MISTAKES = [
    ("pretrian {}/few", "pretrain"),
    ("pretrain", "no data"),
    ("pretrain {}/fwe", "few"),
    ("pretrain {}/empty", "empty"),
    ("pretrain {}/notes", "docx"),
    ("pretrain {}/broken", "usable"),
    ("pretrain {}/single.png", "single image"),
    ("pretrain {}/list.txt", "gone.png"),
    ("pretrain torchvision:CIFAR", "CIFAR10"),
    ("pretrain parts:sise=32", "size"),
    ("pretrain {}/few --method vicregel", "vicregl"),
    ("pretrain {}/few --backbone resnet19", "resnet18"),
    ("pretrain {}/few --bach-size 4", "--batch-size"),
    ("pretrain {}/few --method vicreg --alpha .5", "--alpha"),
    ("pretrain {}/few --batch-size four", "batch-size"),
    ("pretrain {}/few --batch-size 0", "at least"),
    ("pretrain {}/few --batch-size 64", "6 images"),
    ("pretrain {}/few --epochs -1", "at least"),
    ("pretrain {}/few --image-size 2", "at least"),
    ("pretrain {}/few --report-images 1", "at least"),
    ("pretrain {}/few --lr nan", "--lr nan is not one of: float"),
    ("pretrain {}/few --lr -1", "finite"),
    ("pretrain {}/few --precision fp8", "precision"),
    ("pretrain {}/few --preset papre", "preset"),
    ("pretrain {}/few --batch-size 5 --accumulate 2", "multiple"),
    ("pretrain {}/few --batch-size 4 --alpha 1.5", "alpha"),
    ("pretrain {}/few --batch-size 4 --backbone convnext_atto --output-stride 5", "output_stride"),
    ("pretrain {}/few --batch-size 4 --backbone resnet18 --pretrained {}/weights.pth", "weights.pth"),
    ("pretrain {}/few --batch-size 4 --backbone resnet18 --pretrained {}/gone.pth", "gone.pth"),
    ("pretrain {}/few --batch-size 4 --out {}/run", "already"),
    ("pretrain {}/few --batch-size 4 --out {}/single.png", "file"),
    ("pretrain --config {}/bad.yaml", "bad.yaml"),
    ("pretrain --config {}/unknown.yaml", "batch_size"),
    ("pretrain --config {}/gone.yaml", "gone.yaml"),
    ("pretrain --resume {}/gone", "gone"),
    ("pretrain --resume {}/notrun", "config.yaml"),
    ("evaluate {}/gone --data {}/few --tasks knn", "gone"),
    ("evaluate timm:resnet19 --data {}/few", "resnet18"),
    ("evaluate timm:resnet18:random --data {}/few --tasks knnn", "knn"),
    ("evaluate timm:resnet18:random --data {}/few --tasks knn", "labels"),
    ("evaluate timm:resnet18:random --data {}/few --tasks segment", "masks"),
    ("evaluate timm:resnet18:random", "data"),
    ("embed timm:resnet18:random {}/few --out {}/features.txt", "parquet"),
    ("embed timm:resnet18:random {}/few", "--out"),
    ("export timm:resnet18:random --format onx --out {}/x", "onnx"),
    ("report {}/notrun", "run"),
    ("methods --all", "--all"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[m[0].replace("{}/", "") for m in MISTAKES])
def test_a_mistake_is_one_clear_line(place, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(place)
    words = arguments.format(*[place] * 5).split()
    if words[0] == "pretrain" and "--resume" not in words and "--config" not in words and "--out" not in words:
        words += ["--out", str(place / "out")]
    code, err = stderr_of(words, capsys)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("glocal: ")
    assert says in lines[0]
    assert "Traceback" not in err
    assert not (place / "out" / "config.yaml").exists(), "a refused run must leave nothing behind"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) if command in POSITIONAL else _nothing():
        main([command, "--help"])
    out = capsys.readouterr().out
    assert f"glocal {command}" in out
    assert "example" in out


def test_overview_is_quick():
    """Heavy imports are lazy: the help answers without torch."""
    code = "import sys; from glocal.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert all(name in done.stdout for name in COMMANDS)
    assert best < 0.6


def test_methods_cite_their_papers(capsys):
    main(["methods"])
    out = capsys.readouterr().out
    assert "vicregl" in out
    assert "arXiv:2210.01571" in out


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False
