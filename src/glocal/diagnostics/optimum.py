"""Task `optimum`: the best that a linear encoder can reach in closed form, on a collection's images and a run's views.

Balestriero and LeCun 2022, arXiv:2205.11508; see `glocal.diagnostics.spectral`.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from glocal.data import Subset
from glocal.data.source import ImageSource
from glocal.diagnostics.spectral import (
    Optimum,
    barlow_twins_optimum,
    graph_spectrum,
    squared_contrast_optimum,
    vicreg_optimum,
)
from glocal.errors import UsageError
from glocal.evaluation.baseline import Pixels
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import encode, extract, frozen
from glocal.evaluation.knn import knn_predict
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over
from glocal.losses import barlow_twins_loss, vicreg_loss
from glocal.methods import BarlowTwins, SimCLR, VICReg, method_class, resolve_options
from glocal.views import Appearance, Recipe, ViewLoader

SIDE = 8
"""Of the shrunken images that are the inputs of a linear encoder of pixels."""


def closed_form(method: nn.Module, graph: Tensor, dim: int, inputs: Tensor) -> Optimum:
    """The optimum of a method's objective among linear maps of inputs (N, D) to `dim` dimensions, fewer if need be.

    Of VICReg and Barlow Twins with uncorrelated dimensions; of SimCLR with a square in place of the logarithm.
    """
    known = graph_spectrum(graph, inputs, centred=True)[0]
    dim = min(dim, len(known) if not isinstance(method, BarlowTwins) else max(1, int((known >= 2 / 3).sum())))
    if isinstance(method, VICReg):
        weights = {name: method.weights[name] for name in ("invariance_weight", "variance_weight")}
        return vicreg_optimum(graph, dim, inputs=inputs, **weights)
    if isinstance(method, BarlowTwins):
        return barlow_twins_optimum(graph, dim, inputs=inputs)
    if isinstance(method, SimCLR):
        return squared_contrast_optimum(graph, dim, inputs=inputs)
    raise TypeError(type(method).__name__)


def view_graph(images: int) -> Tensor:
    """(2N, 2N): the first view of each image, in the first N rows, is paired with its second."""
    return torch.eye(images, dtype=torch.float64).repeat(2, 2) - torch.eye(2 * images, dtype=torch.float64)


def label_graph(labels: Tensor) -> Tensor:
    """(N, N): each image is paired with all of its class, of which there are equally many."""
    return (labels[:, None] == labels).double()


def principal(inputs: Tensor, most: int) -> Tensor:
    """(D, K) directions of inputs (N, D), all of them or, if these are more than `most`, the first principal ones."""
    if inputs.shape[1] <= most:
        return torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False).Vh[: max(1, most)].T


def linear_map(inputs: Tensor, embedding: Tensor) -> Tensor:
    """(D, K), the least that makes centred inputs (N, D) the centred embedding (N, K)."""
    x, z = (each.double() - each.double().mean(0) for each in (inputs, embedding))
    return torch.linalg.lstsq(x, z, driver="gelsd").solution


@task(
    on_request=True,
    squares=True,
    title="Linear optimum",
    main="top1_features",
    words={
        "top1_features": "accuracy of neighbours by the best linear map of the features",
        "top1_pixels": "accuracy of neighbours by the best linear map of pixels",
        "loss_features": "least loss of a linear map of the features",
        "loss_pixels": "least loss of a linear map of pixels",
        "loss_trained": "loss of the trained projector",
    },
    shares={"top1_*": "images"},
)
def optimum(
    context: EvalContext,
    *,
    method: str = "",
    dim: int = 0,
    graph: Literal["views", "labels"] = "views",
    images: int = 1000,
) -> dict:
    """The best linear map in closed form, of the features and of pixels: a baseline for what was trained.

    Positive pairs are two views each of `images` training images, by the method's recipe; or, with graph "labels", all
    images of a class. Method and dimension are the run's, unless given; pixels are those of the image shrunk to 8×8.
    Where inputs have more than a quarter as many dimensions as there are rows, their first principal components are
    taken, so many: of more, whatever they are, some map does what the graph asks for.

    Returns:
        By "features" and "pixels": inputs, the dimensions that a map sees; loss, the least; dimensions, as many as are
        asked for and inputs allow; top1, where there are labels. Of a run's views also loss_trained, that of its own
        projector.
    """
    objective = _objective(context, method)
    pixels = Pixels(SIDE, image_size=context.image_size).to(context.device)
    pixels.mean, pixels.std = context.encoder.mean, context.encoder.std  # type: ignore[assignment]
    arms: dict[str, nn.Module] = {"features": context.encoder, "pixels": pixels}
    found: dict[str, Any] = {}
    if graph == "views":
        source = spread_over(context.train, images)
        first, second = _views(context, source, objective)
        inputs = {name: _pooled(arm, torch.cat([first, second])) for name, arm in arms.items()}
        pairs = view_graph(len(first))
        if not method and isinstance(objective, VICReg | BarlowTwins):
            found["loss_trained"] = _loss(objective, first, second)
    elif graph == "labels":
        source = _balanced(context, images)
        inputs = {name: _extract(context, arm, source).pooled for name, arm in arms.items()}
        pairs = label_graph(context.labels(context.extract(source)))
    else:
        raise UsageError(f"optimum: graph {graph} is none of views and labels")
    for name, arm in arms.items():
        rows = inputs[name].double()
        main = principal(rows, len(rows) // 4)
        rows, mean = (rows - rows.mean(0)) @ main, rows.mean(0)
        best = closed_form(objective, pairs, dim or _width(objective), rows)
        found |= {f"inputs_{name}": rows.shape[1], f"loss_{name}": best.loss}
        found[f"dimensions_{name}"] = best.embedding.shape[1]
        if context.train.labels is None or context.test.labels is None:
            continue
        matrix = main @ linear_map(rows, best.embedding)
        train, test = (_extract(context, arm, each) for each in (context.train, context.test))
        said, known = (((bank.pooled.double() - mean) @ matrix).float() for bank in (test, train))
        right = knn_predict(said, known, context.labels(train)) == context.labels(test)
        found[f"top1_{name}"] = float(right.float().mean())
    return found | {"images": len(source)}


def _objective(context: EvalContext, name: str) -> Any:
    """The run's method, as its last checkpoint has it, or one of that name around the encoder."""
    instead = """give one: --task-options '{"optimum": {"method": "vicreg"}}' (or barlow_twins, simclr)"""
    if name:
        cls, given = method_class(name), {"image_size": context.image_size}
        found = cls(context.encoder, **resolve_options(cls, "small", context.batch_size, given))
    elif context.method is None:
        raise UsageError(f"optimum takes the method from a run, and this encoder is of none; {instead}")
    else:
        found = context.method()
    if not isinstance(found, VICReg | BarlowTwins | SimCLR):
        raise UsageError(f"no closed form of {type(found).__name__} is known; {instead}")
    return found.to(context.device)


