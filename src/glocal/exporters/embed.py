"""Embeddings of a collection as arrays, a Parquet table or an npz file, equal to those that evaluation uses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from glocal.backbones import Backbone
from glocal.data import ClipSource
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.extract import CROP_PCT, Precision, stream, suited
from glocal.exporters.staging import MARK, staged_file
from glocal.features import Features
from glocal.progress import Progress

ROW_GROUP_BYTES = 64 << 20


@dataclass
class Embeddings:
    """One row per readable image, in the collection's order.

    Attributes:
        pooled: (N, D) float32.
        dense: (N, D, H, W) float16, or None unless asked for; of images in their own shapes N maps (D, h, w).
        paths: N names of the images, as the collection calls them.
        labels: (N,) int64 positions in `about["classes"]`, or None.
        video: N names of the videos that frames are of, or None.
        time: (N,) float64 seconds at which each is shown, or None.
        about: the encoder, glocal's version, image size, centre crop, precision and class names; for `dense` its
            `shape` (D, H, W) and where each cell looks, `cells` (H, W, 2), (x, y) in pixels of the image_size² crop; in
            their own shapes images are looked at in squares of `stride` pixels, once they are as large as image_size².
        skipped: (name, reason) of the images that could not be read.
    """

    pooled: np.ndarray
    dense: np.ndarray | list[np.ndarray] | None
    paths: list[str]
    labels: np.ndarray | None
    about: dict[str, Any]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    video: list[str] | None = None
    time: np.ndarray | None = None


def embed_source(
    backbone: Backbone,
    source: ImageSource,
    *,
    image_size: int | None = None,
    native: bool = False,
    dense: bool = False,
    batch_size: int = 128,
    workers: int | None = None,
    precision: Precision | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    skipped: list[tuple[str, str]] | None = None,
) -> Embeddings | Path:
    """Embeds every readable image of a collection with evaluation's centre crop, or whole.

    A `.parquet` file is written as images stream by, in constant memory. Its columns are `path`, `label` (where there
    are labels), of clips `video` and `time` in seconds, `pooled` (a fixed-size list of D float32) and `dense` (of D·H·W
    float16, row-major). An `.npz` file has arrays `paths`, `labels`, `video`, `time`, `pooled` and `dense`, gathered in
    memory first. Of images in their own shapes `dense` has as many numbers as each image's map (in an npz one after the
    other), and `grid` (h, w) says how many cells these are of. Both hold `Embeddings.about` as JSON under the name
    `glocal` (schema metadata; an array of one string), and the skipped images likewise under `skipped`.

    Args:
        backbone: the encoder, used where its parameters are.
        source: the images.
        image_size: side of the square given to the encoder, pixels; the backbone's own by default.
        native: give it whole images in their own shapes, with the area of that square.
        dense: keep the feature maps too.
        batch_size: images per forward pass.
        workers: processes that decode; None: see `glocal.evaluation.extract.suited`.
        precision: likewise.
        out: a `.parquet` or `.npz` file, or None for arrays. An earlier export is replaced, any other file is not.
        progress: called as progress(what, done, total).
        skipped: a list that receives (name, reason) of unreadable images.

    Raises:
        UsageError: if `out` will not do, pyarrow is missing, or no image can be read.
    """
    size = image_size or backbone.image_size
    workers, precision = suited(backbone, workers, precision)
    skipped = [] if skipped is None else skipped
    about = {
        "glocal": version("glocal"),
        "encoder": backbone.name,
        "source": source.name,
        "pool": backbone.pool,
        "image_size": size,
        "crop_pct": None if native else CROP_PCT,
        "native": native,
        "precision": precision,
        "classes": source.classes,
    }

    def batches() -> Iterator[Embeddings]:
        settings: dict[str, Any] = {"image_size": size, "batch_size": batch_size, "workers": workers}
        settings |= {"precision": precision, "native": native}
        index = None
        for index, features in stream(backbone, source, **settings, progress=progress, skipped=skipped):
            grid = features.grid if dense and not native else None
            of = source.groups["video"] if isinstance(source, ClipSource) else None
            layout: dict[str, Any] = {"dim": backbone.dim, "stride": backbone.stride} if native else {}
            if grid:
                layout = {"shape": [backbone.dim, *grid], "cells": backbone.cells(*grid).tolist()}
            yield Embeddings(
                pooled=features.pooled.float().cpu().numpy(),
                dense=_maps(features) if dense else None,
                paths=[source.key(int(i)) for i in index],
                labels=None if source.labels is None else np.asarray(source.labels, np.int64)[index.numpy()],
                about=about | layout,
                skipped=skipped,
                video=[of.names[k] for k in of.of[index.numpy()]] if of else None,
                time=source.time[index.numpy()] if isinstance(source, ClipSource) else None,
            )
        if index is None:
            raise UsageError(f"none of the {len(source)} images of {source.name} can be read; is it the right folder?")

    if out is None:
        return _gather(batches())
    out = Path(out).expanduser()
    writers = {".parquet": _write_parquet, ".npz": _write_npz}
    suffix = out.suffix.lower()
    if suffix not in writers:
        raise UsageError(f"cannot tell what to write from '{out.name}'; end it in .parquet or .npz")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError("Parquet needs pyarrow: pip install 'glocal[parquet]' (or write .npz)")
    with staged_file(out, suffix) as path:
        writers[suffix](path, batches())
    return out


def _maps(features: Features) -> np.ndarray | list[np.ndarray]:
    """(B, D, H, W) float16, or of each image of a packed batch (D, h, w)."""
    if features.of is None:
        return features.dense.half().cpu().numpy()
    each = ((tokens, grid) for tokens, _, grid in features.per_image() if grid)
    return [tokens.T.unflatten(1, grid).half().cpu().numpy() for tokens, grid in each]


def _flat(maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of maps (D, h, w), one map after the other, and their (h, w)."""
    return np.concatenate([each.ravel() for each in maps]), np.array([each.shape[1:] for each in maps])


