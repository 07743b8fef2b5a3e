"""The report as one HTML page: no request leaves it, everything it shows is inside it."""

from __future__ import annotations

from html import escape

from PIL import Image

from glocal.report.collect import ReportData
from glocal.report.figures import ARM_NAMES, data_uri, match_drawing
from glocal.report.labels import method_words
from glocal.report.matches import PhotographMatches
from glocal.report.photographs import Photograph
from glocal.report.sections import curves, missing, scores, section, spectra, what_was_run
from glocal.report.style import CSS
from glocal.report.verdict import judge
from glocal.report.visuals import Neighbours, PCAMap


def render(report: ReportData) -> str:
    """The whole page."""
    run = report.run
    title = f"{method_words(run)[0]}: {run.path.resolve().name}"
    verdict = judge(run, report.encoder.get("dim"), report.diagnoses)
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in verdict.remarks)
    sections = (
        what_was_run(report),
        scores(report),
        curves(report),
        spectra(report),
        pca_section(report),
        neighbours_section(report),
        matches_section(report),
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(_subtitle(report))}</p>
<div class="verdict{"" if verdict.good else " warn"}">
<p>{escape(verdict.sentence)}</p>
{f"<ul>{remarks}</ul>" if remarks else ""}
</div>
</header>
{"".join(sections)}
</main>
<footer>Written by glocal. This file needs no network and holds everything it shows.</footer>
</body>
</html>
"""


def pca_section(report: ReportData) -> str:
    """Photographs beside the colours of their dense features."""
    title = "Maps of dense features"
    if not report.pca:
        return section("maps", title, missing(report, "dense"))
    order = ", ".join(ARM_NAMES[arm].lower() for arm in report.pca[0].maps)
    caption = (
        f"Each photograph, then its dense features ({order}): their three strongest directions of variation over all "
        "these photographs, as red, green and blue. Look for one colour on one kind of thing in different photographs, "
        "and for edges where objects end rather than where brightness changes."
    )
    rows = "".join(_map_row(row) for row in report.pca)
    return section("maps", title, f'<p class="caption">{caption}</p><div class="maps">{rows}</div>')


def neighbours_section(report: ReportData) -> str:
    """Queries and their nearest photographs."""
    title = "Nearest neighbours"
    if not report.neighbours:
        return section("neighbours", title, missing(report, "pictures"))
    first = report.neighbours[0]
    rows = " Upper row: this run; lower row: random initialisation." if len(first.nearest) > 1 else ""
    frame = " A green frame marks the class of the photograph asked about." if first.query.label is not None else ""
    caption = (
        f"Each photograph on the left, and the most similar of {report.gallery - 1} others by pooled feature, the "
        f"nearest first.{rows}{frame} Look for neighbours alike in what they show, not in colour, background or pose."
    )
    queries = "".join(_query(neighbours, report) for neighbours in report.neighbours)
    return section("neighbours", title, f'<p class="caption">{caption}</p><div class="retrieval">{queries}</div>')


def matches_section(report: ReportData) -> str:
    """Matches drawn between two crops of the same photograph."""
    title = "Matches between two views"
    mine = report.matches.get("encoder", [])
    if not mine:
        return section("matches", title, missing(report, "dense"))
    right = ", ".join(f"{_share(found)} for {ARM_NAMES[arm].lower()}" for arm, found in report.matches.items())
    caption = (
        "Two crops of one photograph, the second smaller and sometimes mirrored. Each place of the first that the "
        "second shows is joined to its most similar place there: green where that is within one cell of the same spot, "
        f"red and dashed where it is not. Right: {right}. Look for green on objects; red on plain ground means little."
    )
    untrained = report.matches.get("random", [])
    notes = [f", untrained {_share([found])}" for found in untrained] or [""] * len(mine)
    pairs = "".join(
        f"<figure>{match_drawing(found)}<figcaption><b>{_share([found])}</b> of {len(found.hits)}{note} · "
        f"{escape(found.key)}</figcaption></figure>"
        for found, note in zip(mine, notes, strict=True)
    )
    return section("matches", title, f'<p class="caption">{caption}</p><div class="pairs">{pairs}</div>')


def _share(found: list[PhotographMatches]) -> str:
    """The share of matches that are right, in percent."""
    total = sum(len(matches.hits) for matches in found)
    return f"{100 * sum(int(matches.hits.sum()) for matches in found) / total:.0f}%" if total else "–"


def _map_row(row: PCAMap) -> str:
    tiles = [_tile(row.photograph)]
    tiles += [
        f'<img src="{data_uri(map_, quality=85)}" width="{map_.width}" height="{map_.height}" '
        f'alt="{escape(ARM_NAMES[arm])}: features of {escape(row.photograph.key)}">'
        for arm, map_ in row.maps.items()
    ]
    return f'<div class="strip">{"".join(tiles)}</div>'


def _query(neighbours: Neighbours, report: ReportData) -> str:
    query = neighbours.query
    classes = report.data.classes if report.data else None
    name = classes[query.label] if classes and query.label is not None else query.key
    rows = "".join(
        f'<div class="strip five">{"".join(_tile(tile, same=_same_class(tile, query)) for tile in nearest)}</div>'
        for nearest in neighbours.nearest.values()
    )
    left = f'<div>{_tile(query)}<p class="name">{escape(name)}</p></div>'
    return f'<div class="query">{left}<div class="rows">{rows}</div></div>'


def _same_class(a: Photograph, b: Photograph) -> bool:
    return a.label is not None and a.label == b.label


def _tile(photograph: Photograph, *, same: bool = False, side: int = 128) -> str:
    image = photograph.image.resize((side, side), Image.Resampling.LANCZOS)
    key, frame = escape(photograph.key), ' class="same"' if same else ""
    return f'<img{frame} src="{data_uri(image)}" width="{side}" height="{side}" alt="{key}" title="{key}">'


def _subtitle(report: ReportData) -> str:
    run = report.run
    name = str(report.encoder.get("name") or run.setting("backbone") or "")
    count = f"{run.trained:,} images of " if run.trained else ""
    return ", ".join(part for part in (name, f"trained on {count}{report.data.name}" if report.data else "") if part)
