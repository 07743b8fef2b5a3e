"""The report as one HTML page: no request leaves it, everything it shows is inside it."""

from __future__ import annotations

from html import escape

from PIL import Image

from glocal.report.figures import ARM_NAMES, data_uri, match_drawing
from glocal.report.gather import ReportData
from glocal.report.photographs import Photograph
from glocal.report.sections import curves, missing, scores, section, spectra, what_was_run
from glocal.report.showing import Neighbours, PCAMap
from glocal.report.style import CSS
from glocal.report.verdict import judge
from glocal.report.words import method_words


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
    caption = (
        "The three strongest directions of variation of the dense features, computed over all these photographs together, as red, "
        "green and blue. Look for the same colour on the same kind of thing in different photographs, and for edges where objects "
        "end; an untrained network mostly follows brightness and position."
    )
    if not report.pca:
        return section("maps", "Maps of dense features", missing(report, "dense"))
    arms = list(report.pca[0].maps)
    heads = "".join(f"<span>{escape(name)}</span>" for name in ("Photograph", *(ARM_NAMES[arm] for arm in arms)))
    rows = "".join(_map_row(row, heads) for row in report.pca)
    return section("maps", "Maps of dense features", f'<p class="caption">{caption}</p><div class="maps">{rows}</div>')


def neighbours_section(report: ReportData) -> str:
    """Queries and their nearest photographs."""
    if not report.neighbours:
        return section("neighbours", "Nearest neighbours", missing(report, "pictures"))
    labelled = report.neighbours[0].query.label is not None
    caption = (
        f"Each photograph on the left, and the most similar of {report.gallery - 1} others by its pooled feature, nearest first. "
        "Look for neighbours alike in what they show rather than in colour, background or pose."
        + (" A green frame marks the query's own class." if labelled else "")
    )
    queries = "".join(_query(neighbours, report) for neighbours in report.neighbours)
    return section(
        "neighbours", "Nearest neighbours", f'<p class="caption">{caption}</p><div class="retrieval">{queries}</div>'
    )


def matches_section(report: ReportData) -> str:
    """Matches drawn between two crops of the same photograph."""
    mine = report.matches.get("encoder", [])
    if not mine:
        return section("matches", "Matches between two views", missing(report, "dense"))
    shares = {arm: _share(found) for arm, found in report.matches.items()}
    numbers = f"This run finds {shares['encoder']:.0f}% of them"
    numbers += f", the untrained network {shares['random']:.0f}%." if "random" in shares else "."
    caption = (
        "Two crops of one photograph, at different scales, every other second one mirrored. Each cell of the left crop that the "
        "right one also shows is joined to its most similar cell there: green when that is within one cell of the same spot, "
        f"red and dashed when it is not. {numbers} Look for green lines on objects, and for red ones on plain background."
    )
    pairs = "".join(
        f"<figure>{match_drawing(found)}<figcaption><b>{_percent(found.hits.mean())}</b> of {len(found.hits)}"
        f"{_untrained_share(report, k)} · {escape(found.key)}</figcaption></figure>"
        for k, found in enumerate(mine)
    )
    return section(
        "matches", "Matches between two views", f'<p class="caption">{caption}</p><div class="pairs">{pairs}</div>'
    )


def _untrained_share(report: ReportData, k: int) -> str:
    found = report.matches.get("random", [])
    return f", untrained {_percent(found[k].hits.mean())}" if k < len(found) and len(found[k].hits) else ""


def _share(found: list) -> float:
    total = sum(len(matches.hits) for matches in found)
    return 100 * sum(int(matches.hits.sum()) for matches in found) / total if total else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _map_row(row: PCAMap, heads: str) -> str:
    tiles = [_tile(row.photograph)]
    tiles += [
        f'<img src="{data_uri(map_, quality=85)}" width="{map_.width}" height="{map_.height}" '
        f'alt="{escape(ARM_NAMES[arm])}: features of {escape(row.photograph.key)}">'
        for arm, map_ in row.maps.items()
    ]
    return f'<div><div class="strip heads">{heads}</div><div class="strip">{"".join(tiles)}</div></div>'


def _query(neighbours: Neighbours, report: ReportData) -> str:
    query = neighbours.query
    classes = report.data.classes if report.data else None
    name = classes[query.label] if classes and query.label is not None else query.key
    rows = "".join(
        f'<div class="row"><p>{ARM_NAMES[arm]}</p><div class="strip">'
        f"{''.join(_tile(found, same=query.label is not None and found.label == query.label) for found in nearest)}</div></div>"
        for arm, nearest in neighbours.nearest.items()
    )
    return f'<div class="query"><div>{_tile(query)}<p class="name">{escape(name)}</p></div><div>{rows}</div></div>'


def _tile(photograph: Photograph, *, same: bool = False, side: int = 128) -> str:
    image = photograph.image.resize((side, side), Image.Resampling.LANCZOS)
    key, frame = escape(photograph.key), ' class="same"' if same else ""
    return f'<img{frame} src="{data_uri(image)}" width="{side}" height="{side}" alt="{key}" title="{key}">'


def _subtitle(report: ReportData) -> str:
    parts = [str(report.encoder.get("name") or report.run.setting("backbone") or "")]
    if report.data:
        parts.append(f"{report.data.images:,} images from {report.data.name}")
    return ", ".join(part for part in parts if part)
