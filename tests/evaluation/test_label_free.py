"""The tasks without labels, against their definitions written out over the same features."""

import numpy as np
import pytest
import torch

from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.correspond import CROP, two_crops
from glocal.evaluation.rank import rankme, redundancy, similarity_within, spread

PLAIN = CROP.but(jitter=0.0, gray=0.0)  # with colours as they are, some crops find each other


@pytest.fixture
def context(made):
    source = made.ArraySource(made.coloured(20, 0)[0])
    return EvalContext(made.Cells(), made.ArraySource(made.coloured(4, 1)[0]), source, 32, batch_size=6)


def seen(context, images):
    """Pooled (2, N, D) and local features (2, N, S, D) of the two crops, of length 1, in float64."""
    pairs = [features for _, *features in two_crops(context, images=images, crop=PLAIN)]
    unit = lambda x: torch.nn.functional.normalize(x.double(), dim=-1).numpy()
    pooled = [torch.cat([pair[i].pooled for pair in pairs]) for i in (0, 1)]
    tokens = [torch.cat([pair[i].tokens for pair in pairs]) for i in (0, 1)]
    return np.stack([unit(x) for x in pooled]), np.stack([unit(x) for x in tokens])


def test_stability_compares_two_crops_of_an_image_with_those_of_others(context):
    (a, b), _ = seen(context, 13)
    cosines = a @ b.T
    others = ~np.eye(13, dtype=bool)
    found = find_task("stability")(context, images=13, crop=PLAIN)
    assert found["images"] == 13
    assert found["same"] == pytest.approx(np.diagonal(cosines).mean(), abs=1e-5)
    assert found["other"] == pytest.approx(cosines[others].mean(), abs=1e-5)
    right = cosines.argmax(1) == np.arange(13)
    assert found["retrieval"] == pytest.approx(right.mean())
    assert 0 < right.mean() < 1  # else any way of counting would do
    assert find_task("stability")(context, images=1)["other"] == pytest.approx(0, abs=1e-6)


def test_redundancy_is_the_mean_cosine_of_the_cells_of_an_image(context):
    (a, b), tokens = seen(context, 13)
    cosines = tokens @ tokens.swapaxes(-1, -2)
    cells = ~np.eye(cosines.shape[-1], dtype=bool)
    local, same = cosines[:, :, cells].mean((0, 2)), (a * b).sum(1)
    found = find_task("redundancy")(context, images=13, crop=PLAIN)
    assert found["n"] == 13
    assert found["local"] == pytest.approx(local.mean(), abs=1e-5)
    assert found["global"] == pytest.approx(same.mean(), abs=1e-5)
    assert found["other"] == pytest.approx((a @ b.T)[~np.eye(13, dtype=bool)].mean(), abs=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(local, same)[0, 1], abs=1e-3)


def test_rank_looks_at_all_pooled_features_and_at_the_maps_of_some_images(context, made):
    found = find_task("rank")(context, images=5)
    pooled = context.bank("test").pooled
    maps = context.extract(made.ArraySource(made.coloured(20, 0)[0][::4]), dense=True).dense.float()
    assert (found["n"], found["n_dense"], found["dim"]) == (20, 5 * 16, 6)
    assert found["rank_pooled"] == pytest.approx(rankme(pooled))
    assert found["rank_dense"] == pytest.approx(rankme(maps.movedim(1, -1).reshape(-1, 6)))
    assert (found["redundancy"], found["spread"]) == pytest.approx((redundancy(pooled), spread(pooled)))
    assert (found["similarity_within"], found["similarity_between"]) == pytest.approx(similarity_within(maps))
    assert find_task("rank")(context)["n_dense"] == 20 * 16
