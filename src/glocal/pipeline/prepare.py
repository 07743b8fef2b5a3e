"""The method of a run, and what is measured on this machine before the rest of its configuration is decided."""

from dataclasses import replace
from typing import Any

import torch

from glocal.backbones import build_backbone
from glocal.config import PretrainConfig
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.fabric import Fabric
from glocal.heads import sync_batch_norms
from glocal.methods import check_built, check_fits, method_class, method_options
from glocal.random import derive
from glocal.training import Machine, resolve
from glocal.training.compilation import worth_compiling
from glocal.training.defaults import finer_stride
from glocal.views import worth_caching


def prepare(fabric: Fabric, config: PretrainConfig, source: ImageSource, machine: Machine) -> tuple[Machine, Any]:
    """Measure what is left open, for `resolve`, and build the method that the configuration asks for."""
    cls = method_class(config.method)
    coarse = cls.least_cells and config.output_stride is None
    if coarse or not method_options(cls).keys() <= {"image_size", *config.options}:
        machine = measure_backbone(config, machine, cls.least_cells)
    resolved, _ = resolve(config, source, machine)
    method = build_method(resolved.config)
    check_fits(method.encoder, method.recipe)
    if fabric.world_size > 1:
        sync_batch_norms(method)
    machine = replace(machine, published=method.optimization)
    if resolved.config.cache is None:
        machine = replace(machine, cache=fabric.broadcast(worth_caching(source, method.recipe.views)))
    if resolved.config.compile is None:
        sizes = [crop.size for crop in method.recipe.views]
        images = (resolved.config.batch_size or 0) * sizes.count(max(sizes))
        worth = worth_compiling(fabric, method.encoder, max(sizes), images, resolved.steps)
        machine = replace(machine, compile=worth)
    return machine, method


def build_method(config: PretrainConfig) -> Any:
    """A resolved configuration's method around its encoder, both initialised from the seed."""
    cls = method_class(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        encoder = build_backbone(config.backbone, pool=cls.pool, **config.encoder_options)
        return check_built(cls(encoder, image_size=config.image_size, **config.options))


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
