"""What survives: `python -m benchmarks.reliability fuzz|kills|page` damages files, kills runs, writes the page."""

from __future__ import annotations

import argparse

from benchmarks.__main__ import RESULTS, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("what", choices=("fuzz", "kills", "page"))
    arguments = parser.parse_args()
    if arguments.what != "page":
        print(run(arguments.what, None, RESULTS))


if __name__ == "__main__":
    main()
