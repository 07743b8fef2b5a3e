"""The `glocal` command: a thin layer that turns arguments into calls of `glocal.api`; exit code 2 for mistakes."""

import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from glocal import __version__
from glocal.commands import COMMANDS, Command, kinds, lasting_streams, options_of, overview, read_config
from glocal.config import RENAMED, SHARED, PretrainConfig, in_words
from glocal.errors import UsageError, did_you_mean
from glocal.plugins import find, names


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    with lasting_streams():
        try:
            run(list(sys.argv[1:] if argv is None else argv))
        except KeyboardInterrupt:
            print("glocal: interrupted", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            system = isinstance(error, OSError)  # a full disk, a name too long; to import the others is slow
            if not system and type(error).__name__ not in ("UsageError", "TrainingStopped", "Interrupted"):
                raise
            line = " ".join(str(error).split())
            if os.environ.get("LOCAL_RANK", "0") == "0":  # several processes end for one reason
                print("glocal:", line if len(line) < 1000 else f"{line[:600]} … {line[-200:]}", file=sys.stderr)
            sys.exit(getattr(error, "code", 1 if system else 2))


def run(args: list[str]) -> None:
    """Dispatch one command line."""
    name, *words = args or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name in ("-V", "--version"):
        print(f"glocal {__version__}")
    elif name not in COMMANDS and ":" not in name and name not in (known := [*COMMANDS, *names("commands")]):
        raise UsageError(f"no command '{name}'{did_you_mean(name, known)}; see glocal --help")
    else:
        call(name, COMMANDS.get(name) or Command("", find("commands", name)), words)


def call(name: str, command: Command, args: list[str]) -> None:
    """Parse arguments by a function's signature, call it with those options that were given, show the result."""
    from cyclopts import App, CycloptsError, Group, Parameter
    from cyclopts.help import DefaultFormatter, PanelSpec
    from rich.box import SIMPLE

    # `--report false` is `--report=false`; any other word after a flag is not the flag's
    words = re.sub("(--[^=\0]+)\0(true|false)(?=\0)", r"\1=\2", "\0".join([*args, ""])).split("\0")[:-1]
    example, config = f"glocal {name} {command.example}".strip(), None
    options, function = parameters(command.function, needed=command.needed), command.function
    try:
        if name in ("pretrain", "adapt"):
            config, more = of_method(words)
            taken = {option.name for option in options} | ({"config"} if name == "adapt" else set())
            options += [option for option in more if option.name not in taken]
            function = lambda *given, config=None, **named: command.function(*given, **named)
        parsed: Any = lambda *given, **named: command.show(function(*given, **named))
        parsed.__doc__, parsed.__signature__ = command.function.__doc__, inspect.Signature(options)
        app = App(
            name=f"glocal {name}",
            default_command=parsed,
            default_parameter=Parameter(converter=read, n_tokens=1, accepts_keys=False, negative_iterable=()),
            config=config,
            group_parameters=Group("Options"),
            help_epilogue=f"for example: {example}",
            help_formatter=DefaultFormatter(panel_spec=PanelSpec(box=SIMPLE, padding=(0, 0, 0, 3), expand=False)),
            version_flags=(),
            suppress_keyboard_interrupt=False,
        )
        app["--help"].show = False
        chosen, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(mistake(error, name, example)) from error
    chosen(*bound.args, **bound.kwargs)


def parameters(
    function: Any, *, needed: str | None = None, title: str = "Options", shared: Mapping[str, str] = {}
) -> list[inspect.Parameter]:
    """A callable's options as the parser takes them, listed under a title, with its help or that which many share."""
    from cyclopts import Group, Parameter

    made = []
    for option, own in options_of(function):
        allowed, said = kinds(option.annotation), own or shared.get(option.name)
        words: dict[str, Any] = {"n_tokens": -1, "consume_multiple": True} if list in allowed else {}
        words |= {"name": (f"--{option.name}", f"-{option.name}")} if len(option.name) == 1 else {}
        about = Parameter(help=said, group=Group(title), metavar="N,..." if tuple in allowed else None, **words)
        default = option.empty if option.name == needed else option.default
        made.append(option.replace(annotation=Annotated[option.annotation, about], default=default))
    return made


def of_method(words: list[str]) -> tuple[Any, list[inspect.Parameter]]:
    """The --config file, and the options that the method adds which the words or that file name."""
    from cyclopts import App, Parameter
    from cyclopts.config import Dict

    from glocal.methods.registry import SHARED_OPTIONS, method_class, method_options

    def peek(*, method="", backbone="", config="", trust_code=False): ...

    given = App(default_command=peek, help_flags=(), version_flags=()).parse_known_args(words)[1].arguments
    written = read_config(given) if "config" in given else {}
    cls = method_class(str({"method": PretrainConfig.method, **written, **given}["method"]))
    file = Parameter(help="a YAML file of these options, such as a run's config.yaml", metavar="FILE")
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter("config", kind, default=None, annotation=Annotated[str, file])]
    for option in parameters(cls, title=f"Options of {cls.title}", shared=SHARED_OPTIONS):
        if option.name in method_options(cls) and option.name not in SHARED:  # which are the run's
            options.append(option.replace(kind=kind))
    return Dict(written, source=f"--config {given.get('config')}"), options


