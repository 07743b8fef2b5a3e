"""The world of moving things: what is drawn is what is said."""

import numpy as np
import pytest

from glocal.data import open_source
from glocal.data.moving import COLORS, NOUNS, VERBS, MovingWorld
from glocal.errors import UsageError


@pytest.fixture(scope="module")
def world():
    return MovingWorld(160, frames=5, size=48)


def outline(world, clip):
    """Area and centre (x, y) of what stands before the background in each frame of a clip, pixels."""
    frames = [world.open(i).decode().astype(int) for i in world.clips()[clip]]
    there = [np.abs(frame - frame[0, 0]).sum(-1) > 30 for frame in frames]
    places = [np.argwhere(mask)[:, ::-1] for mask in there]
    return np.array([len(p) for p in places]), np.stack([p.mean(0) for p in places])


def test_things_do_what_is_said_of_them(world):
    along = {"slides left": (-1, 0), "slides right": (1, 0), "rises": (0, -1), "sinks": (0, 1)}
    seen = set()
    for clip in range(48):
        area, centre = outline(world, clip)
        verb = VERBS[world.verb[clip]]
        moved = centre[-1] - centre[0]
        if verb in along:
            assert moved @ along[verb] > 4, (clip, verb)
        elif verb in ("grows", "shrinks"):
            assert (area[-1] > 1.5 * area[0]) == (verb == "grows"), (clip, verb)
            assert (area[0] > 1.5 * area[-1]) == (verb == "shrinks"), (clip, verb)
        else:
            assert np.abs(moved).max() < 3
            assert 0.7 < area[-1] / area[0] < 1.4
        seen.add(verb)
    assert seen == set(VERBS)


def test_turns_are_to_the_side_that_is_said(world):
    for verb, sign in (("turns right", 1), ("turns left", -1)):
        bars = [c for c in range(160) if VERBS[world.verb[c]] == verb and NOUNS[world.noun[c]].endswith("bar")]
        for clip in bars:
            frames = [world.open(i).decode().astype(int) for i in world.clips()[clip]]
            angles = []
            for frame in frames:
                place = np.argwhere(np.abs(frame - frame[0, 0]).sum(-1) > 30)[:, ::-1].astype(float)
                (_, _), axes = np.linalg.eigh(np.cov(place.T))
                angles.append(np.arctan2(axes[1, 1], axes[0, 1]))
            steps = (np.diff(angles) + np.pi / 2) % np.pi - np.pi / 2  # a bar has no head
            assert (np.sign(steps) == sign).mean() > 0.7, (clip, verb)  # clockwise on the screen is to the right


def test_a_middle_frame_says_nothing_of_the_verb_and_still_clips_are_it(world):
    still = MovingWorld(160, frames=5, size=48, still=True)
    for clip in (0, 7):
        middle = world.open(world.clips()[clip][2]).decode()
        for i in still.clips()[clip]:
            np.testing.assert_array_equal(still.open(i).decode(), middle)
    assert still.sentences == world.sentences


def test_sentences_colours_and_splits(world):
    assert world.sentences[0] == f"a {NOUNS[0]} {VERBS[world.verb[0]]}"
    assert world.captions[5] == world.sentences[1]
    assert len(NOUNS) == 16
    bright = np.array(COLORS["red"]).argmax()
    frame = world.open(2).decode().astype(int)
    thing = frame[np.abs(frame - frame[0, 0]).sum(-1) > 60]
    assert thing.mean(0).argmax() == bright
    other = open_source("moving:n=160,frames=5,size=48", split="test")
    assert (other.verb != world.verb).any()
    with pytest.raises(UsageError, match="moving:noise=1: unknown option 'noise'; there are n, frames"):
        open_source("moving:noise=1")
    with pytest.raises(UsageError, match="still=perhaps is not true or false"):
        open_source("moving:still=perhaps")
