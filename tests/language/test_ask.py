"""Temporal Chain of Thought: which frames are shown, which are kept, what of the answer counts."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from seeing import watch

import glocal
from glocal import cli
from glocal.errors import UsageError
from glocal.language import Question, Unusable, ask_frames
from glocal.language.ask import CHOICE, in_bounds, spread, within_budget
from glocal.language.schema import read_answer
from glocal.pipeline.ask import open_frames

EASY = settings(deadline=None, max_examples=30)
SIZES = st.integers(0, 400)
TEXTS = st.text(alphabet='{}[]":,frame_ids0123456789 \n\x1bü', max_size=60)


class Model:
    """In place of an endpoint: a function of the frames that are shown, which are texts here."""

    def __init__(self, choose) -> None:
        self.choose, self.shown = choose, list[list[int]]()
        self.calls, self.max_calls, self.texts = 0, 10**6, list[str]()

    def ask(self, question: Question) -> Any:
        frames = [int(part) for part in question.parts if isinstance(part, bytes)]
        numbers = [int(found[1]) for part in question.parts if (found := re.match(r"Frame (\d+)[: ]", str(part)))]
        assert numbers == list(range(1, len(frames) + 1))
        self.shown.append(frames)
        self.calls, self.texts = self.calls + 1, [part for part in question.parts if isinstance(part, str)]
        if question.schema is CHOICE:
            said = self.choose(frames)
            if isinstance(said, str):
                raise Unusable(said)
            return {"frame_ids": said, "justification": ""}
        return {"answer": "it is", "frame_ids": [2, 1, 2, 99, 0], "justification": "seen"}

    def ask_all(self, question, number):
        for k in range(number):
            try:
                yield self.ask(question(k))
            except Unusable as error:
                yield error


def asked(model, number, **options):
    return ask_frames(model, lambda i: str(i).encode(), number, "What?", **options)


@EASY
@given(SIZES, st.integers(1, 200))
def test_frames_are_spread_evenly(number, most):
    found = spread(number, most)
    assert len(found) == min(number, most)
    assert found == sorted(set(found))
    assert all(0 <= i < number for i in found)
    gaps = np.diff([-1 - (found[0] if found else 0), *found])[1:]
    if number > most > 1:
        assert gaps.max() - gaps.min() <= 1


@EASY
@given(st.lists(st.integers(-(10**20), 10**20) | st.integers(-2, 70), max_size=80), st.integers(0, 64))
def test_numbers_come_out_ascending_once_and_in_bounds(numbers, count):
    frames = list(range(1000, 1000 + count))
    found = in_bounds(numbers, frames)
    assert found == sorted(set(found))
    assert set(found) == {1000 + n - 1 for n in numbers if 1 <= n <= count}


@EASY
@given(
    st.text(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(json.dumps)
)
def test_whatever_a_model_says_is_read_or_refused(text):
    try:
        found = read_answer(text, CHOICE)
    except Unusable:
        return
    assert set(found) == {"frame_ids", "justification"}


@EASY
@given(st.lists(st.integers(-5, 200)), st.text(alphabet="{}[]\"'` \nab", max_size=20))
def test_what_was_said_is_found_in_whatever_prose(numbers, prose):
    said = json.dumps({"justification": "", "frame_ids": numbers})
    wrapped = f"{prose.replace('{', '').replace('}', '')}{said}\n```"
    assert read_answer(wrapped, CHOICE)["frame_ids"] == numbers
    assert read_answer(f"{json.dumps({'frame_ids': [], 'justification': 'no'})}{said}", CHOICE)["frame_ids"] == numbers


def found_of_some() -> st.SearchStrategy[tuple[list[int], int, int]]:
    """Frames that were found, of how many, and the budget."""
    sizes = st.tuples(st.integers(1, 400), st.integers(1, 200))
    return sizes.flatmap(
        lambda size: st.tuples(st.lists(st.integers(0, size[0] - 1), max_size=300), st.just(size[0]), st.just(size[1]))
    )


@EASY
@example(([*range(90)], 100, 120))
@example(([*range(100)], 400, 20))
@given(found_of_some())
def test_the_budget_is_kept(drawn):
    found, number, context = drawn
    kept, common = within_budget(found, number, context), set(spread(number, max(1, context // 4)))
    assert kept == sorted(set(kept))
    assert len(kept) <= context
    assert common <= set(kept) <= common | set(found)
    if len(set(found)) <= context - max(1, context // 4):
        assert set(found) <= set(kept)


@EASY
@given(st.integers(1, 300), st.integers(1, 15), st.integers(1, 40), st.integers(1, 60))
def test_segments_cover_all_and_overlap_nowhere(number, segments, frames, context):
    model = Model(lambda shown: [1])
    reply = asked(model, number, segments=segments, frames=frames, context=context)
    *choices, final = model.shown
    assert final == reply.seen
    assert len(choices) == min(segments, number)
    assert max(map(len, choices)) <= frames
    every = [i for shown in choices for i in shown]
    assert every == sorted(set(every))
    if frames * segments >= number + segments * frames // 2 or frames >= number:
        assert len(every) <= number
    if frames >= number:
        assert every == list(range(number))
    assert set(reply.seen) == set(within_budget([shown[0] for shown in choices], number, context))


def test_a_short_clip_is_found_where_even_frames_miss_it():
    clip = {801, 802}
    model = Model(lambda shown: [n for n, i in enumerate(shown, start=1) if i in clip])
    dynamic = asked(model, 1000, segments=10, frames=100, context=8)
    assert clip <= set(dynamic.seen)
    assert len(dynamic.seen) == 4
    assert dynamic.frames == dynamic.seen[:2]  # 2, 1, 2, 99 and 0, as the answer names them
    assert not clip & set(asked(model, 1000, strategy="uniform", context=8).seen)
    assert not clip & set(asked(model, 1000, strategy="single", frames=100, context=8).seen)


def test_what_cannot_be_used_costs_no_frame():
    reply = asked(Model(lambda shown: "prose" if 2 in shown else []), 40, segments=2, frames=5, context=100)
    assert set(spread(20, 5)) <= set(reply.seen)
    assert reply.notes == ("frames 3 to 19 are all taken: prose",)


def test_zooming_in_ends_at_the_frame():
    model = Model(lambda shown: [min(range(len(shown)), key=lambda k: abs(shown[k] - 777)) + 1])
    reply = asked(model, 1000, strategy="hierarchical", frames=10, context=8)
    assert 777 in reply.seen
    assert 3 <= len(model.shown) <= 6
    widths = [shown[-1] - shown[0] for shown in model.shown[:-1]]
    assert widths == sorted(widths, reverse=True)
    assert asked(Model(lambda shown: []), 50, strategy="hierarchical", frames=5, context=4).seen == [25]
    said = [[5], []]
    forgetful = asked(Model(lambda shown: said.pop(0)), 1000, strategy="hierarchical", frames=10, context=4)
    assert spread(1000, 10)[4] in forgetful.seen, "what was chosen before stays"


def test_the_nearest_frames_are_shown_in_the_order_of_time():
    model = Model(lambda shown: [])
    assert asked(model, 50, strategy="embedding", ranked=lambda: [40, 7, 30, 2], context=3).seen == [7, 30, 40]


@EASY
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 10**6))
def test_zooming_in_has_an_end(number, frames, seed):
    draw = np.random.default_rng(seed)
    model = Model(lambda shown: draw.integers(1, len(shown) + 1, 2).tolist())
    asked(model, number, strategy="hierarchical", frames=frames, context=4)
    assert len(model.shown) <= number + 2


def test_the_last_call_is_for_the_answer():
    model = Model(lambda shown: [1])
    model.max_calls = 3
    assert asked(model, 1000, strategy="hierarchical", frames=4, context=8).answer == "it is"
    assert len(model.shown) == 3


def test_the_model_is_told_when_a_frame_is_shown():
    model = Model(lambda shown: [1])
    asked(model, 9, strategy="uniform", context=2, when=lambda i: f"0:00:0{i}.500")
    assert model.texts[:2] == ["Frame 1 (0:00:02.500):", "Frame 2 (0:00:06.500):"]


def test_segments_are_no_more_than_frames(server, frames):
    server.say = watch
    options = {"endpoint": server.url, "model": "eye", "segments": 20, "context": 4, "max_calls": 13}
    assert glocal.ask(str(frames), "When is it white?", **options)["frames"] == ["f10.png"]


def test_frames_come_in_the_order_of_their_numbers(frames):
    source = open_frames(str(frames))
    assert [source.key(i) for i in range(12)] == [f"f{k}.png" for k in range(12)]


def test_an_answer_with_its_frames_and_a_page(server, frames, tmp_path, capsys):
    server.say = watch
    options = {"endpoint": server.url, "model": "eye", "segments": 3, "frames": 4, "context": 4}
    page = tmp_path / "answer.html"
    reply = glocal.ask(str(frames), "When is it <white>?", page=str(page), **options)
    assert reply["answer"] == "A flash."
    assert reply["frames"] == ["f10.png"]
    assert len(reply["seen"]) <= 4
    assert "4 calls, 0 answers from before, 400 tokens read and 28 written" in capsys.readouterr().err
    html = page.read_text()
    assert "&lt;b&gt;white&lt;/b&gt;" in html
    assert "When is it &lt;white&gt;?" in html
    assert "<b>" not in html
    assert glocal.ask(str(frames), "When is it <white>?", **options) == reply
    assert len(server.bodies) == 4


@pytest.mark.parametrize("captions", [False, True])
def test_frames_nearest_to_an_example_or_by_their_captions(server, frames, tmp_path, captions):
    def say(request):
        if "input" not in request:
            return watch(request)
        rows = [{"index": i, "embedding": [float("white" in t), 0.1]} for i, t in enumerate(request["input"])]
        return 200, json.dumps({"data": rows}).encode(), {}

    server.say = say
    video, more = str(frames), {"example": str(frames / "f10.png"), "encoder": "timm:test_resnet:random"}
    if captions:
        lines = [f"video/f{k}.png,{'a white flash' if k == 10 else 'dark'}" for k in range(12)]
        (tmp_path / "list.csv").write_text("\n".join(["path,caption", *lines]))
        video, more = str(tmp_path / "list.csv"), {}
    options = {"endpoint": server.url, "model": "eye", "strategy": "embedding", "context": 1, **more}
    reply = glocal.ask(video, "When is it white?", image_size=32, **options)
    assert [name.rpartition("/")[2] for name in reply["seen"]] == ["f10.png"]
    if captions:
        with pytest.raises(UsageError, match=r"--strategy embedding takes 2 calls, of --max-calls 1"):
            glocal.ask(video, "When is it white?", **options, max_calls=1)
        with pytest.raises(UsageError, match=r"up to 1 images and the captions of 12 frames would be sent to it"):
            glocal.ask(video, "When is it white?", **options | {"endpoint": "https://models.example.org/v1"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "dinamic"}, r"no --strategy dinamic \(did you mean dynamic\?\)"),
        ({"segments": 0}, "at least 1 each"),
        ({"segments": 9, "max_calls": 9}, "--segments 9 take 10 calls, of --max-calls 9"),
        ({"strategy": "single", "max_calls": 1}, "--strategy single takes 2 calls, of --max-calls 1"),
        ({"example": "none.jpg"}, "go together, with --strategy embedding"),
        ({"strategy": "embedding", "example": "none.jpg"}, "go together, with --strategy embedding"),
        ({"timeout": 0}, "--timeout 0: seconds for an answer"),
        ({"strategy": "embedding"}, "frames with captions, or --example"),
        ({"question": "  "}, "ask something"),
    ],
)
def test_what_cannot_be_asked(server, frames, options, said):
    with pytest.raises(UsageError, match=said):
        glocal.ask(**{"video": str(frames), "question": "What?", "endpoint": server.url, "model": "m"} | options)
    assert not server.bodies


def test_as_a_command(server, frames, capsys):
    server.say = watch
    words = ["--endpoint", server.url, "--model", "eye", "--segments", "3", "--frames", "4", "--context", "8"]
    cli.main(["ask", str(frames), "When is it white?", *words])
    assert capsys.readouterr().out == "A flash.\nwhy: <b>white</b>\nframes: f10.png\n"
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", str(frames), "When is it white?", *words[2:], "--endpoint", "https://example.org/v1"])
    assert ended.value.code == 2
    assert "up to 12 images and the question would be sent to it" in capsys.readouterr().err


def test_an_answer_in_prose_and_a_frame_that_is_broken(server, frames):
    options = {"endpoint": server.url, "model": "m", "strategy": "uniform"}
    server.say = lambda request: "It \x1b[2J flashes."
    with pytest.raises(UsageError, match=r"cannot be used, which is prose in place of JSON: 'It \[2J flashes\.'"):
        glocal.ask(str(frames), "What?", **options)
    (frames / "f3.png").write_bytes((frames / "f3.png").read_bytes()[:60])
    with pytest.raises(UsageError, match=r"frame f3\.png cannot be read"):
        glocal.ask(str(frames), "What?", **options)


def test_a_film(server, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(40):
            pixels = np.full((48, 64, 3), 255 if k == 31 else 2 * k, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
    source = open_frames(str(tmp_path / "film.mp4"))
    assert len(source) == 40
    assert source.key(31) == "0:00:03.100"
    assert [round(float(source.open(k).decode().mean()) / 2) for k in (5, 30, 12)] == pytest.approx([5, 30, 12], abs=3)
    server.say = watch
    options = {"endpoint": server.url, "model": "eye", "segments": 4, "frames": 10, "context": 4}
    assert glocal.ask(str(tmp_path / "film.mp4"), "When?", **options)["frames"] == ["0:00:03.100"]
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(UsageError, match="cannot be read as a film"):
        open_frames(str(tmp_path / "broken.mp4"))
