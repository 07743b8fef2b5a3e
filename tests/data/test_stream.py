"""Streams: what an iterable gives, folders that grow, tar shards."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data import Stream, Unreadable, describe, inventory, open_source, stream as streams
from glocal.data.stream import StreamEnded
from glocal.errors import UsageError


def pixels(k: int) -> np.ndarray:
    return np.full((6, 8, 3), k % 256, np.uint8)


def png(k: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(k)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(streams, "SETTLED", 0)


def keys(source: Stream) -> list[str]:
    """Of all images, which takes the stream's end."""
    found: list[str] = []
    with suppress(StreamEnded):
        for i in range(1000):
            found.append(source.key(i))
    assert len(found) < 1000
    return found


def arrive(folder: Path, *names: str, k: int = 0) -> None:
    """Images come into a folder one after the other, in this order."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        before = max((os.stat(path).st_ctime_ns for path in folder.rglob("*.*")), default=0)
        while True:  # clocks of file systems tick every few milliseconds
            (folder / name).write_bytes(png(k))
            if os.stat(folder / name).st_ctime_ns > before:
                break


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def test_whatever_gives_images(tmp_path):
    (tmp_path / "2.png").write_bytes(png(2))
    given = [
        pixels(0), Image.fromarray(pixels(1)), tmp_path / "2.png", str(tmp_path / "2.png"), png(4),
        ("five", pixels(5)[..., :1]), lambda: png(6), ("seven", pixels(7)[..., 0]),
    ]  # fmt: skip
    source = Stream(given)
    values = [int(source.open(i).decode().mean()) for i in range(len(given))]
    assert values == [0, 1, 2, 2, 4, 5, 6, 7]
    assert source.open(0).size == source.open(5).size == (8, 6)
    path = str(tmp_path / "2.png")
    assert keys(source) == ["0", "1", path, path, "4", "five", "6", "seven"]


@pytest.mark.parametrize(
    "wrong",
    [pixels(0).astype(np.float32), pixels(0).T, torch.zeros(3, 6, 8), 7, None, [1], (pixels(0), 3), ("a", png, 3)],
)
def test_what_is_no_image_is_said(wrong):
    with pytest.raises(UsageError, match=r"uint8"):
        Stream([pixels(0), wrong], name="camera").open(1)


def test_an_image_is_the_same_whenever_it_is_opened():
    begun = []

    def images():
        begun.append(True)
        yield from (pixels(k) for k in range(250))

    source = Stream(images)
    kept = [int(source.open(i).decode()[0, 0, 0]) for i in (200, 137, 199, 150)]
    assert kept == [200, 137, 199, 150]
    assert source.open(3).decode().mean() == 3
    assert len(begun) == 1, "the first thousand are held"


def test_going_back_beyond_what_is_kept_begins_anew(monkeypatch):
    monkeypatch.setattr(streams, "HELD", 8)
    begun = []

    def images():
        begun.append(True)
        yield from (pixels(k) for k in range(250))

    source = Stream(images)
    for i in (200, 137, 8, 150):
        assert source.open(i).decode().mean() == i
    assert len(begun) == 2


def test_a_function_is_called_only_where_its_image_is_needed():
    opened = []

    def image(k):
        return lambda: opened.append(k) or pixels(k)

    source = Stream([image(k) for k in range(300)])
    assert source.open(290).decode().mean() == 290 % 256
    assert source.passed(299)
    assert opened == [290]


def test_a_generator_is_read_once_forward(monkeypatch):
    monkeypatch.setattr(streams, "HELD", 8)
    source = Stream((pixels(k) for k in range(200)), name="camera")
    assert source.once
    assert not Stream([]).once
    assert source.open(150).decode().mean() == 150
    assert source.open(100).decode().mean() == 100
    assert source.open(7).decode().mean() == 7, "the first ones are held"
    with pytest.raises(UsageError, match="camera is an iterator, which one process reads, once: workers=0"):
        source.open(60)


def test_a_process_that_was_forked_begins_anew_and_cannot_read_a_generator(monkeypatch):
    again, once = Stream([pixels(k) for k in range(9)]), Stream(pixels(k) for k in range(9))
    for source in (again, once):
        source.open(5)
    now = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: now + 1)
    assert again.open(2).decode().mean() == 2
    with pytest.raises(UsageError, match="one process"):
        once.open(2)


def test_it_travels_to_processes_that_are_not_forks():
    source = Stream([("a", pixels(0)), ("b", pixels(1))], name="camera")
    source.open(1)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.name, keys(copy)) == ("camera", ["a", "b"])


def test_the_end_is_an_exception_and_not_a_missing_image():
    source = Stream([pixels(0)] * 5, name="camera")
    with pytest.raises(StreamEnded, match="camera has only 5 images: there is no number 8"):
        source.open(7)
    assert source.open(4).size == (8, 6)


def test_as_a_collection_it_is_its_first_thousand_images():
    assert len(Stream([pixels(0)] * 40)) == 40
    many = Stream(lambda: (pixels(0) for _ in range(3000)))
    many.open(2900)
    assert len(many) == 1000
    generator = Stream(pixels(k) for k in range(3000))
    assert len(generator) == 1000
    assert generator.open(2900).size == (8, 6)
    assert [generator.open(i).decode()[0, 0, 0] for i in (999, 0, 500)] == [999 % 256, 0, 500 % 256]


@pytest.mark.parametrize(
    "image", [np.zeros((2000, 2000, 3), np.uint8), bytes(12_000_000), Image.new("RGB", (4000, 3000))]
)
def test_no_more_is_held_than_memory_allows(image):
    source = Stream(image for _ in range(200))
    assert 8 <= len(source) <= 12
    assert source.key(199) == "199"
    assert len(source._kept) <= 12 + 64


def test_going_through_costs_no_memory():
    def many():
        yield from ((f"frame {k}", png) for k in range(10**6))

    source = Stream(many)
    source.key(5000)
    tracemalloc.start()
    source.key(20_000)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 100_000


def test_what_has_passed_is_told_by_its_names():
    names = [f"{k}.jpg" for k in range(200)]
    one, same = (Stream([(name, None) for name in names]) for _ in range(2))
    other = Stream([(name, None) for name in [*names[:49], "new.jpg", *names[50:]]])
    assert one.passed(199) == same.passed(199)
    assert one.passed(48) == other.passed(48)
    assert one.passed(49) != other.passed(49)
    assert one.passed(150) != other.passed(150), "what came before counts"
    assert len({one.passed(i) for i in range(200)}) == 200
    with pytest.raises(StreamEnded):
        one.passed(200)


def test_a_folder_in_the_order_in_which_its_files_came(tmp_path):
    arrive(tmp_path, "9.png", "later/0.png", "5.jpg", "4.txt", ".hidden.png")
    source = open_source(f"stream:{tmp_path}")
    assert isinstance(source, Stream)
    assert source.name == tmp_path.name
    assert keys(source) == ["9.png", "later/0.png", "5.jpg"]
    assert source.open(1).decode().shape == (6, 8, 3)


def test_what_comes_later_comes_behind(tmp_path):
    arrive(tmp_path, "b.png", "c.png")
    before = Stream(lambda: streams._arrivals(tmp_path, 0))
    assert keys(before) == ["b.png", "c.png"]
    arrive(tmp_path, "a.png")
    (tmp_path / "outside").mkdir()
    now = open_source(f"stream:{tmp_path}")
    assert keys(now) == ["b.png", "c.png", "a.png"]
    assert now.passed(1) == before.passed(1)


def test_a_folder_is_looked_at_again_when_it_is_exhausted(tmp_path):
    arrive(tmp_path, "b.png", "c.png")
    source = open_source(f"stream:{tmp_path}")
    assert source.key(1) == "c.png"
    arrive(tmp_path, "a.png")
    assert keys(source) == ["b.png", "c.png", "a.png"]


def test_a_file_counts_when_it_has_been_left_alone(tmp_path, monkeypatch):
    arrive(tmp_path, "a.png")
    monkeypatch.setattr(streams, "SETTLED", 60 * 10**9)
    assert keys(open_source(f"stream:{tmp_path}")) == []
    monkeypatch.setattr(streams, "SETTLED", 0)
    assert keys(open_source(f"stream:{tmp_path}")) == ["a.png"]


class Clock:
    """Time that passes while somebody sleeps, during which things happen."""

    def __init__(self, happens):
        self.now, self.happens = 0.0, happens

    def sleep(self, seconds):
        self.now += seconds
        for when in [when for when in self.happens if when <= self.now]:
            self.happens.pop(when)()

    def monotonic(self):
        return self.now


def test_it_waits_for_new_files_and_each_gives_it_more_time(tmp_path, monkeypatch):
    arrive(tmp_path, "a.png")
    clock = Clock({40: lambda: arrive(tmp_path, "b.png"), 80: lambda: arrive(tmp_path, "c.png")})
    monkeypatch.setattr(streams.time, "sleep", clock.sleep)
    monkeypatch.setattr(streams.time, "monotonic", clock.monotonic)
    assert keys(open_source(f"stream:{tmp_path},wait=60")) == ["a.png", "b.png", "c.png"]
    assert 139 <= clock.now <= 142
    assert keys(open_source(f"stream:{tmp_path},wait=0")) == ["a.png", "b.png", "c.png"]
    assert clock.now <= 142


def test_shards_hold_the_images_of_a_folder(tmp_path):
    plain, tarred = tmp_path / "plain", tmp_path / "tarred"
    plain.mkdir()
    tarred.mkdir()
    content = {f"{k}.png": png(k) for k in range(6)}
    for name in content:
        arrive(plain, name, k=int(name[0]))
    more = {"./._0.png": b"", "a/notes.txt": b"no image"}
    shard(tarred / "0.tar", {f"./a/{name}": content[name] for name in list(content)[:4]} | more)
    arrive(tarred, "late.png")
    late = tarred / "1.TAR"
    shard(late, {name: content[name] for name in list(content)[4:]})
    while late.stat().st_ctime_ns <= (tarred / "late.png").stat().st_ctime_ns:
        late.touch()
    one, other = open_source(f"stream:{plain}"), open_source(f"stream:{tarred}")
    shards = [f"0.tar/./a/{k}.png" for k in range(4)], ["1.TAR/4.png", "1.TAR/5.png"]
    assert keys(other) == [*shards[0], "late.png", *shards[1]]
    for k, at in enumerate((0, 1, 2, 3, 5, 6)):
        assert (one.open(k).decode() == other.open(at).decode()).all()
        assert one.open(k).decode().mean() == k


def test_a_damaged_shard_is_one_unreadable_image(tmp_path):
    shard(tmp_path / "whole.tar", {f"{k}.png": png(k) for k in range(4)})
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "whole.tar").unlink()
    (tmp_path / "cut.tar").write_bytes(whole[: 2 * 1024 + 600])  # in the third header
    source = open_source(f"stream:{tmp_path}")
    found = keys(source)
    assert found[0] == "cut.tar/0.png"
    assert found[-1] == "cut.tar"
    with pytest.raises(Unreadable):
        source.open(len(found) - 1)
    (tmp_path / "cut.tar").write_bytes(b"not a tar file" * 100)
    assert keys(open_source(f"stream:{tmp_path}")) == ["cut.tar"]


def test_a_shard_that_leads_backwards_ends(tmp_path):
    shard(tmp_path / "a.tar", {f"{k}.png": png(k) for k in range(3)})
    content = bytearray((tmp_path / "a.tar").read_bytes())
    start = content.index(b"1.png")
    content[start + 124 : start + 136] = (2**96 - 2048).to_bytes(12, "big")  # the size: -2048
    field = content[start : start + 148] + b" " * 8 + content[start + 156 : start + 512]
    content[start + 148 : start + 156] = b"%06o\0 " % sum(field)
    (tmp_path / "a.tar").write_bytes(content)
    assert keys(open_source(f"stream:{tmp_path}")) in (["a.tar/0.png"], ["a.tar/0.png", "a.tar"])  # by Python's version


def test_an_image_that_is_gone_is_unreadable(tmp_path):
    arrive(tmp_path, "a.png", "b.png")
    source = open_source(f"stream:{tmp_path}")
    source.key(1)
    (tmp_path / "b.png").unlink()
    with pytest.raises(Unreadable, match="cannot be read: No such file"):
        source.open(1)


@pytest.mark.parametrize("argument", ["{0}/a.png", "{0},wait=soon", "{0},wait=-3", "{0},wait=1e3"])
def test_malformed_specs(tmp_path, argument):
    arrive(tmp_path, "a.png")
    with pytest.raises(UsageError, match="give a folder and, if wanted, seconds to wait"):
        open_source("stream:" + argument.format(tmp_path))


def test_a_missing_folder_and_none():
    with pytest.raises(UsageError, match="no data at nowhere"):
        open_source("stream:nowhere")
    with pytest.raises(UsageError, match="not opened by its name alone"):
        open_source("stream")


def test_any_iterable_is_a_stream_and_what_is_said_of_it():
    for images in ((pixels(k) for k in range(3)), {"a": 1}.keys(), iter([pixels(0)])):
        source = open_source(images)
        assert isinstance(source, Stream)
        assert describe(source) == "a stream"
        assert inventory(source) == "null\n"
    source = Stream([pixels(0)])
    assert open_source(source) is source


def test_a_plugin_may_be_an_iterable(module_here):
    module_here("def frames(number='2'):\n    return ((str(k), None) for k in range(int(number)))\n")
    assert keys(open_source("mine:frames:3")) == ["0", "1", "2"]
