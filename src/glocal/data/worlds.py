"""How generated worlds are asked for: `parts:n=3000,size=96`."""

from collections.abc import Callable, Mapping
from typing import Any

from glocal.errors import UsageError, did_you_mean


def truth(word: str) -> bool:
    """Of "true" or "false"; ValueError for others."""
    return bool(("false", "true").index(word.lower()))


def read_options(world: str, argument: str, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options in `key=value,...`, each made of its word by its kind: int, float, str or `truth`.

    Raises:
        UsageError: for an unknown one, with the nearest name, or a word that is not of its kind.
    """
    options: dict[str, Any] = {}
    for item in filter(None, argument.split(",")):
        key, _, value = (text.strip() for text in item.partition("="))
        if key not in kinds:
            hint = did_you_mean(key, kinds, otherwise=f"; there are {', '.join(kinds)}")
            raise UsageError(f"{world}:{argument}: unknown option {key!r}{hint}")
        try:
            options[key] = kinds[key](value)
        except ValueError as error:
            expected = "true or false" if kinds[key] is truth else "a number"
            raise UsageError(f"{world}:{argument}: {key}={value} is not {expected}; write {key}=VALUE") from error
    return options
