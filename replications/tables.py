"""Write docs/replications.md, docs/methods_table.md and the results in docs/co_ssl.md from what is kept.

python -m replications.tables
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replications import co_ssl, collapse, dcl, deepcluster, directclr, loca, low_shot, methods, multicrop, vicregl

DOCS = Path(__file__).parent.parent / "docs"
CLAIMS = (vicregl, co_ssl, dcl, directclr, multicrop, collapse, low_shot, deepcluster, loca)
HEAD = """# Replications

Published claims tried at small scale, with the verdict rule written before the runs, several seeds, last-step scores on
test splits. Each is one file under `replications/`; results are kept per arm and seed under `replications/results/`.
This page is made by `python -m replications.tables`.
"""


METHODS_HEAD = """# The evidence for each method

*Oracle*: what the value and gradient of its loss are compared with, in the test behind the link. *1 = 2*: loss,
gradients and buffers on two processes are those of one with the joined batch. *Lines of code*: of its file, without
imports and documentation. What the methods are, and when to choose which: [methods](methods.md). This page is made by
`python -m replications.tables`.
"""


def section(module: Any) -> list[str]:
    """Title, protocol and results of a replication."""
    title, _, rest = (module.__doc__ or "").partition("\n")
    return [f"## {title}", rest.strip().partition("\n\n    python")[0], module.table(), ""]


def write(page: str, parts: list[str]) -> None:
    (DOCS / page).write_text("\n\n".join(parts).rstrip() + "\n")


def insert(page: str, text: str) -> None:
    """Between the two comments of a page that is written by hand."""
    path, (begin, end) = DOCS / page, ("<!-- results -->", "<!-- end of results -->")
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    write("replications.md", [HEAD.rstrip(), *(part for module in CLAIMS for part in section(module))])
    insert("co_ssl.md", co_ssl.table())
    co_ssl.picture(DOCS / "figures" / "co_ssl_robustness.svg")
    write("methods_table.md", [METHODS_HEAD.rstrip(), *section(methods)])


if __name__ == "__main__":
    main()
