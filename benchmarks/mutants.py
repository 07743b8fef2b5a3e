"""Do the tests notice? `python -m benchmarks.mutants`: small faults put into the code, one at a time, in a copy of it.

A seeded sample of mutants (a comparison turned, a constant changed, a statement deleted, ...), each run against the
tests that mirror its file and those that name most of what the file defines. A survivor is a test that is missing, or a
change without effect: what is written into its "why" by hand is kept.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT, RESULTS = Path(__file__).parents[1], Path(__file__).parent / "results" / "mutants.json"
FILES = ("losses/*.py", "views/*.py", "evaluation/*.py", "training/defaults.py", "training/rates.py")
TABLES = ("severities.py",)  # published numbers: a test could only repeat them
DEPENDENTS = 3  # test files beside the one that mirrors; all of them with --go-on
SECONDS = 300  # of the processor, after which a mutant counts as killed
PRELOADED = ("torch", "torchvision", "timm", "sklearn.linear_model", "lightly.loss", "hypothesis")
PYTEST = "-x -q -rfE --assert=plain -p pytest_timeout --timeout=400 -p no:cacheprovider"
PAIRS = "Lt LtE Gt GtE Eq NotEq Is IsNot In NotIn And Or Add Sub Mult Div BitOr BitAnd"
PAIRS += " min max amin amax argmin argmax mean sum floor ceil any all minimum maximum"
ONE, TWO = PAIRS.split()[::2], PAIRS.split()[1::2]
OTHER = dict(zip(ONE + TWO, TWO + ONE, strict=True))
NOT_CODE = {"annotation", "returns", "decorator_list", "bases"}


def changes(node: ast.AST, field: str) -> Iterator[ast.AST]:
    """What may stand in the place of `node`."""
    match node:
        case ast.operator() | ast.cmpop() | ast.boolop() if other := OTHER.get(type(node).__name__):
            yield getattr(ast, other)()
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1 if isinstance(value, int) else value * 2 or 1.0)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Attribute(value=value, attr=name) if field == "func" and name in OTHER:
            yield ast.Attribute(value, OTHER[name], node.ctx)
        case ast.Name(id="min" | "max" | "any" | "all" as name) if field == "func":
            yield ast.Name(OTHER[name], node.ctx)
        case ast.Return(value=ast.AST()):
            yield ast.Return(ast.Constant(0))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.If(orelse=[]):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)]):
            if any(isinstance(x, ast.Name) and x.id == name for x in ast.walk(node.value)):
                yield ast.Pass()


def places(node: ast.AST, line: int = 0) -> Iterator[tuple[int, ast.AST, Any, Any, ast.AST]]:
    """All that may be changed: line, the node around it, its place in a list or in that node, and the change."""
    for field, value in ast.iter_fields(node):
        holder, items = (value, enumerate(value)) if isinstance(value, list) else (vars(node), [(field, value)])
        for key, child in items if field not in NOT_CODE else ():
            message = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
            if not isinstance(child, ast.AST) or message or ast.unparse(child).startswith("if TYPE_CHECKING"):
                continue
            at = getattr(child, "lineno", line)
            around = child if isinstance(child, ast.stmt) else node
            yield from ((at, around, holder, key, change) for change in changes(child, field))
            yield from places(child, at)


def mutant(path: Path, number: int) -> tuple[dict[str, Any], str]:
    """The `number`th mutant of a file: its line and what changes, and the file's text without comments."""
    tree = ast.parse(path.read_text())
    line, around, holder, key, change = list(places(tree))[number]
    before = ast.unparse(around)
    holder[key] = change
    after = ast.unparse(change if isinstance(change, ast.stmt) else around)
    return {"line": line, "before": before, "after": after}, ast.unparse(ast.fix_missing_locations(tree))


