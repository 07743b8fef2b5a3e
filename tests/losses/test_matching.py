import naive_vicregl as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from lightly.loss import VICRegLLoss
from lightly.transforms.random_crop_and_flip_with_grid import Location, RandomResizedCropAndFlip
from test_covariance import normal, same_gradients
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.losses import vicregl_global_loss, vicregl_local_loss, vicregl_loss
from glocal.losses.matching import closest, feature_distances, nearest_cells, point_distances, take
from glocal.views.view import View
from processes import on_processes


def crops(batch, sizes, seed):
    """Grids of random crops, half of them flipped, as `View` gives them but in float64."""
    generator = torch.Generator().manual_seed(seed)
    centers = []
    for height, width in sizes:
        top, left, h, w, flip = torch.rand((5, batch, 1, 1), generator=generator, dtype=torch.float64)
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        y = (torch.arange(height, dtype=torch.float64)[:, None] + 0.5) / height
        x = torch.where(flip < 0.5, 1 - x, x)
        grid = torch.broadcast_tensors(90 * left + (40 + 100 * w) * x, 90 * top + (40 + 100 * h) * y)
        centers.append(torch.stack(grid, dim=-1))
    return centers


def random_maps(batch, dim, sizes, seed):
    return [(0.8 * normal(batch, dim, *size, seed=seed + v)).requires_grad_() for v, size in enumerate(sizes)]


OPTIONS = st.fixed_dictionaries(
    {
        "matches": st.tuples(st.integers(1, 12), st.integers(1, 12)),
        "l2_top_k": st.booleans(),
        "matches_by_crop_type": st.booleans(),
        "slot_order": st.sampled_from(["index", "distance"]),
    }
)
SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=2, max_size=5)


@pytest.mark.parity("vicregl", oracle="naive float64 loops")
@settings(max_examples=12, deadline=None)
@given(st.integers(2, 5), st.integers(1, 5), SIZES, OPTIONS, st.integers(0, 10**6))
def test_local_loss_equals_the_loops(batch, dim, sizes, options, seed):
    maps, centers = random_maps(batch, dim, sizes, seed), crops(batch, sizes, seed)
    loss, expected = vicregl_local_loss(maps, centers, **options), naive.local_loss(maps, centers, **options)
    same_gradients(loss.total, sum(expected), maps)
    for name, term in zip(("invariance", "variance", "covariance"), expected, strict=True):
        torch.testing.assert_close(loss.terms[f"local_{name}"], term.detach(), rtol=1e-9, atol=1e-9)


def lightly_grid(batch, cells, seed):
    """lightly's own grids (B, N, N, 2), of random crops."""
    transform = RandomResizedCropAndFlip(grid_size=cells)
    boxes = torch.rand((batch, 4), generator=torch.Generator().manual_seed(seed))
    locations = [
        Location(
            top=90 * t, left=90 * l, height=40 + 90 * h, width=40 + 90 * w, image_height=300, image_width=300,
            horizontal_flip=bool(t > l), vertical_flip=False,
        )
        for t, l, h, w in boxes.tolist()
    ]  # fmt: skip
    return torch.stack([transform.location_to_NxN_grid(location) for location in locations]).double()


@pytest.mark.parity("vicregl", oracle="lightly")
@pytest.mark.parametrize("matches", [(5, 3), (9, 9)])
@pytest.mark.parametrize(("batch", "dim"), [(4, 7), (9, 3)])
def test_whole_loss_equals_lightly(matches, batch, dim):
    sizes = [(4, 4), (4, 4), (3, 3), (3, 3), (3, 3)]
    embeddings = [(0.8 * normal(batch, 11, seed=v)).requires_grad_() for v in range(5)]
    maps = random_maps(batch, dim, sizes, 100)
    centers = [lightly_grid(batch, size[0], v) for v, size in enumerate(sizes)]
    views = [(z, m.permute(0, 2, 3, 1)) for z, m in zip(embeddings, maps, strict=True)]
    criterion = VICRegLLoss(lambda_param=7.0, mu_param=11.0, nu_param=3.0, alpha=0.6, num_matches=matches)
    theirs = criterion(views[:2], centers[:2], views[2:], centers[2:]).squeeze()
    ours = vicregl_loss(
        embeddings, maps, centers, alpha=0.6, matches=matches, matches_by_crop_type=False, slot_order="distance",
        invariance_weight=7.0, variance_weight=11.0, covariance_weight=3.0,
    )  # fmt: skip
    same_gradients(ours.total, theirs, embeddings + maps)


