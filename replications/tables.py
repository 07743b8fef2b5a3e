"""Write docs/replications.md from what is kept: `python -m replications.tables`."""

from __future__ import annotations

from pathlib import Path

from replications import vicregl

PAGE = Path(__file__).parent.parent / "docs" / "replications.md"
HEAD = """# Replications

Published claims tried at small scale, with the verdict rule written before the runs, several seeds, last-step scores on
test splits. Each is one file under `replications/`; results are kept per arm and seed under `replications/results/`.
This page is made by `python -m replications.tables`.
"""


def main() -> None:
    sections = [HEAD.rstrip()]
    for module in (vicregl,):
        title, _, rest = (module.__doc__ or "").partition("\n")
        sections += [f"## {title}", rest.strip().partition("\n\n    python")[0], module.table(), ""]
    PAGE.write_text("\n\n".join(sections).rstrip() + "\n")


if __name__ == "__main__":
    main()
