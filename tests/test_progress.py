"""The bar of evaluation, embedding and reports, in a terminal and without one."""

from __future__ import annotations

import os
import pty
import sys

from glocal.progress import shown_progress

PROGRAM = """
from glocal.progress import shown_progress
with shown_progress({quiet}) as progress:
    if progress:
        for done in range(4):
            progress("features of photos", done, 3)
print("the end")
"""


def in_a_terminal(monkeypatch, **values) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    seen = bytearray()

    def keep(fd: int) -> bytes:
        data = os.read(fd, 1024)
        seen.extend(data)
        return data

    assert pty.spawn([sys.executable, "-c", PROGRAM.format(**values)], keep) == 0
    return seen.decode(errors="replace")


def test_a_terminal_shows_what_is_done(monkeypatch, capfd):
    text = in_a_terminal(monkeypatch, quiet=False)
    assert "features of photos" in text
    assert "3/3" in text
    assert text.rstrip().endswith("the end")  # the bar is gone


def test_nobody_is_shown_a_bar_who_did_not_ask_or_cannot_see_it(monkeypatch, capfd):
    assert "features" not in in_a_terminal(monkeypatch, quiet=True)
    with shown_progress() as progress:
        assert progress is None
