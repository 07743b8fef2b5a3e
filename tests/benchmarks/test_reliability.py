"""The campaigns would notice: an escape, a crash, a hang, a lost step, a bit that differs."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from benchmarks import environment
from benchmarks.damage import IMAGE, TEXT, forms
from benchmarks.fuzz import FILES, in_children, judge
from benchmarks.kills import different_bits
from benchmarks.reliability import write_page
from glocal.data.images import EncodedImage
from glocal.data.source import Unreadable
from glocal.errors import UsageError
from glocal.run import write_json


@pytest.mark.parametrize(
    ("end", "printed", "outcome"),
    [
        ("read", "", "read"),
        ("skipped", "", "skipped"),
        ("read", "Traceback (most recent call last):\n  a worker's\n", "escaped"),
        (Unreadable("truncated"), "", "skipped"),
        (UsageError("no such file"), "", "refused"),
        (UsageError("no such\nfile"), "", "escaped"),
        (UsageError("no such \x1b[31mfile"), "", "escaped"),
        (UsageError("x" * 5000), "", "escaped"),
        (UsageError(""), "", "escaped"),
        (KeyError("a"), "", "escaped"),
        (SystemExit(2), "note\nglocal: no such file\n", "refused"),
        (SystemExit(1), "glocal: stopped\n", "refused"),
        (SystemExit(3), "glocal: no such file\n", "escaped"),
        (SystemExit(2), "glocal: no such file\nand more\n", "escaped"),
        (SystemExit(2), "", "escaped"),
    ],
)
def test_only_one_clear_line_counts_as_a_refusal(end, printed, outcome):
    def work():
        if isinstance(end, str):
            return end
        raise end

    assert judge(work, lambda: printed)[0] == outcome


def test_a_piece_that_crashes_or_hangs_is_named_and_the_others_are_done():
    def work(piece):
        if piece == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if piece == "hang":
            time.sleep(60)
        print("aloud", piece)
        return "read"

    pieces = ["a", "crash", "b", "hang", "c"]
    found = [(piece, outcome) for piece, outcome, _, _ in in_children(pieces, work, patience=1.0)]
    assert found == [("a", "read"), ("crash", "crashed"), ("b", "read"), ("hang", "hung"), ("c", "read")]


def test_one_bit_is_one_bit():
    def state():
        return {"method": {"w": torch.ones(2, 3), "n": torch.tensor(3)}, "position": {"step": 4, "plan": None}}

    assert different_bits(state(), state()) == 0
    other = state()
    other["method"]["w"].view(torch.int32)[1, 2] ^= 0b101
    assert different_bits(state(), other) == 2
    nan = {"w": torch.tensor([float("nan")])}
    assert different_bits(nan, {"w": torch.tensor([float("nan")])}) == 0
    for path, value in {"w": torch.ones(3, 2), "n": torch.tensor(3.0)}.items():
        other = state()
        other["method"][path] = value
        assert different_bits(state(), other) > 0
    for key, value in {"step": 5, "plan": {}}.items():
        assert different_bits(state(), state() | {"position": state()["position"] | {key: value}}) == 1
    assert different_bits(state(), {"method": state()["method"]}) > 0


def test_damage_is_a_function_of_the_seed_and_whole_forms_are_read():
    for damage in (*IMAGE.values(), *TEXT.values()):
        for data in (b"seed: 1\nlr: 0.5\n", forms()["RGB.png"]):
            assert damage(random.Random(3), data) == damage(random.Random(3), data)
    refused = set()
    for name, data in forms().items():
        try:
            assert sorted(EncodedImage(data).decode().shape) == [3, 37, 53]
        except Unreadable:
            refused.add(name)
    assert refused == {"5 × 8.tif", "7 × 16.tif"}
    sizes = {np.frombuffer(IMAGE["absurd size"](random.Random(k), forms()["L.bmp"]), "<i4", 2, 18)[0] for k in range(9)}
    assert len(sizes) > 4


def test_the_page_says_what_was_counted_and_each_fault(tmp_path):
    assert write_page(tmp_path, tmp_path).read_text().count("Not measured yet") == 2
    counts = {"images": {"truncated": {"read": 2, "skipped": 3}, "zeros": {"escaped": 1}}}
    counts |= {"folders": {"embed": {"refused": 1}}, "files": {name: {"read": 1} for name in FILES}}
    faults = [{"group": "images", "kind": "zeros", "number": 0, "escaped": "KeyError: 'a'"}]
    stroke = {"setting": "vicreg", "signal": "SIGKILL", "steps_lost": 3, "steps_after_signal": 0, "orphans": 1}
    stroke |= {"exit_code": -9, "seconds_to_end": 0.1}
    term = stroke | {"signal": "SIGTERM", "steps_lost": 0, "steps_after_signal": 1, "exit_code": 143, "orphans": 0}
    kills = {"settings": ["vicreg"], "checkpoint_steps": 4, "orphans_after": 10.0, "strokes": [stroke, term]}
    kills["runs"] = [{"setting": "vicreg", "refusals": 0, "different_bits": bits} for bits in (0, 7)]
    fuzz = {"forms": 3, "counts": counts, "faults": faults, "peak_bytes": 2**20}
    (tmp_path / "machine").mkdir()
    for name, measured in (("fuzz", fuzz), ("kills", kills)):
        write_json(
            tmp_path / "machine" / f"{name}.json",
            {"machine": environment.machine(), "seconds": 1, "measured": measured},
        )
    text = write_page(tmp_path, tmp_path).read_text()
    assert "| **all** | 6 | 2 | 3 | 0 | 1 | 0 | 0 |" in text
    assert "KeyError" in text
    assert "| vicreg | 1 | 3 | 1 | 0 | 1 | 1 | 0 | 7 |" in text
    assert "after SIGTERM 143 (1×)" in text
