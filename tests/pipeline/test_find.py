"""`glocal index` and `glocal search`: made once, brought up to date, and what is found."""

import base64
import io
import os
import re
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal import cli
from glocal.backbones import build_backbone, save_encoder
from glocal.errors import UsageError
from glocal.pipeline.find import open_index
from glocal.retrieval import Index
from processes import run as command


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder's folder."""
    out = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(build_backbone("test_resnet", image_size=32), out)
    return str(out)


def draw(path, seed, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


@pytest.fixture
def photos(tmp_path):
    for n in range(8):
        draw(tmp_path / "photos" / f"{n}.png", n)
    return tmp_path / "photos"


def centre_of_red(page, n):
    """The middle (x, y) of the red square in a page's n-th picture."""
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page.read_text())[n]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    y, x = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60))
    return (x.min() + x.max()) / 2, (y.min() + y.max()) / 2


def looked_at(monkeypatch):
    """The images that an encoder is shown from now on."""
    extract = sys.modules["glocal.evaluation.extract"]  # beside a function of its name
    seen, encode = [], extract.encode
    monkeypatch.setattr(extract, "encode", lambda *given: (seen.append(len(given[1])), encode(*given))[1])
    return seen


def test_only_what_is_new_or_changed_is_looked_at(encoder, photos, tmp_path, monkeypatch, capsys):
    out, seen = str(tmp_path / "photos.index"), looked_at(monkeypatch)
    update = lambda **options: glocal.index(encoder, str(photos), out=out, workers=0, **options)
    update()
    (photos / "broken.png").write_bytes(b"\x89PNG")
    update()
    assert "1 could not be read, the first being broken.png" in capsys.readouterr().err
    written, count = os.stat(out).st_mtime_ns, sum(seen)
    update()
    assert (os.stat(out).st_mtime_ns, sum(seen), count) == (written, count, 8)
    assert "8 images in" in (said := capsys.readouterr().err)
    assert "0 new or changed, 0 gone; 1 could not be read" in said
    draw(photos / "3.png", 33)
    os.utime(photos / "3.png", ns=(0, time.time_ns() + 10**9))
    draw(photos / "sub" / "new.png", 34)
    (photos / "5.png").unlink()
    update()
    assert sum(seen) == count + 2
    assert "2 new or changed, 1 gone" in capsys.readouterr().err
    index = Index.open(out)
    again = glocal.embed(encoder, str(photos), workers=0)
    assert sorted(index.keys) == sorted(again.paths)
    rows = [index.keys.index(path) for path in again.paths]
    similar = torch.cosine_similarity(index.pooled[rows].float(), torch.from_numpy(again.pooled))
    assert similar.min() > 0.9999
    with pytest.raises(UsageError, match="was made without --dense: do so again, or give another --out"):
        update(dense=True)


def test_what_could_not_be_read_is_told_until_it_is_mended_or_gone(encoder, photos, tmp_path, capsys):
    update = lambda: glocal.index(encoder, str(photos), out=str(tmp_path / "photos.index"), workers=0)
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"broken")
    update()
    assert "2 could not be read" in capsys.readouterr().err
    draw(photos / "a.png", 11)
    update()
    assert "1 new or changed, 0 gone; 1 could not be read, the first being b.png" in capsys.readouterr().err
    (photos / "b.png").unlink()
    update()
    assert "could not" not in capsys.readouterr().err
    assert len(Index.open(tmp_path / "photos.index")) == 9


def test_a_photograph_finds_itself_and_its_copy(encoder, photos, tmp_path):
    (photos / "copy.png").write_bytes((photos / "2.png").read_bytes())
    out = str(tmp_path / "photos.index")
    glocal.index(encoder, str(photos), out=out, workers=0)
    first, second, third = glocal.search(out, str(photos / "2.png"), k=3)
    assert {first.key, second.key} == {"2.png", "copy.png"}
    assert first.score == pytest.approx(1, abs=1e-3)
    assert third.score < second.score
    assert first.place is None


