"""Evidence for claims: `python -m replications queue | status | pages | costs | recipes`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m replications", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument("--runs", type=Path, default=Path("runs/replications"), help="where cells lie while they run")
    data = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("GLOCAL_DATA")
    data.add_argument("--data", type=Path, default=default, required=default is None, help="by default $GLOCAL_DATA")
    only = argparse.ArgumentParser(add_help=False)
    only.add_argument("--only", nargs="+", metavar="NAME", help="pilots, claims, or names of some of them")
    queue = commands.add_parser("queue", parents=[data, runs, only], help="run what is pending")
    queue.add_argument("--hours", type=float, help="stop after so many, saving what is under way")
    queue.add_argument("--processes", type=int, default=1, help="cells at once, one thread each")
    commands.add_parser("status", parents=[runs, only], help="what is done and what is to come")
    commands.add_parser("pages", help="write every page and figure again from the stored results")
    commands.add_parser("costs", parents=[data], help="measure what the arms of equal time go by")
    commands.add_parser("recipes", help="store the numbers of the recipes whose version was raised")
    cell = commands.add_parser("cell", parents=[data, runs], help="run one cell of the plan: WORLD/ARM-SEED")
    cell.add_argument("name")
    asked = parser.parse_args()
    match asked.command:
        case "queue":
            from replications.queue import work

            return work(chosen(asked.only), asked.data, asked.runs, processes=asked.processes, hours=asked.hours)
        case "status":
            from replications.queue import status

            print(status(chosen(asked.only), asked.runs))
        case "pages":
            from replications.pages import write_pages

            write_pages()
        case "costs":
            from replications.costs import table

            print(table(asked.data))
        case "recipes":
            from replications.recipes import store

            return store()
        case "cell":
            from replications.cells import run_cell
            from replications.queue import find_cell

            os.nice(19)
            return run_cell(find_cell(asked.name), asked.data, asked.runs)
    return 0


def chosen(names: list[str] | None) -> list:
    """Claims of the plan, in order of value; by default those that may run."""
    from replications.claims import CLAIMS
    from replications.claims.pilots import PILOTS
    from replications.plan import RECIPES_FROZEN

    everything = [*PILOTS, *CLAIMS]
    if names is None:
        return everything if RECIPES_FROZEN else list(PILOTS)
    groups = {"pilots": PILOTS, "claims": CLAIMS}
    wanted = [claim for name in names for claim in groups.get(name, [c for c in everything if c.name == name])]
    if unknown := [name for name in names if name not in groups and name not in {c.name for c in everything}]:
        sys.exit(f"no claim is called {unknown[0]}; there are {', '.join(c.name for c in everything)}")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
