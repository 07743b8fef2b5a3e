import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from glocal.errors import UsageError
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.copies import EDITS, Edited

ZERO = [0.0] * 4


def pictures(count, seed):
    """Smooth random images, so that a mean colour survives an edit in part."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 3, 3, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((48, 48), Image.Resampling.BICUBIC)) for each in small])


def context(made, tests=12, trains=9):
    return EvalContext(
        made.Cells(), made.ArraySource(pictures(trains, 0)), made.ArraySource(pictures(tests, 1)), 32, seed=3
    )


def test_micro_ap_is_scikit_learns_over_all_pairs(made):
    asked = context(made)
    found = find_task("copies")(asked, images=8, distractors=5)
    references = np.concatenate([asked.extract(asked.test).pooled, asked.extract(asked.train).pooled])
    chosen = np.arange(8) * 12 // 8
    references = references[[*chosen, *(12 + np.arange(5) * 9 // 5)]]
    from glocal.evaluation.split import spread_over

    source, scores, truth, hits = spread_over(asked.test, 8), [], [], []
    for kind in EDITS:
        bank = asked.extract(Edited(source, kind, 32, 3))
        unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (bank.pooled.numpy(), references)]
        scores.append(unit[0] @ unit[1].T)
        truth.append(np.eye(8, 13, dtype=bool))
        hits.append(scores[-1].argmax(1) == np.arange(8))
        assert found[f"recall_{kind}"] == pytest.approx(hits[-1].mean())
    expected = average_precision_score(np.concatenate(truth).ravel(), np.concatenate(scores).ravel())
    assert found["micro_ap"] == pytest.approx(expected, abs=1e-4)
    assert 0.1 < found["micro_ap"] < 0.99
    assert found["recall_at_1"] == pytest.approx(np.mean(hits))
    assert (found["images"], found["distractors"]) == (8, 5)
    assert asked.each.index.tolist() == chosen.tolist()
    assert asked.each.parts[:, 0] == pytest.approx(np.mean(hits, 0))


def test_edits_are_what_they_say():
    image, other = Image.fromarray(pictures(1, 2)[0]), Image.new("RGB", (20, 20), (255, 0, 0))
    pixels = np.asarray(image)
    assert EDITS["crop"](image, ZERO, other).size == (30, 30)  # √.4 of 48
    assert np.array_equal(EDITS["crop"](image, ZERO, other), pixels[:30, :30])
    covered = np.asarray(EDITS["overlay"](image, ZERO, other))
    assert (covered[:14, :14] == (255, 0, 0)).all()
    assert np.array_equal(covered[14:], pixels[14:])
    turned = EDITS["rotation"](image, ZERO, other)
    assert turned.size[0] == pytest.approx(48 * (np.cos(np.radians(10)) + np.sin(np.radians(10))), abs=2)
    assert np.asarray(EDITS["colour"](image, ZERO, other)).mean() < 0.6 * pixels.mean()
    for kind in ("jpeg", "blur"):
        edited = np.asarray(EDITS[kind](image, [0.9] * 4, other))
        assert edited.shape == pixels.shape
        assert 0 < np.abs(edited.astype(int) - pixels).mean() < 20
    assert np.array_equal(image, pixels)


def test_an_edit_is_a_function_of_seed_and_position(made):
    source = made.ArraySource(pictures(6, 0))
    first = [Edited(source, "crop", 32, 0).open(i).decode() for i in range(6)]
    again = Edited(source, "crop", 32, 0)
    assert all(np.array_equal(again.open(i).decode(), first[i]) for i in reversed(range(6)))
    assert len({each.shape for each in first}) > 1
    assert any(not np.array_equal(Edited(source, "crop", 32, 1).open(i).decode(), first[i]) for i in range(6))
    alone = made.ArraySource(pictures(1, 0))
    assert Edited(alone, "overlay", 32, 0).open(0).decode().shape == (48, 48, 3)


def test_unreadable_images_cost_only_themselves(made):
    images = pictures(10, 1)
    test = made.Scenes(images, None, broken=(4,))
    asked = EvalContext(made.Cells(), made.ArraySource(pictures(4, 0)), test, 32)
    found = find_task("copies")(asked, distractors=0)
    assert (found["images"], found["distractors"]) == (9, 0)
    assert 4 not in asked.each.index
    with pytest.raises(UsageError, match="distractors is -1"):
        find_task("copies")(asked, distractors=-1)