def test_a_patch_is_found_where_it_is(encoder, tmp_path):
    """The query's patch lies at the other side of one photograph, of another size: it is found there."""
    photos = tmp_path / "photos"
    for n in range(6):
        draw(photos / f"{n}.png", n, size=(256, 256))
    query = np.asarray(Image.open(photos / "1.png")).copy()
    there = np.random.default_rng(7).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    moved = np.asarray(Image.open(photos / "4.png")).copy()
    query[:128, :128], moved[128:, 128:] = there, there
    Image.fromarray(query).save(tmp_path / "query.png")
    Image.fromarray(moved).resize((512, 256), Image.Resampling.NEAREST).save(photos / "4.png")
    out = str(tmp_path / "photos.index")
    settings = {"image_size": 256, "workers": 0}
    glocal.index(encoder, str(photos), out=out, dense=True, **settings)
    index = Index.open(out)
    side = int(index.dense.shape[1] ** 0.5)
    found = glocal.search(out, str(tmp_path / "query.png"), at=(72, 55), k=6, html=str(tmp_path / "out.html"))
    first, second = (centre_of_red(tmp_path / "out.html", n) for n in (0, 1))  # of pictures 256 wide
    assert first == pytest.approx((64, 64), abs=1.5), "of the cell that is compared, not of the place that was named"
    assert second == pytest.approx((192, 96), abs=1.5 * 256 / side)
    assert (found[0].key, len(found)) == ("4.png", 6)
    assert found[0].place == pytest.approx((384, 192), abs=1.5 * 512 / side)
    with pytest.raises(UsageError, match=r"outside of .*query\.png, which is 256×256"):
        glocal.search(out, str(tmp_path / "query.png"), at=(256, 0))


def test_the_commands_and_their_page(encoder, photos, tmp_path):
    evil = "ignore the above <script>alert(1)</script>"
    (photos / "captions.csv").write_text(f'image,caption\n0.png,"{evil}"\n')
    first = command("index", encoder, "photos/", "--dense", "--out", "photos.index", "--workers=0", cwd=tmp_path)
    assert "8 images in photos.index" in first.stderr
    (photos / "7.png").unlink()
    done = command("search", "photos.index", "photos/0.png", "-k", "8", "--html", "out.html", cwd=tmp_path)
    assert re.fullmatch(r"[01]\.\d{3}  0\.png", done.stdout.splitlines()[0])
    assert len(done.stdout.splitlines()) == 8
    page = (tmp_path / "out.html").read_text()
    assert page.count("<img") == 8, "the query, and what is found but for the one that is gone"
    assert "no longer there" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    done = command("search", "photos.index", "photos/0.png", "--at", "40,30", "--html", "at.html", cwd=tmp_path)
    assert re.fullmatch(r"[01]\.\d{3}  0\.png  at \d+,\d+", done.stdout.splitlines()[0])
    assert "<img" in (tmp_path / "at.html").read_text()


def test_mistakes_are_told_in_a_line(encoder, photos, tmp_path):
    out, query = str(tmp_path / "photos.index"), str(photos / "0.png")
    glocal.index(encoder, str(photos), out=out, workers=0)
    other = str(tmp_path / "other")
    save_encoder(build_backbone("test_resnet", image_size=32), other)
    mistakes = {
        f"index {other} {photos} --out {out}": "this test_resnet has other weights",
        f"search {out} {query} --encoder {other}": "this test_resnet has other weights",
        f"index {encoder} {tmp_path} --out {out}": "has data",
        f"search {out} {query} --at 3,4": "this index has no cells",
        f"search {out} {query} -k 0": "at least 1 is to be sought",
        f"search {query} {query}": "is no index",
        f"search {out} {query} --html {query}": "is what is read",
        f"search {out} {query} --html {out}": "is what is read",
        f"search {out} {query} --html {photos}": "is a folder: name a file in it",
        f"search {out} {tmp_path}/none.png": "no data at",
        f"search {out} {out}": "photos.index: not an image",
        f"index {encoder} {photos} --out {query}": "is no index",
        f"index {encoder} {photos} --out {query}/x": f"/x cannot be written in {query}",
        f"index {encoder} {photos} {photos} --out {out}x": "two images of photos have one name",
    }
    for words, said in mistakes.items():
        with pytest.raises(UsageError, match=re.escape(said)) as error:
            cli.run(words.split())
        assert "\n" not in str(error.value)
    assert not os.path.exists(out + "x")


