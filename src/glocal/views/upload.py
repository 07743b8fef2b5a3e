"""Batches on their way to a GPU, beside what it computes."""

from functools import lru_cache

import torch
from torch import Tensor

from glocal.features import Sequences
from glocal.views.view import Batch


def upload(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on a device; nothing is waited for.

    To a GPU it travels on a stream of its own, while the step before is computed. Whatever is asked of it next on the
    current stream comes after.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return batch.to(device, non_blocking=True)
    with torch.cuda.stream(beside := _stream(device)):
        there = batch.to(device, non_blocking=True)
    current = torch.cuda.current_stream(device)
    current.wait_stream(beside)
    packed = [vars(view.pixels) for view in there.views if isinstance(view.pixels, Sequences)]
    fields = [vars(there), there.extra, *map(vars, there.views), *packed]
    for value in (value for each in fields for value in each.values()):
        if isinstance(value, Tensor) and value.is_cuda:
            value.record_stream(current)  # else its memory would be free for the next batch as soon as it is dropped
    return there


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