def test_each_option_changes_the_loss():
    sizes = [(4, 4), (4, 4), (3, 3)]
    maps, centers = random_maps(5, 4, sizes, 0), crops(5, sizes, 0)
    default = vicregl_local_loss(maps, centers, matches=(6, 2)).total
    for option in (
        {"l2_top_k": False},
        {"matches_by_crop_type": False},
        {"slot_order": "distance"},
        {"matches": (6, 3)},
    ):
        assert (vicregl_local_loss(maps, centers, **{"matches": (6, 2)} | option).total - default).abs() > 1e-4


def test_alpha_weighs_the_halves_and_skips_what_it_does_not_need():
    sizes = [(3, 3), (3, 3), (2, 2)]
    embeddings = [normal(5, 6, seed=v) for v in range(3)]
    maps, centers = random_maps(5, 4, sizes, 0), crops(5, sizes, 0)
    whole, parts = vicregl_global_loss(embeddings), vicregl_local_loss(maps, centers)
    both = vicregl_loss(embeddings, maps, centers, alpha=0.75)
    torch.testing.assert_close(both.total, 0.75 * whole.total + 0.25 * parts.total)
    torch.testing.assert_close(sum(both.terms.values()), both.total.detach())
    torch.testing.assert_close(both.terms["local_variance"], 0.25 * parts.terms["local_variance"])
    assert vicregl_loss(embeddings, [], [], alpha=1.0).terms == whole.terms
    assert vicregl_loss([], maps, centers, alpha=0.0).terms == parts.terms


def test_identical_views_of_one_place_match_themselves():
    maps, centers = random_maps(6, 8, [(3, 3)], 0) * 2, crops(6, [(3, 3)], 0) * 2
    assert vicregl_local_loss(maps, centers).terms["local_invariance"] == 0


def test_a_flipped_view_matches_itself_through_its_centers():
    affine = torch.tensor([[[1.0, 0, 20], [0, 1.0, 30]]]).expand(6, 2, 3)
    mirrored = torch.tensor([[[-1.0, 0, 116], [0, 1.0, 30]]]).expand(6, 2, 3)
    plain, flipped = (View(torch.zeros(6, 3, 96, 96), a) for a in (affine, mirrored))
    (image,) = random_maps(6, 8, [(3, 3)], 0)
    terms = vicregl_local_loss([image, image.flip(3)], [plain.centers(3, 3), flipped.centers(3, 3)]).terms
    assert terms["local_invariance"] < 1e-12


def test_points_far_from_the_origin_are_told_apart_in_float32():
    a = torch.tensor([[[9000.0, 7000.0], [9000.25, 7000.0]]])
    b = a + torch.tensor([0.0625, 0.0])
    torch.testing.assert_close(point_distances(a, b), torch.tensor([[[0.0625, 0.3125], [0.1875, 0.0625]]]).square())


def test_features_far_from_the_origin_are_told_apart_in_float32_and_under_autocast():
    a = normal(2, 9, 64, dtype=torch.float32) + 300
    b = a + 0.1 * normal(2, 9, 64, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        distances = feature_distances(a, b)
    exact = torch.cdist(a.double(), b.double()).square()
    torch.testing.assert_close(distances.double(), exact, rtol=1e-4, atol=1e-3)


def test_closest_and_take_by_hand():
    distance = torch.tensor([4.0, 1.0, 2.0]).view(1, 1, 3, 1)
    target = torch.tensor([1, 0, 1]).view(1, 1, 3, 1)
    found = {(k, order): closest(distance, target, k, order) for k in (2, 3) for order in ("index", "distance")}
    lists = {options: [x.flatten().tolist() for x in pair] for options, pair in found.items()}
    assert lists == {
        (2, "index"): [[1, 2], [0, 1]],
        (2, "distance"): [[1, 2], [0, 1]],
        (3, "index"): [[0, 1, 2], [1, 0, 1]],
        (3, "distance"): [[1, 2, 0], [0, 1, 1]],
    }
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert take(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [8, 9]], [[0, 1], [8, 9]]]


