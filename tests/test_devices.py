"""Which device is meant by a name."""

import pytest
import torch

from glocal.devices import best_accelerator, find_device
from glocal.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many CUDA devices, and MPS or not."""

    def of(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return of


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_is_cuda_then_mps_then_the_cpu(machine, cuda, mps, kind):
    machine(cuda, mps)
    assert best_accelerator() == find_device().type == kind
    assert find_device("cpu") == torch.device("cpu")


def test_a_gpu_goes_by_its_number(machine):
    machine(2, False)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert find_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [("gpu", "none of auto"), ("cuda:x", "none of auto"), ("cuda:2", "has 2 such devices"), ("mps", "has none")],
)
def test_what_the_machine_lacks_is_refused(machine, name, said):
    machine(2, False)
    with pytest.raises(UsageError, match=said):
        find_device(name)
