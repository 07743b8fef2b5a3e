"""Texts from files, and what is asked of them."""

import json
from pathlib import Path
from typing import Any

from glocal.data.files import existing, shown, walk
from glocal.data.source import Queries, TextSource
from glocal.errors import UsageError


class Texts(TextSource):
    """`text:PATH`: the texts of a file or folder, in order.

    - A `.jsonl` file has an object a line: its `text`, after its `title` where that is not how it begins, and its `id`
      (or `_id`), else the number of the line. Where `queries.jsonl`, of the same form, and `qrels.json`, for each
      query's id the ids of the relevant texts, or how relevant each is, lie beside it, they are its `queries`.
    - A `.txt` file has a text a line.
    - A folder is its `corpus.jsonl` or, where there is none, has a text in each `.txt` file below it.

    Args:
        path: the file or folder.

    Raises:
        UsageError: if there is nothing, or a line is no such object.
    """

    def __init__(self, path: str) -> None:
        place = existing(Path(path))
        if (place / "corpus.jsonl").is_file():
            place = place / "corpus.jsonl"
        self.name = shown(place.parent.resolve().name if place.name == "corpus.jsonl" else place.stem)
        if place.is_dir():
            files = sorted(walk(place, frozenset({".txt"}), {}))
            self._keys = [shown(str(Path(file).relative_to(place))) for file in files]
            self._texts = [_read(Path(file)) for file in files]
        elif place.suffix.lower() == ".jsonl":
            self._keys, self._texts = _objects(place)
            self.queries = _queries(place.parent, self._keys)
        elif place.suffix.lower() == ".txt":
            lines = [(str(n), line) for n, line in enumerate(_read(place).split("\n"), start=1) if line.strip()]
            self._keys, self._texts = [n for n, _ in lines], [line for _, line in lines]
        else:
            raise UsageError(f"{path} is no text: give a .jsonl or .txt file, or a folder of .txt files")
        if not any(text.strip() for text in self._texts):
            raise UsageError(f"{path} holds no text")

    def __len__(self) -> int:
        return len(self._texts)

    def key(self, i: int) -> str:
        """The id of text i, its line, or its file."""
        return self._keys[i]

    def text(self, i: int) -> str:
        """Text i."""
        return self._texts[i]

    def sizes(self) -> list[int]:
        """Characters of each."""
        return [len(text) for text in self._texts]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _objects(path: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of the lines of a .jsonl file."""
    keys, texts = [], []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            text, title, key = found["text"], found.get("title") or "", found.get("id", found.get("_id", number))
            if not (isinstance(text, str) and isinstance(title, str) and _is_id(key)):
                raise TypeError(text)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f'{path}: line {number} is no object like {{"id": "7", "text": "..."}}') from error
        keys.append(str(key))
        texts.append(text if text.startswith(title) else f"{title} {text}")
    if len({*keys}) < len(keys):
        raise UsageError(f"{path}: two texts have one id, {next(key for key in keys if keys.count(key) > 1)}")
    return keys, texts


def _queries(folder: Path, keys: list[str]) -> Queries | None:
    """What lies beside the texts of these ids."""
    asked, judged = folder / "queries.jsonl", folder / "qrels.json"
    if not (asked.is_file() and judged.is_file()):
        return None
    ids, texts = _objects(asked)
    row = {key: n for n, key in enumerate(keys)}
    try:
        relevant: dict[str, Any] = json.loads(_read(judged))
        found = [[row[key] for key in _relevant(relevant.get(query, []))] for query in ids]
    except KeyError as error:
        raise UsageError(f"{judged} names the text {error}, which is not there") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f'{judged} is not of the form {{"query": ["text", ...]}}') from error
    return Queries(ids, texts, found)


def _relevant(judged: Any) -> list[str]:
    """Ids of texts, each once, of a list of them, or of a table of how relevant each is, above 0."""
    if isinstance(judged, dict):
        judged = [key for key, degree in judged.items() if degree > 0]
    if not isinstance(judged, list) or not all(map(_is_id, judged)):
        raise TypeError(judged)
    return list(dict.fromkeys(map(str, judged)))


def _is_id(key: Any) -> bool:
    return isinstance(key, str) or type(key) is int
