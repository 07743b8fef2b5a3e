"""Scores by group: a planted gap is found, with its interval; what is too small is not judged."""

import json
import warnings

import numpy as np
import pytest

from glocal.backbones import build_backbone
from glocal.cli import main
from glocal.data import ArraySource, Groups, open_source, split_by
from glocal.data.filelist import read_groups
from glocal.errors import UsageError
from glocal.evaluation import EvalContext, evaluate_encoder, find_task
from glocal.evaluation.groups import PerImage, by_group, classes_listed, difference, group_lines, scores_by_group
from glocal.evaluation.segment import areas, mean_iou
from glocal.pipeline import score_table


def planted(sizes, rates, seed=0):
    """Images of groups, of each the given share right."""
    right = np.concatenate([np.arange(n) < round(rate * n) for n, rate in zip(sizes, rates, strict=True)])
    order = np.random.default_rng(seed).permutation(len(right))
    of = np.repeat(np.arange(len(sizes)), sizes)[order]
    groups = Groups([f"g{k}" for k in range(len(sizes))], of)
    return PerImage.mean("top1", np.arange(len(of)), right[order]), groups


def test_a_planted_gap_is_found_with_its_interval():
    each, groups = planted([400, 300, 200], [0.9, 0.8, 0.6])
    found = by_group(each, groups)
    assert (found["worst"], found["best"]) == ("g2", "g0")
    assert found["gap"] == pytest.approx(0.3)
    assert found["ratio"] == pytest.approx(2 / 3)
    # the normal interval of a difference of two shares
    half = 1.96 * (0.9 * 0.1 / 400 + 0.6 * 0.4 / 200) ** 0.5
    assert found["gap_interval"] == pytest.approx([0.3 - half, 0.3 + half], abs=0.01)
    assert found["groups"]["g1"]["interval"] == pytest.approx([0.8 - 0.0453, 0.8 + 0.0453], abs=0.006)
    assert found["chance"] < 0.15 < found["gap"]
    assert found["ratio_interval"][0] < 2 / 3 < found["ratio_interval"][1]
    assert found == by_group(each, groups)


def test_a_ratio_to_nothing_is_no_infinity():
    with warnings.catch_warnings(action="error"):
        found = by_group(*planted([30, 30], [0.1, 0.04]))
    assert found["ratio_interval"][0] == 0
    assert found["ratio_interval"][1] < 30
    json.dumps(found, allow_nan=False)


def test_equal_groups_are_no_gap_beyond_chance():
    above = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        found = by_group(
            PerImage.mean("top1", np.arange(300), draw.random(300) < 0.7), Groups([*"abcdef"], draw.integers(0, 6, 300))
        )
        above += found["gap"] > found["chance"]
    assert above <= 6  # one in twenty; of 40, more than 6 in one case in 300


def test_a_group_with_too_few_images_is_shown_without_a_verdict():
    each, groups = planted([100, 19, 100], [0.9, 0.0, 0.8])
    found = by_group(each, groups)
    assert found["groups"]["g1"] == {"images": 19, "score": 0.0}
    assert (found["worst"], found["best"]) == ("g2", "g0")
    assert any("g1" in line and "too few for a verdict" in line for line in group_lines("camera", found))
    alone = by_group(*planted([100, 19], [0.9, 0.0]))
    assert "gap" not in alone
    assert "nothing is compared" in group_lines("camera", alone)[-1]


def test_of_many_groups_the_small_ones_are_counted():
    each, groups = planted([5] * 100 + [60, 30], [0.5] * 101 + [0.9])
    lines = group_lines("video", by_group(each, groups))
    assert [line.split()[0] for line in lines[1:3]] == ["g100", "g101"]
    assert lines[3].strip() == "100 groups of fewer than 20 images: too few for a verdict"
    assert len(lines) == 5


def test_groups_that_are_all_small_are_a_line():
    each = PerImage.mean("top1", np.arange(90), np.ones(90))
    (line,) = group_lines("time", by_group(each, Groups([str(n) for n in range(90)], np.arange(90))))
    assert line == "  top1 by time: none of 90 groups has 20 images, nothing is compared"


