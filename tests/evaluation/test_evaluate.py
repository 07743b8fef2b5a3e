import json

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.errors import UsageError
from glocal.evaluation import Pixels, all_tasks, evaluate_encoder, find_task, open_splits, possible_tasks
from glocal.evaluation.registry import Task


def write(folder, images, labels):
    from PIL import Image

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        where = folder / "abc"[label]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(where / f"{i:03d}.png")


@pytest.fixture
def colours(tmp_path, made):
    write(tmp_path / "train", *made.coloured(30, 0))
    write(tmp_path / "val", *made.coloured(6, 1))
    write(tmp_path / "test", *made.coloured(12, 2))
    return tmp_path


def test_tasks_in_one_call(colours, made):
    options = {"linear": {"epochs": 5}, "knn": {"k": 3}}
    scores = evaluate_encoder(made.Cells(), colours, tasks=["knn", "linear", "rank"], options=options)
    assert scores["knn"] == {"top1": 1.0, "k": 3, "temperature": 0.07}
    assert scores["linear"]["top1"] == 1.0
    assert 1 <= scores["rank"]["rank_pooled"] <= 6
    meta = scores["meta"]
    assert (meta["encoder"], meta["split"], meta["image_size"]) == ("cells", "test", 32)
    assert (meta["n_train"], meta["n_test"], meta["skipped"]) == (30, 12, [])
    assert set(meta["seconds"]) == {"knn", "linear", "rank"}
    assert json.loads(json.dumps(scores)) == scores


def test_classes_that_training_images_lack_cannot_be_asked_for(tmp_path, made):
    images, labels = made.coloured(12, 0)
    write(tmp_path / "train", images, labels)
    for i, image in enumerate(images[:4]):
        (tmp_path / "test" / "dd").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "test" / "dd" / f"{i}.png")
    with pytest.raises(UsageError, match=r"task 'knn': no test image of .* has a class that training images have"):
        evaluate_encoder(made.Cells(), tmp_path, tasks=["knn"])
    assert evaluate_encoder(made.Cells(), tmp_path, tasks=["rank"])["rank"]


def test_a_limit_takes_the_same_few_images_each_time(colours, made):
    scores = [evaluate_encoder(made.Cells(), colours, tasks=["knn"], limit=10) for _ in range(2)]
    assert (scores[0]["meta"]["n_train"], scores[0]["meta"]["n_test"]) == (10, 10)
    assert scores[0]["meta"]["split"] == "test, 10 images of each at most"
    assert scores[0]["knn"] == scores[1]["knn"]
    assert evaluate_encoder(made.Cells(), colours, tasks=["knn"], limit=30)["meta"]["split"] == "test"


def test_knn_and_linear_share_their_features(colours, made):
    calls = []
    encoder = made.Cells()
    encoder.register_forward_hook(lambda *_: calls.append(1))
    evaluate_encoder(encoder, colours, tasks=["knn", "linear"], options={"linear": {"epochs": 1}})
    assert len(calls) == 2  # the training batch and the test batch


def test_val_is_the_test_only_where_there_is_no_test(colours):
    import shutil

    assert len(open_splits(colours).test) == 12
    shutil.rmtree(colours / "test")
    splits = open_splits(colours)
    assert len(splits.test) == 6
    assert "val" in splits.split


def test_without_splits_a_stratified_fifth_is_held_out(tmp_path, made):
    write(tmp_path, *made.coloured(30, 0))
    splits = open_splits(tmp_path, seed=3)
    assert splits.split == "held-out fifth (seed 3)"
    assert np.bincount(splits.test.labels).tolist() == [2, 2, 2]
    keys = [{source.key(i) for i in range(len(source))} for source in (splits.train, splits.test)]
    assert len(keys[0]) + len(keys[1]) == 30
    assert not keys[0] & keys[1]


def test_a_task_that_the_data_cannot_serve_says_what_it_needs(colours, made):
    with pytest.raises(UsageError, match="'segment' needs segmentation masks"):
        evaluate_encoder(made.Cells(), colours, tasks=["segment"])
    plain = made.ArraySource(made.coloured(10, 0)[0])
    with pytest.raises(UsageError, match="'knn' needs labels"):
        evaluate_encoder(made.Cells(), plain, tasks=["knn"])
    assert possible_tasks(plain) == ["correspond", "rank", "stability"]
    assert possible_tasks(colours) == ["correspond", "knn", "linear", "rank", "stability"]


def test_unknown_names_are_answered_with_the_nearest(colours, made):
    with pytest.raises(UsageError, match="did you mean linear"):
        evaluate_encoder(made.Cells(), colours, tasks=["liner"])
    with pytest.raises(UsageError, match="options given for 'linear'"):
        evaluate_encoder(made.Cells(), colours, tasks=["knn"], options={"linear": {}})
    with pytest.raises(UsageError, match=r"task 'knn' has no option 'q'.*k"):
        evaluate_encoder(made.Cells(), colours, tasks=["knn"], options={"knn": {"q": 3}})


