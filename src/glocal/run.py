"""`Run`: a run as a directory. Nothing else knows the names of the files in it."""

import errno
import gzip
import itertools
import json
import os
import shlex
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import yaml

from glocal.errors import UsageError


@contextmanager
def said_where_full(folder: Path) -> Iterator[None]:
    """Writing in a folder: where that fails for lack of room, an `OSError`, which some writers put otherwise."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(2**20))
        except OSError as full:
            raise OSError(full.errno, full.strerror, str(folder)) from error
        raise


def write_atomically(path: Path, content: str | Callable[[Path], Any], *, mode: int = 0o666) -> None:
    """Write a file whole or not at all: beside its place, synced, then renamed; with the permissions of any new file.

    Its folder is made where it is missing. `content` is a text, or what writes the file at the path it is given; `mode`
    is what the user's umask takes from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch(mode)
        mode = partial.stat().st_mode
        if callable(content):
            with said_where_full(path.parent):
                content(partial)
        else:
            partial.write_text(content, encoding="utf-8")
        partial.chmod(mode)  # some writers make private files
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_place(option: str, out: str | Path | None, *read: str | Path | None) -> None:
    """Refuse to write a file where a folder is, or over one that the same command reads: a `UsageError`.

    Args:
        option: the command's, for the message.
        out: the file to write, or None.
        read: files, or folders of data, of which the tables count; None for what was not given.
    """
    if out is not None and Path(out).is_dir():
        raise UsageError(f"{option} {out} is a folder: name a file in it")
    tables = (Path(each) / name for each in read if each for name in ("captions.csv", "groups.csv"))
    for each in [*(Path(each) for each in read if each), *tables]:
        if out is not None and each.is_file() and Path(out).exists() and each.samefile(out):
            raise UsageError(f"{option} {out} is what is read: name another file")


