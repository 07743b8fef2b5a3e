"""Damaged files through all that reads them: each is read, skipped by name, or refused in one line, and nothing else.

Each piece of work is a function of its kind and number. It is done in a child process: one that hangs or dies is seen.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.damage import ANY, IMAGE, TEXT, forms
from benchmarks.measure import Size
from glocal import cli
from glocal.commands import COMMANDS, options_of
from glocal.config import PretrainConfig
from glocal.data import open_source
from glocal.data.source import Unreadable
from glocal.errors import UsageError
from glocal.run import Run

BEFOREHAND = "glocal.pipeline", "timm", "cyclopts", "torch.utils.tensorboard", "pyarrow.parquet"
"""Imported once, not in each process."""
PATIENCE, CHUNK, LONGEST = 600.0, 400, 1000  # seconds of a piece, pieces of a process, characters of a clear line
UNCLEAR = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

TRAIN = "--method vicreg --backbone test_resnet --image-size 32 --batch-size 8"
TRAIN += " --compile false --threads 1 --accelerator cpu"
FOLDERS = {
    "pretrain": f"pretrain damaged --out new --epochs 1 --workers 0 --cache false --report false {TRAIN}",
    "pretrain, 2 workers, cache, report": f"pretrain damaged --out new --epochs 1 --workers 2 --cache true {TRAIN}",
    "embed": "embed run damaged --out new.npz",
    "evaluate": "evaluate run --data damaged --tasks knn linear",
}
"""Commands on a folder in which images are damaged."""

RESUME, REPORT, EMBED = "pretrain --resume run", "report run", "embed run photos --out new.npz"
BEGUN = "pretrain --resume begun", "embed begun photos --out new.npz"
CACHED = f"pretrain photos --out new --epochs 3 --workers 0 --cache true {TRAIN}", "cache"
SEGMENT = "evaluate run --data scenes --tasks segment"
FILES: dict[str, tuple[str, ...]] = {
    "run/config.yaml": (RESUME, REPORT),
    "options.yaml": ("pretrain --config options.yaml --out new",),
    "run/checkpoints/last.pt": (RESUME,),
    "begun/checkpoints/last.pt": BEGUN,
    "run/encoder.json": (EMBED, REPORT, "export run --format timm --out exported"),
    "run/encoder.safetensors": (EMBED, REPORT),
    "run/data.txt.gz": (RESUME,),
    "run/metrics.jsonl": (RESUME, REPORT),
    "run/evaluation.json": (REPORT,),
    "run/skipped.txt": (REPORT,),
    "cache/*/layout.npy": CACHED,
    "cache/*/pixels.bin": CACHED,
    "cache/*/filled.bin": CACHED,
    "cache/*/about.json": CACHED,
    "scenes/masks/03.png": (SEGMENT,),
    "scenes/masks/*.png": (SEGMENT,),
    "scenes/classes.json": (SEGMENT,),
    "list.csv": ("evaluate run --data list.csv --tasks knn", "embed run list.csv --out new.npz"),
    "list.txt": ("embed run list.txt --out new.npz",),
    "features.parquet": ("embed run photos --out features.parquet",),
    "features.npz": ("embed run photos --out features.npz",),
}
"""Files that are damaged, and the commands of which each reads or replaces them."""

LINES = {
    "pretrain": f"pretrain photos --out new --epochs 1 --workers 0 --report false {TRAIN}",
    "pretrain, more options": f"pretrain photos --out new --epochs 2 --lr 0.1 --precision 32 --seed 1 {TRAIN}",
    "pretrain --resume": "pretrain --resume begun",
    "evaluate": "evaluate run --data photos --tasks knn linear --limit 20 --image-size 32",
    "embed": "embed run photos --out new.npz --image-size 32",
    "export": "export run --format timm --out exported",
    "compare": "compare vicreg simclr --data photos --budget 2ep --seeds 1 --backbone test_resnet --image-size 32",
    "report": "report run",
    "finetune": "finetune run --data photos --out new --epochs 1 --image-size 32 --batch-size 8 --workers 0",
    "finetune --memory": "finetune tuned --data new.csv --out new --memory 2 --max-steps 2 --workers 0",
    "predict": "predict tuned photos --out labels.csv --page page.html",
    "adapt": "adapt run photos --out new --by prune --keep 0.5 --rounds 2 --max-steps 1 --method vicreg --workers 0",
    "index": "index run photos --out new.index --dense --image-size 32",
    "search": "search photos.index photos/a/00.png --at 4,6 -k 3 --html found.html",
    "phases": "phases run photos/a --marks marks.csv --out phases --window 2 --image-size 32",
    "generate": "generate maker --out grid.png -n 4 --seed 1",
    "inspire": "inspire maker --like photos/a/00.png --by random --encoder run --evaluations 4 --out inspired",
}
"""Commands that work, for mistakes to be made in. Of `compare`, the trainings are left out."""
ODD = "-1 0 1 3 1000000 1e20 1e-20 nan inf é \udce9 None [1 { a,b 1.5 true run - vicregl:alpha="
ODD += " photos/a/00.png no/such/place /dev/null /proc/self/x"
ODDITIES = [*ODD.split(), "", " ", "é" * 3000]
"""Values that are nearly always wrong."""
UNTRIED = {"--devices", "--num-nodes", "--config", "--pretrained", "--compile"}
"""Options of which some odd values ask, rightly, for other processes or a download."""


def measure(size: Size, keep: Callable[[dict[str, Any]], None] = lambda measured: None) -> dict[str, Any]:
    """Do all the work; counts by group and kind, and what went wrong."""
    each = {"lines": 50, "images": 2400, "folders": 30, "files": 25}
    if size != "full":
        each = {"lines": 2, "images": 3, "folders": 1, "files": 1}
    kinds: dict[str, Any] = {"lines": LINES, "images": IMAGE, "folders": FOLDERS, "files": FILES}
    pieces = [(group, kind, k) for group, times in each.items() for kind in kinds[group] for k in range(times)]
    counts: dict[str, dict[str, Counter[str]]] = {group: {kind: Counter() for kind in kinds[group]} for group in each}
    measured: dict[str, Any] = {"forms": len(forms()), "counts": counts, "faults": [], "peak_bytes": 0}
    for name in BEFOREHAND:
        importlib.import_module(name)
    from glocal.comparison import compare
    from glocal.training.loop import _Training

    threads, here, root = torch.get_num_threads(), os.getcwd(), Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    try:
        with ExitStack() as patched:
            for change in (
                mock.patch.dict(os.environ),
                mock.patch.object(_Training, "step", at_most(3, _Training.step)),
                mock.patch.object(compare, "train", side_effect=Enough),
            ):
                patched.enter_context(change)
            prepare(root)
            for (group, kind, k), outcome, said, grown in in_children(pieces, partial(do, root), PATIENCE):
                counts[group][kind][outcome] += 1
                if group == "images":
                    measured["peak_bytes"] = max(measured["peak_bytes"], grown)
                if outcome in ("escaped", "hung", "crashed"):
                    measured["faults"].append({"group": group, "kind": kind, "number": k, outcome: said})
                if k == 0:
                    keep(measured)
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)
        shutil.rmtree(root, ignore_errors=True)
    return measured


def in_children(
    pieces: Sequence[Any], work: Callable[[Any], str], patience: float
) -> Iterator[tuple[Any, str, str, int]]:
    """Each piece, what became of it, what was said, and by how many bytes its process had grown at most."""
    start = 0
    while start < len(pieces):
        answers, child_end = multiprocessing.Pipe(duplex=False)
        mine = pieces[start : start + CHUNK]
        child = multiprocessing.get_context("fork").Process(target=serve, args=(child_end, mine, work))
        child.start()
        child_end.close()
        for piece in mine:
            start += 1
            try:
                answered = any(answers.poll(patience / 10) for _ in range(10))  # a machine's pause costs one of ten
                outcome, said, grown = answers.recv() if answered else ("hung", f"{patience:g} s", 0)
            except EOFError:
                child.join()
                outcome, said, grown = "crashed", f"exit code {child.exitcode}", 0
            yield piece, outcome, said, grown
            if outcome in ("hung", "crashed"):
                break
        if outcome == "hung":
            child.kill()
        child.join()


def serve(answers: Connection, pieces: Sequence[Any], work: Callable[[Any], str]) -> None:
    """What a child does. What it prints goes into a file: a command says there why it refuses."""
    memory = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        before = memory()
        for piece in pieces:
            os.ftruncate(log.fileno(), 0)
            os.lseek(log.fileno(), 0, os.SEEK_SET)

            def printed() -> str:
                sys.stdout.flush()
                sys.stderr.flush()
                log.seek(0)
                return log.read()

            answers.send((*judge(partial(work, piece), printed), memory() - before))


def judge(work: Callable[[], str], printed: Callable[[], str]) -> tuple[str, str]:
    """What became of a piece of work, and what was said of it."""
    try:
        outcome, said = work(), "read"
    except Enough:
        outcome, said = "read", "read"
    except Unreadable as error:
        outcome, said = "skipped", str(error)
    except UsageError as error:
        outcome, said = "refused", str(error)
    except BaseException as error:
        lines = printed().rstrip().splitlines() or [""]
        if not isinstance(error, SystemExit) or error.code not in (1, 2) or not lines[-1].startswith("glocal: "):
            places = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
            return "escaped", f"{type(error).__name__}: {error}"[:LONGEST] + f" ({' '.join(places[-3:])})"
        outcome, said = "refused", lines[-1]
    if "Traceback" in printed():
        return "escaped", f"a traceback in {printed()[-LONGEST:]}"
    if not said or len(said) > LONGEST or UNCLEAR.search(said):
        return "escaped", f"not one clear line: {said[:LONGEST]!r}"
    return outcome, said


class Enough(BaseException):
    """Training has done its share."""


def at_most(most: int, step: Callable[..., Any]) -> Callable[..., Any]:
    """Steps that end a training of more than that many: a damaged file may ask for a million."""

    def counted(self: Any, batches: Any) -> Any:
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken > most:
            raise Enough
        return step(self, batches)

    return counted


def do(root: Path, piece: tuple[str, str, int]) -> str:
    """One piece of work; gives "read" or "skipped", or raises."""
    group, kind, _ = piece
    draw = random.Random(repr(piece))
    os.chdir(root)
    shutil.rmtree(root / "work", ignore_errors=True)
    if group == "images":
        (root / "work").mkdir()
        return read_image(root / "work", IMAGE[kind], draw)
    shutil.copytree(root / "whole", root / "work")  # in the same place, and as old: the cache knows it
    os.chdir(root / "work")
    if group == "lines":
        cli.main(mistaken(LINES[kind].split(" "), draw))
        return "read"
    if group == "folders":
        return use_folder(kind, draw)
    for file in sorted(Path().glob(kind)):
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        text = file.suffix in (".yaml", ".json", ".jsonl", ".csv", ".txt")
        file.write_bytes(draw.choice(list((TEXT if text else ANY).values()))(draw, file.read_bytes()))
        os.utime(file, ns=times)
    cli.main(draw.choice(FILES[kind]).split(" "))
    return "read"


def mistaken(words: list[str], draw: random.Random) -> list[str]:
    """A command line with one to three mistakes in it."""
    own = [parameter.name for parameter, _ in options_of(COMMANDS[words[0]].function)]
    known = PretrainConfig().settings() if words[0] == "pretrain" else own
    options = [option for name in known if (option := f"--{name.replace('_', '-')}") not in UNTRIED]
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(1, len(words))
        word, odd = words[at], draw.choice(ODDITIES)
        match draw.choice(("drop", "double", "odd", "odd", "option", "option", "spelling")):
            case "drop" if len(words) > 2:
                del words[at]
            case "double":
                words.insert(at, word)
            case "odd" if not word.startswith("--"):
                words[at] = odd
            case "option":
                words += [draw.choice(options), odd]
            case _:
                k = draw.randrange(len(word) + 1)
                words[at] = word[:k] + draw.choice("xé-_= ") + word[k:]
    return words


def read_image(folder: Path, damage: Callable[[random.Random, bytes], bytes], draw: random.Random) -> str:
    """A damaged image as the second of a folder, as the second of a list, or as the mask of an image."""
    name, data = draw.choice(list(forms().items()))
    way, suffix = draw.choice(("folder", "list", "mask")), Path(name).suffix
    for each in ("images", "masks"):
        (folder / each).mkdir()
    (folder / "images" / "a.png").write_bytes(forms()["RGB.png"])
    (folder / ("masks/a" if way == "mask" else "images/b")).with_suffix(suffix).write_bytes(damage(draw, data))
    (folder / "list.txt").write_text(f"images/a.png\nimages/b{suffix}\n")
    if way == "mask":
        mask = open_source(str(folder)).mask(0)
        assert (mask.dtype, mask.ndim) == (np.uint8, 2)
        return "read"
    image = open_source(str(folder / ("list.txt" if way == "list" else "images"))).open(1)
    scale = draw.choice((1.0, 0.5, 0.1))
    pixels = image.decode(scale)
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert all(got >= int(scale * side) for got, side in zip(pixels.shape[1::-1], image.size, strict=True))
    return "read"


def use_folder(kind: str, draw: random.Random) -> str:
    """A command on two classes of 12 images, some or most of them damaged; training names all that it cannot read."""
    share = draw.uniform(0.1, 0.8)
    for k in range(24):
        name, data = draw.choice(list(forms().items()))
        damage = IMAGE[draw.choice(list(IMAGE))] if draw.random() < share else IMAGE["whole"]
        file = Path(f"damaged/{k % 2}/{k:02d}{Path(name).suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(damage(draw, data))
    cli.main(FOLDERS[kind].split(" "))
    source, unreadable = open_source("damaged"), set[str]()
    for i in range(len(source)):
        try:
            source.open(i).decode()
        except Unreadable:
            unreadable.add(source.key(i))
    named = {line.partition("\t")[0] for line in Run("new").skipped()}
    assert named == unreadable or kind in ("embed", "evaluate"), f"unreadable {unreadable}, named {named}"
    return "skipped" if unreadable else "read"


def prepare(root: Path) -> None:
    """What is damaged later: photographs, scenes with masks, lists, features, a cache, an index, a run that can go on,
    another without its encoder, one that is fine-tuned and one that makes images."""
    os.environ["GLOCAL_CACHE"] = str(root / "work" / "cache")
    (root / "work").mkdir()
    os.chdir(root / "work")
    source, rows = open_source("parts:n=24,size=40"), []
    for folder in ("photos/a", "photos/b", "scenes/images", "scenes/masks"):
        Path(folder).mkdir(parents=True)
    for i in range(len(source)):
        rows.append((f"photos/{'ab'[i % 2]}/{i:02d}.png", "ab"[i % 2], f"site {i % 3}"))
        for path in (rows[-1][0], f"scenes/images/{i:02d}.png"):
            Image.fromarray(source.open(i).decode()).save(path)
        Image.fromarray(source.mask(i)).save(f"scenes/masks/{i:02d}.png")
    Path("list.txt").write_text("".join(f"{path}\n" for path, _, _ in rows))
    Path("list.csv").write_text("path,label,site\n" + "".join(f"{','.join(row)}\n" for row in rows))
    new = "".join(f"{path},new {label}\n" for path, label, _ in rows)
    Path("new.csv").write_text(f"path,label\n{new}")
    Path("scenes/classes.json").write_text('{"names": ["ground", "a", "b", "c", "d", "e", "f"], "ignore_index": 0}')
    cli.main(f"pretrain photos --out run --epochs 1 --workers 0 --cache true {TRAIN}".split(" "))
    options = Path("run/config.yaml").read_text().replace("epochs: 1\n", "epochs: 3\n", 1)
    for file in ("run/config.yaml", "options.yaml"):
        Path(file).write_text(options)
    Path("run/skipped.txt").write_text("a/00.png\ttruncated\nb/01.png\tempty file\n")
    shutil.copytree("run", "begun", ignore=shutil.ignore_patterns("encoder.*", "previous.pt"))
    Path("marks.csv").write_text("frame,phase\n0,first\n8,second\n")
    maker = TRAIN.replace("vicreg", "irmae").replace("test_resnet", "resnet18")
    for line in (
        "finetune run --data photos --out tuned --max-steps 1 --image-size 32 --workers 0",
        "index run photos --out photos.index --dense --image-size 32",
        f"pretrain photos --out maker --max-steps 1 --workers 0 --report false {maker}",
    ):
        cli.main(line.split(" "))
    for kind in ("parquet", "npz"):
        cli.main(f"embed run photos --out features.{kind}".split(" "))
    shutil.copytree(root / "work", root / "whole")
