"""What an answer has to look like, in the part of JSON Schema that our questions use; and reading one that does."""

import json
from typing import Any

LONGEST = 2000
"""Characters that are kept of a text in an answer."""
BRACES = 1000
"""Places of a text where an answer may begin that are looked at."""
READINGS = 8
"""How many times over a text is read, at most, where nothing in it ends."""

TEXT: dict[str, Any] = {"type": "string"}
TEXT_OR_NONE: dict[str, Any] = {"type": ["string", "null"]}
YES_OR_NO: dict[str, Any] = {"type": "boolean"}
NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
_KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}


class Unusable(Exception):
    """An answer that cannot be used; the message says what is wrong with it in a few words."""


def record(**fields: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has all of these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list of such items."""
    return {"type": "array", "items": item}


def read_answer(text: str, schema: dict[str, Any]) -> Any:
    """The JSON value in a text, which a model may have wrapped in prose or in a code fence.

    Its texts come out as one printable line each; fields that nobody asked for are left out. Of several objects, as of
    a model that thinks aloud, it is the last that fits.

    Raises:
        Unusable: if there is none, or none is as the schema says.
    """
    found, trouble, at, read = None, None, -1, 0
    for _ in range(BRACES):
        if (at := text.find("{", at + 1)) < 0 or read > READINGS * len(text):
            break
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
            found, at = _checked(value, schema, "the answer"), end - 1
        except Unusable as error:
            trouble, at = error, end - 1
        except (ValueError, RecursionError) as error:
            read += getattr(error, "pos", at) - at
    if found is not None:
        return found
    if trouble is not None:
        raise trouble
    what = "half an answer" if text.lstrip().startswith(("{", "```")) else "prose in place of JSON"
    raise Unusable(f"{what}: '{printable(text)[:80]}'")


def printable(text: str) -> str:
    """One line without control characters, which could write anything on a terminal; shortened if very long."""
    line = "".join(filter(str.isprintable, " ".join(text.split())))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _checked(value: Any, schema: dict[str, Any], where: str) -> Any:
    allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(type(value) is _KINDS[kind] for kind in allowed):  # a bool is no integer
        raise Unusable(f"{where} is no {' or '.join(allowed)}")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_checked(item, schema["items"], f"an item of {where}") for item in value]
    if isinstance(value, dict):
        if lacking := [name for name in schema["required"] if name not in value]:
            raise Unusable(f"{where} lacks '{lacking[0]}'")
        return {name: _checked(value[name], of, f"'{name}'") for name, of in schema["properties"].items()}
    return value
