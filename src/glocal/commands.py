"""The commands: what each calls, how its result is shown, an example. What a callable's options are is read off it."""

import inspect
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from glocal import api
from glocal.config import RENAMED
from glocal.errors import UsageError, did_you_mean
from glocal.plugins import refuse_untrusted


def report(run: str, *, device: str = "auto", trust_code: bool = False) -> Path:
    """Write a run's report page again.

    Args:
        run: its directory.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        trust_code: import what its files name as module:attribute.
    """
    from glocal.report import write_report
    from glocal.run import Run

    return write_report(Run.open(run).path, device=device, trust_code=trust_code)


def methods() -> str:
    """List the training methods: when to choose each, and its paper."""
    from glocal.methods import method_class, method_names

    classes = {name: method_class(name) for name in method_names()}
    said = {name: " ".join(str(inspect.getdoc(cls)).split()) for name, cls in classes.items()}
    lines = []
    for name, cls in classes.items():
        found = re.search(r"Choose it (.*?)\. ", said[name] + " ")
        needs = "".join(f"; needs --{option}" for option in cls.needs)
        lines.append(f"{name:<15} {found[1] if found else said[name]}{needs}\n{'':<15} {cls.paper}")
    return "\n".join(lines)


def backbones(pattern: str = "*", *, details: bool = False) -> None:
    """List the backbones by pattern.

    Args:
        pattern: a part of the name, or one with * wildcards.
        details: also what each costs (parameters, operations an image, images a second here) and can do.
    """
    from glocal.backbones import list_backbones
    from glocal.backbones.details import HEAD, describe

    if not (found := list_backbones(pattern)):
        raise UsageError(f"no backbone is called '{pattern}'{did_you_mean(pattern, list_backbones('*'))}")
    if not details:
        print("\n".join(found))
        return
    widths = [max(map(len, found), default=0), 10, 9, 8, 4, 6, 5]
    line = lambda cells: "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:-1], widths[1:]), cells[-1]])
    for name in found:
        if name == found[0]:
            print(line(HEAD))
        try:
            print(line(describe(name).cells()), flush=True)
        except UsageError as refusal:
            print(f"{name.ljust(widths[0])}  not for Glocal: {refusal}", flush=True)


def tasks() -> str:
    """List the evaluation tasks and what they need."""
    from glocal.evaluation import all_tasks

    return "\n".join(
        f"{name:<12} {task.what}; needs {' and '.join(sorted(task.needs)) or 'images'}"
        f"{', on request' if task.on_request else ''}"
        for name, task in all_tasks().items()
    )


def cache(*, clear: bool = False) -> None:
    """List the decoded images that are kept on disk, or remove them.

    A folder has one cache for each setting of the crops that it was trained with. Answers of language models are kept
    beside them.

    Args:
        clear: remove all of them. Runs under way decode their images instead.
    """
    from glocal.data.files import shown
    from glocal.views.cache import ANSWERS, cache_folder
    from glocal.views.cache_files import amount, kept_caches

    folder = cache_folder()
    found = [] if folder is None else kept_caches(folder)
    for kept in found:
        try:
            crops = " and ".join(f"{size} px of at least {scale:.0%}" for size, scale, *_ in kept.about["crops"])
            of = f"{kept.about['images']:,} images of {shown(kept.about['data'])}, crops of {crops}"
        except (KeyError, TypeError, ValueError):  # damaged, or of a run that was killed while making it
            of = "unfinished"
        print(f"{amount(kept.size):>10}  {of}")
        if clear:
            shutil.rmtree(kept.folder)
    answers = [] if folder is None else list((folder / ANSWERS).glob("*.json"))
    size = sum(file.stat().st_size for file in answers)
    if answers:
        print(f"{amount(size):>10}  {len(answers):,} answers of language models")
    if answers and clear:
        shutil.rmtree(answers[0].parent)
    total = amount(sum(kept.size for kept in found) + size)
    if clear:
        print(f"{total} freed in {folder}")
    else:
        print(f"{total} in {folder}; one cache per folder and crop setting; glocal cache --clear removes them all")


class Lasting:
    """A stream that falls silent when its reader has gone (`glocal pretrain photos/ | head`): the work goes on.

    What its encoding has no character for is a question mark.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # nobody reads it, or it was something else before
                stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As the stream."""
        return self._unless_gone(self.stream.write, text)

    def flush(self) -> None:
        """As the stream."""
        self._unless_gone(self.stream.flush)

    def _unless_gone(self, call: Callable[..., Any], *given: str) -> Any:
        try:
            return call(*given)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextmanager
