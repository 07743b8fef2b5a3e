"""What the tests and the source say of each method: which test compares it with what, and how long its file is."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glocal.methods import method_class, method_names

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Check:
    """A test that is marked as evidence for a method.

    Attributes:
        path: of its file, from the root of the repository.
        test: its name.
        oracle: what it compares with.
    """

    path: str
    test: str
    oracle: str = ""


def checks(kind: str) -> dict[str, list[Check]]:
    """Method -> the tests marked `@pytest.mark.KIND("METHOD", ..., oracle="...")`; read, not run.

    `@pytest.mark.KIND(*method_names("images"))` stands for every registered method that reads images.
    """
    found: dict[str, list[Check]] = {name: [] for name in method_names()}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        for test, mark in _marks(ast.parse(text), kind) if f"pytest.mark.{kind}" in text else ():
            oracle = "".join(ast.literal_eval(keyword.value) for keyword in mark.keywords)
            check = Check(path.relative_to(ROOT).as_posix(), test, oracle)
            for name in _names(mark.args):
                found.setdefault(name, []).append(check)
    return found


def _marks(tree: ast.Module, kind: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{kind}":
                    yield node.name, mark


def _names(arguments: list[ast.expr]) -> list[str]:
    if [ast.unparse(argument) for argument in arguments] == ["*method_names('images')"]:
        return method_names("images")
    return [ast.literal_eval(argument) for argument in arguments]


def method_code_lines(name: str) -> int:
    """Lines of code in the file of a method."""
    return code_lines(Path(inspect.getfile(method_class(name))).read_text())


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor comment, nor docstring, nor import."""
    tree = ast.parse(source)
    dropped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ):
            dropped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for n, line in lines if n not in dropped and line.strip() and not line.strip().startswith("#"))
