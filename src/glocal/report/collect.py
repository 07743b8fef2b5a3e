"""Everything the report shows, gathered before any of it is drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from glocal.backbones import Backbone, load_encoder
from glocal.data import has_split, open_source
from glocal.data.source import ImageSource
from glocal.diagnostics import Diagnosis, check_features, diagnose
from glocal.errors import UsageError
from glocal.evaluation.baseline import start_of
from glocal.report.matches import PhotographMatches, match_photographs
from glocal.report.photographs import Photograph, choose, features_of, load
from glocal.report.records import RunRecord, read_run
from glocal.report.visuals import Gallery, Neighbours, PCAMap, Spectrum, embed, falloff, neighbours_of, pca_maps

GALLERY = 384
"""Photographs among which neighbours are sought and spectra measured."""
TILE = 160
"""Side of a shown photograph, pixels."""


@dataclass(frozen=True)
class DataFacts:
    """The images shown: their name, how many there are to choose from, their classes if they have labels, and the split
    ("test", "val") if they are kept apart from those trained on."""

    name: str
    images: int
    classes: list[str] | None
    split: str | None


@dataclass
class ReportData:
    """What the page shows. An empty part is left out of the page, and `notes` says why.

    Attributes:
        run: the text files of the run.
        data: the images, or None when they could not be opened.
        encoder: facts about the encoder (name, dim, stride, parameters), or empty.
        spectra: "pooled" | "dense" -> arm -> normalised singular values.
        pca: photographs and the maps of their dense features.
        neighbours: queries and their nearest photographs.
        matches: arm -> matches in the same photographs.
        gallery: how many photographs the neighbours and spectra come from.
        diagnoses: what is wrong with the run and its features, a sentence each.
        notes: part -> one sentence saying why it is missing.
    """

    run: RunRecord
    data: DataFacts | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    spectra: dict[str, dict[str, Spectrum]] = field(default_factory=dict)
    pca: list[PCAMap] = field(default_factory=list)
    neighbours: list[Neighbours] = field(default_factory=list)
    matches: dict[str, list[PhotographMatches]] = field(default_factory=dict)
    gallery: int = 0
    diagnoses: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def gather(run_dir: str | Path, *, encoder: Backbone | None, source: Any, baselines: bool) -> ReportData:
    """Read the run and compute its pictures.

    Args:
        run_dir: the run directory.
        encoder: a Backbone, or None to load the run's.
        source: an `ImageSource`, what `glocal.data.open_source` accepts, or None for the data named in config.yaml.
        baselines: also show the same network untrained.
    """
    run = read_run(run_dir)
    report = ReportData(run, diagnoses=[_sentence(found) for found in diagnose([*run.training, *run.monitor])])
    encoder = _encoder(run, encoder, report)
    images, split = _source(run, source, report)
    if encoder is not None:
        report.encoder = _facts(encoder)
    if images is not None:
        report.data = DataFacts(images.name, len(images), images.classes, split)
    if encoder is not None and images is not None:
        arms = {"encoder": encoder}
        if baselines:
            with suppress(UsageError):  # its weights are gone: evaluation.json says so
                arms["random"] = start_of(encoder, seed=run.setting("seed") or 0)
        _pictures(report, arms, images)
    return report


def _pictures(report: ReportData, arms: dict[str, Backbone], source: ImageSource) -> None:
    encoder = arms["encoder"]
    size = encoder.image_size
    order = choose(source, GALLERY)
    photographs = load(source, order, size)
    report.gallery = len(photographs)
    if len(photographs) < 2:
        report.notes["pictures"] = (
            f"{report.data.name if report.data else 'The source'} holds fewer than two readable images."
        )
        return
    galleries = {arm: embed(network, photographs) for arm, network in arms.items()}
    mine = galleries["encoder"]
    if not report.diagnoses and (found := check_features(mine.pooled, mine.tokens)) is not None:
        report.diagnoses.append(_sentence(found))
    if not (mine.pooled.isfinite().all() and mine.tokens.isfinite().all()):
        report.notes["pictures"] = "The encoder's features are not finite numbers, so there is nothing to draw."
        return
    report.spectra = {
        "pooled": {arm: falloff(gallery.pooled) for arm, gallery in galleries.items()},
        "dense": {arm: falloff(gallery.tokens) for arm, gallery in galleries.items()},
    }
    report.neighbours = _neighbours(galleries, photographs)

    wide = _dense_side(encoder, size)
    shown = load(source, order[:12], wide)[:8]
    try:
        maps = {arm: pca_maps(network, shown, size=TILE) for arm, network in arms.items()}
    except ValueError as error:  # tokens that fill no grid
        report.notes["dense"] = f"{error}."
        return
    report.pca = [PCAMap(photograph, {arm: maps[arm][k] for arm in maps}) for k, photograph in enumerate(shown)]
    report.matches = {arm: match_photographs(network, source, order[:24], wide, 6) for arm, network in arms.items()}


def _neighbours(galleries: dict[str, Gallery], photographs: list[Photograph]) -> list[Neighbours]:
    queries = list(range(min(6, len(photographs))))
    rows = {arm: neighbours_of(gallery.pooled, queries, 5) for arm, gallery in galleries.items()}
    return [
        Neighbours(photographs[query], {arm: [photographs[i] for i in rows[arm][k]] for arm in rows})
        for k, query in enumerate(queries)
    ]


def _dense_side(encoder: Backbone, size: int) -> int:
    """A larger side on which the map has up to 14 cells, for networks that take any; else the usual one.

    At most three times the usual one: further away features no longer mean the same.
    """
    wide = max(size, min(14 * encoder.stride, 3 * size, 448))
    try:
        next(features_of(encoder, [Image.new("RGB", (wide, wide))]))
    except (AssertionError, RuntimeError, ValueError):
        return size
    return wide


def _encoder(run: RunRecord, encoder: Backbone | None, report: ReportData) -> Backbone | None:
    if encoder is not None:
        return encoder
    if not (run.path / "encoder.safetensors").is_file():
        report.notes["pictures"] = "The run has no encoder.safetensors yet, so nothing can be shown of its features."
        return None
    return load_encoder(run.path)


def _source(run: RunRecord, source: Any, report: ReportData) -> tuple[ImageSource | None, str | None]:
    """The images to show and their split: of the run's data those it was not trained on, where they are kept apart."""
    if source is not None:
        return open_source(source), None
    spec = run.setting("data")
    if spec is None:
        report.notes.setdefault(
            "pictures", "No images were given and config.yaml names none, so there are no pictures."
        )
        return None, None
    try:
        split = next((name for name in ("test", "val") if has_split(spec, name)), None)
        return open_source(spec, split=split), split
    except (UsageError, OSError) as error:
        report.notes.setdefault(
            "pictures", f"The run's images could not be opened ({error}), so there are no pictures."
        )
        return None, None


def _sentence(found: Diagnosis) -> str:
    text = str(found)
    return f"{text[0].upper()}{text[1:]}."


def _facts(encoder: Backbone) -> dict[str, Any]:
    facts = {name: getattr(encoder, name) for name in ("name", "dim", "stride", "pool", "image_size")}
    return {**facts, "parameters": sum(p.numel() for p in encoder.parameters())}
