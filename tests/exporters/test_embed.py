"""Embeddings against a direct forward pass of each image, and the two tables against the arrays."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.errors import UsageError
from glocal.evaluation.extract import extract
from glocal.exporters import embed_source


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("resnet18", image_size=64, output_stride=16).eval()


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """Fifteen photographs of two sizes and three classes, and one broken file."""
    folder = tmp_path_factory.mktemp("embed") / "photos"
    shutil.copytree(photos / "train", folder)
    (folder / "bee" / "05b.jpg").write_bytes(b"\\xff\\xd8\\xff\\xe0 not a photograph")
    return folder


def directly(backbone, path):
    """The evaluation view written out with PIL alone: short side to image_size / .875, centre, normalise."""
    image = Image.open(path).convert("RGB")
    scale = 73 / min(image.size)  # round(64 / .875)
    image = image.resize([max(73, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - 64) // 2, (image.height - 64) // 2
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + 64, top + 64)))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        features = backbone(((pixels - mean) / std)[None])
    return features.pooled[0].numpy(), features.dense[0].numpy()


def test_arrays_equal_a_direct_forward_pass(backbone, folder):
    skipped = []
    found = embed_source(backbone, open_source(folder), dense=True, batch_size=4, skipped=skipped)
    assert found.pooled.shape == (15, 512)
    assert found.dense.shape == (15, 512, 4, 4)
    assert (found.pooled.dtype, found.dense.dtype) == (np.float32, np.float16)
    assert [name for name, _ in found.skipped] == ["bee/05b.jpg"]
    assert found.skipped == skipped
    assert [found.about["classes"][label] for label in found.labels] == [path.split("/")[0] for path in found.paths]
    for path, pooled, dense in zip(found.paths, found.pooled, found.dense, strict=True):
        if path.endswith(".jpg"):
            continue  # decoded at a reduced scale, tested with `data`
        expected_pooled, expected_dense = directly(backbone, folder / path)
        np.testing.assert_allclose(pooled, expected_pooled, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dense, expected_dense, rtol=2e-3, atol=2e-3)
    assert found.about["shape"] == [512, 4, 4]
    np.testing.assert_array_equal(found.about["cells"], backbone.cells(4, 4))
    assert (found.about["encoder"], found.about["image_size"]) == ("resnet18", 64)


def test_equal_those_of_evaluation(backbone, folder):
    source = open_source(folder)
    bank = extract(backbone, source, image_size=64, batch_size=4)
    found = embed_source(backbone, source, batch_size=4)
    np.testing.assert_array_equal(found.pooled, bank.pooled.numpy())
    assert found.paths == bank.keys
    assert found.dense is None


@pytest.mark.parametrize("group_bytes", [1, 64 << 20])
def test_parquet(backbone, folder, tmp_path, monkeypatch, group_bytes):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("glocal.exporters.embed.ROW_GROUP_BYTES", group_bytes)
    source = open_source(folder)
    found = embed_source(backbone, source, dense=True, batch_size=4)
    path = embed_source(backbone, source, dense=True, batch_size=4, out=tmp_path / "sub" / "features.parquet")
    table = pq.read_table(path)
    assert table.column_names == ["path", "label", "pooled", "dense"]
    assert str(table.schema.field("pooled").type) == "fixed_size_list<element: float>[512]"
    assert str(table.schema.field("dense").type) == "fixed_size_list<element: halffloat>[8192]"
    assert table["path"].to_pylist() == found.paths
    np.testing.assert_array_equal(table["label"], found.labels)
    np.testing.assert_array_equal(np.stack(table["pooled"].to_numpy()), found.pooled)
    dense = np.stack(table["dense"].to_numpy()).reshape(-1, *found.about["shape"])
    np.testing.assert_array_equal(dense, found.dense)
    assert json.loads(table.schema.metadata[b"glocal"]) == found.about
    file = pq.ParquetFile(path)
    assert file.num_row_groups == (4 if group_bytes == 1 else 1)
    assert json.loads(file.metadata.metadata[b"skipped"]) == [list(pair) for pair in found.skipped]
    assert [entry.name for entry in path.parent.iterdir()] == ["features.parquet"]


def test_npz(backbone, folder, tmp_path):
    source = open_source(folder)
    found = embed_source(backbone, source, dense=True)
    path = embed_source(backbone, source, dense=True, out=tmp_path / "features.npz")
    with np.load(path) as stored:  # no pickles
        np.testing.assert_array_equal(stored["pooled"], found.pooled)
        np.testing.assert_array_equal(stored["dense"], found.dense)
        np.testing.assert_array_equal(stored["labels"], found.labels)
        assert stored["paths"].tolist() == found.paths
        assert json.loads(str(stored["glocal"])) == found.about
        assert json.loads(str(stored["skipped"])) == [list(pair) for pair in found.skipped]


def test_images_without_labels(backbone, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 70, 3), dtype=np.uint8)
    source = open_source(images)
    assert embed_source(backbone, source).labels is None
    with np.load(embed_source(backbone, source, out=tmp_path / "a.npz")) as stored:
        assert "labels" not in stored.files
        assert "dense" not in stored.files
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(embed_source(backbone, source, out=tmp_path / "a.parquet"))
    assert table.column_names == ["path", "pooled"]


def test_replaces_its_own_tables_only(backbone, tmp_path):
    source = open_source(np.zeros((2, 64, 64, 3), dtype=np.uint8))
    for name in ("a.npz", "a.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        embed_source(backbone, source, out=tmp_path / name)
        embed_source(backbone, source, out=tmp_path / name)
        other = tmp_path / f"other_{name}"
        other.write_bytes(b"mine" * 9)
        with pytest.raises(UsageError, match="not exported by glocal"):
            embed_source(backbone, source, out=other)
        assert other.read_bytes() == b"mine" * 9


def test_mistakes(backbone, tmp_path, monkeypatch):
    source = open_source(np.zeros((2, 64, 64, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"'features.csv'; end it in .parquet or .npz"):
        embed_source(backbone, source, out=tmp_path / "features.csv")
    monkeypatch.setattr("glocal.exporters.embed.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'glocal\[parquet\]'"):
        embed_source(backbone, source, out=tmp_path / "features.parquet")


def test_nothing_readable(backbone, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    Image.effect_noise((64, 64), 50).save(folder / "a.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:200])  # the header is whole, the pixels are not
    with pytest.raises(UsageError, match="none of the 1 images"):
        embed_source(backbone, open_source(folder), out=tmp_path / "features.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken"]