def _joined(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    return [each for part in parts for each in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _gather(batches: Iterator[Embeddings]) -> Embeddings:
    parts = list(batches)
    first = parts[0]
    return replace(
        first,
        pooled=np.concatenate([part.pooled for part in parts]),
        dense=_joined([part.dense for part in parts]),
        paths=[path for part in parts for path in part.paths],
        labels=None if first.labels is None else np.concatenate([part.labels for part in parts]),
        video=None if first.video is None else [video for part in parts for video in part.video or ()],
        time=None if first.time is None else np.concatenate([part.time for part in parts]),
    )


def _write_npz(path: Path, batches: Iterator[Embeddings]) -> None:
    whole = _gather(batches)
    dense, grid = _flat(whole.dense) if isinstance(whole.dense, list) else (whole.dense, None)
    arrays: dict[str, Any] = {"pooled": whole.pooled, "dense": dense, "grid": grid}
    arrays |= {"labels": whole.labels, "paths": np.array(whole.paths)}
    arrays |= {"video": None if whole.video is None else np.array(whole.video), "time": whole.time}
    texts = {MARK: np.array(json.dumps(whole.about)), "skipped": np.array(json.dumps(whole.skipped))}
    present: dict[str, Any] = texts | {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, **present)


def _write_parquet(path: Path, batches: Iterator[Embeddings]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(batch: Embeddings) -> pa.Table:
        columns = {"path": pa.array(batch.paths, pa.string())}
        if batch.labels is not None:
            columns["label"] = pa.array(batch.labels)
        if batch.video is not None:
            columns |= {"video": pa.array(batch.video, pa.string()), "time": pa.array(batch.time)}
        for name, array in (("pooled", batch.pooled), ("dense", batch.dense)):
            if isinstance(array, list):
                numbers, grid = _flat(array)
                ends = np.cumsum([0, *(each.size for each in array)])
                columns[name] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(numbers))
                columns["grid"] = pa.FixedSizeListArray.from_arrays(pa.array(grid.ravel()), 2)
            elif array is not None:
                flat = array.reshape(len(array), -1)
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        return pa.table(columns, metadata={MARK: json.dumps(batch.about)})

    first = next(batches)
    waiting = table(first)
    # Floats hardly repeat, so dictionaries only cost time.
    with pq.ParquetWriter(path, waiting.schema, use_dictionary=False, compression="zstd") as writer:
        for batch in batches:
            if waiting.nbytes >= ROW_GROUP_BYTES:
                writer.write_table(waiting.combine_chunks())
                waiting = table(batch)
            else:
                waiting = pa.concat_tables([waiting, table(batch)])
        writer.write_table(waiting.combine_chunks())
        writer.add_key_value_metadata({"skipped": json.dumps(first.skipped)})  # last: the list has grown since
