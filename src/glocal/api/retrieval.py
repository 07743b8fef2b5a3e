"""Photographs found again by what an encoder sees in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.api.opening import Which, opened_encoder
from glocal.errors import UsageError
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from glocal.backbones import Backbone
    from glocal.pipeline.find import Match


def index(
    encoder: str | Backbone,
    data: str | list[str],
    *,
    out: str,
    dense: bool = False,
    which: Which = "student",
    split: Literal["train", "val", "test", "all"] = "all",
    image_size: int | None = None,
    batch_size: int = 128,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    workers: int | None = None,
    trust_code: bool = False,
) -> Path:
    """Make an index of photographs, to search in.

    The same again looks only at what is new or has changed; photographs that are no longer there leave it.

    Args:
        encoder: what `load` takes, or a Backbone.
        data: images; several folders one after the other.
        out: the file.
        dense: keep what is at each place of a photograph, too, to find patches (`search --at`). The whole photograph is
            then squeezed into a square, so that no place is missing, in place of its centre crop.
        which: as for `load`.
        split: of data that has splits.
        image_size: by default the encoder's own.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        precision: by default bf16 on a GPU that has instructions for it, else fp32.
        workers: loader processes; by default none on the CPU, elsewhere one per core.
        trust_code: as for `load`.

    Returns:
        The file.

    Raises:
        UsageError: if `out` holds something else, or the index of another encoder, other photographs or settings.
    """
    from glocal.data import describe_spec, open_source
    from glocal.evaluation.extract import placed
    from glocal.pipeline.find import absolute, index_source

    opened = opened_encoder(encoder, which, None, image_size, trust_code)
    source = open_source(data, split=split)
    about = {"encoder": absolute(encoder) if isinstance(encoder, str) else None, "which": which, "split": split}
    about |= {"data": absolute(describe_spec(data)), "asked_size": image_size}
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision}
    with placed(opened, device) as model, shown_progress() as progress:
        return index_source(model, source, Path(out), about, dense=dense, progress=progress, **settings)


def search(
    index: str,
    query: str,
    *,
    k: int = 12,
    at: tuple[int, int] | None = None,
    html: str | None = None,
    encoder: str | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> list[Match]:
    """Find the photographs of an index that are most like another one.

    With `at`, those that have a patch like one of its.

    Args:
        index: the file that `index` made.
        query: an image file.
        k: how many to find.
        at: the place (x, y) of a patch of the query, in its pixels; the index is to be dense.
        html: a page to write, with the photographs found.
        encoder: where the index's encoder is, if it has moved.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        trust_code: import what the encoder's or the index's file names as module:attribute.

    Returns:
        Name, cosine similarity and, with `at`, the place of each, the most similar first.

    Raises:
        UsageError: if there is no index, it is of another encoder, or the query cannot be read.
    """
    from glocal.evaluation.extract import placed
    from glocal.pipeline.find import open_index, search_index
    from glocal.run import check_place

    check_place("--html", html, index, query)
    found = open_index(index)
    where, about = encoder or found.about.get("encoder"), found.about
    if not isinstance(where, str):
        raise UsageError(f"{index} does not say where its encoder is: give --encoder")
    if encoder is None and not where.startswith("timm:") and not Path(where).exists():
        raise UsageError(f"{where}, whose encoder made {index}, is not there: if it has moved, give --encoder")
    opened = opened_encoder(where, about.get("which", "student"), None, about.get("asked_size"), trust_code)
    with placed(opened, device) as model:
        page = Path(html) if html else None
        return search_index(model, found, Path(query), k, at=at, page=page, trust_code=trust_code)
