"""`PixelCache`: the same pixels cold, warm, shared, damaged or refused; new pixels where files change."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import jpeg, noise, ramp, read_ramp
from PIL import Image

from glocal.data import ArraySource, ConcatSource, FolderSource, PartsWorld
from glocal.data.source import Unreadable
from glocal.views import Batch, Crop, PixelCache, Recipe, ViewLoader, cache, worth_caching
from glocal.views.cache import cache_folder

RECIPE = Recipe((Crop(16), Crop(12, scale=(0.2, 0.6))))


@pytest.fixture
def photos(tmp_path) -> Path:
    """JPEGs and a PNG, larger and smaller than the recipe needs, of odd sides, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(301, 203), (120, 160), (75, 50), (211, 90), (40, 30), (133, 133)]):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        array = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        (folder / f"{i}.jpg").write_bytes(jpeg(array))
    Image.fromarray(array).save(folder / "6.png")
    (folder / "7.jpg").write_bytes((folder / "0.jpg").read_bytes()[:900])
    return folder


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def batches(folder: Path, store: Path, workers: int = 0, epochs: tuple[int, ...] = (0, 1)) -> list[Batch]:
    source = FolderSource(folder)
    loader = ViewLoader(
        source, RECIPE, batch_size=4, seed=0, workers=workers, cache=PixelCache(source, RECIPE.views, store)
    )
    try:
        return [batch for epoch in epochs for batch in loader.epoch(epoch)]
    finally:
        loader.close()


def assert_same(these: list[Batch], those: list[Batch]) -> None:
    for one, other in zip(these, those, strict=True):
        assert torch.equal(one.index, other.index)
        assert one.skipped == other.skipped
        for a, b in zip(one.views, other.views, strict=True):
            assert torch.equal(a.pixels, b.pixels)
            assert torch.equal(a.affine, b.affine)


def decodes(monkeypatch) -> list[int]:
    """The images that are decoded from now on."""
    made = []
    original = PixelCache._make
    monkeypatch.setattr(PixelCache, "_make", lambda self, i: made.append(i) or original(self, i))
    return made


def test_cold_warm_and_unkept_pixels_are_the_same_for_any_number_of_workers(photos, store, monkeypatch):
    cold = batches(photos, store)
    made = decodes(monkeypatch)
    warm = batches(photos, store)
    assert set(made) <= {7}  # the broken one is tried again
    assert_same(cold, warm)
    assert_same(cold, batches(photos, store, workers=2))
    assert_same(cold, batches(photos, store / "other", workers=2))
    monkeypatch.setattr(cache, "_free", lambda folder: 10)
    assert_same(cold, batches(photos, store / "refused"))
    assert not (store / "refused").exists()
    assert any(batch.skipped for batch in cold)


def test_an_epoch_can_be_entered_anywhere(photos, store):
    source = FolderSource(photos)
    whole = batches(photos, store, epochs=(1,))
    loader = ViewLoader(source, RECIPE, batch_size=4, seed=0, cache=PixelCache(source, RECIPE.views, store / "new"))
    assert_same(whole[1:], list(loader.epoch(1, start_step=1)))


def total(folder: Path, store: Path) -> int:
    return sum(int(view.pixels.sum()) for batch in batches(folder, store) for view in batch.views)


def fill(folder: Path, store: Path, ready: Any, totals: Any) -> None:
    torch.set_num_threads(1)  # the parent's threads do not come along
    ready.wait()
    totals.put(total(folder, store))


