import pytest
import torch

from glocal.evaluation.rank import rankme, redundancy, similarity_within, spectrum, spread


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rows, dim, rank, seed=0):
    """`rank` equal singular values, exactly."""
    left = torch.linalg.qr(gaussian(rows, rank, seed=seed)).Q
    return left @ torch.linalg.qr(gaussian(dim, rank, seed=seed + 1)).Q.T


@pytest.mark.parametrize(("rows", "dim"), [(50, 20), (20, 50)])
def test_spectrum_is_that_of_an_svd(rows, dim):
    x = gaussian(rows, dim) * torch.logspace(0, -3, dim, dtype=torch.float64)
    values = torch.linalg.svdvals(x)
    torch.testing.assert_close(spectrum(x), values / values.sum(), atol=1e-9, rtol=1e-5)
    centred = torch.linalg.svdvals(x - x.mean(0))
    torch.testing.assert_close(spectrum(x, centred=True), centred / centred.sum(), atol=1e-8, rtol=1e-5)


def test_rankme_of_equal_singular_values_is_their_number():
    for rank in (1, 3, 10):
        assert rankme(low_rank(40, 30, rank).float()) == pytest.approx(rank, rel=1e-3)
    assert rankme(torch.zeros(5, 4)) == pytest.approx(1)


def test_rankme_by_its_definition():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    x = torch.linalg.qr(gaussian(9, 3)).Q @ torch.diag(p)
    assert rankme(x * 7) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-6)


def test_rankme_ignores_rotation_and_scale_and_centring_takes_off_the_mean():
    x = gaussian(30, 10)
    rotation = torch.linalg.qr(gaussian(10, 10, seed=4)).Q
    assert rankme(x @ rotation * 3) == pytest.approx(rankme(x))
    assert rankme(x + 100, centred=True) == pytest.approx(rankme(x, centred=True), rel=1e-4)
    assert rankme(x + 100) < 2 < rankme(x)


@pytest.mark.timeout(20)
def test_wide_features_need_no_square_of_their_width():
    assert 1 < rankme(torch.randn(8, 100_000)) <= 8  # 80 GB, had it been built


def test_redundancy_is_the_mean_absolute_correlation():
    x = gaussian(200, 6)
    x[:, 1] = -2 * x[:, 0] + 0.1 * x[:, 1]
    correlation = torch.corrcoef(x.T).abs()
    assert redundancy(x) == pytest.approx(float((correlation.sum() - 6) / 30))
    assert redundancy(x[:, :1].expand(-1, 5) * torch.tensor([1.0, -2, 3, 4, 5])) == pytest.approx(1)
    dead = torch.cat([x, torch.ones(200, 3)], 1)
    assert redundancy(dead) == pytest.approx(redundancy(x))
    assert redundancy(gaussian(50, 2000)) == pytest.approx(0.113, abs=0.01)  # mean |r| of noise, in two blocks


def test_spread_goes_from_none_to_one():
    assert spread(gaussian(2000, 20)) == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(10, 4) * torch.arange(1, 11)[:, None]) == pytest.approx(0, abs=1e-6)


def test_similarity_within_and_between_images_by_loops():
    maps = gaussian(3, 5, 2, 2) + gaussian(3, 5, 1, 1, seed=1) * 2
    tokens = torch.nn.functional.normalize(maps.flatten(2), dim=1).transpose(1, 2)
    within, between = [], []
    for i in range(3):
        for j in range(3):
            for p in range(4):
                for q in range(4):
                    if (i, p) != (j, q):
                        (within if i == j else between).append(float(tokens[i, p] @ tokens[j, q]))
    ours = similarity_within(maps)
    assert ours[0] == pytest.approx(sum(within) / len(within))
    assert ours[1] == pytest.approx(sum(between) / len(between))
