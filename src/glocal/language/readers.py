"""What reads texts for others, frozen: a run on texts, a table of word pieces' vectors, or an endpoint that embeds."""

import json
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glocal.backbones import load_encoder, save_encoder
from glocal.backbones.text import pieces_of
from glocal.errors import UsageError
from glocal.evaluation.extract import frozen
from glocal.language.endpoint import Endpoint
from glocal.language.transport import parse_address
from glocal.run import Run, write_atomically, write_json
from glocal.views.cache import ANSWERS, cache_folder

TABLE, TOKENIZER, ENDPOINT = "table.safetensors", "tokenizer.json", "endpoint.json"


class Reader(Protocol):
    """Texts to vectors.

    Attributes:
        dim: D.
    """

    dim: int

    def read(self, texts: list[str]) -> Tensor:
        """(N, D) float32, on the CPU."""

    def keep(self, folder: Path) -> None:
        """Write into a folder what `open_reader` opens there."""


def open_reader(place: str, *, trust_code: bool = False) -> Reader:
    """What reads texts at a place: a run's folder, that of a table and its tokenizer.json, or URL#MODEL.

    Raises:
        UsageError: if nothing there does.
    """
    path = Path(place)
    if re.match("https?://", place):
        url, _, model = place.partition("#")
        return Asked(url, model)
    if (path / ENDPOINT).is_file():
        try:
            about = json.loads((path / ENDPOINT).read_text(encoding="utf-8"))
            url, model, dim = str(about["url"]), str(about["model"]), int(about["dim"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path / ENDPOINT} is damaged; fine-tune again") from error
        return Asked(url, model, dim)
    if (path / TOKENIZER).is_file():
        return Table(path)
    if path.is_dir() and not (Run(path).has_encoder or Run(path).has_checkpoint):
        raise UsageError(f"{place} reads no texts: it holds neither a run nor {TOKENIZER} beside a table")
    encoder: Any = load_encoder(place, trust_code=trust_code)
    if getattr(encoder, "reads", "images") != "text":
        raise UsageError(
            f"{place} reads images; make one that reads texts: glocal pretrain text:PATH --method contriever"
        )
    return OfRun(encoder)


class OfRun:
    """An encoder of texts that this library trained."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.dim = encoder, encoder.dim

    def read(self, texts: list[str]) -> Tensor:
        """See `Reader`."""
        with frozen(self.encoder):
            return self.encoder.read(texts).clone()

    def keep(self, folder: Path) -> None:
        """See `Reader`."""
        save_encoder(self.encoder, folder)


class Table:
    """A vector for each word piece; of a text their mean.

    Args:
        folder: of tokenizer.json, as the library tokenizers writes it, and a .safetensors file of one tensor (V, D).
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.safetensors"))
        try:
            (self.table,) = load_file(files[0]).values()
            self.tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8")
            if len(files) > 1 or self.table.ndim != 2 or not bool(self.table.isfinite().all()):
                raise ValueError("not one table")
        except (OSError, IndexError, ValueError, SafetensorError) as error:
            raise UsageError(
                f"{folder} is to hold {TOKENIZER} and one .safetensors file with one table (V, D) of numbers"
            ) from error
        self.dim = self.table.shape[1]

    def read(self, texts: list[str]) -> Tensor:
        """See `Reader`."""
        rows = pieces_of(self.tokenizer, texts)
        if (last := max((int(row.max()) for row in rows if len(row)), default=0)) >= len(self.table):
            raise UsageError(
                f"the tokenizer has a word piece {last}, of which the table of {len(self.table)} has no vector"
            )
        found = [self.table[row].float().mean(0) if len(row) else torch.zeros(self.dim) for row in rows]
        return torch.stack(found)

    def keep(self, folder: Path) -> None:
        """See `Reader`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER, self.tokenizer)
        write_atomically(folder / TABLE, lambda path: save_file({"table": self.table}, path))


class Asked:
    """An endpoint of this machine that embeds texts; what it has answered is kept.

    Args:
        url: its address.
        model: its name there.
        dim: width of its vectors; by default it is asked.
    """

    def __init__(self, url: str, model: str, dim: int | None = None) -> None:
        if not parse_address(url).is_here:
            raise UsageError("--text: captions and names are sent to no other machine; give an endpoint of this one")
        folder = cache_folder()
        self.endpoint = Endpoint(url, model, max_calls=10**6, images=0, cache=folder / ANSWERS if folder else None)
        self.url, self.dim = url, dim or self.endpoint.embed(["a text"]).shape[1]

    def read(self, texts: list[str]) -> Tensor:
        """See `Reader`."""
        found = torch.from_numpy(np.asarray(self.endpoint.embed(texts)))
        if found.shape[1] != self.dim:
            said = f"vectors of {found.shape[1]} numbers, and of {self.dim} when this was fine-tuned"
            raise UsageError(f"{self.url} now gives {said}: is it another model?")
        return found

    def keep(self, folder: Path) -> None:
        """See `Reader`."""
        write_json(folder / ENDPOINT, {"url": self.url, "model": self.endpoint.model, "dim": self.dim})