def test_two_processes_fill_one_cache(photos, store):
    ready, totals = multiprocessing.Barrier(2), multiprocessing.Queue()
    both = [multiprocessing.Process(target=fill, args=(photos, store, ready, totals), daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    found = {totals.get(timeout=100) for _ in both}
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert found == {total(photos, store / "alone")}
    assert len(list(store.glob("*-*"))) == 1
    assert not list(store.glob("*.partial"))


def test_changed_files_are_decoded_anew_and_the_old_pixels_removed(photos, store):
    before = batches(photos, store)
    old = PixelCache(FolderSource(photos), RECIPE.views, store).folder
    assert old.exists()
    same_size = (photos / "4.jpg").read_bytes()
    (photos / "4.jpg").write_bytes(same_size)
    os.utime(photos / "4.jpg", ns=(1, 1))
    renewed = PixelCache(FolderSource(photos), RECIPE.views, store)
    assert renewed.folder != old
    assert not old.exists()
    assert_same(before, batches(photos, store))  # touched, but not different
    (photos / "4.jpg").write_bytes(jpeg(np.zeros((30, 40, 3), np.uint8)))
    after = batches(photos, store)
    assert any(not torch.equal(a.views[0].pixels, b.views[0].pixels) for a, b in zip(before, after, strict=True))


def test_a_run_outlives_the_removal_of_its_cache(photos, store):
    source = FolderSource(photos)
    expected = batches(photos, store)
    kept = PixelCache(source, RECIPE.views, store)
    for file in kept.folder.iterdir():
        file.unlink()
    kept.folder.rmdir()
    assert_same(
        expected, [b for e in (0, 1) for b in ViewLoader(source, RECIPE, batch_size=4, seed=0, cache=kept).epoch(e)]
    )


@pytest.mark.parametrize("name", ["layout.npy", "pixels.bin", "filled.bin"])
@pytest.mark.parametrize("damage", ["cut", "missing", "empty"])
def test_a_damaged_cache_is_made_anew_and_said(photos, store, name, damage):
    expected = batches(photos, store, epochs=(0,))
    file = PixelCache(FolderSource(photos), RECIPE.views, store).folder / name
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, 0 if damage == "empty" else file.stat().st_size - 40)
    again = PixelCache(FolderSource(photos), RECIPE.views, store)
    assert "it was damaged" in again.note
    assert "\n" not in again.note
    assert "it was damaged" not in PixelCache(FolderSource(photos), RECIPE.views, store).note
    assert_same(expected, batches(photos, store, epochs=(0,)))


def test_pixels_that_do_not_match_their_checksum_are_decoded_again(photos, store, monkeypatch):
    expected = batches(photos, store, epochs=(0,))
    pixels = PixelCache(FolderSource(photos), RECIPE.views, store).folder / "pixels.bin"
    pixels.write_bytes(bytes(pixels.stat().st_size))  # as after a power failure
    made = decodes(monkeypatch)
    assert_same(expected, batches(photos, store, epochs=(0,)))
    assert len(set(made) - {7}) > 3
    made.clear()
    assert_same(expected, batches(photos, store, epochs=(0,)))
    assert set(made) <= {7}


def test_images_are_as_small_as_the_recipe_allows(photos, store):
    """And no smaller: the most magnified crop has at least as many pixels as it shows."""
    source = FolderSource(photos)
    kept = PixelCache(source, RECIPE.views, store)
    for i in range(7):
        width, height = source.open(i).size
        pixels, shrink = kept.read(i)
        assert kept.size(i) == (width, height)
        assert pixels.shape[0] <= height
        scale = min(1, 16 / np.sqrt(0.08 * width * height * 3 / 4))
        np.testing.assert_allclose(pixels.shape[:2], [height * scale, width * scale], atol=1)
        assert min(pixels.shape[:2]) >= np.floor(scale * min(width, height))
        np.testing.assert_allclose(shrink, (pixels.shape[1] / width, pixels.shape[0] / height), rtol=0.02)


@pytest.mark.parametrize("width", [803, 1003])
def test_painted_coordinates_come_home(store, tmp_path, width):
    """Through reduced decoding, shrinking and cropping."""
    height = 701
    folder = tmp_path / "ramps"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.jpg").write_bytes(jpeg(ramp(width, height)))
    source = FolderSource(folder)
    recipe = Recipe((Crop(40, scale=(0.15, 1.0)),))
    kept = PixelCache(source, recipe.views, store)
    assert kept.read(0)[0].shape[1] < 0.25 * width
    view = next(ViewLoader(source, recipe, batch_size=8, seed=1, cache=kept).epoch(0)).views[0]
    where = view.centers(40, 40).numpy()[:, 4:-4, 4:-4]
    there = read_ramp(view.pixels.permute(0, 2, 3, 1).numpy()[:, 4:-4, 4:-4], width, height)
    error = (there - where) / (np.array([width, height]) / 256)  # in grey levels
    assert np.abs(error).max() < 2.6
    assert np.abs(error.mean((0, 1, 2))).max() < 0.25


def test_broken_files_are_named_and_their_reason_given(photos, store):
    kept = PixelCache(FolderSource(photos), RECIPE.views, store)
    with pytest.raises(Unreadable):
        kept.read(7)
    (photos / "7.jpg").write_bytes(b"nothing")
    broken = PixelCache(FolderSource(photos), RECIPE.views, store)
    with pytest.raises(Unreadable, match="not an image"):
        broken.size(7)
    (photos / "7.jpg").write_bytes((photos / "1.jpg").read_bytes())
    with pytest.raises(Unreadable, match="changed"):
        broken.size(7)


def test_recipes_of_equal_needs_share_others_do_not(photos, store):
    source = FolderSource(photos)
    folder = PixelCache(source, RECIPE.views, store).folder
    assert PixelCache(source, [crop.but(blur=0.7, flip=0.0) for crop in RECIPE.views], store).folder == folder
    assert PixelCache(source, [Crop(17)], store).folder != folder
    assert folder.exists()  # nor do they remove each other


def test_drawn_and_joined_collections(photos, store):
    world = PartsWorld(4, 32)
    joined = ConcatSource([world, FolderSource(photos)])
    kept = PixelCache(joined, RECIPE.views, store)
    for _ in range(2):
        np.testing.assert_array_equal(kept.read(2)[0].numpy(), world.sample(2).image)
        assert kept.size(4) == (301, 203)
    assert worth_caching(joined, RECIPE.views)[0]
    assert PixelCache(PartsWorld(4, 32, seed=1), RECIPE.views, store).folder != kept.folder
    assert not worth_caching(ConcatSource([world, ArraySource(np.zeros((3, 9, 9, 3), np.uint8))]), RECIPE.views)[0]


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("GLOCAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "glocal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "glocal"
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder() is None


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_nothing_is_kept_anywhere(photos, monkeypatch, tmp_path):
    for name in ("GLOCAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    monkeypatch.setattr(Path, "home", nobody)
    source = FolderSource(photos)
    worth, why = worth_caching(source, RECIPE.views)
    assert (worth, why) == (False, "the home folder cannot be written to; name another one by $GLOCAL_CACHE")
    kept = PixelCache(source, RECIPE.views)
    assert "not kept: there is no home folder" in kept.note
    assert kept.read(0)[0].shape[0] > 0
    assert not (tmp_path / "shared").exists()


def test_where_one_may_not_write_nothing_is_kept(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "closed" / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    worth, why = worth_caching(FolderSource(photos), RECIPE.views)
    assert not worth
    assert "closed/cache cannot be written to; name another one by $GLOCAL_CACHE" in why


@pytest.mark.skipif(os.name != "posix", reason="has no permissions of this kind")
def test_only_its_owner_can_read_a_cache(photos, store):
    kept = PixelCache(FolderSource(photos), RECIPE.views, store / "new")
    for folder in (store / "new", kept.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept.folder.iterdir()} == {0o600}
    kept.folder.chmod(0o755)  # as once upon a time
    PixelCache(FolderSource(photos), RECIPE.views, store / "new")
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name != "posix", reason="has no owners of this kind")
def test_pixels_that_another_user_left_there_are_not_used(photos, store, monkeypatch):
    first = PixelCache(FolderSource(photos), RECIPE.views, store)
    expected = first.read(0)[0]
    (first.folder / "pixels.bin").write_bytes(bytes((first.folder / "pixels.bin").stat().st_size))
    monkeypatch.setattr(os, "getuid", lambda: os.lstat(store).st_uid + 1)
    other = PixelCache(FolderSource(photos), RECIPE.views, store)
    assert other.note.endswith("not kept: it belongs to another user")
    assert torch.equal(other.read(0)[0], expected)
    assert first.folder.exists()


def cut_off(folder: Path, store: Path, name: str, size: int, found: Any) -> None:
    torch.set_num_threads(1)
    early, late = (PixelCache(FolderSource(folder), RECIPE.views, store) for _ in range(2))
    for i in range(7):
        early.read(i)
    os.truncate(early.folder / name, size)
    sums = [[kept.read(i)[0].sum().item() for i in range(7)] for kept in (late, early)]
    found.put((sums, (early.folder / name).stat().st_size))


@pytest.mark.parametrize("name", ["pixels.bin", "filled.bin"])
def test_a_cache_that_is_cut_off_while_it_is_read_is_decoded_again(photos, store, name):
    """In a process of its own, since a mapped file would have ended it; and nobody fills the hole with zeros."""
    expected = [PixelCache(FolderSource(photos), RECIPE.views, store).read(i)[0].sum().item() for i in range(7)]
    size = 5000 if name == "pixels.bin" else 30
    found = multiprocessing.Queue()
    process = multiprocessing.Process(target=cut_off, args=(photos, store, name, size, found), daemon=True)
    process.start()
    process.join(timeout=100)
    assert process.exitcode == 0
    assert found.get(timeout=10) == ([expected, expected], size)


def test_a_run_that_was_killed_while_it_made_a_cache_is_in_nobodys_way(photos, store):
    (store / f".partial-{os.getpid()}").mkdir(parents=True)
    assert "not kept" not in PixelCache(FolderSource(photos), RECIPE.views, store).note


def test_images_without_a_fingerprint_are_never_those_of_another_run(store):
    for value in (10, 200):
        source = ArraySource(np.full((3, 40, 40, 3), value, np.uint8))
        kept = PixelCache(source, RECIPE.views, store)
        for _ in range(2):
            assert kept.read(1)[0].unique().tolist() == [value]
        assert kept.note.endswith("not kept: the images are not files")


def test_what_is_too_large_is_refused_in_a_few_words(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path))
    source = FolderSource(photos)
    assert worth_caching(source, RECIPE.views)[0]
    monkeypatch.setattr(cache, "_memory", lambda: 20_000)
    assert worth_caching(source, RECIPE.views) == (False, "0.1 MB of pixels, 0.0 MB of memory")
    monkeypatch.setattr(cache, "_free", lambda folder: 30_000)
    assert "free in" in worth_caching(source, RECIPE.views)[1]
    note = PixelCache(source, RECIPE.views).note
    assert "not kept" in note
    assert worth_caching(noise(3), RECIPE.views) == (False, "the images are not files")


def test_the_note_says_how_many_how_much_and_where(photos, store):
    kept = PixelCache(FolderSource(photos), RECIPE.views, store)
    assert kept.note == f"cache: 8 images, 0.1 MB at {kept.folder}"
