"""The method of a run, and what is measured on this machine before the rest of its configuration is decided."""

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glocal.adaptation.masks import add_pruning, add_scores, rates_of_scores
from glocal.backbones import Backbone, build_backbone
from glocal.backbones.lora import add_lora
from glocal.backbones.small_maps import CHANNELS, Limits, fastest_limits
from glocal.config import SHARED, AdaptConfig, PretrainConfig
from glocal.data.source import ImageSource
from glocal.distributed import each_says, on_each, on_first
from glocal.errors import UsageError
from glocal.fabric import Fabric
from glocal.heads import sync_batch_norms
from glocal.methods import check_built, check_fits, method_class, method_options
from glocal.pipeline.texts import learnt_tokenizer
from glocal.random import derive
from glocal.run import read_json, write_json
from glocal.training import Machine, resolve
from glocal.training.compilation import worth_compiling
from glocal.training.defaults import finer_stride
from glocal.views import Packing, cache_folder, worth_caching


def prepare(
    fabric: Fabric, config: PretrainConfig, source: ImageSource, machine: Machine, *, begun: bool
) -> tuple[Machine, Any]:
    """Measure what is left open, for `resolve`, and build the method that the configuration asks for.

    Of a run that is `begun`, a checkpoint has the weights.
    """
    cls = method_class(config.method)
    if cls.reads == "text":
        resolved, _ = resolve(config, source, machine)
        texts: Any = source
        tokenizer = None if begun else learnt_tokenizer(config, texts)
        method = build_method(resolved.config, begun=begun, tokenizer=tokenizer)
        return replace(machine, published=method.optimization), method
    coarse = cls.least_cells and config.output_stride is None
    if coarse or not method_options(cls).keys() <= {*SHARED, *config.options}:
        machine = measure_backbone(config, machine, cls.least_cells)
    resolved, _ = resolve(config, source, machine)
    first_on_host = fabric.local_rank == 0
    # what is downloaded, is once for a host
    first = first_on_host or begun or config.pretrained is not True
    method = on_each(lambda: build_method(resolved.config, begun=begun), first=first)
    if hasattr(method, "check"):
        method.check(source)
    check_fits(method.encoder, method.recipe, resolved.config.patches or ())
    if fabric.world_size > 1:
        sync_batch_norms(method)
    published = method.optimization
    if isinstance(config, AdaptConfig) and config.by == "mask":
        published = rates_of_scores(published, (resolved.config.batch_size or 0) * config.processes, config.lr)
    machine = replace(machine, published=published)
    if resolved.config.small_maps is None and fabric.device.type == "cpu" and _widens(method):
        precision = str(resolved.config.precision)
        key = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}"
        limits = on_first(lambda: once("small_maps", key, lambda: [*fastest_limits(bf16="bf16" in precision)]))
        machine = replace(machine, small_maps=(limits, f"measured on {processor()}"))
    use_small_maps(method, resolved.config.small_maps or (machine.small_maps and machine.small_maps[0]))
    if resolved.config.cache is None:
        found = each_says(worth_caching(source, method.recipe.views) if first_on_host else (True, ""))
        machine = replace(machine, cache=min(found, key=lambda worth: worth[0]))  # where one host says no, that
    if resolved.config.compile is None:
        sizes = [crop.size for crop in method.recipe.views]
        images = (resolved.config.batch_size or 0) * sizes.count(max(sizes))
        if resolved.config.native or resolved.config.patches:
            worth = (False, "photographs of many shapes" if resolved.config.native else "the patches change")
        else:
            worth = worth_compiling(fabric, method.encoder, max(sizes), images, resolved.steps)
        machine = replace(machine, compile=worth)
    return machine, method


