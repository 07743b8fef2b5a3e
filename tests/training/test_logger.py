"""What a person sees while a run goes."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from glocal.run import Run
from glocal.training.logger import RunLogger


@pytest.mark.parametrize("width", [80, 120])
def test_bar_step_and_time_left_survive_any_number_of_terms(tmp_path, width, monkeypatch):
    monkeypatch.setattr("glocal.training.logger.Console", lambda **_: Console(file=io.StringIO(), force_terminal=True))
    now = [0.0]
    log = RunLogger(Run(tmp_path), steps=4000)
    log.progress.stop()
    log.progress.get_time = lambda: now[0]
    log.progress.reset(log.task)
    for step in range(1, 20):
        now[0] += 1.0  # a step a second
        log.advance(step)
    terms = "  ".join(f"some_long_term_{k} 12.34" for k in range(6))
    log.show(19, f"loss 75.21  {terms}  117 img/s")
    console = Console(file=io.StringIO(), width=width)
    console.print(log.progress.get_renderable())
    (line,) = re.sub("\x1b\\[[0-9;]*m", "", console.file.getvalue()).splitlines()
    log.close()
    assert len(line) <= width
    assert "19/4000 eta 1:06:2" in line
    assert "loss 75.21" in line
    assert "…" in line
