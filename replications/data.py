"""Folders that worlds make from the data, once: drawn worlds, folds, an uncurated mix."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

FOLDS = 5
LISTS = ("cifar10-tenth", "whole-mix", "mix")
STREAM = "stream-mix"
WIDEST = 3
"""Widest and tallest shape of re-cropped photographs, as a ratio of sides."""
OTHERS = ("clothing/train", "pets/train", "camvid/train", "kvasir/train", "lspet/images")


def place(data: Path, name: str) -> str:
    """Where a folder of data is; those that are made from others are made at first use.

    "parts-SIZE-NUISANCE" is drawn: 20,000 training and 4,000 test images, nuisance in percent. "NAME@K" is a folder's
    labelled images, whatever their split, in another one: a fifth of them is the test split of one K. The lists:
    "cifar10-tenth", balanced; "whole-mix", the training images of all collections with the classes of CIFAR-10 rarer
    and rarer; "mix", the same with fewer of them; "stream-mix", "whole-mix" as a shuffled stream; "cifar10-rare", the
    labelled images of "mix", in folders of their classes. "parts:..." are drawn whenever they are looked at.
    "NAME~shapes" are a folder's photographs, each cut to a shape between 1:3 and 3:1; "NAME~squares" are the same
    squeezed into squares of the same area; "text:NAME" are texts.
    """
    if name in LISTS:
        _made(data / f"{name}.txt", lambda out: out.write_text("\n".join(listed(data, name))))
        return str(data / f"{name}.txt")
    if name.startswith("parts:"):
        return name
    if name.startswith("text:"):
        return f"text:{data / name.removeprefix('text:')}"
    if name == STREAM:
        _made(data / STREAM, lambda out: shard(data, out))
        return f"stream:{data / STREAM}"
    folder = data / name.replace("@", "-fold-")
    if name == "cifar10-rare":
        _made(folder, lambda out: rarer(data / "cifar10", out))
    if name.startswith("parts-"):
        _made(folder, lambda out: draw(out, *(int(number) for number in name.split("-")[1:])))
    elif "@" in name:
        whole, _, k = name.partition("@")
        place(data, whole)
        _made(folder, lambda out: fold(data / whole, int(k), out))
    elif "~" in name:
        whole, _, kind = name.partition("~")
        _made(folder, lambda out: reshape(data / whole, out, squeeze=kind == "squares"))
    return str(folder)


def released(data: Path, name: str) -> str:
    """The file of a released network, in the folder that $GLOCAL_WEIGHTS names, else in weights/ among the data."""
    path = Path(os.environ.get("GLOCAL_WEIGHTS") or data / "weights") / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: set GLOCAL_WEIGHTS to the folder of the released networks")
    return str(path)


def listed(data: Path, name: str) -> list[str]:
    """Paths of images, one a line, from the folder that the list lies in."""
    share = {"cifar10-tenth": lambda c: 500, "whole-mix": rarely_rarer, "mix": ever_rarer}[name]
    classes = sorted((data / "cifar10" / "train").iterdir())
    chosen = [file for c, folder in enumerate(classes) for file in sorted(folder.iterdir())[: share(c)]]
    if name != "cifar10-tenth":
        roots = [data / part for part in OTHERS]
        chosen += sorted(
            file for root in roots for file in root.rglob("*") if file.is_file() and "masks" not in file.parts
        )
    return [file.relative_to(data).as_posix() for file in chosen if file.suffix in (".jpg", ".png", ".webp")]


def rarely_rarer(c: int) -> int:
    """Images of the class c of CIFAR-10 in the whole mix."""
    return int(5000 * 0.85**c)


def shard(data: Path, out: Path) -> None:
    """The images of "whole-mix" in a tar file, in an order that tells nothing."""
    out.mkdir(parents=True)
    with tarfile.open(out / "images.tar", "w") as tar:
        for name in sorted(listed(data, "whole-mix"), key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            tar.add(data / name, name)
    time.sleep(3)  # streams leave files alone for two seconds


def ever_rarer(c: int) -> int:
    """Images of the class c of CIFAR-10 in the mix."""
    return int(5000 * 0.6**c)


def rarer(cifar10: Path, out: Path) -> None:
    """The images of CIFAR-10 that are in the mix, by their classes."""
    for c, folder in enumerate(sorted((cifar10 / "train").iterdir())):
        for file in sorted(folder.iterdir())[: ever_rarer(c)]:
            _link(file, out / "train" / folder.name / file.name)


def draw(out: Path, size: int, nuisance: int) -> None:
    """A parts world of plain backgrounds."""
    from glocal.data import PartsWorld

    PartsWorld(20_000, size, nuisance=nuisance / 100, difficulty=0).write_folder(out, test=4000)


def fold(whole: Path, k: int, out: Path) -> None:
    """All images of a folder with splits in new ones: fold k of five is the test split.

    The folds of a class are consecutive fifths of its files by name: neighbouring frames of a film stay together.
    """
    masks = (whole / "train" / "masks").exists()
    by_class: dict[Path, list[tuple[Path, Path]]] = {}
    for split in sorted(path for path in whole.iterdir() if path.is_dir()):
        root = split / "images" if masks else split
        for file in (path for path in root.rglob("*") if path.is_file()):
            by_class.setdefault(file.parent.relative_to(root), []).append((file.relative_to(root), split))
    for files in by_class.values():
        for i, (file, split) in enumerate(sorted(files, key=lambda pair: (pair[0].name, pair[1]))):
            target = out / ("test" if i * FOLDS // len(files) == k else "train")
            if masks:
                (mask,) = (split / "masks" / file.parent).glob(f"{file.stem}.*")
                _link(mask, target / "masks" / file.parent / mask.name)
            _link(split / "images" / file if masks else split / file, target / ("images" if masks else "") / file)
    if (whole / "classes.json").exists():
        _link(whole / "classes.json", out / "classes.json")


def reshape(whole: Path, out: Path, *, squeeze: bool) -> None:
    """The middle of each photograph, in a shape drawn by its name (its logarithm uniform), as large as can be."""
    from PIL import Image

    for file in sorted(path for path in whole.rglob("*") if path.suffix in (".jpg", ".png", ".webp")):
        image = Image.open(file).convert("RGB")
        u = int(hashlib.sha256(file.name.encode()).hexdigest()[:8], 16) / 2**32
        ratio = WIDEST ** (2 * u - 1)  # width over height
        width, height = min(image.width, image.height * ratio), min(image.height, image.width / ratio)
        left, top = (image.width - width) / 2, (image.height - height) / 2
        side = round(max(width, height))  # so that nothing is lost before it is made as large as the other
        size = (side, side) if squeeze else (max(1, round(width)), max(1, round(height)))
        box = (left, top, left + width, top + height)
        target = (out / file.relative_to(whole)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size, Image.Resampling.BICUBIC, box=box).save(target)


def _link(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, to)


def _made(folder: Path, make: Callable[[Path], None]) -> None:
    """A folder made whole or not at all."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    make(partial)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
