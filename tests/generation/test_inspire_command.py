"""`glocal inspire`: what it writes, goes on with, shows in the report, and refuses."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from glocal import cli
from glocal.backbones import build_backbone
from glocal.backbones.encoder import save_encoder
from glocal.generation import save_generator
from glocal.methods.dcgan import AdversarialGenerator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an encoder and a generator that learnt nothing, of 16 px, and a picture."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    encoder = build_backbone("tiny:Net", image_size=16)
    save_encoder(encoder, folder)
    save_generator(AdversarialGenerator(16, 4, 8, encoder.dim), folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)).save(folder / "dress.png")
    (folder / "words.jpg").write_text("no image")
    return folder


def inspire(*words):
    cli.main(["inspire", *map(str, words), "--device", "cpu", "--trust-code"])


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        inspire(*words)
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return ended.value.code, said


def test_pictures_like_another_are_written_the_nearest_first(run, tmp_path):
    like = ("--like", run / "dress.png", "--encoder", run, "--evaluations", 12, "--n", 3)
    distances = {}
    for by in ("gradient", "random"):
        inspire(run, *like, "--by", by, "--out", tmp_path / by)
        files = sorted(file.name for file in (tmp_path / by).iterdir())
        assert files == ["1.png", "2.png", "3.png", "index.html", "latents.npy"]
        page = (tmp_path / by / "index.html").read_text()
        distances[by] = [float(part.split("<")[0]) for part in page.split("distance ")[1:]]
        assert len(distances[by]) == 3
    assert np.load(tmp_path / "random" / "latents.npy").shape == (3, 4)
    assert Image.open(tmp_path / "random" / "1.png").size == (16, 16)


def test_what_encoders_see_is_a_page_with_a_column_for_each(run, tmp_path):
    words = ("--encoder", run, "--encoder", "timm:test_resnet:random", "--image-size", 32, "--evaluations", 3)
    inspire("pixels", "--like", run / "dress.png", *words, "--out", tmp_path / "seen.html")
    page = (tmp_path / "seen.html").read_text()
    assert page.count("<figure>") == 2
    assert page.count("<img") == 6
    assert "timm:test_resnet:random" in page


def test_one_chooses_by_number_and_goes_on(run, tmp_path, monkeypatch, capsys):
    def answer(*given):
        answers = iter(given)
        monkeypatch.setattr("builtins.input", lambda question: next(answers))
        inspire(run, "--by", "preference", "--out", tmp_path, "--seed", 3)
        return json.loads((tmp_path / "session.json").read_text())["answers"], capsys.readouterr()

    answers, said = answer("2", "7", "what?", "1", "")
    assert answers == [1, 0]
    assert "7 is no number from 1 to 4" in said.out
    again = shlex.split(said.err.split("2 answers are kept; to go on: glocal inspire ")[1])
    best = (tmp_path / "best.png").read_bytes()
    assert answer("")[0] == [1, 0]
    assert (tmp_path / "1.png").read_bytes() == best  # the first candidate is the best so far
    assert "Question 3" in (tmp_path / "index.html").read_text()
    monkeypatch.setattr("builtins.input", lambda question: "")
    again.remove("--trust-code")  # which `inspire` gives
    inspire(*again)
    assert "2 answers are kept" in capsys.readouterr().err
    session = json.loads((tmp_path / "session.json").read_text())
    (tmp_path / "session.json").write_text(json.dumps(session | {"answers": None}))
    assert "its answers are no list; delete it" in refusal(capsys, *again)[1]


def test_bad_input_is_one_line(run, tmp_path, capsys):
    like = ("--like", run / "dress.png")
    said = [
        ((run, "--like", run / "words.jpg", "--encoder", run, "--out", tmp_path / "a"), "not an image; give an image"),
        ((run, *like, "--encoder", "timm:test_resnet:random", "--out", tmp_path / "a"), "16 px, and timm:test_resnet"),
        ((tmp_path, *like, "--encoder", run, "--out", tmp_path / "a"), "makes no images"),
        ((run, *like, "--out", tmp_path / "a"), "give a picture and an encoder"),
        (("pixels", *like, "--encoder", run, "--out", tmp_path), "is a folder; give an HTML file"),
        (("pixels", *like, "--encoder", run, "--by", "cma", "--out", tmp_path / "a"), "pixels are made by gradient"),
        ((run, "--by", "preference", "--n", 9, "--out", tmp_path / "a"), "among 2 to 5 pictures, not 9"),
    ]
    for words, part in said:
        code, line = refusal(capsys, *words)
        assert code == 2
        assert part in line, line


def test_a_generator_that_diverged_stops_with_a_diagnosis(run, tmp_path, capsys):
    broken = AdversarialGenerator(16, 4, 8, 48)
    torch.nn.init.constant_(broken.decode[0].weight, torch.nan)
    save_generator(broken, tmp_path)
    save_encoder(build_backbone("tiny:Net", image_size=16), tmp_path)
    words = (tmp_path, "--like", run / "dress.png", "--encoder", run, "--out", tmp_path / "out")
    assert refusal(capsys, *words)[1].endswith("its training diverged; train it again with a lower --lr")
