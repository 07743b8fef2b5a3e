"""Mutants are what they say, and change code only."""

from __future__ import annotations

import ast

from benchmarks.mutants import mutant, places, relevant_tests

SOURCE = '''
"""Docstrings, types, messages and imports stay: 1 < 2."""
LIMIT: int | None = 0.5

@cached(3)
def f(a: Literal[4], b: int = 7) -> int | str:
    """Not 1."""
    if a < b and not g(a):
        raise ValueError(f"{a + 1}")
    a = a * 2
    a += 1
    note(a)
    return -a.max() if b else True
'''


def test_each_place_is_changed_as_said_and_nothing_else(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(SOURCE)
    found = [mutant(path, k) for k in range(len(list(places(ast.parse(SOURCE)))))]
    changes = {(entry["line"], entry["before"], entry["after"]) for entry, _ in found}
    assert {
        (3, "LIMIT: int | None = 0.5", "LIMIT: int | None = 1.0"),
        (6, "a: Literal[4], b: int=7", "a: Literal[4], b: int=8"),
        (8, "a < b", "a <= b"),
        (8, "a < b and (not g(a))", "a < b or not g(a)"),
        (8, "a < b and (not g(a))", "a < b and g(a)"),
        (10, "a = a * 2", "pass"),
        (10, "a * 2", "a / 2"),
        (10, "a * 2", "a * 3"),
        (11, "a += 1", "pass"),
        (11, "a += 1", "a -= 1"),
        (12, "note(a)", "pass"),
        (13, "return -a.max() if b else True", "return 0"),
        (13, "a.max()", "a.min()"),
        (13, "-a.max() if b else True", "a.max() if b else True"),
        (13, "-a.max() if b else True", "-a.max() if b else False"),
    } <= changes
    assert not any(part in after for _, _, after in changes for part in ("{a + 2}", "{a - 1}", "cached", "Literal[5]"))
    original = ast.unparse(ast.parse(SOURCE))
    for _, text in found:
        ast.parse(text)
        assert text != original
        assert sum(a != b for a, b in zip(text.splitlines(), original.splitlines(), strict=False)) >= 1


def test_a_file_is_tested_by_its_mirror_first(tmp_path):
    code = tmp_path / "src" / "glocal" / "losses" / "one.py"
    code.parent.mkdir(parents=True)
    code.write_text("def one_loss(): ...\n")
    (tmp_path / "tests" / "losses").mkdir(parents=True)
    (tmp_path / "tests" / "losses" / "test_one.py").write_text("")
    (tmp_path / "tests" / "losses" / "test_two.py").write_text("from glocal.losses import one_loss")
    (tmp_path / "tests" / "losses" / "test_three.py").write_text("from glocal.losses import other")
    assert relevant_tests(code, tmp_path, 3) == ["tests/losses/test_one.py", "tests/losses/test_two.py"]
    code.rename(code.with_name("none.py")).write_text("")
    assert relevant_tests(code.with_name("none.py"), tmp_path, 3) == ["tests/losses"]
