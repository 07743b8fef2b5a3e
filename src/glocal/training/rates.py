"""The rates that a run is given: the published ones, adapted to its length and to what it starts from."""

import math
from dataclasses import replace
from typing import Any

from glocal.config import PretrainConfig
from glocal.methods import Optimization

SHORT = 30_000
"""Length, in steps of 256 images, up to which published optimisers hardly move the weights."""
SHORT_LARS = {"lr": 0.3, "weight_decay": 1e-4, "trust_coefficient": 0.02}
"""What LARS is given there, in the order of solo-learn's recipes for CIFAR."""
GENTLE = 0.1
"""Share of the usual rate with which weights that see already are changed; heads, which do not, keep theirs."""
WAIT = 0.3
"""Share of a run for which the encoder waits, until what heads that begin at random send back is no longer noise."""
LAYER_DECAY = 0.8
"""Rate of each layer of such an encoder, as a share of that above it: what sees edges needs to learn least."""


class Decisions:
    """A configuration under way to its complete form, and the reasons."""

    config: Any  # a PretrainConfig; what is None in it and what no longer is, no type says

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.notes: list[str] = []

    def fill(self, name: str, value: Any, why: str = "") -> None:
        """Decide an option, if it was left open."""
        if getattr(self.config, name) is None:
            self.config = replace(self.config, **{name: value})
            if why:
                said = f"{value:.4g}" if isinstance(value, float) else value
                self.notes.append(f"{name.replace('_', '-')} {said}: {why}")


def _towards(length: float, reached: float) -> float:
    """How far a run of a length is on its way, on a logarithmic scale, from a short one (0) to the paper's (1)."""
    return min(1.0, max(0.0, math.log(length / SHORT) / math.log(reached / SHORT))) if reached > SHORT else 1.0


def _lars_for(spec: Optimization, length: float) -> Optimization:
    """LARS between what a short run needs and what was published, without a step anywhere in between.

    LARS changes each weight tensor by about η·lr of its norm a step, at published rates by 1e-4: made for 10^5 steps.
    Over a short run Σ η·lr rises to 180; from there on rate, decay and η go to the published ones such that it stays at
    180, until the published ones reach it themselves (lr .3: at 600,000 steps of 256), and beyond it rises again.
    """
    moved = SHORT * SHORT_LARS["lr"] * SHORT_LARS["trust_coefficient"]
    share = _towards(length, moved / max(spec.lr * spec.trust_coefficient, 1e-12))
    mixed = {name: short ** (1 - share) * getattr(spec, name) ** share for name, short in SHORT_LARS.items()}
    return replace(spec, **mixed)


def decide_optimization(decisions: Decisions, spec: Optimization, steps: int, processes: int) -> Optimization:
    """The method's own optimisation, adapted to short runs, under the options that were given.

    Parameters of one dimension keep their share of LARS's rate: without adaptation it goes with the size of the loss.
    Momentum is for all in short runs: what a paper exempts had 10^3 steps an epoch. AdamW's rate goes with the root of
    the batch (Malladi et al., NeurIPS 2022, arXiv:2205.10287) from the 1024 that its recipes were published for: in
    proportion to it, a small batch would hardly move the weights in so few steps; twenty times as many, and it may.

    Gently, from weights that see already: AdamW at a lower rate, lower still in each layer below, and an encoder that
    waits for its heads.
    """
    batch = decisions.config.batch_size * processes
    length = max(1, steps) * batch / 256
    if decisions.config.gentle:
        decisions.fill("optimizer", "adamw", "LARS moves weights in proportion to their norm, however good they are")
    if length < SHORT and spec.optimizer == "sgd" and decisions.config.lr is None:
        why = f"SGD at the paper's rate would hardly move the weights in {steps:,} steps"
        decisions.fill("optimizer", "adamw", why)
    decisions.fill("optimizer", spec.optimizer, "the method's own")
    config = decisions.config
    if config.optimizer != spec.optimizer:
        lr, weight_decay = {"adamw": (5e-4, 0.05), "lars": (0.3, 1e-4), "sgd": (0.05, 1e-4)}[config.optimizer]
        spec = replace(spec, optimizer=config.optimizer, lr=lr, weight_decay=weight_decay, final_weight_decay=None)
    if length < SHORT:
        spec = replace(spec, no_momentum=())
    share, said = batch / 256, f"{batch}/256"
    if spec.optimizer == "lars":
        published, spec = spec, _lars_for(spec, length)
        if spec != published:
            why = f"LARS for {steps:,} steps: the paper's {published.trust_coefficient:g} is made for 10^5"
            decisions.fill("trust_coefficient", spec.trust_coefficient, why)
    elif spec.optimizer == "adamw" and (root := 1 - _towards(length, 20 * SHORT)):
        share = math.sqrt(1024 * batch) ** root * batch ** (1 - root) / 256
        said = f"1024/256 × √({batch}/1024)" if root == 1 else f"{share:.3g}"
    if decisions.config.gentle:
        share, said = share * GENTLE, f"{said} × {GENTLE:g} for the encoder; heads keep {1 / GENTLE:g} times that"
        warmup = max(spec.warmup_epochs, decisions.config.epochs / 10)
        decisions.fill("warmup_epochs", warmup, f"at most {WAIT:.0%} of the run, for which the encoder waits")
    decisions.fill("lr", spec.lr * share, f"{spec.lr:g} × {said}")
    names = ["weight_decay", "warmup_epochs"] + ["trust_coefficient"] * (spec.optimizer == "lars")
    for name in names:
        most = f", at most {spec.early:.0%} of the run" if name == "warmup_epochs" else ""
        decisions.fill(name, getattr(spec, name), f"goes with the optimizer{most}")
    config = decisions.config
    if config.weight_decay != spec.weight_decay:  # one that was given stays constant
        spec = replace(spec, final_weight_decay=None)
    spec = replace(spec, layer_decay=config.layer_decay, **{name: getattr(config, name) for name in names})
    if not config.gentle:
        return spec
    frozen = {**spec.frozen, "encoder.": WAIT * config.epochs}
    rates = {"": 1 / GENTLE, "encoder.": 1.0, **spec.lr_of}
    return replace(spec, frozen=frozen, lr_of=rates, early=WAIT)
