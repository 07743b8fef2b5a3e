"""`ViewLoader`: the same pixels whatever the workers, ranks and restarts; failures that say what happened."""

from __future__ import annotations

import os
import random as python_random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import Pictures, noise, with_broken

from glocal import random
from glocal.data.images import RawImage
from glocal.errors import UsageError
from glocal.views import Appearance, Batch, Crop, Recipe, Support, ViewLoader, loader as loading, multi_crop, two_views
from glocal.views.dataset import _quiet_about_lost_connections, can_share, one_thread
from processes import SERVER

RECIPE = multi_crop(16, 1, 8)


@pytest.fixture
def make_loader():
    """`ViewLoader`, closed when the test is over: workers that the garbage collector stops take seconds to go."""
    made = []

    def make(*args, **options) -> ViewLoader:
        made.append(ViewLoader(*args, **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def assert_equal(a: Batch, b: Batch) -> None:
    assert torch.equal(a.index, b.index)
    assert (a.label is None) == (b.label is None)
    assert a.label is None or torch.equal(a.label, b.label)
    assert a.skipped == b.skipped
    for one, other in zip(a.views, b.views, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.affine, other.affine)


def join(batches: list[Batch]) -> Batch:
    views = [
        type(v[0])(torch.cat([x.pixels for x in v]), torch.cat([x.affine for x in v]))
        for v in zip(*(batch.views for batch in batches), strict=True)
    ]
    label = None if batches[0].label is None else torch.cat([batch.label for batch in batches])
    return Batch(
        views, torch.cat([batch.index for batch in batches]), label, skipped=sum((b.skipped for b in batches), ())
    )


def test_batch_has_what_the_recipe_asks_for():
    recipe = multi_crop(24, 6, 12)
    batch = next(ViewLoader(noise(9, labels=True), recipe, batch_size=4, seed=0).epoch(0))
    assert [tuple(v.pixels.shape) for v in batch.views] == [(4, 3, 24, 24)] * 2 + [(4, 3, 12, 12)] * 6
    assert all(v.pixels.dtype == torch.uint8 and v.affine.dtype == torch.float32 for v in batch.views)
    assert all(v.pixels.is_contiguous(memory_format=torch.channels_last) for v in batch.views)
    assert batch.index.dtype == batch.label.dtype == torch.int64
    assert torch.equal(batch.label, batch.index % 3)
    sides = torch.stack([v.affine[:, [0, 1], [0, 1]].abs() * v.pixels.shape[-1] for v in batch.views])
    areas, rounding = sides.prod(2), sides.sum(2) + 1  # boxes are of whole pixels
    sizes = torch.tensor([[np.prod(noise(9).images[i].shape[:2])] for i in batch.index.tolist()]).T
    assert (areas + rounding > 0.4 * sizes)[:2].all()
    assert (areas - rounding < 0.4 * sizes)[2:].all()


def test_every_image_once_an_epoch_in_a_new_order():
    loader = ViewLoader(noise(12), RECIPE, batch_size=3, seed=0)
    first, second = (torch.cat([b.index for b in loader.epoch(e)]).tolist() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first == random.permutation(12, 0, "order", 0).tolist()


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_last_batch(drop_last, sizes):
    loader = ViewLoader(noise(10), RECIPE, batch_size=4, seed=0, shuffle=False, drop_last=drop_last)
    batches = list(loader.epoch(0))
    assert loader.steps_per_epoch == len(sizes)
    assert [len(b.index) for b in batches] == sizes
    assert torch.cat([b.index for b in batches]).tolist() == list(range(sum(sizes)))


def test_same_batches_for_any_number_of_workers(make_loader):
    source = with_broken(13, {2, 5})
    appearance = Appearance(RECIPE, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), seed=3)
    runs = []
    for workers in (0, 1, 2):
        loader = make_loader(source, RECIPE, batch_size=4, seed=3, workers=workers)
        runs.append([(b, appearance(b, e)) for e in (0, 1) for b in loader.epoch(e)])
    assert len(runs[0]) == 6
    for other in runs[1:]:
        for (raw, seen), (other_raw, other_seen) in zip(runs[0], other, strict=True):
            assert_equal(raw, other_raw)
            assert_equal(seen, other_seen)


def test_workers_carry_out_the_appearance_that_the_main_process_would(make_loader):
    images = noise(10)
    appearance = Appearance(RECIPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed=1)
    options = {"batch_size": 4, "seed": 1}
    plain, here = make_loader(images, RECIPE, **options), make_loader(images, RECIPE, appearance=appearance, **options)
    there = make_loader(images, RECIPE, appearance=appearance, workers=2, **options)
    for epoch in (0, 1):
        for unfinished, *finished in zip(*(loader.epoch(epoch) for loader in (plain, here, there)), strict=True):
            threads = torch.get_num_threads()
            with one_thread():
                expected = appearance(unfinished, epoch)
            assert torch.get_num_threads() == threads
            assert expected.views[0].pixels.dtype == torch.float32
            for batch in finished:
                assert_equal(batch, expected)
                assert all(v.pixels.is_contiguous(memory_format=torch.channels_last) for v in batch.views)


def test_labelled_images_are_finished_by_workers_too(make_loader):
    recipe = Recipe((Crop(8),), Support((Crop(12),), labelled=3, images=2, classes=2))
    appearance = Appearance(recipe, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed=1)
    plain = make_loader(noise(12, labels=True), recipe, batch_size=4, seed=1)
    finished = make_loader(noise(12, labels=True), recipe, batch_size=4, seed=1, appearance=appearance)
    with one_thread():
        for a, b in zip(plain.epoch(2), finished.epoch(2), strict=True):
            assert b.support.views[0].pixels.dtype == torch.float32
            assert_equal(appearance(a, 2).support, b.support)
            assert_equal(appearance(b, 2).support, b.support)


def test_where_little_memory_can_be_shared_views_come_unfinished_and_it_is_said(make_loader, monkeypatch):
    appearance = Appearance(RECIPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed=1)
    monkeypatch.setattr(loading, "can_share", lambda size: size < 1000)
    poor = make_loader(noise(10), RECIPE, batch_size=4, seed=1, workers=1, appearance=appearance)
    assert next(iter(poor.epoch(0))).views[0].pixels.dtype == torch.uint8
    assert poor.notes[0].endswith("(/dev/shm): training finishes views itself")


def test_only_lost_connections_are_passed_over_in_silence(capsys):
    """The main process may leave while a worker is handing it a batch."""
    for error in (BrokenPipeError(), EOFError(), ValueError("heard")):
        _quiet_about_lost_connections(type(error), error, None)
    assert capsys.readouterr().err == "ValueError: heard\n"


def test_workers_are_as_many_as_shared_memory_has_room_for(make_loader, monkeypatch):
    """Where training finishes the views on a GPU, workers hand over pixels: 64 MB in a container hold few of them."""
    batch = 4 * 3 * sum(crop.size**2 for crop in RECIPE.views)  # bytes
    monkeypatch.setattr(loading, "can_share", lambda size: size <= 2 * 3 * batch)
    loader = make_loader(noise(12), RECIPE, batch_size=4, seed=0, workers=3)
    assert "2 loader workers" in loader.notes[0]
    assert "--shm-size" in loader.notes[0]
    assert loader._new_reader.keywords["num_workers"] == 2
    monkeypatch.setattr(loading, "can_share", lambda size: False)
    none = make_loader(noise(12), RECIPE, batch_size=4, seed=0, workers=3)
    assert none._new_reader.keywords["num_workers"] == 0
    assert len(list(none.epoch(0))) == none.steps_per_epoch


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="where Linux keeps what is shared")
def test_what_can_be_shared_is_asked_of_the_system():
    assert can_share(0)
    assert not can_share(2**60)


def test_ranks_joined_are_one_process_with_the_whole_batch():
    source = with_broken(17, {1, 4})
    whole = list(ViewLoader(source, RECIPE, batch_size=6, seed=1).epoch(2))
    ranks = [ViewLoader(source, RECIPE, batch_size=3, seed=1, rank=r, world_size=2) for r in (0, 1)]
    assert ranks[0].steps_per_epoch == len(whole) == 2
    for batch, *parts in zip(whole, *(loader.epoch(2) for loader in ranks), strict=True):
        assert_equal(batch, join(parts))


@pytest.mark.parametrize("workers", [0, 1])
def test_restart_continues_the_epoch(make_loader, workers):
    source = noise(14)
    whole = list(ViewLoader(source, RECIPE, batch_size=3, seed=0).epoch(1))
    loader = make_loader(source, RECIPE, batch_size=3, seed=0, workers=workers)
    for batch, again in zip(whole[2:], loader.epoch(1, start_step=2), strict=True):
        assert_equal(batch, again)
    assert list(loader.epoch(1, start_step=4)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_in_any_order_abandoned_or_interleaved(make_loader, workers):
    loader = make_loader(noise(12), RECIPE, batch_size=3, seed=0, workers=workers)
    expected = {e: list(ViewLoader(noise(12), RECIPE, batch_size=3, seed=0).epoch(e)) for e in (0, 1)}
    abandoned = loader.epoch(1)
    assert_equal(next(abandoned), expected[1][0])
    for batch, again in zip(expected[0], loader.epoch(0), strict=True):
        assert_equal(batch, again)
    assert_equal(next(abandoned), expected[1][1])


def test_sample_looks_the_same_in_any_company_and_different_in_other_epochs_and_seeds():
    source = Pictures([np.zeros((200, 200, 3), np.uint8)] * 12)
    recipe = Recipe((Crop(8),))

    def look(seed: int, epoch: int, batch_size: int) -> dict[int, torch.Tensor]:
        loader = ViewLoader(source, recipe, batch_size=batch_size, seed=seed)
        return {int(i): view for b in loader.epoch(epoch) for i, view in zip(b.index, b.views[0].affine, strict=True)}

    base = look(0, 0, 3)
    assert all(torch.equal(base[i], view) for i, view in look(0, 0, 4).items())
    assert all(not torch.equal(base[i], view) for i, view in look(0, 1, 3).items())
    assert all(not torch.equal(base[i], view) for i, view in look(1, 0, 3).items())


def test_unreadable_images_are_replaced_and_listed():
    loader = ViewLoader(with_broken(12, {2, 7}), RECIPE, batch_size=4, seed=0, shuffle=False)
    batches = list(loader.epoch(0))
    skipped = sum((b.skipped for b in batches), ())
    assert {i for i, _ in skipped} == {2, 7}
    assert dict(skipped)[7] == "bad 7"
    index = torch.cat([b.index for b in batches]).tolist()
    kept = [i for i in range(12) if i not in (2, 7)]
    assert [index[i] for i in kept] == kept
    assert not {index[2], index[7]} & {2, 7}
    plain = {int(i): v for b in batches for i, v in zip(b.index, b.views[0].affine, strict=True)}
    other = next(ViewLoader(noise(12), RECIPE, batch_size=12, seed=0).epoch(0))
    for i, affine in zip(other.index.tolist(), other.views[0].affine, strict=True):
        assert i in (2, 7) or torch.equal(affine, plain[i])


def test_broken_pixels_count_as_unreadable():
    """A file whose header is fine and whose pixels are cut off."""
    from pictures import jpeg

    source = noise(8)
    source.images[3] = jpeg(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))[:3000]
    batch = next(ViewLoader(source, RECIPE, batch_size=8, seed=0).epoch(0))
    assert [i for i, _ in batch.skipped] == [3]
    assert 3 not in batch.index


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_collection_is_one_clear_line(make_loader, workers):
    loader = make_loader(with_broken(6, set(range(6))), RECIPE, batch_size=2, seed=0, workers=workers)
    with pytest.raises(
        UsageError, match=r"32 images in a row of pictures cannot be read, the last being \d.png \(bad"
    ) as e:
        list(loader.epoch(0))
    assert "\n" not in str(e.value)
    assert not getattr(e.value, "__notes__", [])


class OddError(Exception):
    """Cannot be rebuilt from its message alone."""

    def __init__(self, code: int, where: str):
        super().__init__(code, where)
        self.code = code


class LocalError(Exception):
    def __reduce__(self):
        raise TypeError("does not travel")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FileNotFoundError(2, "gone", "a.png"), FileNotFoundError, "gone: 'a.png'"),
        (OddError(7, "here"), OddError, "7, 'here'"),
        (LocalError("stuck"), RuntimeError, "LocalError: stuck"),
    ],
)
def test_other_errors_keep_their_type_message_and_traceback(make_loader, workers, error, kind, message):
    source = noise(4)
    source.images[1] = error
    with pytest.raises(kind) as caught:
        list(make_loader(source, RECIPE, batch_size=4, seed=0, workers=workers).epoch(0))
    assert message in str(caught.value)
    assert "pictures.py" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_an_error_does_not_end_the_loader():
    source = noise(6)
    loader = ViewLoader(source, RECIPE, batch_size=2, seed=0)
    good, source.images = source.images, [OddError(1, "x")] * 6
    with pytest.raises(OddError):
        next(loader.epoch(0))
    source.images = good
    assert len(list(loader.epoch(0))) == 3


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {"batch_size": 4}, "pictures has 0 images: nothing to make a batch of"),
        (3, {"batch_size": 4}, "pictures has 3 images, fewer than one batch of 4: choose a smaller batch size"),
        (1, {"batch_size": 4}, "pictures has 1 image, "),
        (7, {"batch_size": 4, "world_size": 2}, r"fewer than one batch of 8 \(2 processes × 4\)"),
    ],
)
def test_too_few_images(count, options, message):
    with pytest.raises(UsageError, match=message):
        ViewLoader(noise(count), RECIPE, seed=0, **options)