def of_methods(option: str) -> list[str]:
    """The names of the methods that have an option."""
    from glocal.methods.registry import method_class, method_names, method_options

    return [name for name in method_names() if option in method_options(method_class(name))]


def read(hint: Any, tokens: Sequence[Any]) -> Any:
    """A value from its words: tuples also as 20,4 or [20,4], mappings as YAML; 1.5 is no whole number."""
    import yaml
    from cyclopts import CoercionError, convert

    try:
        if dict in kinds(hint):
            return dict(yaml.safe_load(tokens[0].value))
        if tuple in kinds(hint):
            tokens = [token.evolve(value=part) for token in tokens for part in token.value.strip("[( )]").split(",")]
        return convert(hint, tokens, lambda kind, text: int(text) if kind is int else convert(kind, [text]))
    except (TypeError, ValueError, NotImplementedError, yaml.YAMLError, CoercionError):
        raise ValueError from None


def mistake(error: Any, name: str, example: str) -> str:
    """What the parser says, in our words where there is something to add."""
    kind = type(error).__name__
    if kind == "UnknownOptionError":
        word = (error.token.keyword or error.token.value).partition("=")[0]
        known = [option for argument in error.argument_collection for option in argument.names]
        if word.startswith("["):  # a key of the file
            known = [option.removeprefix("--").replace("-", "_") for option in known]
            return f"{error.token.source}: no option '{word[1:-1]}'{did_you_mean(word[1:-1], known)}"
        plain = word.removeprefix("--").replace("-", "_")
        if name in ("pretrain", "adapt") and (others := of_methods(plain)):
            return f"{word} is an option of --method {' or '.join(others[:3])}"
        new = RENAMED.get(plain, "").replace("_", "-")
        return f"{word} is now --{new}" if new else f"no option '{word}'{did_you_mean(word, known)}"
    if kind == "UnusedCliTokensError":
        return f"{name} does not take '{error.unused_tokens[0]}'; for example: {example}"
    if kind == "CoercionError" and error.token and error.target_type and error.msg is None:
        option = error.token.keyword or error.argument.name
        option = f"{error.token.source}: {option.strip('[]')}" if option.startswith("[") else option  # of a file
        return f"{option} '{error.token.value}' is not {in_words(error.target_type)}"
    if kind == "MissingArgumentError":
        return f"{name} needs a value for {error.keyword or error.argument.name}; for example: {example}"
    return str(error).replace("Invalid", "invalid", 1)
