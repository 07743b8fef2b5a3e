"""Everything the report shows, gathered before any of it is drawn."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from glocal.backbones import Backbone, load_encoder
from glocal.data import code_of, has_split, open_source
from glocal.data.source import ImageSource
from glocal.devices import find_device
from glocal.diagnostics import check_features, diagnose, paints
from glocal.errors import UsageError
from glocal.evaluation.baseline import baselines as start_and_pixels
from glocal.evaluation.extract import placed
from glocal.generation import load_generator
from glocal.plugins import refuse_untrusted
from glocal.report import visuals
from glocal.report.made import ROWS, Made, made_by
from glocal.report.matches import PhotographMatches, match_photographs
from glocal.report.records import RunRecord, read_run
from glocal.report.visuals import Photograph, Spectrum
from glocal.run import Run

GALLERY = 384  # photographs among which neighbours are sought and spectra measured
TILE = 160  # side of a shown map, pixels


@dataclass
class ReportData:
    """What the page shows. An empty part is left out of the page, and `notes` says why.

    Attributes:
        source: the images, or None when they could not be opened.
        split: "test" or "val" where the images are kept apart from those trained on.
        spectra: "pooled" | "dense" -> arm ("encoder", "start") -> normalised singular values.
        pca: photographs and, by arm ("pixels" too), the maps of their dense features.
        attention: photographs and, by arm, where its class token looks in them.
        neighbours: queries and, by arm, their nearest photographs.
        matches: arm -> matches in the same photographs.
        made: images that the run makes, where it does.
        seen: a photograph, and what the encoder sees in it, where `glocal inspire pixels` has looked.
        gallery: how many photographs the neighbours and spectra come from.
        diagnoses: what is wrong with the run and its features.
        notes: part -> one sentence saying why it is missing.
    """

    run: RunRecord
    encoder: Backbone | None = None
    source: ImageSource | None = None
    split: str | None = None
    spectra: dict[str, dict[str, Spectrum]] = field(default_factory=dict)
    pca: list[tuple[Photograph, dict[str, Image.Image]]] = field(default_factory=list)
    attention: list[tuple[Photograph, dict[str, Image.Image]]] = field(default_factory=list)
    neighbours: list[tuple[Photograph, dict[str, list[Photograph]]]] = field(default_factory=list)
    matches: dict[str, list[PhotographMatches]] = field(default_factory=dict)
    made: Made | None = None
    seen: Image.Image | None = None
    gallery: int = 0
    diagnoses: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def gather(
    run_dir: str | Path, *, encoder: Backbone | None, source: Any, baselines: bool, device: str, trust_code: bool
) -> ReportData:
    """Read the run and compute its pictures. The arguments are those of `write_report`."""
    run = read_run(run_dir)
    found = diagnose([*run.training, *run.monitor])
    report = ReportData(run, encoder, diagnoses=[diagnosis.told(run.config) for diagnosis in found])
    if encoder is None and run.encoder:
        report.encoder = load_encoder(run.path, trust_code=trust_code).to(find_device(device))
    elif encoder is None:
        report.notes["pictures"] = "The run has no encoder yet, so nothing can be shown of its features."
    if (file := Run(run_dir).seen_file).is_file():
        report.seen = Image.open(file)
    _open(report, source, trust_code)
    if report.encoder is not None and report.source is not None:
        others = start_and_pixels(report.encoder, seed=run.config.get("seed") or 0) if baselines else {}
        _pictures(report, report.encoder, {"encoder": report.encoder, **others}, report.source)
        if Run(run.path).has_generator:
            generator = load_generator(run.path, trust_code=trust_code)
            order = visuals.choose(report.source, 2 * ROWS)
            with placed(report.encoder, "cpu") as encoder:
                report.made = made_by(generator, encoder, visuals.load(report.source, order, encoder.image_size))
    return report


def _pictures(report: ReportData, encoder: Backbone, arms: dict[str, nn.Module], source: ImageSource) -> None:
    size, order = encoder.image_size, visuals.choose(source, GALLERY)
    photographs = visuals.load(source, order, size)
    report.gallery = len(photographs)
    if len(photographs) < 2:
        report.notes["pictures"] = f"{source.name} holds fewer than two readable images."
        return
    galleries = {arm: visuals.embed(network, photographs) for arm, network in arms.items()}
    pooled, tokens = galleries["encoder"]
    healthy = report.diagnoses or paints(report.run.training)
    if not healthy and (found := check_features(pooled, tokens)) is not None:
        report.diagnoses.append(found.told(report.run.config))
    if not (pooled.isfinite().all() and tokens.isfinite().all()):
        report.notes["pictures"] = "The encoder's features are not finite numbers, so there is nothing to draw."
        return
    for k, kind in enumerate(("pooled", "dense")):
        report.spectra[kind] = {arm: visuals.falloff(found[k]) for arm, found in galleries.items() if arm != "pixels"}
    queries = list(range(min(6, len(photographs))))
    rows = {arm: visuals.neighbours_of(found[0], queries, 5) for arm, found in galleries.items()}
    for query in queries:
        nearest = {arm: [photographs[i] for i in found[query]] for arm, found in rows.items()}
        report.neighbours.append((photographs[query], nearest))

    wide = _dense_side(encoder, size)
    shown = visuals.load(source, order[:12], wide)[:8]
    try:
        maps = {arm: visuals.pca_maps(network, shown, size=TILE) for arm, network in arms.items()}
    except ValueError as error:  # tokens that fill no grid
        report.notes["dense"] = f"{error}."
        return
    report.pca = [(photograph, {arm: maps[arm][k] for arm in maps}) for k, photograph in enumerate(shown)]
    backbones = {arm: network for arm, network in arms.items() if isinstance(network, Backbone)}
    with suppress(UsageError):  # there is no class token
        lit = {arm: visuals.attention_maps(network, shown, size=TILE) for arm, network in backbones.items()}
        report.attention = [(photograph, {arm: lit[arm][k] for arm in lit}) for k, photograph in enumerate(shown)]
    report.matches = {arm: match_photographs(network, source, order[:24], wide, 6) for arm, network in arms.items()}


def _dense_side(encoder: Backbone, size: int) -> int:
    """A larger side on which the map has up to 14 cells, for networks that take any; else the usual one.

    At most three times the usual one: further away features no longer mean the same.
    """
    wide = max(size, min(14 * encoder.stride, 3 * size, 448))
    try:
        next(visuals.features_of(encoder, [Image.new("RGB", (wide, wide))]))
    except (AssertionError, RuntimeError, ValueError):
        return size
    return wide


def _open(report: ReportData, source: Any, trust_code: bool) -> None:
    """Open the images: those that the run was not trained on, where they are kept apart."""
    spec = report.run.config.get("data") if source is None else source
    if spec is None:
        report.notes.setdefault(
            "pictures", "No images were given and config.yaml names none, so there are no pictures."
        )
        return
    if source is None:
        consent = f"glocal.report.write_report({str(report.run.path)!r}, trust_code=True)"
        refuse_untrusted(code_of(spec), origin="config.yaml", trust_code=trust_code, command=consent)
    try:
        report.split = next((name for name in ("test", "val") if has_split(spec, name)), None)
        report.source = open_source(spec, split=report.split)
    except (UsageError, OSError) as error:
        if source is not None:
            raise
        note = f"The run's images could not be opened ({error}), so there are no pictures."
        report.notes.setdefault("pictures", note)
