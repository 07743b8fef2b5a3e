"""What replications measure and compare beside the library's own: probes, measures, variants, folds, evidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.backbones import build_backbone
from glocal.data import ArraySource
from glocal.evaluation import EvalContext
from glocal.evaluation.extract import FeatureBank
from glocal.evaluation.groups import PerImage
from glocal.run import Run
from replications import variants
from replications.data import FOLDS, listed, place
from replications.evidence import checks, code_lines
from replications.measures import rising_nmi
from replications.probes import covered, few, frequent, jaccard


def test_few_labels_are_few():
    """Of two classes, far apart but for a twentieth of each that lies among the other: one label a class is enough."""
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    side = np.where(np.arange(2000) % 40 < 2, 1 - labels, labels)
    x = torch.from_numpy((rng.normal(size=(2000, 4)) + 40 * side[:, None]).astype(np.float32))
    bank = FeatureBank(x, torch.arange(2000), [], torch.from_numpy(labels))
    context = EvalContext(torch.nn.Identity(), None, None, 32, _banks={"train": bank, "test": bank})
    found = few(context, labelled=(50,))
    assert found == {"50": pytest.approx(0.95)}


def test_the_gap_is_between_frequent_and_rare_classes(monkeypatch):
    labels = np.arange(600) % 6
    context = EvalContext(torch.nn.Identity(), None, ArraySource(np.zeros((600, 8, 8, 3), np.uint8), labels=labels), 32)
    right = np.arange(600) % 10 < np.where(labels < 3, 9, 6)
    said = PerImage.mean("top1", np.arange(600)[::-1], right[::-1])
    monkeypatch.setattr(
        "replications.probes.find_task", lambda name: lambda context, epochs: setattr(context, "each", said)
    )
    assert frequent(context) == {
        "gap": pytest.approx(right[labels < 3].mean() - (r := right[labels > 2].mean())),
        "rare": r,
    }


def test_overlap_with_objects():
    weights = torch.tensor([[0.5, 0.1], [0.3, 0.1]])
    kept = covered(weights, 0.6)
    assert kept.tolist() == [[True, False], [True, False]]
    truth = torch.zeros(4, 4, dtype=torch.bool)
    truth[:, :3] = True
    assert jaccard(kept, truth) == pytest.approx(8 / 12)


def test_agreement_of_clusterings_rises_by_what_the_log_says(tmp_path):
    lines = [{"step": 1}, *({"step": k, "clusters/nmi": nmi} for k, nmi in ((5, 0.4), (9, 0.3), (13, 0.55)))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert rising_nmi(Run(tmp_path)) == {"nmi rise": pytest.approx(0.15)}


def test_without_its_stop_gradient_simsiam_moves_its_targets():
    for cls, moves in ((variants.SimSiam, False), (variants.NoStopGradient, True)):
        method = cls(build_backbone("test_resnet"), image_size=32, projector=(8, 4), predictor=(8, 4))
        targets = method.target(method.heads, [torch.ones(4, method.encoder.dim).normal_()])
        assert targets[0].requires_grad == moves


@pytest.mark.parametrize(("cls", "silent"), [(variants.PositionsOnly, "head"), (variants.ClustersOnly, "where")])
def test_loca_learns_from_one_of_its_pieces(cls, silent):
    from glocal.data import PartsWorld
    from glocal.views import Appearance, ViewLoader

    backbone = build_backbone("replications.networks:vit_w64_p8", image_size=32, pool="mean")
    method = cls(backbone, image_size=32, small_crops=1, small_size=16, clusters=8, hidden=8, bottleneck=4)
    loader = ViewLoader(PartsWorld(8, 32), method.recipe, batch_size=8, seed=0)
    batch = Appearance(method.recipe, backbone.mean, backbone.std, 0)(
        next(iter(loader.epoch(0))), 0, torch.device("cpu")
    )
    method(batch).total.backward()
    moved = {
        name: any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(method, name).parameters())
        for name in ("head", "where", "encoder")
    }
    assert moved == {"head": True, "where": True, "encoder": True} | {silent: False}


@pytest.fixture
def collections(tmp_path):
    """Two classes of seven and six photographs over two splits; frames with masks; CIFAR-10 and the others, tiny."""
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for split, numbers in (("train", range(9)), ("test", range(9, 13))):
        for i in numbers:
            for path in (
                f"photos/{split}/{'ab'[i % 2]}/{i:02d}.png",
                *(f"film/{split}/{k}/{i:02d}.png" for k in KINDS),
            ):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                pixels.save(tmp_path / path)
    return tmp_path


KINDS = ("images", "masks")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_folds_show_every_image_once(collections):
    tests = [files(Path(place(collections, f"photos@{k}"), "test")) for k in range(FOLDS)]
    assert sum(map(len, tests)) == len(set.union(*tests)) == 13
    for k in range(FOLDS):
        folder = Path(place(collections, f"photos@{k}"))
        assert not files(folder / "train") & tests[k]
        assert files(folder / "train") | tests[k] == set.union(*tests)
        assert {path.split("/")[0] for path in tests[k]} == {"a", "b"}
    film = Path(place(collections, "film@1"))
    assert files(film / "test" / "images") == files(film / "test" / "masks") == {"03.png", "04.png", "05.png"}
    assert len(files(film / "train" / "images")) == 10


def test_the_uncurated_mix_is_unbalanced(tmp_path, monkeypatch):
    for c in range(3):
        for i in range(20):
            path = tmp_path / "cifar10" / "train" / f"c{c}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for other in ("clothing/train/hat/x.webp", "pets/train/images/y.webp", "pets/train/masks/y.png"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    mix = listed(tmp_path, "whole-mix")
    assert len(mix) == 62
    assert "pets/train/masks/y.png" not in mix
    assert Path(place(tmp_path, "whole-mix")).read_text().splitlines() == mix
    assert not any("hat" in path for path in listed(tmp_path, "cifar10-tenth"))
    monkeypatch.setattr("replications.data.ever_rarer", lambda c: 6 - c)
    rare = Path(place(tmp_path, "cifar10-rare"))
    assert rare.name == "cifar10-rare"
    rare = {path.relative_to(rare).as_posix() for path in rare.rglob("*.*")}
    assert rare == {path.removeprefix("cifar10/") for path in listed(tmp_path, "mix") if path.startswith("cifar10/")}


def test_marks_are_read():
    parity = checks("parity")
    assert "lightly" in [check.oracle for check in parity["vicreg"]]
    assert all((Path(__file__).parents[1] / check.path).exists() for found in parity.values() for check in found)


def test_code_lines_are_code():
    source = '"""Words.\n\nMore."""\n\nimport os\n# why\nx = 1\n\n\ndef f():\n    """Words."""\n    return 2\n'
    assert code_lines(source) == 3