def _widens(method: nn.Module) -> bool:
    """Whether it has convolutions for which `small_maps` may matter."""
    wide = (m for m in method.modules() if isinstance(m, nn.Conv2d) and m.in_channels // m.groups >= CHANNELS)
    return any(m.kernel_size != (1, 1) for m in wide)


def use_small_maps(method: nn.Module, limits: list[int] | None) -> None:
    """Let the encoder and its teachers train with these limits, if there are any."""
    for module in method.modules() if limits else ():
        if isinstance(module, Backbone):
            module.small_maps = Limits(*limits)  # type: ignore[misc]


def once(what: str, key: str, measure: Callable[[], Any]) -> Any:
    """What was measured for `key`, in this run or, where it can be kept in the cache folder, in one before.

    What is measured again is another number: kept, the same command gives the same bits.
    """
    folder = cache_folder()
    file = folder and folder / f"{what}.json"
    try:
        known = read_json(file, "delete it") if file else {}
    except (OSError, UsageError):
        known = {}
    if key not in known:
        known[key] = measure()
        with suppress(OSError):
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, known)
    return known[key]


def processor() -> str:
    """Its name, family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = f"family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"
    return f"{facts.get('model name', platform.machine())} ({numbers})"


def build_method(config: PretrainConfig, *, begun: bool = False, tokenizer: str | None = None) -> Any:
    """A resolved configuration's method around its encoder, both initialised from the seed.

    What is `begun` gets its weights from a checkpoint: those that it was pretrained with may be gone, and so may the
    file of its tokenizer. An encoder of texts may be given one, as JSON.
    """
    cls = method_class(config.method)
    if config.native and not cls.native:
        raise UsageError(f"{cls.title} needs maps of one shape: leave out --native, or take --method vicreg")
    if config.patch_drop and not config.native and "patch_drop" not in method_options(cls):
        raise UsageError(f"--patch-drop {config.patch_drop}: {cls.title} sees all patches: give --native, too")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        options = config.encoder_options | ({"pretrained": False} if begun else {})
        encoder = build_backbone(config.backbone, pool=cls.pool, **options)
        if encoder.reads != cls.reads:
            fitting = "--backbone text_small" if cls.reads == "text" else "another"
            said = f"{cls.title} learns from {'texts' if cls.reads == 'text' else 'images'}, {config.backbone} reads"
            raise UsageError(f"{said} {encoder.reads}: take {fitting}")
        if tokenizer:
            encoder.model.adopt(tokenizer)
        if config.lora:
            add_lora(encoder.model, config.lora)
        if isinstance(config, AdaptConfig):
            _mask(encoder, config, begun=begun)
        encoder.pretrained = config.pretrained
        shared = {
            name: value for name in SHARED & method_options(cls).keys() if (value := getattr(config, name)) is not None
        }
        given = {**config.options, **({"tokenizer": None} if begun and "tokenizer" in config.options else {})}
        method = check_built(cls(encoder, **shared, **given))
    if config.native:
        packing = Packing(encoder.stride, config.tokens or 0, config.patch_drop or 0.0)
        method.recipe = method.recipe.packed(config.native_sides, packing)
    return method


def _mask(encoder: Backbone, config: AdaptConfig, *, begun: bool) -> None:
    if config.by == "mask":
        add_scores(encoder)
    elif begun:  # the checkpoint knows what is left out
        add_pruning(encoder)
    else:
        add_pruning(encoder, config.keep, config.pruned_by)


def measure_backbone(config: PretrainConfig, machine: Machine, least_cells: int) -> Machine:
    """Build the backbone as it is, and with a finer stride where its maps are too coarse to match cells."""
    options = {**config.encoder_options, "pretrained": False}
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(config.backbone, **options)
        refused = ""
        if finer := finer_stride(config.image_size, backbone.stride, least_cells):
            try:
                build_backbone(config.backbone, **{**options, "output_stride": finer})
            except UsageError as refusal:  # this architecture cannot dilate
                refused = str(refusal)
    return replace(machine, family=backbone.family, stride=backbone.stride, finer_refused=refused)
