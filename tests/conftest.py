"""Images for the tests: real data sets where they are at hand, and a small generated folder of photographs.

What is imported here, xdist's first process imports too, which runs no test: torch and the package wait for a fixture.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"
_UNPACK = _SHARED / "data" / "unpack.py"


TESTS = Path(__file__).parent
LONG = {"adaptation", "backbones", "benchmarks", "comparison", "exporters", "methods", "pipeline", "training"}


def pytest_collection():
    gc.disable()  # imports leave none


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Each of xdist's processes begins at another folder, so that one rewrites a file's assertions, not all at once."""
    report = yield
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    if collector.path == TESTS:
        first = len(report.result) * int(worker) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
        report.result = report.result[first:] + report.result[:first]
    return report


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that no process is left with one when the others have ended.

    These in no order, so that processes don't wait all at once, as the tests of stopping and of streams do.
    """
    items.sort(key=lambda item: (item.path.parent.name not in LONG, crc32(bytes(item.path.relative_to(TESTS)))))
    gc.freeze()  # what was imported is no garbage: it need not be searched
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _pixels_kept_here(tmp_path_factory):
    """Runs keep their decoded images with the tests' other files, not in the home folder."""
    os.environ["GLOCAL_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="session", autouse=True)
def _drawn_once():
    """Images of the parts world are drawn once a session, and files need not survive a power cut of ours."""
    from glocal.data import PartsWorld

    draw, drawn = PartsWorld.sample, {}

    def sample(self, i, view=0):
        key = (self.fingerprint(), i, view)
        if 0 <= i < self.n and key not in drawn:
            drawn[key] = draw(self, i, view)
        return drawn[key] if 0 <= i < self.n else draw(self, i, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartsWorld, "sample", sample)
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def module_here(tmp_path, monkeypatch):
    """A function that writes mine.py, with this text, into the current folder, which is an empty one off the path."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(text: str) -> Path:
        (folder / "mine.py").write_text(text)
        return folder / "mine.py"

    yield write
    sys.modules.pop("mine", None)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """A function from a data set's name to its unpacked folder; it skips the test where there is none.

    Looks in the folder that the environment variable GLOCAL_DATA names, else unpacks ../shared/data, once a session.
    """
    unpacked = os.environ.get("GLOCAL_DATA")
    out = Path(unpacked) if unpacked else tmp_path_factory.getbasetemp() / "real_data"

    def find(name: str) -> Path:
        folder = out / name
        if not unpacked and not (out / f".{name}.done").exists() and _UNPACK.exists():
            subprocess.run([sys.executable, str(_UNPACK), str(out), name], check=True, capture_output=True)
        if not folder.is_dir():
            pytest.skip(f"needs the data set {name!r}: set GLOCAL_DATA to a folder that has it")
        return folder

    return find


@pytest.fixture(scope="session")
def released():
    """A function from a file's name to released weights in ../shared/weights, or in the folder GLOCAL_WEIGHTS."""
    folder = Path(os.environ.get("GLOCAL_WEIGHTS") or _SHARED / "weights")

    def find(name: str) -> Path:
        return folder / name if (folder / name).is_file() else pytest.skip(f"needs the weights {name}: GLOCAL_WEIGHTS")

    return find


@pytest.fixture
def quantised(tmp_path):
    """A function from a width, "025" or "050", to a file of random weights in the format of the released MobileNets."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from glocal.backbones import build_backbone

    def write(width: str) -> Path:
        draw, tensors = np.random.default_rng(0), {}
        for n, layer in enumerate(build_backbone(f"mobilenet_v1_{width}").model.layers):
            wide, *rest = layer.conv.weight.shape
            tensors[f"{n}.weight"] = draw.integers(0, 256, (wide, *rest), dtype=np.uint8)
            tensors[f"{n}.scale"] = np.float32(0.02 / np.sqrt(np.prod(rest)))
            tensors[f"{n}.zero"] = np.float32(128)
            tensors[f"{n}.bias"] = draw.normal(0, 0.1, wide).astype(np.float32)
        save_file({k: torch.from_numpy(np.asarray(x)) for k, x in tensors.items()}, tmp_path / f"{width}.safetensors")
        return tmp_path / f"{width}.safetensors"

    return write


@pytest.fixture(scope="session")
def clothing(real_data) -> Path:
    """3,781 small photographs of clothes in {train,val,test}/<10 classes>."""
    return real_data("clothing")


@pytest.fixture(scope="session")
def pets(real_data) -> Path:
    """598 pets in {train,test}/{images,masks}/<3 breeds>."""
    return real_data("pets")


@pytest.fixture(scope="session")
def camvid(real_data) -> Path:
    """701 street scenes in {train,val,test}/{images,masks}."""
    return real_data("camvid")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """24 generated JPEG, PNG and WebP images of two sizes: 5 and 3 of each of 3 classes, in {train,test}/<class>."""
    from PIL import Image

    from glocal.data import PartsWorld

    out = tmp_path_factory.mktemp("photos")
    for split, each in (("train", 5), ("test", 3)):
        world = PartsWorld(3 * each, 64, split=split, classes=3)
        for i in range(len(world)):
            folder = out / split / ("ant", "bee", "cat")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(world.sample(i).image)
            if i % 2:
                image = image.resize((128, 96))
            image.save(folder / f"{i:02d}.{('jpg', 'png', 'webp')[i // 3 % 3]}")
    return out
