"""Where a training step goes: processor time of each part of Glocal's real loop, on one thread, without workers.

Where all cores are busy, whatever is not backbone, heads and optimiser makes training slower by its share of
this time, wherever it runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric.wrappers import _FabricOptimizer

from benchmarks.cases import CASES, R18, R18_LOCAL, Case
from benchmarks.measure import Size, isolated
from benchmarks.photos import photos
from benchmarks.pretrain import pretrain_until
from glocal.backbones import Backbone
from glocal.fabric import Fabric
from glocal.heads import projector
from glocal.methods import method_class
from glocal.training.logger import RunLogger
from glocal.views import Appearance, ViewLoader

STEPS = 9
WORK = ("encoder", "encoder, backward", "heads", "heads, backward", "optimizer")
"""What training cannot do without; the rest is what we want near zero."""


class Ledger:
    """Processor milliseconds by part, each without what other parts that it calls have taken; one entry per step."""

    def __init__(self) -> None:
        self.now: defaultdict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []
        self._inside: list[float] = []
        self._started = time.process_time()
        self.begins: list[float] = []  # of the heads' backward passes, in their order
        self.ends: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - started
            self.now[name] += 1000 * (spent - self._inside.pop())
            if self._inside:
                self._inside[-1] += spent

    def end_step(self) -> bool:
        now = time.process_time()
        total = 1000 * (now - self._started)
        self.steps.append({**self.now, "everything else": total - sum(self.now.values())})
        self.now.clear()
        self._started = time.process_time()
        return len(self.steps) >= STEPS

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def head(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A head's forward, stamped where its backward pass begins and ends."""

        def call(module: Any, x: Any) -> Any:
            with self.part("heads"):
                return _Stamp.apply(forward(module, _Stamp.apply(x, self.ends)), self.begins)

        return call

    def backward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The backward pass in three: until the first head begins, the heads, and the rest, which is the encoder's."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.begins.clear()
            self.ends.clear()
            started = time.process_time()
            function(*args, **kwargs)
            whole = time.process_time() - started
            loss, heads = self.begins[0] - started, sum(self.ends) - sum(self.begins)
            for name, spent in (("loss", loss), ("heads", heads), ("encoder", whole - loss - heads)):
                self.now[f"{name}, backward"] += 1000 * spent

        return call


class _Stamp(torch.autograd.Function):
    """The identity; its backward notes the time."""

    @staticmethod
    def forward(ctx: Any, x: Any, times: list[float]) -> Any:
        ctx.times = times
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        ctx.times.append(time.process_time())
        return grad, None


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """Both methods on a ResNet-18 at 96 px, where all the rest weighs most."""
    full = size == "full"
    folder = folder or photos()
    cases = (R18, R18_LOCAL) if full else CASES["smoke"][:1]
    return {
        "threads": 1,
        "cases": [isolated(profiled, case, folder) if full else profiled(case, folder) for case in cases],
    }


def profiled(case: Case, folder: Path) -> dict[str, Any]:
    """Median milliseconds per step of every part, after the first three steps."""
    ledger = Ledger()
    module = method_class(case.method).__module__
    loss = "vicreg_loss" if case.method == "vicreg" else "vicregl_loss"
    head = type(projector((2, 2), "batch"))
    with tempfile.TemporaryDirectory() as out, ExitStack() as patches:
        for owner, name, part in (
            (ViewLoader, "_take", "loader"),
            (Appearance, "__call__", "appearance"),
            (Backbone, "forward", "encoder"),
            (_FabricOptimizer, "step", "optimizer"),
            (torch.optim.Optimizer, "zero_grad", "zero_grad"),
            (RunLogger, "record", "logging"),
            (RunLogger, "show", "logging"),
        ):
            patches.enter_context(patch.object(owner, name, _method(ledger.timed(part, getattr(owner, name)))))
        patches.enter_context(patch(f"{module}.{loss}", ledger.timed("loss", _imported(module, loss))))
        patches.enter_context(patch.object(head, "forward", ledger.head(head.forward)))
        patches.enter_context(patch.object(Fabric, "backward", ledger.backward(Fabric.backward)))
        pretrain_until(ledger.end_step, case, folder, Path(out) / "run", workers=0, threads=1, cache=False)
    steps = ledger.steps[3:]
    names = sorted({name for step in steps for name in step})
    parts = {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}
    # logging happens every tenth step: its mean says more than its median
    parts["logging"] = statistics.fmean(step.get("logging", 0.0) for step in steps)
    total = sum(parts.values())
    return {
        "method": case.method,
        "backbone": case.backbone,
        "image_size": case.image_size,
        "batch": case.batch,
        "core_milliseconds": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "share_of_work": sum(parts.get(name, 0.0) for name in WORK) / total,
    }


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, which binds to the instance that it is looked up on."""
    return lambda *args, **kwargs: call(*args, **kwargs)


def _imported(module: str, name: str) -> Callable[..., Any]:
    import importlib

    return getattr(importlib.import_module(module), name)
