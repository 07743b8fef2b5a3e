"""The `glocal` command: a thin layer that turns arguments into calls of `glocal.api`; exit code 2 for mistakes."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from typing import Any

COMMANDS = {
    "pretrain": (
        "learn an encoder from unlabelled images",
        "glocal pretrain photos/ --method vicregl --backbone resnet50",
    ),
    "evaluate": (
        "measure an encoder: kNN, linear, segmentation, correspondence",
        "glocal evaluate runs/NAME --data labelled/ --tasks knn linear segment --json scores.json",
    ),
    "embed": ("write the features of a folder of images", "glocal embed runs/NAME photos/ --out features.parquet"),
    "export": (
        "hand the encoder over to timm, ONNX or torch.export",
        "glocal export runs/NAME --format timm --out encoder/",
    ),
    "compare": (
        "methods side by side: same data, backbone and budget",
        "glocal compare vicreg vicregl:alpha=0.75 --data photos/ --budget 20m --seeds 3",
    ),
    "report": ("write a run's report page again", "glocal report runs/NAME"),
    "methods": ("list the training methods, with their papers", "glocal methods"),
    "backbones": ("list the backbones by pattern", "glocal backbones 'convnext*'"),
    "tasks": ("list the evaluation tasks and what they need", "glocal tasks"),
}
POSITIONAL = {
    "pretrain": ["data"],
    "evaluate": ["encoder"],
    "embed": ["encoder", "data"],
    "export": ["encoder"],
    "compare": ["methods"],
}
LISTS = {"evaluate": ["tasks"], "compare": ["tasks", "data"]}
"""Options that take several words."""
LIST_HELP = {"tasks": "see glocal tasks; by default all that the data allows", "data": "images to pretrain on"}


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        run(args)
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        name = type(error).__name__
        if name in ("UsageError", "TrainingStopped", "Interrupted"):
            fail(str(error), code=getattr(error, "code", 2))
        raise


def fail(message: str, *, code: int) -> None:
    """One line on standard error, and out."""
    print(f"glocal: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def run(args: list[str]) -> None:
    """Dispatch one command line."""
    from glocal.errors import UsageError

    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if args[0] in ("-V", "--version"):
        from glocal import __version__

        print(f"glocal {__version__}")
        return
    command, rest = args[0], args[1:]
    if command not in COMMANDS:
        raise UsageError(f"no command '{command}'{nearest(command, list(COMMANDS))}; see glocal --help")
    if command in POSITIONAL:
        call(command, rest)
    else:
        listing(command, rest)


def overview() -> str:
    """The top-level help."""
    lines = ["glocal: learn the whole and the parts of images, without labels", ""]
    lines += [f"  glocal {name:<10} {what}" for name, (what, _) in COMMANDS.items()]
    lines += ["", "for example:"]
    lines += [f"  {COMMANDS[name][1]}" for name in ("pretrain", "evaluate", "embed", "export")]
    lines += ["", "glocal COMMAND --help says more about each."]
    return "\n".join(lines)


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean X?' where something is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def call(command: str, args: list[str]) -> None:
    """Parse the arguments of an api function by its signature, and call it."""
    from glocal import api
    from glocal.errors import UsageError

    function = getattr(api, command)
    options = parse(command, function, args)
    if command == "embed" and options.get("out") is None:
        raise UsageError("embed needs --out FILE.parquet or --out FILE.npz")
    if command == "compare" and not options.get("data"):
        raise UsageError("compare needs --data DIR, the images to pretrain on")
    result = function(**options)
    if command == "evaluate":
        from glocal.pipeline import score_table

        print(score_table(result))
    elif command == "compare":
        print((result / "comparison.md").read_text())
    elif command in ("embed", "export"):
        print(result)


def parse(command: str, function: Any, args: list[str]) -> dict[str, Any]:
    """Arguments -> keyword arguments of `function`, plus the method's options for `pretrain`."""
    import jsonargparse

    from glocal.errors import UsageError

    what, example = COMMANDS[command]
    parser = jsonargparse.ArgumentParser(
        prog=f"glocal {command}",
        description=what,
        epilog=f"for example: {example}",
        exit_on_error=False,
        add_help=False,
        formatter_class=jsonargparse.DefaultHelpFormatter,
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    positional = POSITIONAL[command]
    if command == "pretrain":
        parser.add_argument("data", nargs="*", help="folder, list file, torchvision:NAME or parts; several are joined")
        parser.add_argument(
            "--config", action="config", help="a YAML file of these options, such as a run's config.yaml"
        )
    elif command == "compare":
        parser.add_argument("methods", nargs="+", type=str, help="METHOD or METHOD:OPTION=VALUE,...")
    else:
        for name in positional:
            parser.add_argument(name, type=str, help="")
    lists = LISTS.get(command, [])
    for name in lists:
        parser.add_argument(f"--{name}", nargs="+", type=str, help=LIST_HELP[name])
    parser.add_function_arguments(function, as_group=False, skip={*positional, *lists, "options"})
    if command == "pretrain":
        from glocal.methods import method_class

        parser.add_class_arguments(
            method_class(chosen_method(args)), nested_key=None, as_group=True, skip={"backbone", "image_size"}
        )
    callables = [function] if command != "pretrain" else [function, method_class(chosen_method(args))]
    types = {
        name: str(parameter.annotation).removesuffix(" | None")
        for item in callables
        for name, parameter in inspect.signature(item).parameters.items()
    }
    known = [o for action in parser._actions for o in action.option_strings if o.startswith("--")]
    if "-h" in args or "--help" in args:
        print(re.sub(r"--[a-z0-9_]+", lambda m: m[0].replace("_", "-"), parser.format_help()))
        sys.exit(0)
    args = [normalise(word, known) for word in args]
    for k, word in enumerate(args):  # a bare flag means true
        if types.get(word.removeprefix("--")) == "bool" and (k + 1 == len(args) or args[k + 1].startswith("--")):
            args[k] = f"{word}=true"
    if command == "pretrain" and (config := value_of("--config", args)):
        names = [option.removeprefix("--") for option in known] + positional
        for name in read_yaml(config):
            if name not in names:
                raise UsageError(f"--config {config}: no option '{name}'{nearest(str(name), names)}")
    try:
        namespace = parser.parse_args(args)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise UsageError(one_line(command, str(error), args, types)) from error
    options = namespace.as_dict() if hasattr(namespace, "as_dict") else vars(namespace)
    options.pop("config", None)
    options = {name: value for name, value in options.items() if not name.startswith("__")}
    if command == "pretrain":
        config = value_of("--config", args)
        written = read_yaml(config) if config else {}
        given = {word.partition("=")[0].removeprefix("--") for word in args if word.startswith("--")} | set(written)
        signature = inspect.signature(function).parameters
        options = {k: v for k, v in options.items() if k in signature or k in given}  # the rest: the preset's
        data = options.pop("data") or written.get("data")
        options["data"] = data[0] if isinstance(data, list) and len(data) == 1 else data
    return options


def chosen_method(args: list[str]) -> str:
    """The method named on the command line or in its --config file, else the default."""
    from glocal import api

    default = inspect.signature(api.pretrain).parameters["method"].default
    config = value_of("--config", args)
    return value_of("--method", args) or (config and read_yaml(config).get("method")) or default


def value_of(option: str, args: list[str]) -> str | None:
    """The value given to an option, as `--option VALUE` or `--option=VALUE`."""
    for k, word in enumerate(args):
        if word.startswith(option + "="):
            return word.partition("=")[2]
        if word == option and k + 1 < len(args):
            return args[k + 1]
    return None


def read_yaml(path: str) -> dict[str, Any]:
    """A YAML file of options."""
    import yaml

    from glocal.errors import UsageError

    try:
        with open(path) as file:
            options = yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config {path} is not valid YAML: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"--config {path} holds no options; write lines like 'epochs: 100'")
    return options