def relevant_tests(path: Path, root: Path, dependents: int) -> list[str]:
    """The file that mirrors `path`, and those that name most of what it defines; that of several processes, last."""
    mirror, room = root / "tests" / path.parent.name / f"test_{path.stem}.py", f"glocal.{path.parent.name}"
    names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    word = re.compile(rf"\b({'|'.join([*names, f'{room}.{path.stem}'])})\b")
    texts = {file: file.read_text() for file in sorted(root.glob("tests/**/test_*.py")) if file != mirror}
    counts = {file: len(word.findall(text)) for file, text in texts.items() if room in text}
    others = sorted((file for file in counts if counts[file]), key=lambda file: -counts[file])[:dependents]
    if "distributed" in path.read_text():
        others.append(root / "tests" / "test_distributed.py")
    return [str(file.relative_to(root)) for file in [mirror] * mirror.exists() + others or [mirror.parent]]


def run(tests: list[str], root: Path) -> tuple[str, float]:
    """The first test that fails in the copy, "" if all pass, and the seconds of the processor that it took."""
    with open(root / "said", "w+") as said:
        if (child := os.fork()) == 0:
            os.chdir(root)
            os.dup2(os.dup2(said.fileno(), 1), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.environ["PYTHONPATH"] = f"{root}/src{os.pathsep}{root}"
            sys.path[:0] = [f"{root}/src", str(root)]
            os._exit(pytest.main([*PYTEST.split(), *tests]))
        _, status, used = os.wait4(child, 0)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said.seek(0) or said.read(), re.MULTILINE)
    code = os.waitstatus_to_exitcode(status)
    return (failed[1] if failed else f"exit code {code}") if code else "", used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.splitlines()[0])
    for option, default in {"count": 200, "seed": 0, "hours": 2.0}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help=f"by default {default}")
    parser.add_argument("--only", nargs="+", default=FILES, metavar="GLOB", help="files of src/glocal")
    parser.add_argument("--go-on", action="store_true", help="what the last results say was killed is not run again")
    arguments = parser.parse_args()
    list(map(importlib.import_module, PRELOADED))
    sys.dont_write_bytecode = True  # a mutant of equal length, made in the same second, would not be compiled again
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    earlier = json.loads(RESULTS.read_text())["mutants"] if RESULTS.exists() else []
    known = {(entry["file"], entry["before"], entry["after"]): entry for entry in earlier}
    keep = ("why", "killed_by") if arguments.go_on else ("why",)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve() / "copy"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))
        setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info"]
        subprocess.run(setup, cwd=root, check=True, capture_output=True)
        compileall.compile_dir(root / "src", quiet=1)
        files = {file for glob in arguments.only for file in root.glob(f"src/glocal/{glob}") if file.name not in TABLES}
        sites = [(file, k) for file in sorted(files) for k in range(len(list(places(ast.parse(file.read_text())))))]
        sample = random.Random(arguments.seed).sample(sites, min(arguments.count, len(sites)))
        entries, used, passing = [], 0.0, set()
        for file, k in sample:
            entry = {"file": str(file.relative_to(root)), **mutant(file, k)[0]}
            old = known.get((entry["file"], entry["before"], entry["after"]), {})
            entries.append({"killed_by": None} | entry | {name: old[name] for name in keep if old.get(name)})
        for (file, k), entry in zip(sample, entries, strict=True):
            if entry["killed_by"] or used > 3600 * arguments.hours:
                continue
            tests = relevant_tests(file, root, 99 if arguments.go_on else DEPENDENTS)
            spare = shutil.copy2(file, f"{file}.kept")
            file.write_text(mutant(file, k)[1])
            by, seconds = run(tests, root)
            os.replace(spare, file)  # as old as it was when it was compiled
            entry["killed_by"], used = by, used + seconds
            if by.startswith("tests/") and by not in passing:
                failing, seconds = run([by], root)
                if failing:
                    raise SystemExit(f"{by} fails without any fault")
                passing, used = passing | {by}, used + seconds
            killed = [bool(entry["killed_by"]) for entry in entries if entry["killed_by"] is not None]
            about = {"seed": arguments.seed, "seconds": round(used), "tried": len(killed), "killed": sum(killed)}
            RESULTS.write_text(json.dumps(about | {"mutants": entries}, indent=1, ensure_ascii=False) + "\n")
    for entry in entries:
        if entry["killed_by"] == "":
            print("{file}:{line}\n    {before}\n    {after}".format(**entry), entry.get("why", ""))
    print(about)


if __name__ == "__main__":
    main()
