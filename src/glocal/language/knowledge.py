"""A knowledge base: what there is to be named, by which names, and what an encyclopaedia says of it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from glocal.data.files import existing
from glocal.errors import UsageError
from glocal.language.schema import printable


@dataclass(frozen=True)
class Entity:
    """Something that has a name."""

    name: str
    text: str = ""
    aliases: tuple[str, ...] = ()


@dataclass
class KnowledgeBase:
    """Entities; no two have one name."""

    entities: list[Entity]
    _known: dict[str, list[Entity]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = {}
        for entity in self.entities:
            for alias in {plain(alias) for alias in entity.aliases} - {""}:
                self._known.setdefault(alias, []).append(entity)
        self._known |= {plain(entity.name): [entity] for entity in self.entities}  # a name comes before an alias

    def find(self, text: str) -> list[Entity]:
        """What has this name, or else all that have this alias, in whatever case; no other spelling will do."""
        return self._known.get(plain(text), [])


def read_knowledge(path: str | Path) -> KnowledgeBase:
    """A .jsonl file: {"name": ..., "text": ..., "aliases": [...]} a line; all but the name may be missing.

    Raises:
        UsageError: naming the first line that is none, or whose name another one has.
    """
    path, entities, lines = existing(Path(path)), list[Entity](), dict[str, int]()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entity = _entity(line, where)
        if before := lines.get(plain(entity.name)):
            raise UsageError(
                f"{where}: line {before} has the name '{entity.name}', too; tell them apart by their names"
            )
        lines[plain(entity.name)] = number
        entities.append(entity)
    if not entities:
        raise UsageError(f"{path} is empty; it has a line for each name, such as " + '{"name": "hat", "text": "..."}')
    return KnowledgeBase(entities)


def _entity(line: str, where: str) -> Entity:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON; write " + '{"name": "hat", "text": "..."}') from error
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not printable(name):
        raise UsageError(f"{where} has no name; write " + '{"name": "hat", "text": "..."}')
    text, aliases = found.get("text", ""), found.get("aliases", [])
    if not isinstance(text, str) or not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
        raise UsageError(f"{where}: `text` is a text and `aliases` a list of texts")
    return Entity(printable(name), text, tuple(aliases))


def plain(name: str) -> str:
    """A name without what does not tell it from others: case, and which blanks it has."""
    return " ".join(name.casefold().replace("_", " ").split())