def test_no_labels_still_gives_an_answer(made):
    plain = made.ArraySource(made.coloured(40, 0)[0])
    scores = evaluate_encoder(made.Cells(), plain, tasks=possible_tasks(plain))
    assert scores["stability"]["same"] > scores["stability"]["other"]
    assert 0 <= scores["correspond"]["within_1_cell"] <= 1
    assert scores["rank"]["similarity_within"] > scores["rank"]["similarity_between"]


def test_every_task_says_what_it_does_in_one_line():
    tasks = all_tasks()
    assert set(tasks) >= {"knn", "linear", "segment", "correspond", "rank", "stability"}
    for task in tasks.values():
        assert isinstance(task, Task)
        assert 20 < len(task.what) < 125
    assert find_task("knn") is tasks["knn"]


def test_an_unregistered_task_goes_by_its_place(module_here, colours, made):
    module_here(
        "from glocal.evaluation import task\n\n\n"
        '@task(needs=set())\ndef width(context, *, times=1):\n    return {"px": times * context.image_size}\n\n\n'
        "def bare(context):\n    return {}\n"
    )
    options = {"tasks": ["mine:width"], "image_size": 64, "options": {"mine:width": {"times": 2}}}
    assert evaluate_encoder(made.Cells(), colours, **options)["mine:width"] == {"px": 128}
    with pytest.raises(UsageError, match=r"task 'mine:bare': `bare` lacks @task\(needs=...\)"):
        find_task("mine:bare")


def test_pixels_are_the_shrunken_image_and_the_patches():
    x = torch.randn(2, 3, 96, 100)
    encoder = Pixels(size=16, stride=16)
    features = encoder(x)
    assert features.pooled.shape == (2, encoder.dim)
    torch.testing.assert_close(features.pooled.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert features.dense.shape == (2, 192, 6, 6)
    patch = torch.nn.functional.avg_pool2d(x[1, :, 16:32, 48:64], 2)
    torch.testing.assert_close(features.dense[1, :, 1, 3], patch.flatten())
    assert features.positions.reshape(6, 6, 2)[1, 3].tolist() == [56.0, 24.0]
    small = Pixels(stride=4)(x)
    torch.testing.assert_close(small.dense[0, :, 2, 1], x[0, :, 8:12, 4:8].flatten())


def test_pooled_pixels_are_the_standardised_image():
    x = torch.from_numpy(np.random.default_rng(0).normal(2, 3, size=(2, 3, 8, 8))).float()
    flat = x.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    torch.testing.assert_close(Pixels(size=8, stride=4)(x).pooled, expected, atol=1e-4, rtol=1e-4)
    encoder = Pixels()
    assert (encoder.dim, encoder.stride, encoder.image_size) == (768, 16, 96)
    assert encoder(torch.zeros(1, 3, 96, 96)).pooled.shape == (1, 768)


def test_pixels_ignore_brightness_and_contrast():
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(Pixels()(x).pooled, Pixels()(2 * x + 1).pooled, atol=1e-3, rtol=1e-3)


def test_clothing_pixels_beat_chance(clothing):
    from glocal.data import open_source
    from glocal.evaluation import EvalContext
    from glocal.evaluation.split import spread_over

    train, test = (spread_over(open_source(clothing, split=s), n) for s, n in (("train", 300), ("test", 100)))
    context = EvalContext(Pixels(), train, test, 32)
    assert find_task("knn")(context)["top1"] > 0.2
    assert find_task("linear")(context, epochs=5)["top1"] > 0.2


def test_a_task_that_cannot_be_scored_costs_no_other_its_score(colours, made):
    found = evaluate_encoder(made.Cells(), colours, tasks=["segment", "knn"])
    assert found["knn"]["top1"] == 1.0
    assert "segment" not in found
    assert "needs segmentation masks" in found["meta"]["unscored"]["segment"]


def test_where_each_class_has_one_image_what_needs_no_labels_is_scored(tmp_path, made):
    images, _ = made.coloured(10, 0)
    for i, image in enumerate(images):
        (tmp_path / str(i)).mkdir()
        Image.fromarray(image).save(tmp_path / str(i) / "only.png")
    found = evaluate_encoder(made.Cells(), tmp_path, tasks=possible_tasks(tmp_path))
    assert found["meta"]["n_test"] == 2
    assert "rank" in found


def test_what_is_wrong_with_a_task_is_told_to_its_author(module_here, colours, made):
    module_here(
        "from glocal.evaluation import task\n\n\n@task()\ndef number(context):\n    return 3.0\n\n\n"
        '@task(needs={"label"})\ndef typo(context):\n    return {}\n'
    )
    with pytest.raises(UsageError, match="`number` returns float, not a dict of scores"):
        evaluate_encoder(made.Cells(), colours, tasks=["mine:number"])
    with pytest.raises(UsageError, match=r"needs label \(did you mean labels\?\)"):
        evaluate_encoder(made.Cells(), colours, tasks=["mine:typo"])
