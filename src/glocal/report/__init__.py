"""Pictures and pages: one self-contained HTML file that says what a run learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glocal.backbones import Backbone

__all__ = ["write_report"]


def write_report(
    run_dir: str | Path,
    *,
    encoder: Backbone | None = None,
    source: Any = None,
    baselines: bool = True,
    out: str | Path | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Path:
    """Write a run's report: one HTML file that needs no network.

    What the run lacks (scores, an encoder, images) is left out of the page, which then says why.

    Args:
        run_dir: the run directory.
        encoder: the trained Backbone, used where it is; loaded from the run when left out.
        source: images to show, whatever `glocal.data.open_source` takes, of several splits the test images; those of
            config.yaml when left out.
        baselines: also show what the weights it started from, and raw pixels, make of the same images.
        out: the file to write; report.html in the run directory when left out.
        device: for an encoder that is loaded: see `glocal.devices.find_device`.
        trust_code: import what the run's files name as module:attribute.

    Returns:
        The file written.

    Raises:
        UsageError: if `run_dir` is not a run, one of its files cannot be parsed, or `source` cannot be opened.
    """
    from glocal.report.collect import gather
    from glocal.report.page import render
    from glocal.run import Run, write_atomically

    options: dict[str, Any] = {"baselines": baselines, "device": device, "trust_code": trust_code}
    data = gather(run_dir, encoder=encoder, source=source, **options)
    path = Path(out) if out is not None else Run(run_dir).report_file
    write_atomically(path, render(data))
    return path
