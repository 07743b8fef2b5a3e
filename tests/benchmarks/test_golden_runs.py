"""Runs are told apart by the last bit of a weight or of a loss."""

from __future__ import annotations

import torch

from benchmarks.golden import digest


def write(path, weights, loss):
    (path / "checkpoints").mkdir(parents=True)
    torch.save({"method": weights, "position": {"seconds": id(path)}}, path / "checkpoints" / "last.pt")
    (path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}, "loss/part": 2, "time": {id(path)}}}\n')
    return digest(str(path))


def test_digests_are_equal_where_weights_buffers_and_losses_are(tmp_path):
    weights = {"weight": torch.ones(2, 3), "buffer": torch.arange(3), "half": torch.ones((), dtype=torch.bfloat16)}
    first = write(tmp_path / "a", weights, 0.1)
    assert write(tmp_path / "b", dict(reversed(weights.items())), 0.1) == first
    others = [{**weights, "weight": torch.ones(3, 2)}, {**weights, "buffer": torch.arange(3).int()}]
    others.append({**weights, "weight": torch.nextafter(torch.ones(2, 3), torch.tensor(2.0))})
    others.append({"other": weights["weight"], "buffer": weights["buffer"], "half": weights["half"]})
    for k, other in enumerate(others):
        assert write(tmp_path / f"c{k}", other, 0.1) != first
    assert write(tmp_path / "d", weights, 0.10000000000000002) != first
    assert digest(str(tmp_path / "none")) != digest(str(tmp_path / "neither"))