def normalise(word: str, known: list[str]) -> str:
    """--batch-size -> --batch_size; .05,.4 -> [.05,.4]. Unknown options are an error with the nearest name."""
    from glocal.errors import UsageError

    if re.fullmatch(r"-?[\d.e-]+(,-?[\d.e-]+)+", word):
        return f"[{word}]"
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("-", "_").replace("__", "--", 1)
    if name not in known:
        shown = [option.replace("_", "-").replace("--", "--", 1) for option in known]
        raise UsageError(f"no option '{word.partition('=')[0]}'{nearest(word.partition('=')[0], shown)}")
    return name + equals + value


def one_line(command: str, message: str, args: list[str], types: dict[str, str]) -> str:
    """The gist of a parser's message; where a value does not fit, what was given and what is expected."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    found = re.match(r"(?:Parser key )?\"?([a-z_0-9]+)\"?:", lines[0])
    if found and found[1] in types:
        option = f"--{found[1]}"
        return f"{option.replace('_', '-')} {value_of(option, args) or ''} is not one of: {types[found[1]]}"
    return f"{' '.join(lines[:2])} (see glocal {command} --help)"


def listing(command: str, args: list[str]) -> None:
    """Commands that show something: methods, backbones, tasks, report."""
    from glocal.errors import UsageError

    what, example = COMMANDS[command]
    if "-h" in args or "--help" in args:
        print(f"usage: {example}\n\n{what}\n\nfor example: {example}")
        return
    takes = {"report": 1, "backbones": 1}.get(command, 0)
    if len(args) > takes or any(word.startswith("-") for word in args):
        raise UsageError(f"glocal {command} does not take '{args[-1]}'; for example: {example}")
    if command == "methods":
        from glocal.methods import method_class, method_names

        for name in method_names():
            print(f"{name:<12} {method_class(name).paper}")
    elif command == "tasks":
        from glocal.evaluation import TASKS

        for name, task in TASKS.items():
            print(f"{name:<12} {task.what}; needs {task.needs}{', on request' if task.on_request else ''}")
    elif command == "backbones":
        from glocal.backbones import list_backbones

        print("\n".join(list_backbones(*args)))
    else:
        if not args:
            raise UsageError(f"glocal report needs a run; for example: {example}")
        from glocal.report import write_report
        from glocal.run import Run

        Run.open(args[0])
        print(write_report(args[0]))
