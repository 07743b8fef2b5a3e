"""Weights from a local file into a timm model, whoever wrote it and under whichever prefix."""

import logging
import re
import sys
import warnings
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from glocal.backbones.names import timm_names
from glocal.errors import UsageError
from glocal.run import Run

logger = logging.getLogger(__name__)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a torch checkpoint, or a run's encoder, under the file's own names.

    Raises:
        UsageError: if there is no such file, it is broken, or it holds no state dict.
    """
    path = Path(path)
    if path.is_dir():
        run = Run(path)
        path = run.encoder_files[0]
        if not run.has_encoder and run.has_checkpoint:
            print(f"{run} has not finished: the encoder of its last checkpoint is taken", file=sys.stderr)
            return encoder_weights(read_checkpoint(run))
    if not path.is_file():
        raise UsageError(f"no weights at {path}; give a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of foreign pickles, which it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in as many ways as there are readers
        said = str(error).strip()
        if code := re.search(r"\bGLOBAL ([\w.]+)", said):
            what = f"more than a plain state dict, it would execute {code[1]}"
            remedy = "have it saved anew with torch.save(model.state_dict(), ...)"
            raise UsageError(f"weights from {path} are refused: {what}; {remedy}") from error
        reason = said.partition("\n")[0]
        if "weights_only" in reason:  # PyTorch's advice is to read it all the same
            reason = "PyTorch did not write it"
        raise UsageError(
            f"cannot read weights from {path}: damaged, or more than a plain state dict ({reason})"
        ) from error
    state = state if isinstance(state, dict) else {}
    if {"method", "position"} <= state.keys():
        return encoder_weights(state)
    for key in ("state_dict", "model_state_dict", "model", "teacher", "encoder", "backbone"):
        state = state[key] if isinstance(state.get(key), dict) else state
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return tensors


def read_checkpoint(run: Run, *, set_aside: bool = False) -> dict[str, Any]:
    """What the last whole checkpoint holds; says so where that is not the last one.

    Args:
        run: the run.
        set_aside: rename a damaged one, lest the next that is saved moves it over the whole one before.

    Raises:
        UsageError: if none is whole.
    """
    reason = "there is none"
    for path in filter(Path.is_file, run.checkpoints):
        try:
            with zipfile.ZipFile(path) as records:  # PyTorch writes checksums, and does not look at them
                if broken := records.testzip():
                    raise zipfile.BadZipFile(f"{broken} is damaged")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files fail in as many ways as there are readers
            reason = f"{path}: {(str(error) or type(error).__name__).splitlines()[0]}"
        else:
            if path != run.checkpoint_file:
                print(f"{run}: the last checkpoint cannot be read ({reason}); going on from {path}", file=sys.stderr)
                if set_aside and run.checkpoint_file.is_file():
                    run.checkpoint_file.replace(run.checkpoint_file.with_suffix(".damaged"))
            return state
    raise UsageError(f"{run} cannot be resumed from: no whole checkpoint ({reason})")


def encoder_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The encoder's tensors in a run's checkpoint, under timm's names."""
    start = "encoder.model."
    return {key.removeprefix(start): value for key, value in checkpoint["method"].items() if key.startswith(start)}


def load_weights(model: nn.Module, state: dict[str, Tensor], *, origin: str | Path, minimum: float = 0.8) -> None:
    """Copy the tensors that match in name and shape into a timm model, and refuse when too few do.

    A common prefix ("module.", "backbone.", any other) is found by itself. timm's own conversion for the architecture
    then resamples position embeddings to another image size and translates the names of original releases.

    Args:
        model: the timm model, without classifier; changed in place.
        state: what `read_weights` gave. Tensors that the model lacks (classifiers, heads) are ignored.
        origin: the file, for messages.
        minimum: least fraction of the model's tensors that must match.
    """
    state = timm_names(state)
    prefix = _prefix(state, model.state_dict())
    others = [key for key in state if not key.startswith(prefix)]
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    converted = state
    with suppress(Exception):  # this architecture has none, or it expects another release of the weights
        converted = sys.modules[type(model).__module__].checkpoint_filter_fn(dict(state), model)
    own = model.state_dict()  # which a conversion of ours may have changed
    fit = lambda candidate: (len(_matching(candidate, own)), len(candidate.keys() & own.keys()))
    state = max(state, converted, key=fit)
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]  # absent from old files, and no weight
    matching = _matching(state, own)
    missing = [key for key in wanted if key not in matching]
    found = len(wanted) - len(missing)
    if found < minimum * len(wanted):
        first = missing[0]
        theirs = f"{tuple(state[first].shape)} in the file" if first in state else "absent from the file"
        raise UsageError(
            f"{origin} does not fit: {found} of the encoder's {len(wanted)} tensors match; the first other,"
            f" {first} {tuple(own[first].shape)}, is {theirs}"
        )
    model.load_state_dict(matching, strict=False)
    logger.info("%s: %d of %d tensors loaded (prefix '%s')", origin, found, len(wanted), prefix)
    if missing:
        logger.warning("%s: left at their initial values: %s", origin, ", ".join(missing))
    if unused := [key for key in state if key not in matching] + others:
        some = ", ".join(unused[:5]) + (", …" if len(unused) > 5 else "")
        logger.warning("%s: %d tensors are not the encoder's, and not used: %s", origin, len(unused), some)


def _matching(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}


def _prefix(state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """What most often stands before one of the model's names in the file's names."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts.most_common(1)[0][0] if counts else ""
