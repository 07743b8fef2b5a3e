"""docs/reliability.md: what survives damage and kills, made of the JSON files alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.tables import DOCS, RESULTS, measured_on, table

OUTCOMES = {"read": "read", "skipped": "skipped", "refused": "refused in a line"}
FAULTS = ("escaped", "hung", "crashed")
GROUPS = {
    "lines": "Command lines with one to three mistakes",
    "images": "Images, read as one of a folder, one of a list, or a mask",
    "folders": "Commands on folders of 24 images of which 10 to 80% may be damaged",
    "files": "Other files, and a command that reads or replaces them",
}
HEAD = """# Reliability

What happens to damaged files, and to runs that are killed. Measured by `python -m benchmarks fuzz` and
`python -m benchmarks kills`, which repeat the same work, seeded; this page is made of what they keep in
`benchmarks/results/` by `python -m benchmarks.page`."""
FUZZ = """## Damaged files

The promise: what is damaged is read as far as it can be, skipped and named, or refused in one clear line; no traceback,
no hang, no crash. The images are whole ones of {forms} forms (formats, modes, compressions, 16 bits, CMYK, palettes,
up to seven channels, animations), damaged as the first column says. Every piece of work is done in a child process.
Photographs are no masks, and five channels no photograph: some whole ones are refused too. Training has to name
exactly the unreadable images in `skipped.txt`. Reading an image took up to {mib:,.0f} MiB of
memory (promised: 1,024)."""
KILLS = """## Killed runs

The promise: after SIGKILL a run goes on from its last checkpoint (one every {every} steps here), after SIGTERM from the
step that was under way, and ends in the very bits of a run that nobody disturbed: weights, optimiser, position, logged
losses. No process is left {after:.0f} s later. {kills} times SIGKILL to the main process and {terms} times SIGTERM to
the whole group, at random moments of runs of 16 steps; {runs} runs, struck up to five times each, were resumed to their
end and compared. Steps lost and finished are the most of any stroke."""


def write_page(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """Write docs/reliability.md of what has been measured, machine by machine."""
    parts = [HEAD]
    for name, section in (("fuzz", fuzz), ("kills", kills)):
        found = [json.loads(file.read_text()) for file in sorted(results.glob(f"*/{name}.json"))]
        parts += [f"{section(kept['measured'])}\n\n{measured_on(kept)}" for kept in found]
        parts += [] if found else [f"Not measured yet: `python -m benchmarks {name}`."]
    page = docs / "reliability.md"
    page.write_text("\n\n".join(parts) + "\n")
    return page


def fuzz(measured: dict[str, Any]) -> str:
    """Counts by group and kind, and what went wrong."""
    parts = [FUZZ.format(forms=measured["forms"], mib=measured["peak_bytes"] / 2**20)]
    for group, title in GROUPS.items():
        counts = {kind: Counter(found) for kind, found in measured["counts"].get(group, {}).items()}
        counts["**all**"] = sum(counts.values(), Counter())
        rows = [
            (kind, found.total(), *(found[name] for name in (*OUTCOMES, *FAULTS))) for kind, found in counts.items()
        ]
        parts.append(table((title, "tried", *OUTCOMES.values(), *FAULTS), rows))
        if not all(n.total() for n in counts.values()):
            parts.append("This campaign was cut off: kinds tried fewer times than the others are still to be tried.")
    said = [f"- {json.dumps(fault, ensure_ascii=False)}" for fault in measured["faults"]]
    return "\n\n".join([*parts, *(["Faults:\n\n" + "\n".join(said)] if said else [])])


def kills(measured: dict[str, Any]) -> str:
    """A row for each setting."""
    strokes, runs = measured["strokes"], measured["runs"]
    number = {kind: sum(stroke["signal"] == kind for stroke in strokes) for kind in ("SIGKILL", "SIGTERM")}
    text = KILLS.format(
        every=measured["checkpoint_steps"],
        after=measured["orphans_after"],
        kills=number["SIGKILL"],
        terms=number["SIGTERM"],
        runs=len(runs),
    )
    rows = []
    for setting in [*measured["settings"], "**all**"]:
        mine, ends = ([one for one in many if setting in (one["setting"], "**all**")] for many in (strokes, runs))
        row: list[Any] = [setting]
        for kind in number:
            struck = [stroke for stroke in mine if stroke["signal"] == kind]
            row += [len(struck), max((stroke["steps_lost"] for stroke in struck), default="")]
        row += [max((s["steps_after_signal"] for s in mine if s["signal"] == "SIGTERM"), default="")]
        row += [sum(stroke["orphans"] for stroke in mine), sum(bool(end["refusals"]) for end in ends)]
        rows.append((*row, sum(end["different_bits"] or 0 for end in ends)))
    head = ("", "SIGKILL", "steps lost", "SIGTERM", "steps lost", "steps finished after it")
    codes = [
        f"after {kind} " + ", ".join(f"{code} ({n}×)" for code, n in sorted(found.items()))
        for kind in number
        if (found := Counter(stroke["exit_code"] for stroke in strokes if stroke["signal"] == kind))
    ]
    longest = max((s["seconds_to_end"] for s in strokes if s["signal"] == "SIGTERM"), default=0)
    notes = f"Exit codes (-15: before or after training, with nothing to save): {'; '.join(codes)}."
    notes += f" After SIGTERM a process lived up to {longest:.1f} s, on a busy machine."
    return "\n\n".join([text, table((*head, "processes left", "resumptions refused", "different bits"), rows), notes])
