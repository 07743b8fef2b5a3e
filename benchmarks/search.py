"""The index: search beside a bare product of matrices, making it beside `embed`, and making it again."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import Size, interleaved, ratio, seconds, summary
from benchmarks.photos import photos
from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.evaluation import FeatureBank
from glocal.exporters.embed import embed_source
from glocal.pipeline.find import index_source
from glocal.retrieval import Index


@dataclass(frozen=True)
class Case:
    """Features of N images of D dimensions, Q queries, and how many neighbours of each are sought."""

    images: int
    dim: int
    queries: int
    k: int


CASES = {"full": Case(50_000, 384, 1000, 10), "smoke": Case(300, 8, 20, 3)}


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """Seconds of a search in an index on disk; images per second of making one."""
    encoder = build_backbone("resnet18" if size == "full" else "test_resnet", image_size=96).eval()
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        return {
            "search": measure_search(CASES[size], encoder, Path(place), 5 if size == "full" else 1),
            "index": measure_index(folder or photos(), encoder, Path(place), 3 if size == "full" else 1),
        }


def measure_search(case: Case, encoder: Any, place: Path, rounds: int) -> dict[str, Any]:
    """The bare product is of the index's own vectors in single precision, made once before."""
    draw = np.random.default_rng(0)
    pooled, queries = (
        torch.from_numpy(draw.standard_normal((n, case.dim)).astype(np.float32)) for n in (case.images, case.queries)
    )
    bank = FeatureBank(pooled, torch.arange(case.images), [str(n) for n in range(case.images)])
    Index.build(bank, encoder).save(place / "a.index")
    index = Index.open(place / "a.index")
    unit = F.normalize(index.pooled.float(), dim=1)
    said: dict[str, torch.Tensor] = {}

    def ours() -> None:
        said["glocal"] = index.search(queries, case.k)[1]

    def bare() -> None:
        said["bare"] = (F.normalize(queries, dim=1) @ unit.T).topk(case.k).indices

    times = interleaved({"glocal": ours, "bare": bare}, rounds=rounds)
    return {
        **asdict(case),
        "seconds": {name: summary(values) for name, values in times.items()},
        "times_bare": ratio(times["glocal"], times["bare"]),
        "same_neighbours": float((said["glocal"] == said["bare"]).float().mean()),
    }


def measure_index(folder: Path, encoder: Any, place: Path, rounds: int) -> dict[str, Any]:
    """An index of photographs from nothing, features of the same as an npz file, and the index again."""
    out = place / "photos.index"
    settings: dict[str, Any] = {"batch_size": 64, "workers": 0, "precision": "fp32"}

    def index() -> None:
        about = {"encoder": None, "which": "student", "split": "all", "data": str(folder), "asked_size": None}
        index_source(encoder, open_source(folder), out, about, dense=False, **settings)

    def anew() -> None:
        out.unlink(missing_ok=True)
        index()

    def embed() -> None:
        embed_source(encoder, open_source(folder), out=place / "features.npz", **settings)

    times = interleaved({"index": anew, "embed": embed}, rounds=rounds)
    again = [seconds(index) for _ in times["index"]]
    return {
        "images": len(open_source(folder)),
        "seconds": {name: summary(values) for name, values in {**times, "again": again}.items()},
        "of_embed": ratio(times["embed"], times["index"]),
        "again": ratio(again, times["index"]),
    }
