"""Frames of videos: in the order of time, each with its video, from films, folders and lists."""

from __future__ import annotations

import pickle

import av
import numpy as np
import pytest
from PIL import Image

import glocal
from glocal.data import ClipSource, ConcatSource, open_source
from glocal.data.clips import as_clips
from glocal.data.source import fingerprint
from glocal.data.video import VideoSource
from glocal.errors import UsageError
from glocal.evaluation.evaluate import open_splits
from glocal.views import Crop, PixelCache


def film(path, frames, *, fps=10, gop=5, codec="mpeg4", **options):
    """Frame k is grey of the level 8·k, at k / fps seconds; each `gop`th stands alone."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options={"g": str(gop), **options})
        stream.width = stream.height = 32
        stream.pix_fmt, stream.bit_rate = "yuv420p", 10_000_000
        for k in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * k, np.uint8), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def frame(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for k in range(3):
        film(folder / f"{k}.mp4", 31)
    return folder


def level(source, i):
    return round(source.open(i).decode().mean() / 8)


def test_films_give_so_many_frames_a_second(films):
    source = open_source(f"clips:2:{films}")
    assert isinstance(source, ClipSource)
    assert source.clips() == [range(7), range(7, 14), range(14, 21)]
    assert source.time[:7].tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert source.groups["video"].names == ["0.mp4", "1.mp4", "2.mp4"]
    assert [level(source, i) for i in range(7)] == [0, 5, 10, 15, 20, 25, 30]
    assert len(open_source(f"clips:{films / '0.mp4'}")) == 4
    assert len(open_source(as_clips([str(films), str(films)])).clips()) == 6


@pytest.mark.parametrize("gop", [1, 5, 100])
def test_a_frame_is_the_same_in_any_order_of_asking(tmp_path, gop):
    source = pickle.loads(pickle.dumps(VideoSource(film(tmp_path / "f.mp4", 30, gop=gop))))
    other = VideoSource(film(tmp_path / "g.mp4", 30, gop=gop))
    for i in [3, 4, 4, 20, 29, 0, 11, 10, 12]:
        assert level(source, i) == i
        if i % 2:  # another film in between
            assert level(other, 5) == 5


@pytest.mark.parametrize(("name", "codec"), [("f.avi", "mpeg4"), ("f.mp4", "mpeg4"), ("f.mpg", "mpeg2video")])
def test_a_frame_is_the_one_of_its_time_where_the_place_to_begin_at_is_too_late(tmp_path, name, codec):
    source = VideoSource(film(tmp_path / name, 24, fps=25, gop=12, codec=codec, bf="2"))
    assert [level(source, i) for i in [*range(23, -1, -1), *range(24)]] == [*range(23, -1, -1), *range(24)]


def test_frames_in_order_are_decoded_once(tmp_path, monkeypatch):
    source = VideoSource(film(tmp_path / "f.mp4", 30, gop=100))
    decoded = []
    original = VideoSource._frames
    monkeypatch.setattr(
        VideoSource, "_frames", lambda self, at: (decoded.append(at) or each for each in original(self, at))
    )
    for i in range(0, 30, 3):
        source.open(i).decode()
    assert len(decoded) <= 30


def test_broken_films_are_skipped_and_named(films):
    whole = (films / "0.mp4").read_bytes()
    (films / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (films / "junk.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 50)
    source = open_source(f"clips:{films}")
    assert len(source.clips()) == 3
    assert "cut.mp4" in source.note
    assert "junk.mkv" in source.note


def test_a_film_that_takes_too_long_is_given_up(films, monkeypatch):
    monkeypatch.setattr("glocal.data.video.PATIENCE", -1000.0)
    with pytest.raises(UsageError, match="takes too long"):
        open_source(f"clips:{films}")


def test_folders_of_frames_are_videos_in_the_order_of_their_numbers(tmp_path):
    for video, numbers in {"a": (10, 9, 100), "b": (1, 2)}.items():
        for k in numbers:
            frame(tmp_path / video / f"frame{k}.png", k)
    source = open_source(f"clips:4:{tmp_path}")
    assert [source.key(i) for i in range(3)] == ["a/frame9.png", "a/frame10.png", "a/frame100.png"]
    assert source.time.tolist() == [0, 0.25, 0.5, 0, 0.25]
    assert source.classes is None  # they are no labels
    assert source.labels is None
    assert fingerprint(source) not in (None, fingerprint(open_source(str(tmp_path))))


def test_a_list_or_a_table_says_video_and_time(tmp_path):
    for k in range(4):
        frame(tmp_path / f"{'abcd'[k]}.png", k)
    rows = ["a.png,x,2", "b.png,y,0", "c.png,x,.5", "d.png,y,7"]
    (tmp_path / "list.csv").write_text("\n".join(["path,video,time", *rows]))
    (tmp_path / "groups.csv").write_text("\n".join(["image,video,time", *rows]))
    for spec in (f"clips:{tmp_path / 'list.csv'}", f"clips:{tmp_path}"):
        source = open_source(spec)
        assert [source.key(i)[0] for i in range(4)] == ["c", "a", "b", "d"]
        assert source.time.tolist() == [0.5, 2, 0, 7]
        assert source.groups.keys() == {"video"}
        assert source.labels is None
    (tmp_path / "list.csv").write_text("\n".join(["path,video,time", *rows, "a.png,,1"]))
    with pytest.raises(UsageError, match=r"the frame a.png has no video"):
        open_source(f"clips:{tmp_path / 'list.csv'}")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/1.png"], "a has one frame"),
        (["a/x.png", "a/y.png"], "no number in its name, hence no order"),
        (["a/x1.png", "a/y1.png"], "have no order: both are at one time"),
    ],
)
def test_what_has_no_order_is_refused(tmp_path, names, says):
    for name in names:
        frame(tmp_path / name)
    with pytest.raises(UsageError, match=says):
        open_source(f"clips:{tmp_path}")


def test_whole_videos_are_held_out(films):
    splits = open_splits(f"clips:2:{films}")
    sides = [{*side.groups["video"].of.tolist()} for side in (splits.train, splits.test)]
    assert sorted(map(len, sides)) == [1, 2]
    assert not sides[0] & sides[1]


def test_by_video_a_folder_has_a_video_in_each_of_its_folders(tmp_path):
    for video in "abc":
        for k in range(4):
            frame(tmp_path / "images" / video / f"{k}.png", k)
            frame(tmp_path / "masks" / video / f"{k}.png", 0)
    splits = open_splits(str(tmp_path), split_by="video")
    assert len(splits.test) == 4
    assert len({splits.test.key(i).split("/")[1] for i in range(4)}) == 1
    assert splits.test.mask(0).shape == (8, 8)
    with pytest.raises(UsageError, match="no groups 'patient'"):
        open_splits(str(tmp_path), split_by="patient")


def test_without_clips_there_is_nothing_to_be_near(tmp_path):
    for k in range(8):
        frame(tmp_path / f"{k}.png")
    with pytest.raises(UsageError, match="--fps is for folders"):
        as_clips("parts:n=3", 1.0)
    with pytest.raises(UsageError, match="VICRegL does not learn from pairs of frames"):
        glocal.pretrain(str(tmp_path), method="vicregl", backbone="resnet10t", image_size=32, max_gap="1s")
    with pytest.raises(UsageError, match=r"--max-gap 1x is no time"):
        glocal.pretrain(str(tmp_path), max_gap="1x")


def test_collections_one_after_the_other_keep_what_they_are(films, tmp_path):
    for k in range(3):
        frame(tmp_path / "more" / f"{k}.png")
    clips = [open_source(f"clips:{films}"), open_source(f"clips:{tmp_path / 'more'}")]
    both = open_source(clips)
    assert isinstance(both, ClipSource)
    assert [len(clip) for clip in both.clips()] == [4, 4, 4, 3]
    assert isinstance(open_source([clips[0], str(tmp_path / "more")]), ConcatSource)


def test_a_playlist_that_names_other_files_is_no_film(films):
    (films / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n0.mp4\n#EXT-X-ENDLIST\n")
    (films / "more.avi").write_text("ffconcat version 1.0\nfile 0.mp4\n")
    source = open_source(f"clips:{films}")
    assert len(source.clips()) == 3
    assert "list.mp4" in source.note
    assert "more.avi" in source.note


def test_films_are_decoded_once_for_all_epochs(films, tmp_path, monkeypatch):
    source = open_source(f"clips:2:{films}")
    assert source.in_order
    cache = PixelCache(source, [Crop(16, scale=(1, 1))], tmp_path / "cache")
    cache.fill()
    expected = [cache.read(i)[0] for i in range(len(source))]
    monkeypatch.setattr(VideoSource, "_decode", lambda self, i: pytest.fail("decoded again"))
    again = PixelCache(open_source(f"clips:2:{films}"), [Crop(16, scale=(1, 1))], tmp_path / "cache")
    assert all(np.array_equal(again.read(i)[0], pixels) for i, pixels in enumerate(expected))


def test_a_folder_of_films_is_measured_by_video(films):
    splits = open_splits(str(films), split_by="video")
    assert len(splits.test) == 4
    with pytest.raises(UsageError, match=r"all images of 0.mp4 are of one video"):
        open_splits(f"clips:{films / '0.mp4'}", split_by="video")
