"""Cascades: which expert an image gets, and what becomes of both features; against scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from glocal.adaptation.cascade import Cascade, Parts
from glocal.backbones import build_backbone
from glocal.data import Subset, open_source
from glocal.evaluation import evaluate_encoder, extract


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def encoder(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_backbone("test_resnet", image_size=32).eval()


def test_parts_are_scikit_learn_s():
    features = drawn(300, 6) + 3 * drawn(3, 6, seed=1)[np.arange(300) % 3]
    parts = Parts(torch.from_numpy(features), 3, seed=4)
    theirs = GaussianMixture(3, covariance_type="diag", random_state=4, reg_covar=1e-4).fit(features)
    found = parts(torch.from_numpy(features).float()).numpy()
    assert (found == theirs.predict(features)).mean() > 0.99
    assert len(set(found)) == 3


def test_each_image_gets_its_expert_and_the_joined_features_their_principal_components():
    source = open_source("parts:n=60,size=32")
    first, experts = encoder(0), [encoder(1), encoder(2)]
    features = {net: extract(net, source, image_size=32).pooled for net in (first, *experts)}
    parts = Parts(features[first], 2)
    part = parts(features[first])
    assert len(part.unique()) == 2
    own = torch.where((part == 0)[:, None], features[experts[0]], features[experts[1]])
    joined = torch.cat([features[first], own], 1)

    cascade = Cascade(first, experts, parts).eval()
    torch.testing.assert_close(extract(cascade, source, image_size=32).pooled, joined)
    found = extract(cascade.fit(source), source, image_size=32, dense=True)
    assert found.pooled.shape[1] == found.dense.shape[1] == first.dim
    theirs = PCA(8, whiten=True, svd_solver="full").fit_transform(joined.double().numpy())
    ours = found.pooled[:, -8:].flip(1).numpy()
    np.testing.assert_allclose(abs((ours * theirs).mean(0)), np.ones(8), atol=0.02)  # but for signs


def test_what_few_photographs_do_not_tell_is_nothing_of_others_either():
    source = open_source("parts:n=60,size=32")
    first = encoder(0)
    parts = Parts(extract(first, source, image_size=32).pooled, 2)
    some, others = Subset(source, np.arange(12)), Subset(source, np.arange(12, 60))
    cascade = Cascade(first, [encoder(1), encoder(2)], parts).eval().fit(some)
    seen, unseen = (extract(cascade, part, image_size=32).pooled for part in (some, others))
    told = seen.abs().amax(0) > 1e-3
    assert 5 <= told.sum() <= 11, "of twelve points"
    assert not unseen[:, ~told].any()
    torch.testing.assert_close(seen[:, told].var(0), torch.ones(int(told.sum())), atol=0.02, rtol=0)
    assert unseen.norm(dim=1).median() < 3 * seen.norm(dim=1).median()


def test_it_is_evaluated_like_any_encoder():
    source = open_source("parts:n=60,size=32")
    first = encoder(0)
    parts = Parts(extract(first, source, image_size=32).pooled, 2)
    cascade = Cascade(first, [encoder(1), encoder(2)], parts).eval().fit(source)
    scores = evaluate_encoder(
        cascade, "parts:n=60,size=32", tasks=["knn", "segment"], options={"segment": {"steps": 5}}
    )
    assert {"knn", "segment"} <= scores.keys()
