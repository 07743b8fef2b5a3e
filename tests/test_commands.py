"""`glocal cache`, and what several commands promise."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import glocal
from glocal import cli
from glocal.commands import COMMANDS, cache
from glocal.data import ConcatSource, FolderSource
from glocal.errors import UsageError
from glocal.run import Run
from glocal.views import Crop, PixelCache
from processes import SERVER


@pytest.fixture
def photos(tmp_path, monkeypatch) -> FolderSource:
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "store"))
    (tmp_path / "photos").mkdir()
    for k in range(3):
        Image.fromarray(np.full((300, 200, 3), 80 * k, np.uint8)).save(tmp_path / "photos" / f"{k}.png")
    return FolderSource(tmp_path / "photos")


def test_caches_of_one_folder_are_told_apart_by_their_crops(photos, tmp_path, capsys):
    for crops in ([Crop(32)], [Crop(16), Crop(24, scale=(0.2, 0.5))]):
        kept = PixelCache(photos, crops)
        for i in range(3):
            kept.read(i)
    PixelCache(ConcatSource([photos, photos]), [Crop(16)])
    cache()
    *rows, last = capsys.readouterr().out.splitlines()
    images = f"3 images of {photos.root}, crops of"
    assert sorted(row.split("MB  ")[1] for row in rows) == [
        f"{images} 16 px of at least 8% and 24 px of at least 20%",
        f"{images} 32 px of at least 8%",
        f"6 images of {photos.root} + {photos.root}, crops of 16 px of at least 8%",
    ]
    sizes = {row.split("crops")[1]: float(row.split()[0]) for row in rows}
    assert sizes[" of 32 px of at least 8%"] > 0
    assert "one cache per folder and crop setting" in last
    assert str(tmp_path / "store") in last


def test_clearing_removes_caches_and_nothing_else(photos, tmp_path, capsys):
    kept = PixelCache(photos, [Crop(32)])
    pixels = kept.read(0)[0]
    left = tmp_path / "store" / ".partial-abc"
    left.mkdir()
    (left / "pixels.bin").write_bytes(b"half")
    mine = tmp_path / "store" / "my-photos"
    mine.mkdir()
    (mine / "pixels.bin").write_bytes(b"mine")
    cache(clear=True)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"freed in {tmp_path / 'store'}")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["my-photos"]
    assert (kept.read(0)[0] == pixels).all()  # a run under way
    cache()
    assert capsys.readouterr().out.startswith("0.0 MB in ")


@pytest.mark.parametrize(
    "about", ['{"crops": [[32, 0.08, 1]]}', '{"data": 1, "images": "x", "crops": 3}', "[", "[" * 100_000]
)
def test_a_cache_with_a_damaged_description_is_listed_and_cleared(photos, tmp_path, capsys, about):
    (PixelCache(photos, [Crop(32)]).folder / "about.json").write_text(about)
    cache(clear=True)
    assert "unfinished" in capsys.readouterr().out
    assert not list((tmp_path / "store").iterdir())


def test_without_a_home_there_is_nothing_to_list(monkeypatch, capsys):
    for name in ("GLOCAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nobody)
    cache()
    cache(clear=True)
    assert "0.0 MB" in capsys.readouterr().out


def test_it_is_registered_as_a_command():
    assert COMMANDS["cache"].function is cache


def unread(words):
    """The command, whose output goes into a pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    for stream in (1, 2):
        os.dup2(writes, stream)
    cli.main(words)


