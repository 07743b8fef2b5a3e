"""What a power cut leaves of a training."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from glocal.training import loop, optimizers


class Power(Exception):
    """The plug is pulled."""


@contextmanager
def pulled_after(stop, monkeypatch):
    """Training in this context ends as if by a power cut when it has made so many steps."""
    calls, step = 0, optimizers.warmup_cosine

    def pulled(*args):
        nonlocal calls
        calls += 1
        if calls == stop + 1:
            raise Power
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "warmup_cosine", pulled)
        with pytest.raises(Power):
            yield


@contextmanager
def left_after(step: int, copy: Path, monkeypatch):
    """Training in this context goes on, but what its folder held right after this step's checkpoint is kept."""
    save = loop.save_checkpoint

    def saved(run, *state):
        save(run, *state)
        if state[-1].step == step:
            shutil.copytree(run.path, copy)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", saved)
        yield
    assert copy.exists(), f"no checkpoint after step {step}"
