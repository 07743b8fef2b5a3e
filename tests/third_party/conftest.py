"""A package of somebody else's, installed over the test environment in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import run


@pytest.fixture(scope="session")
def glocal_beside_stripes(tmp_path_factory):
    """A function that runs `glocal` with these arguments where glocal-stripes is installed, in an empty folder."""
    root = tmp_path_factory.mktemp("third_party")
    shutil.copytree(Path(__file__).parent / "package", root / "package")  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(root / "installed"), str(root / "package")], check=True)
    (root / "here").mkdir()
    path = os.pathsep.join([str(root / "installed"), *filter(None, [os.environ.get("PYTHONPATH")])])

    def say(*arguments: str, ranks: int = 1) -> str:
        return run(*arguments, cwd=root / "here", env={"PYTHONPATH": path}, ranks=ranks).stdout

    return say