def lasting_streams() -> Iterator[None]:
    """What is printed in this context may be read by nobody, or where not all characters are known."""
    out, err = Lasting(sys.stdout), Lasting(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
        yield
        out.flush()


def show(result: Any) -> None:
    """Print what a command gives, if anything."""
    if result is not None:
        print(result)


def show_comparison(folder: Path) -> None:
    """Print the answer of a comparison, its scores, and where its page is."""
    for line in json.loads((folder / "comparison.json").read_text())["answer"]:
        print(textwrap.fill(line, min(shutil.get_terminal_size().columns, 120), subsequent_indent="  "))
    print(f"page: {folder / 'comparison.html'}")


def show_scores(scores: dict[str, Any]) -> None:
    """Print scores as a table, those of several encoders side by side."""
    from glocal.pipeline import encoder_table, score_table

    print(score_table(scores) if "meta" in scores else encoder_table(scores))


def show_matches(matches: list[Any]) -> None:
    """Print what a search found, a line each."""
    for match in matches:
        place = "" if match.place is None else "  at {:.0f},{:.0f}".format(*match.place)
        print(f"{match.score:.3f}  {match.key}{place}")


def show_phases(found: dict[str, Any]) -> None:
    """Print the phases of a video, a line each, and how right they are."""
    for name, first, end in found["stretches"]:
        print(f"{first:>7} to {end - 1:<7} {name}")
    for name in (name for name in found if name not in ("frames", "stretches")):
        print(f"{name:<12} {found[name]:.3f}")


def show_reply(reply: dict[str, Any]) -> None:
    """Print an answer, why, and the frames that show it."""
    print(f"{reply['answer']}\nwhy: {reply['justification']}\nframes: {', '.join(reply['frames']) or 'none named'}")


class Command(NamedTuple):
    """A function as a command."""

    group: str  # where `glocal --help` lists it
    function: Callable[..., Any]  # its signature and docstring are the command's
    example: str = ""  # its arguments, for the help
    show: Callable[[Any], None] = show  # prints the result
    needed: str | None = None  # an option that Python may leave out, and the command may not


_MODEL = "--endpoint http://127.0.0.1:8000/v1 --model NAME"
COMMANDS = {
    "pretrain": Command("train", api.pretrain, "photos/ --method vicregl --backbone resnet50", lambda run: None),
    "adapt": Command("train", api.adapt, "runs/NAME photos/ --by mask --out masked/", lambda run: None),
    "finetune": Command("train", api.finetune, "runs/NAME --data labelled/ --out ft/", lambda run: None),
    "compare": Command("train", api.compare, "vicreg vicregl:alpha=.5 --data photos/ --budget 20m", show_comparison),
    "evaluate": Command("measure", api.evaluate, "runs/NAME --data labelled/ --tasks knn linear", show_scores),
    "report": Command("measure", report, "runs/NAME"),
    "predict": Command("hand over", api.predict, "ft/ photos/ --out labels.csv", needed="out"),
    "embed": Command("hand over", api.embed, "runs/NAME photos/ --out features.parquet", needed="out"),
    "export": Command("hand over", api.export, "runs/NAME --format timm --out encoder/"),
    "generate": Command("make", api.generate, "runs/NAME --cluster 7 --guidance 1.5 --out grid.png"),
    "inspire": Command("make", api.inspire, "runs/NAME --like photo.jpg --encoder runs/a --out inspired/"),
    "index": Command("find", api.index, "runs/NAME photos/ --dense --out photos.index"),
    "search": Command("find", api.search, "photos.index query.jpg -k 12 --html found.html", show_matches),
    "phases": Command("find", api.phases, "runs/NAME video/ --marks marks.csv --out phases/", show_phases),
    "curate": Command("ask a model", api.curate, f"runs/NAME labelled/ --kb kb.jsonl {_MODEL} --out curated/"),
    "ask": Command("ask a model", api.ask, f'video/ "When does the car turn left?" {_MODEL}', show_reply),
    "methods": Command("look up", methods),
    "backbones": Command("look up", backbones, "'convnext*'"),
    "tasks": Command("look up", tasks),
    "cache": Command("look up", cache),
}


def overview() -> str:
    """The help of all: what others registered is listed under their distribution's name, and not imported."""
    groups: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        what = str(inspect.getdoc(command.function)).partition("\n")[0]
        groups.setdefault(command.group, []).append(f"  {name:<10} {what}")
    for point in entry_points(group="glocal.commands"):
        if point.name not in COMMANDS:
            groups.setdefault(point.dist.name if point.dist else "others", []).append(f"  {point.name}")
    lines = ["glocal: learn the whole and the parts of images, without labels", ""]
    for group, entries in groups.items():
        lines += [f"{group}:", *entries, ""]
    examples = [f"  glocal {name} {COMMANDS[name].example}" for name in ("pretrain", "evaluate", "embed", "export")]
    return "\n".join([*lines, "for example:", *examples, "", "glocal COMMAND --help says more about each."])


def options_of(function: Any) -> Iterator[tuple[inspect.Parameter, str | None]]:
    """Every parameter of a function or class, its annotation resolved to types, with its help, inherited or its own.

    A name that its module imports for type checkers only is something that no word can give: it stands for `str`.
    """
    from docstring_parser import parse

    hints: dict[str, Any] = {}
    checkers_only: dict[str, Any] = {}
    classes = [*reversed(getattr(function, "__mro__", ()))]
    owners = [cls.__init__ for cls in classes] or [function]
    while owners:
        try:
            hints |= get_type_hints(owners[0], None, checkers_only)
        except NameError as error:
            checkers_only[str(error.name)] = str
        else:
            owners.pop(0)
    texts = [inspect.cleandoc(owner.__doc__ or "") for owner in classes or [function]]
    said = {about.arg_name: about.description for text in texts for about in parse(text).params}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            unsaid = str if parameter.default in (None, parameter.empty) else type(parameter.default)
            yield parameter.replace(annotation=hints.get(name, unsaid)), said.get(name)


def kinds(hint: Any) -> set[Any]:
    """The types that a hint allows, without what they hold: {tuple, float} for `tuple[int, int] | float`."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def read_config(given: dict[str, Any]) -> dict[str, Any]:
    """The options in the --config file that those of the command line name, older ones by their new names."""
    import yaml

    from glocal.pipeline import code_in

    path = given["config"]
    try:
        options = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"--config {path} holds no options; write lines like 'epochs: 100'")
    code = code_in({name: value for name, value in options.items() if name not in given})
    trust, command = given.get("trust_code", False), f"glocal pretrain --config {path} --trust-code"
    refuse_untrusted(code, origin=f"--config {path}", trust_code=trust, command=command)
    options.pop("trust_code", None)  # is not the file's to say
    plain = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in options.items()}
    return {RENAMED.get(name, str(name)): value for name, value in plain.items()}
