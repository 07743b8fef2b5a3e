"""Predictions: every image, in every form, and the same from the exported files."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal.adaptation import load_head
from glocal.data.masks import read_mask
from glocal.errors import UsageError
from glocal.evaluation.extract import eval_image
from glocal.evaluation.segment import looks_of
from glocal.run import Run


@pytest.fixture
def pictures(tmp_path):
    """Five images of several sizes and places, one of them broken."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for n, (width, height) in enumerate([(70, 64), (64, 90), (128, 64), (33, 31)]):
        pixels = draw.integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / ("below" if n % 2 else "") / f"{n}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_table_of_all_images_and_the_unreadable_one_named(classifier, pictures, tmp_path, capsys):
    out = glocal.predict(
        str(classifier), str(pictures), out=str(tmp_path / "labels.csv"), page=str(tmp_path / "p.html")
    )
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["image_path"] for row in rows] == ["0.png", "2.png", "below/1.png", "below/3.png"]
    said = capsys.readouterr().err
    assert "4 of 5 images predicted; the others could not be read, the first being broken.png" in said
    page = (tmp_path / "p.html").read_text()
    assert page.count("<figure>") == 4
    assert "broken.png" in page
    direct = glocal.predict(str(classifier), str(pictures))
    assert direct.labels == [row["label"] for row in rows]
    np.testing.assert_allclose([float(row["p(A)"]) for row in rows], [each[0] for each in direct.answers], atol=1e-5)
    for row in rows:
        assert float(row["p(A)"]) + float(row["p(B)"]) == pytest.approx(1, abs=1e-4)


def test_masks_of_each_image_in_its_own_size(segmenter, pictures, tmp_path):
    page = tmp_path / "page.html"
    out = glocal.predict(str(segmenter), str(pictures), out=str(tmp_path / "masks"), page=str(page))
    names = json.loads((out / "classes.json").read_text())["names"]
    assert len(names) == 7
    for name in ("0", "2", "below/1", "below/3"):
        with Image.open(pictures / f"{name}.png") as image:
            mask = read_mask(out / f"{name}.png")
            assert mask.shape == (image.height, image.width)
        assert mask.max() < len(names)
    with Image.open(out / "0.png") as image:
        palette = image.getpalette()
    for k, name in enumerate(names):
        assert f"rgb({' '.join(map(str, palette[3 * k : 3 * k + 3]))})" in page.read_text()
        assert f"</i>{name}</span>" in page.read_text()


def test_known_answers_are_scored(classifier, world, capsys):
    glocal.predict(str(classifier), world, split="val")
    top1 = Run(classifier).scores()["classify"]["top1"]
    assert f"top1 {top1:.3f} on the 32 whose answers are known" in capsys.readouterr().err


def pixels_of(file, head):
    """(1, 3, 64, 64) float32 in [0, 1], what a stranger would give the exported file."""
    with Image.open(file) as image:
        square = np.asarray(eval_image(image.convert("RGB"), 64, head.crop_pct))
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def test_an_onnx_file_gives_the_same_probabilities(classifier, pictures, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr("glocal.exporters.graph._may_vary", lambda model: False)  # free sizes take twice the time
    file, (head, _) = glocal.export(str(classifier), format="onnx", out=str(tmp_path / "x.onnx")), load_head(classifier)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == head.classes
    assert about["preparation"] == "short side to 73, bicubic, antialiased; the middle 64 × 64"
    (logits,) = session.run(["logits"], {"image": pixels_of(pictures / "0.png", head)})
    shares = np.exp(logits[0] - logits[0].max())
    shares /= shares.sum()
    np.testing.assert_allclose(shares, glocal.predict(str(classifier), str(pictures)).answers[0], atol=1e-4)


def test_a_torch_export_file_gives_the_same_mask(segmenter, pictures, tmp_path):
    file, (head, _) = (
        glocal.export(str(segmenter), format="torch-export", out=str(tmp_path / "x.pt2")),
        load_head(segmenter),
    )
    program = torch.export.load(file, extra_files=(extra := {"glocal.json": ""}))
    about = json.loads(extra["glocal.json"])
    assert json.loads(about["classes"]) == head.classes
    *_, logits = program.module()(torch.from_numpy(pixels_of(pictures / "0.png", head)))
    assert about["preparation"] == "squeezed into 64 × 64, bicubic, antialiased"
    cells = torch.tensor(json.loads(about["cells"]))
    assert cells.shape[:2] == logits.shape[2:]
    mask = head.answer(logits[0].detach(), (70, 64), looks_of(cells, 64))
    assert (mask == glocal.predict(str(segmenter), str(pictures)).answers[0]).mean() > 0.999


def test_a_head_beside_another_encoder_is_refused(classifier, segmenter, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(classifier, mixed)
    for file in Run(segmenter).encoder_files:
        shutil.copy(file, mixed)
    with pytest.raises(UsageError, match="another encoder") as refused:
        glocal.predict(str(mixed), "parts:n=4,size=64")
    assert "\n" not in str(refused.value)
    Run(mixed).head_files[0].unlink()
    with pytest.raises(UsageError, match=r"has no head .* glocal finetune"):
        glocal.predict(str(mixed), "parts:n=4,size=64")
    damaged = json.loads(Run(classifier).head_files[1].read_text()) | {"classes": ["one"]}
    shutil.copytree(classifier, tmp_path / "damaged")
    Run(tmp_path / "damaged").head_files[1].write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match="damaged"):
        glocal.predict(str(tmp_path / "damaged"), "parts:n=4,size=64")


def test_as_an_encoder_it_is_like_any_other(classifier):
    found = glocal.evaluate(str(classifier), "parts:n=24,size=64,classes=2", tasks=["knn"])
    assert found["meta"]["encoder"] == "test_resnet"
    embedded = glocal.embed(str(classifier), "parts:n=4,size=64", split="test")
    assert embedded.pooled.shape == (4, glocal.load(str(classifier)).dim)


def test_what_is_drawn_or_written_never_lands_on_the_photographs(segmenter, pictures, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "photos").iterdir()}
    (tmp_path / "lists" / "some.txt").write_text("../photos/a.png\n../photos/b.png\n")
    glocal.predict(str(segmenter), str(tmp_path / "lists" / "some.txt"), out=str(tmp_path / "out" / "masks"),
                   draw=str(tmp_path / "out" / "drawn"), workers=0)  # fmt: skip
    assert {path: path.read_bytes() for path in (tmp_path / "photos").iterdir()} == before
    assert (
        len([*(tmp_path / "out" / "masks").rglob("*.png")]) == len([*(tmp_path / "out" / "drawn").rglob("*.png")]) == 2
    )
    for option in ("out", "draw"):
        with pytest.raises(UsageError, match=f"--{option} .*photos is where the photographs are"):
            glocal.predict(str(segmenter), str(tmp_path / "photos"), workers=0, **{option: str(tmp_path / "photos")})
    assert {path: path.read_bytes() for path in (tmp_path / "photos").iterdir()} == before