def test_a_photograph_of_many_pixels_is_looked_at_as_in_the_index(encoder, tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.jpg")
    out = str(tmp_path / "photos.index")
    glocal.index(encoder, str(tmp_path / "photos"), out=out, workers=0)
    (found,) = glocal.search(out, str(tmp_path / "photos" / "a.jpg"))
    assert found.score == pytest.approx(1, abs=2e-4)


def test_what_is_found_is_told_where_the_photographs_are_gone(encoder, photos, tmp_path, capsys):
    out, query = str(tmp_path / "photos.index"), tmp_path / "query.png"
    glocal.index(encoder, str(photos), out=out, dense=True, workers=0)
    query.write_bytes((photos / "2.png").read_bytes())
    photos.rename(tmp_path / "elsewhere")
    found = glocal.search(out, str(query), k=3, at=(3, 4), html=str(tmp_path / "out.html"))
    assert (len(found), found[0].key, found[0].place) == (3, "2.png", None)
    assert "the photographs cannot be shown: no data at" in capsys.readouterr().err


def test_an_encoder_that_has_moved_is_asked_for(encoder, photos, tmp_path):
    out, query, moved = str(tmp_path / "photos.index"), str(photos / "2.png"), tmp_path / "moved"
    shutil.copytree(encoder, tmp_path / "first")
    glocal.index(str(tmp_path / "first"), str(photos), out=out, workers=0)
    (tmp_path / "first").rename(moved)
    with pytest.raises(UsageError, match=r"first, whose encoder made .*index, is not there: .* give --encoder"):
        glocal.search(out, query)
    assert glocal.search(out, query, encoder=str(moved))[0].key == "2.png"


HOSTILE = [
    *({"image_size": size} for size in (0, -3, 100_000, True, "32")), *({"asked_size": size} for size in ("big", -1)),
    *({"crop_pct": part} for part in (0, -1, "x", 2)), *({"cells": cells} for cells in (None, [[1]], "ab", [[1, "x"]])),
    {"state": []}, {"unreadable": [1]},
]  # fmt: skip


@pytest.mark.parametrize("about", HOSTILE, ids=str)
def test_an_index_that_says_what_cannot_be_is_refused(tmp_path, about):
    said = {"image_size": 32, "asked_size": None, "crop_pct": 0.875, "cells": [[1, 2]], "state": {}, "digest": "d"}
    vectors = torch.ones(1, 2, dtype=torch.float16)
    Index(["a"], vectors, vectors[:, None], said).save(tmp_path / "a.index")
    open_index(tmp_path / "a.index")
    Index(["a"], vectors, vectors[:, None], said | about).save(tmp_path / "a.index")
    with pytest.raises(UsageError, match="does not say how its photographs were looked at"):
        open_index(tmp_path / "a.index")


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F16"', b'"F32"'), (b"[0, 4]", b"[-2,4]"), (b"[1, 2]", b"[1]   "), (b"[1, 2]", b"[2, 1]")]
)
def test_a_file_of_other_vectors_is_no_index(tmp_path, old, new):
    path = tmp_path / "a.index"
    Index(["a"], torch.ones(1, 2, dtype=torch.float16), None, {"digest": "d"}).save(path)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(UsageError, match="is no index, or a damaged one"):
        Index.open(path)


def test_an_encoder_of_texts_is_refused_where_there_are_images(photos, tmp_path):
    texts = build_backbone("text_small")
    for make in (
        lambda: glocal.index(texts, str(photos), out=str(tmp_path / "a.index")),
        lambda: glocal.embed(texts, str(photos)),
    ):
        with pytest.raises(UsageError, match="the encoder reads texts; this needs one of images"):
            make()
