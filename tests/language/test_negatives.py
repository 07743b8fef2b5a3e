"""Hard negatives of captions: what is asked, what of the answers is kept."""

import csv
import json

import pytest

from glocal.data.clips import ClipSource
from glocal.data.moving import MovingWorld
from glocal.data.sentences import sentences_of
from glocal.errors import UsageError
from glocal.language import Endpoint, write_negatives


def swapped(request):
    """Other verbs, one of them twice, the caption itself, and a sentence of something else."""
    text = request["messages"][0]["content"][-1]["text"]
    caption = json.loads(text)["caption"]
    if caption == "a dog sleeps":
        return "I would rather not."
    subject = caption.rsplit(" ", 1)[0]
    return {"captions": [f"{subject} burns", f" {subject} burns ", caption.upper(), f"{subject} melts", "two cats eat"]}


@pytest.fixture
def endpoint(server, tmp_path):
    server.say = swapped
    return Endpoint(server.url, "words", max_calls=99, images=0, cache=tmp_path / "answers")


def test_they_are_kept_where_they_are_the_caption_with_another_verb(server, endpoint, tmp_path):
    captions, out = tmp_path / "captions.csv", tmp_path / "negatives.csv"
    lines = ["video,caption", "a,the red ball rises", "b,a dog sleeps", "c,the red ball rises", "d,the blue cup falls"]
    captions.write_text("\n".join(lines))
    assert write_negatives(captions, out, endpoint, number=2) == ["a dog sleeps"]
    with open(out, newline="") as table:
        assert [(row["caption"], row["negative"]) for row in csv.DictReader(table)] == [
            ("the red ball rises", "the red ball burns"),
            ("the red ball rises", "the red ball melts"),
            ("the blue cup falls", "the blue cup burns"),
            ("the blue cup falls", "the blue cup melts"),
        ]
    assert len(server.bodies) == 3, "one question for each different caption"
    assert "Write 2 other captions" in json.loads(server.bodies[0])["messages"][0]["content"][0]["text"]
    write_negatives(captions, out, endpoint, number=2)
    assert len(server.bodies) == 4, "only what could not be used is asked again"


def test_training_takes_the_table(endpoint, tmp_path):
    world = MovingWorld(12, frames=3)
    assert isinstance(world, ClipSource)
    captions = tmp_path / "captions.csv"
    pairs = zip(world.groups["video"].names, world.sentences, strict=True)
    captions.write_text("video,caption\n" + "".join(f"{video},{text}\n" for video, text in pairs))
    write_negatives(captions, tmp_path / "negatives.csv", endpoint)
    said = sentences_of(world, str(captions), str(tmp_path / "negatives.csv"))
    for caption, negatives in zip(said.captions, said.negatives, strict=True):
        assert negatives == [f"{caption.rsplit(' ', 1)[0]} {verb}" for verb in ("burns", "melts")]


@pytest.mark.parametrize(
    ("text", "what"), [("video\na\n", "lacks the column caption"), ("caption\n", "has no captions")]
)
def test_a_table_that_does_not_serve_is_refused(text, what, endpoint, tmp_path):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(UsageError, match=what):
        write_negatives(tmp_path / "captions.csv", tmp_path / "negatives.csv", endpoint)
