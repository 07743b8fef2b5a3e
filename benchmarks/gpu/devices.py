"""Views, losses and clusters on the GPU are those of the CPU, and the same again when asked again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.loop import apart, exact_float32
from benchmarks.gpu.notes import Notes, within
from glocal.clustering import kmeans, whiten
from glocal.losses import sinkhorn, vicregl_local_loss
from glocal.views import Appearance, Batch, View, multi_crop

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(notes: Notes) -> None:
    """Each function on both devices."""
    with exact_float32():
        with notes.check("appearance: two large crops and two small ones", needs_cuda=True) as found:
            ours, theirs = (appearance(device, notes.cuda) for device in (notes.device, "cpu"))
            # a rounding at the threshold of solarize turns a value over: few may differ, and by anything
            off = torch.cat([(a.cpu() - b).abs().flatten() for a, b in zip(ours, theirs, strict=True)]) > 1e-3
            within(found, 1e-4, share_of_values_apart=float(off.float().mean()))
        for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
            with notes.check(f"local loss and gradient, {str(dtype)[6:]}", needs_cuda=True) as found:
                ours, theirs = (local_loss(device, dtype) for device in (notes.device, "cpu"))
                for name, a, b in zip(("value", "gradient"), ours, theirs, strict=True):
                    within(found, limit, **{name: apart(a, b)})
        with notes.check("Sinkhorn", needs_cuda=True) as found:
            scores = torch.nn.functional.normalize(normal(512, 64), dim=1) @ normal(64, 300) / 8
            within(found, 1e-4, codes=apart(sinkhorn(scores.to(notes.device)), sinkhorn(scores)))
        with notes.check("k-means of groups that lie apart", needs_cuda=True) as found:
            x = normal(40, 32).repeat_interleave(100, dim=0) * 4 + normal(4000, 32, seed=1)
            ours, theirs = (kmeans(x.to(device), 40, seed=3).assignment.cpu() for device in (notes.device, "cpu"))
            within(found, 1e-3, share_elsewhere=float((ours != theirs).float().mean()))
        with notes.check("whitening", needs_cuda=True) as found:
            x = normal(2000, 96) @ normal(96, 96, seed=1)
            # a component may come out the other way round
            within(found, 1e-3, components=apart(whiten(x.to(notes.device), 32).abs(), whiten(x, 32).abs()))
    repeated: dict[str, Callable[[], Tensor]] = {
        "the gradient of the local loss": lambda: local_loss(notes.device, torch.float32)[1],
        "k-means": lambda: kmeans(normal(20_000 if notes.cuda else 2000, 32).to(notes.device), 300, seed=1).centroids,
        "appearance": lambda: torch.cat([x.flatten() for x in appearance(notes.device, notes.cuda)]),
    }
    for name, compute in repeated.items():
        with notes.check(f"again the same to the bit: {name}", needs_cuda=True) as found:
            first = compute()
            found["times"] = 3
            assert all(torch.equal(compute(), first) for _ in range(3)), "differs"


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def appearance(device: str, full: bool) -> list[Tensor]:
    """Finished views of random pixels, by a recipe in which everything occurs."""
    size, images = (96, 64) if full else (24, 8)
    recipe = multi_crop(size, 2, size // 2)
    views = []
    for number, crop in enumerate(recipe.views):
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (images, crop.size, crop.size, 3), dtype=torch.uint8, generator=generator)
        views.append(View(pixels.permute(0, 3, 1, 2), torch.zeros(images, 2, 3)))
    batch = Batch(views, torch.arange(images))
    return [view.pixels for view in Appearance(recipe, *IMAGENET, seed=0)(batch, 0, device).views]


def local_loss(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Value and gradient for two large maps and a small one."""
    maps = [normal(16, 32, side, side, seed=side).to(device, dtype) for side in (7, 7, 3)]
    maps[1] = maps[1] + maps[0]
    joined = torch.cat([m.flatten() for m in maps]).requires_grad_()
    parts = [part.view(m.shape) for part, m in zip(joined.split([m.numel() for m in maps]), maps, strict=True)]
    centers = [100 * normal(16, side, side, 2, seed=50 + n).to(device, dtype) for n, side in enumerate((7, 7, 3))]
    loss = vicregl_local_loss(parts, centers).total
    loss.backward()
    assert joined.grad is not None
    return loss.detach(), joined.grad
