"""What a method keeps is the same on all processes, or training stops and says what is not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from glocal.distributed import rank
from glocal.training import TrainingStopped
from glocal.training.buffers import check_buffers
from processes import on_processes


def module(**changes):
    """A layer and buffers of several types; on the second process some are changed."""
    torch.manual_seed(0)
    made = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(1)
    made.register_buffer("queue", torch.randn(50, 4, generator=generator).to(memory_format=torch.contiguous_format))
    made.register_buffer("covariance", torch.randn(4, 4, generator=generator).bfloat16())
    made.register_buffer("pointer", torch.tensor(7))
    made.register_buffer("seen", torch.tensor([True, False]), persistent=False)
    made.register_buffer("gap", torch.tensor([torch.nan, 1.0]))
    if rank() == 1:
        for name, change in changes.items():
            found = getattr(made, name)
            found.data = change(found.data)
    return made


CHANGES = {
    "none": {},
    "strides": {"queue": lambda x: x.t().contiguous().t()},  # the same numbers, elsewhere in memory
    "rounding": {"queue": lambda x: x * (1 + 1e-7)},
    "drift": {"covariance": lambda x: x * 1.02},
    "order": {"queue": lambda x: x.flip(0)},  # of the same norm
    "small drift": {"queue": lambda x: x * (1 + 3e-5)},
    "pointer": {"pointer": lambda x: x + 1},
    "pointer far on": {"pointer": lambda x: x + 2**40},
    "seen": {"seen": lambda x: ~x},
    "not a number": {"queue": lambda x: x * torch.nan},
    "size": {"queue": lambda x: x[:49]},
    "weight": {"weight": lambda x: x + 1},
}


def answers():
    """What the check says of each change on this process: nothing, a warning, or an error."""
    said = {}
    for name, changes in CHANGES.items():
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                check_buffers(module(**changes))
                said[name] = [str(warning.message) for warning in warned]
            except TrainingStopped as stopped:
                said[name] = str(stopped)
    return said


@pytest.fixture(scope="module")
def said():
    return on_processes(2, answers)


@pytest.mark.parametrize("case", ["none", "strides"])
def test_equal_state_passes_in_silence(said, case):
    assert [of[case] for of in said] == [[], []]


def test_rounding_is_warned_of_by_the_first_process(said):
    first, second = (of["rounding"] for of in said)
    assert len(first) == 1
    assert "buffer 'queue' differs between processes by rounding" in first[0]
    assert second == []


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("drift", "buffer 'covariance'"),
        ("order", "buffer 'queue'"),
        ("small drift", "buffer 'queue'"),
        ("pointer", "buffer 'pointer'"),
        ("pointer far on", "buffer 'pointer'"),
        ("seen", "buffer 'seen'"),
        ("not a number", "buffer 'queue'"),
        ("size", "buffer 'queue'"),
        ("weight", "parameter 'weight'"),
    ],
)
def test_more_stops_all_processes_and_names_what_differs(said, case, name):
    first, second = (of[case] for of in said)
    assert first == second
    assert first.startswith(f"{name} differs between processes")
    assert "glocal.distributed.gather or all_sum" in first


def test_both_norms_are_said(said):
    covariance = module().covariance.double()
    norms = f"norms {covariance.norm():.4g} and {(covariance.bfloat16() * 1.02).double().norm():.4g}"
    assert norms in said[0]["drift"]


def test_one_process_has_nothing_to_compare(monkeypatch):
    monkeypatch.setattr("glocal.training.buffers._digest", None)
    check_buffers(module())
