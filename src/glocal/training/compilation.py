"""Whether `torch.compile` pays: measured on this machine, with this network, before a run that is long enough."""

import copy
import statistics
import time

import torch

from glocal.backbones import Backbone
from glocal.fabric import Fabric

LONG = 1800.0  # seconds of encoding that a run must have ahead: compiling takes half a minute for each crop size
MANY = 2_000  # steps below which not even the time of a step is measured
GAIN = 1.1  # times faster that is worth a compiler


def worth_compiling(fabric: Fabric, encoder: Backbone, image_size: int, images: int, steps: int) -> tuple[bool, str]:
    """Whether to compile the encoder, and the sentence that says why.

    Forward and backward of a copy of the encoder on a few random images, with and without: neither its weights nor its
    statistics change. `images` are those of the largest crops, of `image_size` pixels, in a step.
    """
    if fabric.world_size > 1:  # their batch normalisations talk to each other, which breaks the graph at each
        return False, "several processes"
    if not any(p.requires_grad for p in encoder.parameters()):
        return False, "the encoder follows another network"
    if fabric.device.type not in ("cpu", "cuda"):
        return False, f"not tried on {fabric.device.type}"
    if steps < MANY:
        return False, f"{steps:,} steps, too few to repay it"
    shown = min(images, 8 if fabric.device.type == "cpu" else 128)
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        trial = copy.deepcopy(encoder).to(fabric.device).to(memory_format=torch.channels_last).train()
        x = torch.randn(shown, 3, image_size, image_size, device=fabric.device)
        x = x.to(memory_format=torch.channels_last)
        plain = _seconds(fabric, trial, x)
        if plain * images / shown * steps < LONG:
            return False, "a short run, which would not repay it"
        trial.compile_training()
        try:
            compiled = _seconds(fabric, trial, x)
        except Exception as error:  # no compiler, or one that fails on this network: nothing that training needs
            return False, f"the compiler fails here ({(str(error) or type(error).__name__).splitlines()[0][:100]})"
        finally:
            torch.compiler.reset()
    gain = plain / compiled
    return gain >= GAIN, f"the encoder is {gain:.2f} times as fast, measured on {shown} images"


def _seconds(fabric: Fabric, encoder: Backbone, x: torch.Tensor) -> float:
    """Median of five passes forward and backward, after two."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        with fabric.autocast():
            features = encoder(x)
        (features.pooled.float().square().mean() + features.tokens.float().square().mean()).backward()
        encoder.zero_grad()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