@pytest.mark.parametrize("distances", [feature_distances, point_distances])
def test_blocks_of_rows_find_what_the_whole_matrix_finds(distances):
    # small integers, with a mean over 2^5 cells: every distance is exact in whatever order it is summed, many are equal
    draw = np.random.default_rng(0)
    a, b = (torch.from_numpy(draw.integers(-3, 4, size).astype(float)) for size in ((3, 2, 9, 2), (3, 4, 8, 2)))
    whole, blocks = nearest_cells(a, b, distances), nearest_cells(a, b, distances, limit=2 * 3 * 2 * 32)
    for ours, theirs in zip(whole, blocks, strict=True):
        assert ours[0].equal(theirs[0])
        assert ours[1].equal(theirs[1])
    square = (a[:, :, :, None, None] - b[:, None, None]).square().sum(-1).numpy()  # (B, P, N, Q, M)
    for found, axis, order in ((whole[0], 4, (0, 1, 2, 3)), (whole[1], 2, (0, 2, 3, 1))):
        assert (found[0].numpy() == square.min(axis).transpose(order)).all()
        assert (found[1].numpy() == square.argmin(axis).transpose(order)).all()  # of equal distances the first counts


class Largest(TorchDispatchMode):
    """The most elements that any one tensor had."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        storages = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if torch.is_tensor(x)]
        self.elements = max([self.elements, *storages])
        return out


def test_memory_is_linear_in_the_map():
    side, batch, dim = 64, 2, 4  # 4096 cells: all distances would be 2 · 4096² = 34 million numbers
    maps = [normal(batch, dim, side, side, seed=v, dtype=torch.float32).requires_grad_() for v in (0, 1)]
    with Largest() as largest:
        vicregl_local_loss(maps, [c.float() for c in crops(batch, [(side, side)] * 2, 0)]).total.backward()
    assert largest.elements < 2**22 + 2**16


def test_no_matrix_of_dimensions_squared_is_built_for_any_slot():
    maps = [normal(4, 2000, 2, 2, seed=v, dtype=torch.float32).requires_grad_() for v in (0, 1)]
    with Largest() as largest:
        vicregl_local_loss(maps, crops(4, [(2, 2)] * 2, 0)).total.backward()
    assert largest.elements < 2000**2 / 10


@pytest.mark.parametrize("l2_top_k", [True, False])
@pytest.mark.parametrize("slot_order", ["index", "distance"])
def test_two_large_and_eight_small_views_equal_the_loops(l2_top_k, slot_order):
    sizes = [(2, 3)] * 2 + [(2, 2)] * 5 + [(1, 2)] * 3
    options = {"matches": (4, 3), "l2_top_k": l2_top_k, "matches_by_crop_type": True, "slot_order": slot_order}
    maps, centers = random_maps(4, 3, sizes, 5), crops(4, sizes, 5)
    same_gradients(
        vicregl_local_loss(maps, centers, **options).total, sum(naive.local_loss(maps, centers, **options)), maps
    )


def test_no_gradient_flows_through_the_matching_and_both_sides_get_some():
    maps, centers = random_maps(4, 3, [(3, 3)] * 2, 0), crops(4, [(3, 3)] * 2, 0)
    assert not feature_distances(*(m.flatten(2).mT for m in maps)).requires_grad
    gradients = torch.autograd.grad(vicregl_local_loss(maps, centers).total, maps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_gradients_repeat_to_the_last_bit_on_several_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    sizes = [(7, 7), (7, 7)]
    maps, centers = [m.detach().float().requires_grad_() for m in random_maps(32, 64, sizes, 0)], crops(32, sizes, 0)
    runs = [torch.autograd.grad(vicregl_local_loss(maps, centers).total, maps) for _ in range(4)]
    torch.set_num_threads(threads)
    assert all(a.equal(b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


def test_bfloat16_maps_are_computed_in_float32():
    sizes = [(3, 3), (2, 2)]
    maps, centers = [m.detach().bfloat16() for m in random_maps(8, 16, sizes, 0)], crops(8, sizes, 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vicregl_local_loss(maps, centers)
    expected = vicregl_local_loss([m.double() for m in maps], centers)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total.double(), expected.total, rtol=1e-5, atol=0)


def test_gradients_to_bfloat16_maps_are_rounded_once():
    sizes = [(3, 3), (3, 3)]
    maps, centers = [m.detach().bfloat16().requires_grad_() for m in random_maps(8, 16, sizes, 0)], crops(8, sizes, 0)
    exact = [m.detach().double().requires_grad_() for m in maps]
    gradients = torch.autograd.grad(vicregl_local_loss(maps, centers).total, maps)
    for ours, theirs in zip(
        gradients, torch.autograd.grad(vicregl_local_loss(exact, centers).total, exact), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-5)  # half a unit of bfloat16's last place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matches": (0, 4)}, "at least 1 match"),
        ({"slot_order": "random"}, "slot_order"),
        ({"alpha": 1.5}, "alpha"),
        ({"centers": [torch.zeros(4, 2, 2, 2)]}, "one grid for each"),
        ({"centers": [torch.zeros(4, 3, 3, 2), torch.zeros(4, 2, 3, 2)]}, "view 1"),
    ],
)
def test_mistakes_are_said_in_one_line(change, message):
    arguments = {
        "embeddings": [torch.zeros(4, 2)] * 2,
        "maps": [torch.zeros(4, 5, 3, 3)] * 2,
        "centers": [torch.zeros(4, 3, 3, 2)] * 2,
    }
    with pytest.raises(UsageError, match=message):
        vicregl_loss(**arguments | change)


@pytest.mark.parametrize("options", [{}, {"slot_order": "distance"}, {"l2_top_k": False}])
def test_matches_as_a_fraction_of_each_source_map(options):
    sizes = [(7, 7), (7, 7), (3, 3)]
    maps, centers = random_maps(6, 5, sizes, 0), crops(6, sizes, 0)
    by_number = vicregl_local_loss(maps, centers, matches=(20, 4), **options)  # round(.4·49) and round(.4·9)
    torch.testing.assert_close(vicregl_local_loss(maps, centers, matches=0.4, **options).total, by_number.total)
    one = vicregl_local_loss(maps, centers, matches=0.01, **options)  # never none
    torch.testing.assert_close(one.total, vicregl_local_loss(maps, centers, matches=(1, 1), **options).total)
    with pytest.raises(UsageError, match="fraction"):
        vicregl_local_loss(maps, centers, matches=1.5)


def sharded(seed):
    """A loss of two large and two small views of this process's half of the batch, and the gradients of its inputs."""

    def normal(*shape, seed):
        whole = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return whole.chunk(world_size())[rank()].clone()

    sides = (3, 3, 2, 2)
    embeddings = [normal(8, 11, seed=seed + v).requires_grad_() for v in range(4)]
    maps = [normal(8, 5, s, s, seed=seed + 10 + v).requires_grad_() for v, s in enumerate(sides)]
    centers = [90 * normal(8, s, s, 2, seed=seed + 20 + v) for v, s in enumerate(sides)]
    loss = vicregl_loss(embeddings, maps, centers, alpha=0.6, matches=(5, 3))
    loss.total.backward()
    return loss.total.detach(), [x.grad / world_size() for x in embeddings + maps]


def test_slots_and_columns_shared_out_over_processes_give_the_loss_of_the_joined_batch():
    value, gradients = sharded(0)
    for process, (theirs, parts) in enumerate(on_processes(2, sharded, 0)):
        torch.testing.assert_close(theirs, value, rtol=1e-12, atol=1e-12)
        for part, gradient in zip(parts, gradients, strict=True):
            torch.testing.assert_close(part, gradient.chunk(2)[process], rtol=1e-9, atol=1e-12)
