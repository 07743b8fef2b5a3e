"""A CUDA device that is pretended, where there is none: its tensors hold values, and mistakes of place are mistakes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ACROSS = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # with indices of anywhere


def over(function: Callable[[Any], Any], values: Any) -> Any:
    """The function of all that arguments or results hold; PyTorch's own `tree_map` takes most of a test's time."""
    if isinstance(values, list | tuple):
        return type(values)([over(function, value) for value in values])
    if isinstance(values, dict):
        return {key: over(function, value) for key, value in values.items()}
    return function(values)


class There(Tensor):
    """What looks like a tensor on the device; its values are `held` in main memory."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> There:
        layout: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **layout, dtype=held.dtype, device=device)
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Any) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on the pretended device, which is not there any more")


class Pretended(TorchDispatchMode):
    """Computes in main memory, and refuses what the device would: operands of two places.

    Attributes:
        dtypes: those of what was computed there, by the operation's name.
        peak: the most bytes held there at a time.
        sent: bytes sent there, and whether from page-locked memory without waiting, of each copy.
        waits: the operations whose result main memory waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda", 0)
        self.dtypes: dict[str, set[torch.dtype]] = {}
        self.waits: list[str] = []
        self.sent: list[tuple[int, bool]] = []
        self.peak = self._now = 0
        self._known: set[int] = set()
        self._pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        over(lambda x: tensors.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        there = {id(x.held): x for x in tensors if isinstance(x, There)}
        elsewhere = [x for x in tensors if not isinstance(x, There) and x.ndim]
        if func._can_decompose():  # in inference mode composed operations come whole
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten._pin_memory.default:
            copy = args[0].clone()
            self._pinned.add(copy.untyped_storage()._cdata)
            return copy
        wanted, name = kwargs.get("device"), func.overloadpacket.__name__
        if there and elsewhere and func not in ACROSS and not (func in INDEXING and isinstance(args[0], There)):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        place = self.device if there else torch.device("cpu")
        if func is aten.copy_.default:
            place = args[0].device
        if wanted is not None:
            place, kwargs = torch.device(wanted), {**kwargs, "device": torch.device("cpu")}
        held = lambda x: x.held if isinstance(x, There) else x
        result = func(*over(held, args), **over(held, kwargs))
        if there and (place.type == "cpu" or not isinstance(result, Tensor | list | tuple)):
            self.waits.append(name)
        if place.type == "cpu":
            return result
        if func in ACROSS and elsewhere:
            pinned = elsewhere[0].untyped_storage()._cdata in self._pinned
            self.sent.append((elsewhere[0].nbytes, pinned and bool(kwargs.get("non_blocking") or args[2:])))

        def send(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            self.dtypes.setdefault(name, set()).add(value.dtype)
            self._count(value)
            return there[id(value)] if id(value) in there else There(value, self.device)

        return over(send, result)

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage._cdata not in self._known:
            size, key = storage.nbytes(), storage._cdata
            self._known.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


@contextmanager
def pretended(*, bf16: bool = True) -> Iterator[Pretended]:
    """One GPU, in this context, that computes bfloat16 or does not."""
    torch._C._ensureCUDADeviceGuardSet()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else a parameter would stay of its class
    torch._C._set_only_lift_cpu_tensors(True)  # else `torch.tensor` would go to the driver
    kernels = torch.backends.cudnn.flags(enabled=False)  # of which main memory has none
    with pytest.MonkeyPatch.context() as patch, kernels, Pretended() as device:
        for name in ("_lazy_init", "synchronize"):
            patch.setattr(torch.cuda, name, lambda *_: None)
        for place, name in ((torch.cuda, "current_stream"), (import_module("glocal.views.upload"), "_stream")):
            patch.setattr(place, name, lambda *_: SimpleNamespace(wait_stream=lambda other: None))
        patch.setattr(torch.cuda, "stream", nullcontext)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
        yield device
    torch._C._set_only_lift_cpu_tensors(False)
    torch.__future__.set_swap_module_params_on_conversion(swapped)
