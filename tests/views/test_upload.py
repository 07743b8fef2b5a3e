"""What is sent to a GPU, on fake tensors and streams: where there is none, order and ownership are all there is."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glocal.views import Batch, View, upload


class Stream:
    """Notes what happens in which order."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def wait_stream(self, other):
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def events(monkeypatch):
    found = []
    current, beside = Stream("current", found), Stream("beside", found)

    @contextmanager
    def on(stream):
        found.append(f"on {stream.name}")
        yield
        found.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(upload, "_stream", lambda device: beside)
    keep = lambda x, stream: found.append(f"{tuple(x.shape)} kept for {stream.name}")
    monkeypatch.setattr(torch.Tensor, "record_stream", keep)
    return found


def batch():
    views = [View(torch.zeros(4, 3, 8, 8), torch.zeros(4, 2, 3)), View(torch.zeros(4, 3, 5, 5), torch.zeros(4, 2, 3))]
    return Batch(views, torch.arange(4), key=torch.arange(4), extra={"age": torch.zeros(4, 7)})


def test_a_batch_travels_beside_the_computation_which_then_waits_for_it_and_keeps_it(events):
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = upload.upload(batch(), "cuda")
    assert there.views[1].pixels.is_cuda
    assert not there.key.is_cuda
    assert events[:3] == ["on beside", "off beside", "current waits for beside"]
    shapes = [(4,), (4, 7), (4, 3, 8, 8), (4, 2, 3), (4, 3, 5, 5), (4, 2, 3)]
    assert events[3:] == [f"{shape} kept for current" for shape in shapes]


def test_elsewhere_there_are_no_streams(events):
    assert torch.equal(upload.upload(batch(), "cpu").index, torch.arange(4))
    assert events == []