def test_of_harm_the_highest_share_is_the_worst():
    top = np.array([[0, 1], [2, 3]]).repeat([30, 30], 0)
    each = PerImage.mean("top1", np.arange(60), np.ones(60), top)
    source = ArraySource(np.zeros((60, 8, 8, 3), np.uint8))
    source.groups = {"place": Groups(["a", "b"], np.arange(60) // 30)}
    found = scores_by_group(each, source, [3], seed=0, higher_is_better=True)["harmful"]["place"]
    assert (found["worst"], found["gap"], found["ratio"]) == ("b", 1.0, 0.0)
    assert [found["groups"][name]["score"] for name in "ab"] == [0.0, 1.0]
    with pytest.raises(UsageError, match=r"no class is called 'crim' \(did you mean crime\?\)"):
        classes_listed(["crim"], ["crime", "shop"])


def test_a_list_of_classes_may_be_a_file(tmp_path):
    (tmp_path / "list.txt").write_text("shop\n\ncrime\n")
    assert classes_listed([str(tmp_path / "list.txt")], ["crime", "shop"]) == [1, 0]


def test_mean_iou_is_a_function_of_areas():
    import torch

    counts = torch.tensor([[[3, 1, 0], [2, 4, 0], [0, 0, 0]], [[1, 0, 0], [0, 5, 0], [0, 0, 0]]])
    summed = areas(counts).sum(0)
    assert mean_iou(summed) == pytest.approx((4 / 7 + 9 / 12) / 2)  # the third class is nowhere


@pytest.fixture
def cameras(photos, tmp_path):
    """The photos' own table: odd ones by one camera, even ones by another."""
    files = sorted(file.relative_to(photos) for file in photos.rglob("*.*") if file.suffix != ".csv")
    lines = [f"{file.as_posix()},{('even', 'odd')[int(file.stem) % 2]}," for file in files]
    (tmp_path / "groups.csv").write_text("\n".join(["image,camera,place", *lines]))
    return tmp_path / "groups.csv"


def test_a_table_of_groups(photos, cameras, tmp_path):
    encoder = build_backbone("test_resnet")
    found = evaluate_encoder(encoder, str(photos), tasks=["knn", "rank"], image_size=32, groups=cameras)
    groups = found["knn"]["groups"]["camera"]["groups"]
    assert {name: group["images"] for name, group in groups.items()} == {"even": 5, "odd": 4}
    right = sum(group["images"] * group["score"] for group in groups.values())
    assert right / 9 == pytest.approx(found["knn"]["top1"])
    assert found["knn"]["groups"]["place"]["groups"] == {}
    assert "rank by group" in found["meta"]["unscored"]
    assert "top1 by camera" in score_table(found)
    alone = evaluate_encoder(encoder, str(photos), tasks=["knn"], image_size=32)
    assert "groups" not in alone["knn"]


def test_a_table_may_leave_out_folders_that_are_clear(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text('\ufeffImage,age,camera\n"1.jpg",9,x\nb/2.jpg,10,\n\n')
    found = read_groups(table, ["a/1.jpg", "a/2.jpg", "b/2.jpg", "3.jpg"])
    assert found["age"].names == ["9", "10"]
    assert found["age"].of.tolist() == [0, -1, 1, -1]
    assert found["camera"].of.tolist() == [0, -1, -1, -1]
    assert read_groups(table, ["1.jpg", "a/1.jpg"])["age"].of.tolist() == [0, -1]
    table.write_text("image,age\n2.jpg,9\n")
    with pytest.raises(UsageError, match=r"2.jpg may be a/2.jpg or b/2.jpg; write more of its path"):
        read_groups(table, ["a/1.jpg", "a/2.jpg", "b/2.jpg"])


def test_groups_cost_no_pass_over_the_images(photos, cameras):
    encoder, seen = build_backbone("test_resnet"), []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    options = {"tasks": ["knn", "linear", "lowshot", "retrieve"], "image_size": 32}
    options["options"] = {"lowshot": {"shots": [1], "shares": []}, "retrieve": {"ks": [1]}}
    found = evaluate_encoder(encoder, str(photos), groups=cameras, harmful=["ant"], **options)
    assert sum(seen) == 24
    assert all("camera" in found[name]["groups"] for name in options["tasks"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,camera\nnothing.jpg,a\n", "names none of the 9 test images"),
        ("picture,camera\n00.jpg,a\n", "lacks the column image"),
        ("image\n00.jpg\n", "lacks a named column of groups"),
        ("", "lacks the column image"),
        ("image,camera\n00.jpg,a\n00.jpg,b\n", "00.jpg is there twice"),
    ],
)
def test_a_wrong_table_is_one_line(photos, tmp_path, capsys, monkeypatch, table, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "timm:test_resnet:random", "--data", str(photos), "--tasks", "knn", "--groups", "groups.csv"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert said[-1].startswith("glocal: ")


def test_a_folder_has_a_table_of_its_own(tmp_path):
    from PIL import Image

    for k in range(6):
        Image.new("RGB", (16, 16), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "groups.csv").write_text("file,video\n" + "".join(f"{k}.png,{'ab'[k // 4]}\n" for k in range(6)))
    source = open_source(tmp_path)
    assert source.groups["video"].of.tolist() == [0, 0, 0, 0, 1, 1]
    kept, held = split_by(source, "video", 0.3, 0)
    assert {held.key(i) for i in range(len(held))} in ({"4.png", "5.png"}, {f"{k}.png" for k in range(4)})
    assert len(kept) + len(held) == 6
    (tmp_path / "groups.csv").write_text("who,video\n")
    assert open_source(tmp_path).groups is None
    assert "groups not used" in open_source(tmp_path).note


def test_segmentation_is_scored_by_group(made):
    images, masks = made.blocks(62, 0)
    images[41:] = images[41:, :, ::-1]  # turned, the masks are not
    train = made.Scenes(images[:20], masks[:20], ignore_index=7)
    test = made.Scenes(images[20:], masks[20:], ignore_index=7, broken=(0,))
    context = EvalContext(made.Cells(), train, test, 32)
    scores = find_task("segment")(context, steps=100, lrs=(1.0,))
    assert float(context.each.score(context.each.parts.sum(0))) == pytest.approx(scores["miou"])
    found = by_group(context.each, Groups(["right", "turned"], np.arange(42) // 21))
    assert [found["groups"][name]["images"] for name in ("right", "turned")] == [20, 21]
    assert found["worst"] == "turned"
    assert found["gap"] > 2 * found["chance"]


def test_harm_needs_groups_and_a_classifier(photos, cameras):
    encoder = build_backbone("test_resnet")
    with pytest.raises(UsageError, match="give --groups"):
        evaluate_encoder(encoder, str(photos), tasks=["knn"], image_size=32, harmful=["ant"])
    found = evaluate_encoder(
        encoder, str(photos), tasks=["linear", "knn"], image_size=32, groups=cameras, harmful=["ant"]
    )
    assert set(found["linear"]["harmful"]) == {"camera", "place"}
    assert "harmful" not in found["knn"]
    assert json.loads(json.dumps(found)) == found


def test_a_difference_is_paired_by_image():
    """The closed form of the interval of a mean of paired differences; apart, the same scores would say nothing."""
    draw = np.random.default_rng(0)
    hard = draw.random(500)
    mine, theirs = PerImage.mean("a", np.arange(500), hard + 0.02), PerImage.mean("a", np.arange(500), hard)
    more, (low, high) = difference(mine, theirs)
    assert [more, low, high] == pytest.approx([0.02] * 3)
    noisy = PerImage.mean("a", np.arange(500), hard + 0.02 + 0.1 * draw.normal(size=500))
    more, (low, high) = difference(noisy, theirs)
    apart = noisy.parts[:, 0] - hard
    assert more == pytest.approx(apart.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * apart.std() / 500**0.5, rel=0.15)
    order = draw.permutation(500)
    assert difference(noisy, PerImage.mean("a", order, hard[order])) == difference(noisy, theirs)
    some = PerImage.mean("a", np.arange(100, 500), hard[100:])  # the others could not be read
    assert difference(noisy, some)[0] == pytest.approx(apart[100:].mean())


def test_a_difference_of_what_is_no_mean_over_images():
    """Mean IoU: of two classes, one image each is all wrong for one encoder."""
    right = np.array([[4.0, 0.0, 4.0, 4.0], [0.0, 4.0, 4.0, 4.0]])
    better = PerImage("miou", np.arange(2), np.array([[4.0, 0.0, 4.0, 0.0], [0.0, 4.0, 0.0, 4.0]]), mean_iou)
    assert difference(better, PerImage("miou", np.arange(2), right, mean_iou))[0] == pytest.approx(0.5)