def _width(objective: Any) -> int:
    """Dimensions of the method's embeddings."""
    return [module.out_features for module in objective.projector.modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def _pooled(encoder: nn.Module, views: Tensor) -> Tensor:
    with frozen(encoder):
        return torch.cat([encode(encoder, part).pooled.float().cpu() for part in views.split(256)]).clone()


def _extract(context: EvalContext, arm: nn.Module, source: ImageSource) -> Any:
    options: dict[str, Any] = {"batch_size": context.batch_size, "workers": context.workers}
    return extract(arm, source, image_size=context.image_size, **options)


def _views(context: EvalContext, source: ImageSource, objective: Any) -> list[Tensor]:
    """The first two views of each image (N, 3, h, w) each, normalised, on the encoder's device."""
    encoder: Any = context.encoder
    recipe = Recipe(objective.recipe.views[:2], frames=objective.recipe.frames)
    appearance = Appearance(recipe, encoder.mean, encoder.std, context.seed)
    settings: dict[str, Any] = {"seed": context.seed, "shuffle": False, "drop_last": False}
    loader = ViewLoader(source, recipe, batch_size=min(256, len(source)), **settings)
    batches = [appearance(batch, 0, context.device) for batch in loader.epoch(0)]
    return [torch.cat([batch.views[v].pixels for batch in batches]) for v in (0, 1)]


@torch.no_grad()
def _loss(objective: Any, first: Tensor, second: Tensor) -> float:
    """Of the method's own embeddings of two views, over all images at once."""
    a, b = (objective.projector(_pooled(objective.encoder, view).to(view)) for view in (first, second))
    if isinstance(objective, VICReg):
        return float(vicreg_loss(a, b, **objective.weights).total)
    return float(barlow_twins_loss(a, b, redundancy_weight=objective.redundancy_weight).total)


def _balanced(context: EvalContext, images: int) -> Subset:
    """Equally many training images of each class, at most so many in all."""
    if context.train.labels is None:
        raise UsageError("optimum: graph labels needs labels: a folder with one sub-folder per class")
    labels = np.asarray(context.train.labels)
    classes, counts = np.unique(labels, return_counts=True)
    each = max(1, min(int(counts.min()), images // len(classes)))
    return Subset(context.train, np.concatenate([np.flatnonzero(labels == c)[:each] for c in classes]))
