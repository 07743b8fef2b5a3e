"""`Index`: the features of a collection in one file, searched exactly."""

import json
import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones.encoder import digest
from glocal.data.files import existing, shown
from glocal.errors import UsageError
from glocal.evaluation.extract import FeatureBank, half_store
from glocal.evaluation.knn import nearest_neighbours
from glocal.run import write_atomically

_BLOCK = 1024  # rows that are copied at once


class Index:
    """One vector for each image and, where it is dense, one for each cell of each, in half precision.

    On disk it is a safetensors file, memory-mapped when opened: what is looked at is read. It knows which encoder's
    features it holds, and refuses those of another.

    Attributes:
        keys: names of the N images.
        pooled: (N, D) float16 of unit length.
        dense: (N, L, D) float16, or None.
        about: JSON values: `digest` of the encoder (`digest_of`), and whatever else `build` was told.
    """

    def __init__(self, keys: list[str], pooled: Tensor, dense: Tensor | None, about: dict[str, Any]) -> None:
        self.keys, self.pooled, self.dense, self.about = keys, pooled, dense, about

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def build(cls, features: FeatureBank, encoder: nn.Module, about: Mapping[str, Any] = {}) -> Self:
        """The index of these features, and of their maps where there are some, which this encoder made."""
        known = {"glocal": version("glocal"), "digest": digest_of(encoder), **about}
        return cls(list(features.keys), *_vectors(features), known)

    def add(self, features: FeatureBank | None, gone: Collection[str] = ()) -> None:
        """Take in further images, if any, in place of those of the same names; images that are `gone` leave.

        Raises:
            UsageError: if the features are of another width or map.
        """
        pooled, dense = (
            _vectors(features) if features else (self.pooled[:0], None if self.dense is None else self.dense[:0])
        )
        keys = list(features.keys) if features else []
        shapes = [None if x is None else x.shape[1:] for x in (self.pooled, pooled, self.dense, dense)]
        if shapes[0] != shapes[1] or shapes[2] != shapes[3]:
            raise UsageError("these features are of another width, or another map, than those of the index")
        leaving = {*gone, *keys}
        stay = torch.tensor([row for row, key in enumerate(self.keys) if key not in leaving], dtype=torch.int64)
        self.keys = [self.keys[row] for row in stay] + keys
        self.pooled = _joined(self.pooled, stay, pooled)
        self.dense = None if self.dense is None or dense is None else _joined(self.dense, stay, dense)

    def search(self, queries: Tensor, k: int, *, dense: bool = False) -> tuple[Tensor, Tensor]:
        """The k images most like each query, by cosine similarity, exactly.

        Args:
            queries: (Q, D) features of the encoder that made the index.
            k: how many; all, where there are fewer.
            dense: compare with the cells of an image, of which the most similar counts.

        Returns:
            Similarities and positions in `keys`, both (Q, k), most similar first.

        Raises:
            UsageError: if the queries are of another width or not finite, or an index without cells is asked for such.
        """
        bank = self.dense if dense else self.pooled
        if bank is None:
            raise UsageError("this index has no cells: make another with --dense")
        if k < 1:
            raise UsageError(f"{k} neighbours: at least 1 is to be sought")
        if queries.ndim != 2 or queries.shape[1] != bank.shape[-1]:
            raise UsageError(f"queries {tuple(queries.shape)}: the index has vectors of {bank.shape[-1]} numbers")
        if not queries.isfinite().all():
            raise UsageError("queries with numbers that are none (NaN, infinity) are like nothing")
        return nearest_neighbours(queries, bank, k)

    def cell_of(self, query: Tensor, image: int) -> int:
        """Which cell of an image is most like a query (D,), row by row from 0."""
        assert self.dense is not None
        return int(torch.mv(F.normalize(self.dense[image].float(), dim=1), query.float()).argmax())

    def check(self, encoder: nn.Module) -> None:
        """Refuse, by a `UsageError`, an encoder that is not the one that made the index."""
        if digest_of(encoder) != self.about["digest"]:
            made, given = self.about.get("encoder", "another encoder"), getattr(encoder, "name", "encoder")
            raise UsageError(f"the index was made by {made}; this {given} has other weights or pooling: give that one")

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_atomically(Path(path), lambda partial: _write(partial, self))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The index in a file; `UsageError` if there is none."""
        path = existing(Path(path))
        try:
            with open(path, "rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(start - 8, path.stat().st_size)))
            about = json.loads(header["__metadata__"]["glocal"])
            keys = [shown(str(key)) for key in about.pop("keys")]
            found = {name: _mapped(path, start, header[name]) for name in ("pooled", "dense") if name in header}
            if [x.ndim for x in found.values()] != [2, 3][: len(found)]:
                raise ValueError("its vectors are of another shape")
            if not isinstance(about["digest"], str) or {len(each) for each in found.values()} != {len(keys)}:
                raise ValueError("it does not fit together")
            return cls(keys, found["pooled"], found.get("dense"), about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            why = "it does not begin as one" if isinstance(error, UnicodeDecodeError) else error
            raise UsageError(f"{path} is no index, or a damaged one ({why}); glocal index makes them") from error


def digest_of(encoder: nn.Module) -> str:
    """What tells an encoder from any other: a digest of its weights, and its pooling."""
    return f"{digest(encoder)} {getattr(encoder, 'pool', '')}"


def _vectors(features: FeatureBank) -> tuple[Tensor, Tensor | None]:
    """(N, D) and (N, L, D) float16."""
    maps = features.dense
    dense = None if maps is None else maps.permute(0, 2, 3, 1).flatten(1, 2)
    return F.normalize(features.pooled, dim=1).half(), dense


def _joined(old: Tensor, stay: Tensor, new: Tensor) -> Tensor:
    """Some rows of what is on disk, then new ones."""
    whole = half_store(len(stay) + len(new), *new.shape[1:])
    for start in range(0, len(stay), _BLOCK):
        rows = stay[start : start + _BLOCK]
        whole[start : start + len(rows)] = old[rows]
    whole[len(stay) :] = new
    return whole


def _write(path: Path, index: Index) -> None:
    """The length of the header, the header, then the numbers, each tensor after the other."""
    tensors = {"pooled": index.pooled} | ({} if index.dense is None else {"dense": index.dense})
    header: dict[str, Any] = {"__metadata__": {"glocal": json.dumps({**index.about, "keys": index.keys})}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            _append(file, tensor)


def _append(file: BinaryIO, tensor: Tensor) -> None:
    for block in tensor.split(_BLOCK):
        file.write(block.contiguous().numpy().data)


def _mapped(path: Path, start: int, about: dict[str, Any]) -> Tensor:
    if about["dtype"] != "F16" or about["data_offsets"][0] < 0:
        raise ValueError("its numbers are of another kind, or elsewhere")
    array = np.memmap(path, np.float16, "r", start + about["data_offsets"][0], tuple(about["shape"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to
        return torch.from_numpy(array)