class OutFiles:
    """Where what is said of each image goes in a folder: under the image's name, never out of the folder.

    Args:
        folder: of the files.
        suffix: of each, ".png", in place of the image's own.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self._taken = set[str]()

    def of(self, key: str) -> Path:
        """The file of an image; where another one's has its name, the image's own suffix stays, then it is numbered."""
        parts = [part for part in Path(key).parts if part not in (Path(key).anchor, "..")] or ["image"]
        own = Path(*parts)
        names = [own.with_suffix(self.suffix), own.with_name(own.name + self.suffix)]
        numbered = (own.with_name(f"{own.stem}-{n}{self.suffix}") for n in itertools.count(2))
        name = next(name for name in itertools.chain(names, numbered) if str(name).casefold() not in self._taken)
        self._taken.add(str(name).casefold())
        return self.folder / name


class Run:
    """The directory of a run, there or not: `create` and `open` check."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"  # an object a line, training and monitor lines
        self.checkpoint_file = self.path / "checkpoints" / "last.pt"  # all that going on needs
        self.previous_checkpoint = self.path / "checkpoints" / "previous.pt"
        self.best_file = self.path / "checkpoints" / "best.pt"  # the best encoder that a guard saw
        self.encoder_files = self.path / "encoder.safetensors", self.path / "encoder.json"  # weights and description
        self.head_files = self.path / "head.safetensors", self.path / "head.json"  # of a fine-tuned encoder
        self.generator_files = self.path / "generator.safetensors", self.path / "generator.json"
        self.mask_file = self.path / "mask.npz"  # of an adapted encoder: which of its base's weights are kept
        self.rounds = self.path / "rounds"  # of pruning but for the last: a run each, called 1, 2, ...
        self.memory = self.path / "memory"  # exemplars of the classes it knows, for those that come later
        self.kept = {"names": self.path / "codes.json", "text": self.path / "text"}  # what was given to its head
        self.inventory_file = self.path / "data.txt.gz"
        self.scores_file = self.path / "evaluation.json"
        self.skipped_file = self.path / "skipped.txt"
        self.seen_file = self.path / "seen.png"  # a photograph, and what the encoder sees in it
        self.report_file = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self.resume_command = f"glocal pretrain --resume {shlex.quote(str(self.path))}"

    def __str__(self) -> str:
        return str(self.path)

    __fspath__ = __str__

    @classmethod
    def create(cls, out: str | None, stem: str, *, command: str = "pretrain") -> Self:
        """The run at `out`, or at the first free runs/STEM-K. Its directory is made; what it holds is not touched."""
        try:
            if out is None:
                return cls(_first_free(Path("runs"), stem))
            run = cls(out)
            run.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"--out {out} is a file, or below one; name a directory that is not there yet") from error
        except OSError as error:
            raise UsageError(f"cannot make the run's directory {out or 'runs'}: {error.strerror}") from error
        if run.has_encoder or run.has_checkpoint:
            again = run.resume_command.replace("pretrain", command, 1)
            raise UsageError(f"{run} already holds a run; choose another --out, or continue it: {again}")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run that is at `path`; `UsageError` if there is none."""
        run = cls(path)
        if not run.config_file.exists():
            what = "is not a run (it has no config.yaml)" if run.path.exists() else "does not exist"
            raise UsageError(f"{path} {what}; runs are the directories that glocal pretrain --out makes")
        return run

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return any(file.is_file() for file in self.checkpoints)

    @property
    def checkpoints(self) -> list[Path]:
        """The last checkpoint, then the one before."""
        return [self.checkpoint_file, self.previous_checkpoint]

    @property
    def has_encoder(self) -> bool:
        """Whether the run has finished."""
        return all(file.is_file() for file in self.encoder_files)

    @property
    def has_generator(self) -> bool:
        """Whether it makes images."""
        return all(file.is_file() for file in self.generator_files)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else trains in this directory meanwhile.

        The lock is the process's own (POSIX `lockf`): forked loader workers don't inherit it, and it is gone when the
        process is, however that ends. Where the file system has no locks, says so and goes on.
        """
        try:
            import fcntl
        except ImportError:  # not on this system
            yield
            return
        try:
            file = open(self.path / ".lock", "a+")  # noqa: SIM115 (closing it would release the lock)
        except OSError as error:
            raise UsageError(f"cannot write in the run's directory {self}: {error.strerror}") from error
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    hint = "wait for it, or choose another --out"
                    raise UsageError(f"another process is training in {self}; {hint}") from error
                print(f"{self}: no locks on this file system; see that only one process trains here", file=sys.stderr)
            yield

    def config(self) -> dict[str, Any]:
        """config.yaml as it stands; `UsageError` if it cannot be read."""
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"{self.config_file} is not valid YAML: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise UsageError(f"cannot read {self.config_file}: {error.strerror}") from error
        if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
            raise UsageError(f"{self.config_file} is empty or not a mapping; start the run again")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Complete, and enough to run the same again."""
        write_atomically(self.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def inventory(self) -> str | None:
        """What the data held when the run was begun (`glocal.data.inventory`); None of a run from before."""
        if not self.inventory_file.exists():
            return None
        try:
            return gzip.decompress(self.inventory_file.read_bytes()).decode()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UsageError(f"{self.inventory_file} is damaged; delete it to go on without comparing data") from error

    def write_inventory(self, text: str) -> None:
        """Keep what the data holds."""
        write_atomically(self.inventory_file, lambda path: path.write_bytes(gzip.compress(text.encode(), 6, mtime=0)))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; what is no line of metrics (cut off by a kill, damaged) is left out."""
        lines: list[dict[str, Any]] = []
        text = self.metrics_file.read_text(encoding="utf-8", errors="replace") if self.metrics_file.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict) and isinstance(found.get("step"), int):
                    lines.append(found)
        return lines

    def scores(self) -> dict[str, Any]:
        """What evaluation found; empty before."""
        return read_json(self.scores_file, "delete it and evaluate the run again")

    def add_scores(self, where: str, found: dict[str, Any]) -> None:
        """Keep what the encoder scored on other images than its own, or in another way, beside what is known."""
        scores = self.scores()
        later = scores.setdefault("later", {})
        later[where] = later.get(where, {}) | found
        write_json(self.scores_file, scores)

    def encoder(self) -> dict[str, Any]:
        """The description of the finished encoder; empty before."""
        return read_json(self.encoder_files[1], "export the encoder again")

    def head(self) -> dict[str, Any]:
        """The description of what was fine-tuned beside the encoder; empty where nothing was."""
        return read_json(self.head_files[1], "fine-tune again")

    def skipped(self) -> list[str]:
        """A line for each image that could not be read: its key, a tab, the reason."""
        file = self.skipped_file
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        return [line for line in text.split("\n") if line]

    def write_skipped(self, reasons: dict[str, str]) -> None:
        """Name the images that could not be read. Names that are not UTF-8 are escaped."""
        lines = "".join(f"{key}\t{reason}\n" for key, reason in sorted(reasons.items()))
        write_atomically(self.skipped_file, lines.encode("utf-8", "backslashreplace").decode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}): {remedy}") from error
    return value if isinstance(value, dict) else {}


def _first_free(folder: Path, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(1, 10**6):
        with suppress(FileExistsError):
            (path := folder / f"{stem}-{k}").mkdir()
            return path
    raise UsageError(f"{folder} is full of runs called {stem}; name one with --out")
