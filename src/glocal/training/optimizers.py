"""Optimisers and schedules: LARS, which torch lacks, and the warm-up + cosine every paper of the list uses."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating
from glocal.methods import Optimization


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You, Gitman, Ginsburg 2017, arXiv:1708.03888).

    Per parameter tensor: d ← g + λw; d ← d · η‖w‖/‖d‖ (1 where either norm is 0); v ← μv + d; w ← w − lr · v. Groups
    with `adapt=False` skip the scaling, as the SSL recipes do for parameters of one dimension.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: μ.
        weight_decay: λ.
        trust_coefficient: η.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults | {"trust_coefficient": trust_coefficient})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            if "trust" in group:  # a checkpoint from before the name
                group["trust_coefficient"] = group.pop("trust")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates: Any = [p.grad for p in params]
            if group["weight_decay"]:
                torch._foreach_add_(updates, params, alpha=group["weight_decay"])
            if group["adapt"]:
                w, d = (torch.stack(torch._foreach_norm(each)) for each in (params, updates))
                scales = torch.where((w > 0) & (d > 0), group["trust_coefficient"] * w / d, 1.0)
                torch._foreach_mul_(updates, scales.unbind())
            for p in params:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(params, velocities, alpha=-group["lr"])
        return loss


def build_optimizer(module: nn.Module, spec: Optimization, lr: float) -> torch.optim.Optimizer:
    """The optimiser of `spec` over what trains; parameters of one dimension get neither decay nor adaptation.

    `set_rates` keeps the groups at their rates: "lr_share" of the schedule's, or of the peak where "constant" is set.
    """
    found: dict[tuple[bool, bool, bool, bool, float], list[nn.Parameter]] = {}
    depths = layer_factors(module, spec.layer_decay) if spec.layer_decay != 1 else {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            light = name.startswith(spec.no_momentum) and spec.optimizer != "adamw"
            start = max((start for start in spec.lr_of if name.startswith(start)), key=len, default="")
            flat = parameter.ndim <= 1 or name.startswith(spec.no_decay)
            factor = spec.lr_of.get(start, 1.0) * depths.get(parameter, 1.0)
            kind = light, flat, name.startswith(spec.constant), not name.startswith(spec.warmed), factor
            found.setdefault(kind, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for kind in sorted(found, key=lambda kind: (*kind[:4], kind[4] != 1, kind[4])):  # the usual ones first
        light, flat, constant, cold, factor = kind
        decay, share = (0.0, spec.bias_lr_scale * factor) if flat else (spec.weight_decay, factor)
        odd = {"momentum": 0.0} if light else {}
        odd |= {"constant": True} if constant else {}
        odd |= {"cold": True} if cold else {}
        odd |= {"adapt": not flat} if spec.optimizer == "lars" else {}
        groups.append({"params": found[kind], "weight_decay": decay, "lr_share": share, "decays": not flat, **odd})
    if spec.optimizer == "lars":
        return LARS(groups, lr=lr, momentum=spec.momentum, trust_coefficient=spec.trust_coefficient)
    if spec.optimizer == "adamw":
        fused = all(p.is_cuda for each in found.values() for p in each)  # one kernel, there
        return torch.optim.AdamW(groups, lr=lr, betas=(spec.momentum, spec.beta2), foreach=not fused, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=spec.momentum, foreach=True)


def layer_factors(method: Any, decay: float) -> dict[nn.Parameter, float]:
    """What the rate of each parameter of the encoder is multiplied with: decay^(layers above it), by timm's layers."""
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(method.encoder.model, layer_decay=decay)
    return {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}


def set_rates(
    optimizer: torch.optim.Optimizer, spec: Optimization, step: int, *, lr: float, steps: int, warmup_steps: int
) -> None:
    """Give each group of `build_optimizer` the learning rate (peak `lr`) and weight decay of a step of a run."""
    kinds = {group.get("cold", False) for group in optimizer.param_groups}
    shares = {cold: warmup_cosine(step, steps, 0 if cold else warmup_steps, spec.final_lr) for cold in kinds}
    for group in optimizer.param_groups:
        share = 1.0 if group.get("constant") else shares[group.get("cold", False)]
        group["lr"] = lr * share * group["lr_share"]
        if group.get("decays", group["params"][0].ndim > 1):  # a checkpoint from before the key
            group["weight_decay"] = decay_at(step / steps, spec)


def decay_at(progress: float, spec: Optimization) -> float:
    """Weight decay when a run is at `progress`, from 0 to 1: constant, or along half a cosine to its final value."""
    if spec.final_weight_decay is None:
        return spec.weight_decay
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return spec.final_weight_decay + (spec.weight_decay - spec.final_weight_decay) * fall


def frozen_until(module: nn.Module, frozen: Mapping[str, int]) -> list[tuple[nn.Parameter, int]]:
    """Parameters whose names begin as said, with the step at which they start to move."""
    named = module.named_parameters()
    return [(p, step) for name, p in named for start, step in frozen.items() if name.startswith(start)]


def idle_parameters(method: Any) -> list[str]:
    """Names of the encoder's parameters from which neither pooled nor dense features get a gradient.

    Found by a trial backward of the encoder (if it is a `Backbone`) as it pools, on a black image; nothing of the
    method changes. Such layers widen the features after pooling (the head of MobileNetV3, the fully connected layers of
    VGG). Several processes would wait for their gradients.
    """
    encoder = method.encoder
    if not isinstance(encoder, Backbone):
        return []
    named = {f"encoder.{name}": p for name, p in encoder.named_parameters() if p.requires_grad}
    if not named:
        return []
    with evaluating(encoder), torch.enable_grad():
        image = torch.zeros(1, 3, encoder.image_size, encoder.image_size, device=next(encoder.parameters()).device)
        features = encoder(image)
        total = features.pooled.sum() + features.tokens.sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


@torch.no_grad()
def clip_per_parameter(parameters: Iterable[Tensor], largest: float) -> None:
    """Scale down each parameter's gradient whose norm exceeds `largest`, by itself (DINO); in place."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norms = torch.stack(torch._foreach_norm(grads))
        torch._foreach_mul_(grads, (largest / (norms + 1e-6)).clamp(max=1.0).unbind())


def warmup_cosine(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """Learning rate at `step` as a fraction of the peak: linear from 0, then half a cosine down to `final`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