def test_what_nobody_reads_any_more_stops_no_work(tmp_path):
    """`glocal pretrain photos/ | true` trains to its end."""
    words = "pretrain parts:n=16,size=40 --method vicreg --backbone test_resnet --image-size 32 --batch-size 8"
    words += f" --max-steps 3 --workers 0 --report=false --out {tmp_path / 'run'}"
    process = SERVER.Process(target=unread, args=(words.split(),))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_embed_takes_every_image_of_every_folder(tmp_path, capsys):
    for name in ("train/a/1", "train/b/2", "test/a/3", "test/b/4"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path)
    encoder, photos = glocal.load("timm:test_resnet:random"), str(tmp_path / "photos")
    found = glocal.embed(encoder, photos)
    assert found.paths == ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"]
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert "4 of 4 images embedded" in capsys.readouterr().err
    assert glocal.embed(encoder, photos, split="test").paths == ["test/a/3.png", "test/b/4.png"]
    assert len(glocal.embed(encoder, [photos, f"{photos}/train"]).paths) == 6


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--image-size -1", "--image-size -1: images have"),
        ("--image-size 0", "--image-size 0: images have"),
        ("--batch-size -1", "--batch-size -1, --workers 0: at least 1 image"),
        ("--workers 100000", "--workers 100000: at least 1 image, 0 to 1,024 processes"),
    ],
)
@pytest.mark.parametrize(
    "command", ["evaluate timm:test_resnet:random --data", "embed timm:test_resnet:random --out x.npz"]
)
def test_numbers_that_make_no_sense_are_refused(command, option, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        cli.run([*command.format("timm:test_resnet:random").split(), "parts:n=8,size=32", *option.split()])


@pytest.mark.parametrize("command", ["evaluate timm:test_resnet:random --data", "compare vicreg byol --data"])
def test_of_no_images_there_are_no_scores(command):
    with pytest.raises(UsageError, match="limit is 0; it must be at least 1"):
        cli.run([*command.split(), "parts:n=40,size=32", "--limit", "0"])


def test_names_of_any_bytes_cost_no_run(tmp_path, capsys):
    for k, name in enumerate([b"a.png", b"\xff.png", b"b.png", b"\xfe.png"]):
        path = os.fsencode(tmp_path) + b"/photos/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            Image.new("RGB", (40, 40), (60 * k, 9, 9)).save(file, "PNG")
    with open(os.fsencode(tmp_path) + b"/photos/\xfe.png", "wb") as file:
        file.write(b"no image")
    photos, out = str(tmp_path / "photos"), str(tmp_path / "run")
    words = f"pretrain {photos} --method vicreg --backbone test_resnet --image-size 32 --batch-size 2 --max-steps 4"
    cli.main([*words.split(), "--workers", "0", "--out", out])
    said = capsys.readouterr().out
    assert "report: correspond, rank, stability\n" in said  # before training: what its images allow
    assert "not scored: " in said  # one image to test on, and that is none
    assert Run(out).skipped()[0].startswith("\\xfe.png\t")
    assert "\\xfe.png" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    cli.main(["embed", out, photos, "--out", f"{tmp_path}/features.parquet"])
    from pyarrow import parquet

    assert "\\xff.png" in parquet.read_table(f"{tmp_path}/features.parquet")["path"].to_pylist()


def old_terminal(words, out):
    """The command in a terminal of code page 1252, which has no arrows."""
    sys.stdout = open(out, "w", encoding="cp1252")  # noqa: SIM115
    cli.main(words)


def test_a_terminal_that_lacks_characters_shows_question_marks(tmp_path):
    words = "pretrain parts:n=16,size=40 --method vicreg --backbone test_resnet --image-size 32 --batch-size 8"
    words += f" --max-steps 1 --workers 0 --report=false --out {tmp_path / 'run'}"
    process = SERVER.Process(target=old_terminal, args=(words.split(), tmp_path / "said"))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert f"? {tmp_path / 'run'}" in (tmp_path / "said").read_text(encoding="cp1252")


def test_answers_of_language_models_are_listed_and_cleared(photos, tmp_path, capsys):
    (tmp_path / "store" / "answers").mkdir(parents=True)
    (tmp_path / "store" / "answers" / "0f.json").write_text("x" * 200_000)
    cache()
    assert "0.2 MB  1 answers of language models" in capsys.readouterr().out
    cache(clear=True)
    assert "0.2 MB freed" in capsys.readouterr().out
    assert not list((tmp_path / "store").iterdir())
