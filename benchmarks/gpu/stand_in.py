"""What Glocal finds where it is installed, for a machine on which it is not: its plug-ins, and its JPEG decoder."""

from __future__ import annotations

import atexit
import sys
import tempfile
import tomllib
import types
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]


def stand_in() -> list[str]:
    """Register the plug-ins of pyproject.toml, and decode by Pillow, where need be; what was done, for the record."""
    done = []
    try:
        version("glocal")
    except PackageNotFoundError:
        sys.path.insert(0, _description())
        done.append("glocal ran from its sources")
    if find_spec("simplejpeg") is None:
        sys.modules["simplejpeg"] = types.ModuleType("simplejpeg")
        sys.modules["simplejpeg"].decode_jpeg = _refuse  # type: ignore[attr-defined]
        done.append("no simplejpeg: JPEGs were decoded by Pillow, which takes longer")
    return done


def _refuse(*_: object, **__: object) -> None:
    raise ValueError("Pillow has to do it")


def _description() -> str:
    """A folder with what pip would have written of this package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    about = Path(folder.name, f"glocal-{project['version']}.dist-info")
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: glocal\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return folder.name
