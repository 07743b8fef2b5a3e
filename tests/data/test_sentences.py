"""What is said of clips, and what is wrong with it."""

from collections import Counter

import pytest

from glocal.data.moving import MovingWorld
from glocal.data.sentences import Sentences, sentences_of
from glocal.errors import UsageError


@pytest.fixture
def world():
    return MovingWorld(4, frames=2)


def table(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


NAMES = [f"train/{k:05d}" for k in range(4)]
SAID = ["video,caption,verb", *(f'{n},"a cat {v}, alone",{v}' for n, v in zip(NAMES, "runs sits runs eats".split()))]  # noqa: SIM905, B905


def test_a_table_says_it_and_other_verbs_make_the_negatives(world, tmp_path):
    said = sentences_of(world, table(tmp_path / "said.csv", *SAID), None)
    assert said.captions[1] == "a cat sits, alone"
    assert said.verbs == ["runs", "sits", "runs", "eats"]
    assert said.negatives[1] == ["a cat eats, alone", "a cat runs, alone"]


def test_the_collection_itself_may_say_it(world):
    said = sentences_of(world, None, None)
    assert said.captions == world.sentences
    assert all(verb in caption for verb, caption in zip(said.verbs, said.captions, strict=True))


def test_a_table_of_negatives(world, tmp_path):
    made = ("caption,negative", '"a cat runs, alone","a cat walks, alone"', '"a cat runs, alone","a cat runs, alone"')
    said = sentences_of(world, table(tmp_path / "s.csv", *SAID), table(tmp_path / "n.csv", *made))
    assert said.negatives == [["a cat walks, alone"], [], ["a cat walks, alone"], []]


def test_calibrated_no_verb_is_more_often_wrong_than_right():
    captions = ["a ball rises"] * 6 + ["a ball sinks"] * 2
    negatives = [["a ball sinks", "a ball flies"]] * 6 + [["a ball rises", "a ball flies"]] * 2
    said = Sentences(captions, [caption.split()[-1] for caption in captions], negatives)
    wrong = Counter(text.split()[-1] for texts in said.calibrated().negatives for text in texts)
    assert wrong == {"sinks": 2, "rises": 2}
    drawn = {tuple(map(tuple, said.calibrated(seed).negatives)) for seed in range(8)}
    assert len(drawn) > 1
    assert said.calibrated(3) == said.calibrated(3)


def test_only_the_verb_is_replaced_and_not_a_part_of_other_words(world, tmp_path):
    said = [("a sitter sits on a sit-up mat and sits", "sits"), ("a cat stands up", "stands up"),
            ("a man in running shoes stands up", "stands up"), ("a dog is running", "running")]  # fmt: skip
    rows = [SAID[0], *(f"{name},{caption},{verb}" for name, (caption, verb) in zip(NAMES, said, strict=True))]
    swapped = sentences_of(world, table(tmp_path / "s.csv", *rows), None).negatives[0]
    assert swapped == ["a sitter running on a sit-up mat and sits", "a sitter stands up on a sit-up mat and sits"]
    rows[1] = f"{NAMES[0]},a sitar player sits,sit"
    with pytest.raises(UsageError, match="the verb 'sit' is not in the caption 'a sitar player sits'"):
        sentences_of(world, table(tmp_path / "s.csv", *rows), None)


def test_calibration_counts_the_verb_that_is_wrong():
    """Not one that the caption has too, and none that is no caption's."""
    shoes = "a man in running shoes"
    captions = [f"{shoes} stands", "a dog is running", "a dog is running", "a cat sits"]
    wrong = [[f"{shoes} jumps", f"{shoes} sits"], ["a dog is sits"], ["a dog is stands"], []]
    said = Sentences(captions, ["stands", "running", "running", "sits"], wrong)
    kept = Counter(text for texts in said.calibrated().negatives for text in texts)
    assert f"{shoes} jumps" not in kept
    assert kept["a dog is stands"] == 1
    assert kept[f"{shoes} sits"] + kept["a dog is sits"] == 1
    free = Sentences(["it runs", "it sits"], ["", ""], [["it sits"], ["it runs"]])
    assert free.calibrated().negatives == [[], []], "no verb is known"


def test_which_of_many_negatives_are_used_is_drawn():
    verbs = [f"verb{k}" for k in range(8)]
    captions = [f"it {verb}" for verb in verbs] * 10
    said = Sentences(captions, verbs * 10, [[f"it {v}" for v in verbs if f"it {v}" != c] for c in captions])
    rows = said.rows(3)
    counts = Counter(text for row in rows for text in row[1:-1])
    assert set(counts) == {f"it {verb}" for verb in verbs}
    assert min(counts.values()) > 15, "30 each, but for chance"
    assert all(len({*row[:-1]}) == 4 for row in rows)
    assert said.rows(3) == rows
    assert said.rows(9)[0][-3:] == ["", "", "verb0"]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["video,text", "a,b"], "lacks the column caption"),
        (["video,caption", "train/00009,it runs"], "names the video train/00009, which is not there"),
        (SAID[:3], "says nothing of 2 videos, the first being train/00002"),
        ([*SAID, SAID[1]], "says something of a video twice"),
        ([*SAID[:4], f"{NAMES[3]},it sleeps,wakes"], "the verb 'wakes' is not in the caption 'it sleeps'"),
        ([*SAID[:4], f"{NAMES[3]},it sleeps,"], "give --negatives FILE, or the column verb"),
        ([*SAID[:4], f"{NAMES[3]},,"], "1 clips have no caption, the first being train/00003"),
    ],
)
def test_mistakes_are_one_clear_line(rows, what, world, tmp_path):
    with pytest.raises(UsageError, match=what):
        sentences_of(world, table(tmp_path / "said.csv", *rows), None)


def test_negatives_of_no_caption_and_clips_of_which_nothing_is_said(world, tmp_path):
    with pytest.raises(UsageError, match="negatives of 'a dog', which is no caption"):
        sentences_of(world, None, table(tmp_path / "n.csv", "caption,negative", "a dog,a cat"))
    world.captions = None
    with pytest.raises(UsageError, match="give --captions FILE, with video,caption"):
        sentences_of(world, None, None)
