"""Linear encoders in closed form on two graphs of the same photographs: of one class, or of one tint.

CIFAR-10, each photograph with one of ten tints laid over it, shrunk to 8×8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from glocal.data import open_source
from glocal.diagnostics.optimum import label_graph, linear_map
from glocal.diagnostics.spectral import graph_spectrum, squared_contrast_optimum, vicreg_optimum
from glocal.evaluation.extract import eval_image
from glocal.evaluation.knn import knn_predict

SIDE, KINDS = 8, 10
TINT = 60
"""Of 255: by how much a tint changes a pixel at most."""
NUMBERS = {"many": 2000, "few": 300}
"""Photographs that the graph is of."""
KNOWN, FEW, TESTED = 1000, 100, 2000
"""Photographs with a label by whose neighbours others are classified, or so few of them, and those others."""


def graph(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """What the class is worth to neighbours after the best linear map.

    Args:
        data: the folders of data.
        folder: not used.
        seed: of the photographs and the tints.
        options: "of", what makes a pair: "class" or "tint"; "number", "many" or "few"; "invariance", VICReg's weight
            (that of the variance is 25), or None for the squared contrastive objective.

    Returns:
        accuracy, and accuracy_few, of neighbours with few labels; cosine, the smallest between the map's first
        directions and those of linear discriminants of what makes a pair; line, what that has to be above.
    """
    draw = np.random.default_rng(seed)
    pixels, classes = _photographs(data)
    chosen = draw.permutation(len(pixels))[: KNOWN + TESTED + NUMBERS["many"]]
    tints = draw.integers(KINDS, size=len(chosen))
    shade = TINT * np.stack([np.cos(2 * np.pi * (tints / KINDS + k / 3)) for k in range(3)], 1)
    x = torch.from_numpy(((pixels[chosen] + shade[:, None, None]) / 255).reshape(len(chosen), -1))
    of = torch.from_numpy({"class": classes[chosen], "tint": tints}[options["of"]])
    rows = _balanced(of[KNOWN + TESTED :], NUMBERS[options["number"]]) + KNOWN + TESTED
    inputs, pairs = x[rows] - x[rows].mean(0), label_graph(of[rows])
    dim = len(graph_spectrum(pairs, inputs, centred=True)[0])
    if options["invariance"] is None:
        best = squared_contrast_optimum(pairs, dim, inputs=inputs).embedding
    else:
        best = vicreg_optimum(pairs, dim, invariance_weight=options["invariance"], inputs=inputs).embedding
    z = ((x - x[rows].mean(0)) @ linear_map(inputs, best)).float()
    label, tested = torch.from_numpy(classes[chosen]), slice(KNOWN, KNOWN + TESTED)
    right = {known: knn_predict(z[tested], z[:known], label[:known]) == label[tested] for known in (KNOWN, FEW)}
    supervised = torch.from_numpy(LinearDiscriminantAnalysis().fit(inputs, of[rows]).transform(inputs))
    first = graph_spectrum(pairs, inputs, centred=True)[1][:, : KINDS - 1]
    cosine = torch.linalg.svdvals(torch.linalg.qr(supervised).Q.T @ first).min()
    accuracies = {"accuracy": right[KNOWN], "accuracy_few": right[FEW]}
    found = {name: float(each.float().mean()) for name, each in accuracies.items()}
    return found | {"cosine": float(cosine), "line": 0.999}


def _balanced(of: Tensor, number: int) -> Tensor:
    """Places of equally many of each kind."""
    each = min(number // KINDS, int(torch.bincount(of).min()))
    return torch.cat([(of == kind).nonzero()[:each, 0] for kind in range(KINDS)])


@cache
def _photographs(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8, 3) float and their classes (N,)."""
    from PIL import Image

    source = open_source(data / "cifar10", split="test")
    shown = [np.asarray(eval_image(Image.fromarray(source.open(i).decode()), SIDE, 1.0)) for i in range(len(source))]
    return np.stack(shown).astype(np.float64), np.asarray(source.labels)