def test_ranks_cannot_share_a_smaller_last_batch():
    with pytest.raises(ValueError, match="drop_last"):
        ViewLoader(noise(7), RECIPE, batch_size=2, seed=0, world_size=2, drop_last=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_left_alone(make_loader, workers):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), python_random.getstate()  # noqa: NPY002
    loader = make_loader(noise(8), RECIPE, batch_size=2, seed=0, workers=workers)
    appearance = Appearance(RECIPE, (0.5,) * 3, (0.2,) * 3, seed=0)
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            appearance(batch, epoch)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[2] == python_random.getstate()


class Confession(Pictures):
    """Images that are painted with the process, number of threads and priority that they are read with."""

    def open(self, i: int) -> RawImage:
        pid, priority = os.getpid(), os.nice(0) if hasattr(os, "nice") else 19
        colour = [pid % 256, pid // 256 % 256, torch.get_num_threads() + 10 * priority]
        return RawImage(np.full((8, 8, 3), colour, np.uint8))


@pytest.mark.parametrize("low_priority", [True, False])
def test_workers_persist_over_epochs_with_one_thread_and_their_priority(make_loader, low_priority):
    settings = {"batch_size": 2, "seed": 0, "workers": 2, "low_priority": low_priority}
    loader = make_loader(Confession([None] * 8), Recipe((Crop(4),)), **settings)
    priority = 19 if os.name == "nt" else min(19, os.nice(0) + 19 * low_priority)
    seen = []
    for epoch in (0, 1, 0, 1):
        if len(seen) == 3:
            loader.close()
        colours = torch.cat([b.views[0].pixels[:, :, 0, 0] for b in loader.epoch(epoch)])
        assert (colours[:, 2] == 1 + 10 * priority).all()
        seen.append({tuple(c) for c in colours[:, :2].tolist()})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == len(seen[3]) == 2
    assert not seen[0] & seen[3]  # closed, they are gone; the next epoch starts new ones
    assert (os.getpid() % 256, os.getpid() // 256 % 256) not in seen[0]


def endless(folder: Path) -> None:
    """Epochs until someone interrupts; what it and its workers say goes to files."""
    os.setsid()
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start deaf to it
    loader = ViewLoader(noise(8), two_views(8), batch_size=2, seed=0, workers=2)
    next(loader.epoch(0))
    print("ready", flush=True)
    try:
        for epoch in range(10**9):
            for _ in loader.epoch(epoch):
                pass
    except KeyboardInterrupt:
        print("stopped", flush=True)


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_interrupt_is_answered_by_the_main_process_alone(tmp_path):
    """Ctrl-C goes to the whole process group: one KeyboardInterrupt, no traceback of a worker."""
    process = SERVER.Process(target=endless, args=(tmp_path,))
    process.start()
    try:
        while not (tmp_path / "out").exists() or not (tmp_path / "out").read_text():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(0.3)
        interrupted = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        process.join(60)
    finally:
        process.kill()
    assert (tmp_path / "out").read_text() == "ready\nstopped\n"
    assert (tmp_path / "err").read_text() == ""
    assert process.exitcode == 0
    assert time.monotonic() - interrupted < 4, "the workers had to be waited for"
