"""The index of features: exact, on disk, of one encoder."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.neighbors import NearestNeighbors

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.evaluation import FeatureBank
from glocal.retrieval import Index
from glocal.retrieval.index import digest_of


def bank(n=60, dim=7, side=None, start=0, seed=0):
    draw = np.random.default_rng(seed)
    dense = None if side is None else torch.from_numpy(draw.standard_normal((n, dim, side, side)).astype(np.float16))
    pooled = torch.from_numpy(draw.standard_normal((n, dim)).astype(np.float32))
    return FeatureBank(pooled, torch.arange(n), [f"{start + i}.png" for i in range(n)], dense=dense)


@pytest.fixture(scope="module")
def encoder():
    return build_backbone("test_resnet", image_size=32)


def test_exactly_the_neighbours_that_scikit_learn_finds(encoder, tmp_path):
    features, queries = bank(300), bank(20, seed=1).pooled
    Index.build(features, encoder).save(tmp_path / "a.index")
    index = Index.open(tmp_path / "a.index")
    scores, ids = index.search(queries, 5)
    theirs = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(index.pooled.double().numpy())
    distances, rows = theirs.kneighbors(queries.double().numpy())
    assert (ids.numpy() == rows).all()
    np.testing.assert_allclose(1 - scores.numpy(), distances, atol=1e-6)
    assert torch.allclose(index.pooled.float(), torch.nn.functional.normalize(features.pooled), atol=1e-3)


def test_the_most_similar_cell_of_an_image_counts(encoder, tmp_path):
    features, query = bank(9, side=3), torch.from_numpy(np.random.default_rng(5).standard_normal(7)).float()
    index = Index.build(features, encoder)
    index.save(tmp_path / "a.index")
    index = Index.open(tmp_path / "a.index")
    scores, ids = index.search(query[None], 4, dense=True)
    similarity = torch.cosine_similarity(features.dense.double(), query.double()[None, :, None, None], dim=1).flatten(1)
    best = similarity.amax(1)
    assert ids[0].tolist() == best.argsort(descending=True)[:4].tolist()
    assert torch.allclose(scores[0].double(), best.sort(descending=True).values[:4], atol=1e-5)
    assert [index.cell_of(query, i) for i in range(9)] == similarity.argmax(1).tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_like_nothing(encoder, value):
    index = Index.build(bank(4, side=2), encoder)
    for dense in (False, True):
        with pytest.raises(UsageError, match="are like nothing"):
            index.search(torch.tensor([[1, 2, value, 4, 5, 6, 7]]), 2, dense=dense)


@pytest.mark.parametrize("side", [None, 2])
def test_added_images_replace_those_of_their_names_and_gone_ones_leave(encoder, tmp_path, side):
    index = Index.build(bank(6, side=side), encoder)
    index.save(tmp_path / "a.index")
    index = Index.open(tmp_path / "a.index")
    new = bank(3, start=4, seed=9, side=side)
    index.add(new, gone={"0.png"})
    index.save(tmp_path / "a.index")  # over the file that it reads from
    index = Index.open(tmp_path / "a.index")
    assert index.keys == [f"{i}.png" for i in (1, 2, 3, 4, 5, 6)]
    fresh = Index.build(bank(6, side=side), encoder), Index.build(new, encoder)
    for name in ("pooled", "dense") if side else ("pooled",):
        assert torch.equal(getattr(index, name), torch.cat([getattr(fresh[0], name)[1:4], getattr(fresh[1], name)]))
    index.add(None, gone={"1.png"})
    assert (index.keys[0], len(index.pooled)) == ("2.png", 5)
    with pytest.raises(UsageError, match="another width"):
        index.add(bank(2, dim=8, side=side))


def test_it_is_a_safetensors_file(encoder, tmp_path):
    Index.build(bank(5, side=2), encoder, {"encoder": "runs/a"}).save(tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert {name: (tuple(x.shape), x.dtype) for name, x in found.items()} == {
        "pooled": ((5, 7), torch.float16),
        "dense": ((5, 4, 7), torch.float16),
    }
    assert Index.open(tmp_path / "a.safetensors").about["encoder"] == "runs/a"


def test_another_encoder_is_refused(encoder):
    index = Index.build(bank(), encoder, {"encoder": "runs/a"})
    index.check(encoder)
    other = build_backbone("test_resnet", image_size=32)
    with pytest.raises(UsageError, match=r"made by runs/a; this test_resnet has other weights"):
        index.check(other)
    other.load_state_dict(encoder.state_dict())
    index.check(other)
    other.model.bn1.running_mean[0] += 1e-3  # a buffer counts, too
    assert digest_of(other) != digest_of(encoder)
    with pytest.raises(UsageError, match="vectors of 7 numbers"):
        index.search(torch.zeros(1, 8), 3)
    with pytest.raises(UsageError, match="has no cells"):
        index.search(torch.zeros(1, 7), 3, dense=True)


def test_what_is_no_index_or_cut_off_is_refused_in_a_line(encoder, tmp_path):
    path = tmp_path / "a.index"
    Index.build(bank(), encoder).save(path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    wider = json.loads(whole[8 : 8 + length])
    wider["pooled"]["shape"] = [61, 7]
    text = json.dumps(wider).encode()
    broken = {
        "nothing": b"",
        "a picture": b"\x89PNG" + bytes(40),
        "half": whole[: len(whole) // 2],
        "a long header": (2**60).to_bytes(8, "little") + whole[8:],
        "other JSON": (4).to_bytes(8, "little") + b"[12]",
        "another shape": len(text).to_bytes(8, "little") + text + whole[8 + length :],
    }
    for what, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is no index, or a damaged one") as error:
            Index.open(path)
        assert "\n" not in str(error.value), what
    named = dataclasses.replace(bank(), keys=[f"\x1b[2J{n}" for n in range(len(bank().keys))])
    Index.build(named, encoder).save(path)
    assert Index.open(path).keys[0] == "\\x1b[2J0"
    with pytest.raises(UsageError, match="no data at"):
        Index.open(tmp_path / "b.index")
    with pytest.raises(UsageError, match="is no index"):
        Index.open(tmp_path)
