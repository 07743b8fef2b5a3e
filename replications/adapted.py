"""Cells that adapt encoders: what is pruned, masked, or a cascade of masks; see `replications.plan.Arm.run`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import glocal
from glocal.adaptation.cascade import Cascade, Parts
from glocal.adaptation.masks import MaskFile, largest, masked_layers, read_mask
from glocal.backbones import Backbone, build_backbone, save_encoder
from glocal.data import Subset, open_source
from glocal.evaluation.baseline import start_of
from glocal.run import Run
from replications.data import place
from replications.worlds import RUN

LABELS = "replications.variants:Supervised"
FEWEST = 8
"""Photographs that an expert learns from; a part of fewer keeps the dispatcher."""


def pruned(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """What a network is worth of which a mask left some weights, trained on labels from the draw that all began with.

    Each round trains, by the arm's method, what is left of the draw, and leaves out the smallest of the trained
    weights; "random" leaves out weights at random. Of a method without labels, also what frozen features are worth on
    clothing as drawn, before pruning, and after, trained as long.
    """
    images, size = place(data, "cifar10"), options["image_size"]
    shared: dict[str, Any] = {"image_size": size, "batch_size": options["batch_size"], "seed": seed, "by": "prune"}
    shared |= {"guard": False, "gentle": False, "trust_code": True, "scale": options["scale"], **RUN}
    drawn = start_of(build_backbone(options["backbone"], image_size=size), seed=seed)
    weights = sum(layer.weight.numel() for layer in masked_layers(drawn).values())
    found: dict[str, float] = {}
    if options["method"] == "random":
        kept = np.random.default_rng(seed).permutation(weights) < round(options["keep"] * weights)
    else:
        told, kept = {"method": options["method"], "max_steps": options["max_steps"]}, np.ones(weights, bool)
        for n in range(rounds := options["prune_rounds"]):
            run = trained(drawn, kept, folder / f"round-{n}", images, **shared, **told)
            if n == 0 and options["method"] != LABELS:
                found |= {"clothing drawn": clothing(data, drawn, size), "clothing before": clothing(data, run, size)}
            layers = masked_layers(glocal.load(str(run), trust_code=True))
            before = MaskFile(kept, scored=False, base=0).split(layers)
            sizes = {name: layer.weight.detach() for name, layer in layers.items()}
            left = largest(sizes, options["keep"] ** ((n + 1) / rounds), before)
            kept = torch.cat([part.flatten() for part in left.values()]).numpy()
        if options["method"] != LABELS:
            run = trained(drawn, kept, folder / "after", images, **shared, **told)
            found["clothing after"] = clothing(data, run, size)
    told = {"method": LABELS, "max_steps": options["label_steps"]}
    run = trained(drawn, kept, folder / "labels", images, **shared, **told)
    asked: dict[str, Any] = {"tasks": ["linear"], "limit": 10_000, "image_size": size, "trust_code": True}
    return {"linear": glocal.evaluate(str(run), images, **asked)["linear"]["top1"], **found}


def trained(drawn: Backbone, kept: np.ndarray, folder: Path, images: str, **settings: Any) -> Path:
    """A run that trains those weights of the draw, (N,) bool, and keeps 0 for the others."""
    save_encoder(without(copy.deepcopy(drawn), kept), folder / "drawn")
    run = glocal.adapt(str(folder / "drawn"), images, **settings, keep=float(kept.mean()), out=str(folder / "run"))
    assert np.array_equal(read_mask(Run(run).mask_file).kept, kept)
    return run


def without(encoder: Backbone, kept: np.ndarray) -> Backbone:
    """The encoder with 0 for the weights that are not kept, (N,) bool."""
    layers = masked_layers(encoder).values()
    parts = torch.from_numpy(kept).split([layer.weight.numel() for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight.data *= part.view_as(layer.weight)
    return encoder


def clothing(data: Path, encoder: Path | Backbone, size: int) -> float:
    """Linear accuracy of frozen features, the mean over five folds."""
    told: Any = str(encoder) if isinstance(encoder, Path) else encoder
    asked: dict[str, Any] = {"tasks": ["linear"], "image_size": size, "trust_code": True}
    folds = [place(data, f"clothing@{k}") for k in range(5)]
    return float(np.mean([glocal.evaluate(told, fold, **asked)["linear"]["top1"] for fold in folds]))


def masked(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """What a network trained without labels on CIFAR-10 is worth on clothing with a tenth of the labels.

    Frozen, trained on without labels, or masked, also in a cascade. The seed is the fold, too: over five seeds each
    labelled image is tested once.
    """
    images, size = place(data, f"clothing@{seed % 5}"), options["image_size"]
    shared: dict[str, Any] = {"seed": seed, "guard": False, "trust_code": True, **RUN}
    shared |= {name: options[name] for name in ("method", "prototypes")}
    begun = {"backbone": options["backbone"], "max_steps": options["base_steps"], "image_size": options["base_size"]}
    drawn = {"batch_size": options["base_batch"], "scale": options["base_scale"], "out": str(folder / "base")}
    base = str(glocal.pretrain(f"{place(data, 'cifar10')}/train", **begun, **drawn, **shared))
    shared |= {name: options[name] for name in ("image_size", "max_steps", "batch_size")}
    found: dict[str, float] = {}
    tenth, asked = "replications.probes:tenth", {"image_size": size}
    if options["kind"] == "frozen":
        encoder: Any = glocal.load(base, image_size=size, trust_code=True)
    elif options["kind"] == "trained":
        start = {"backbone": options["backbone"], "pretrained": base, "gentle": False}
        run: Any = glocal.pretrain(f"{images}/train", out=str(folder / "run"), **start, **shared)
        encoder = glocal.load(str(run), trust_code=True)
    else:
        shared["lr"] = options["mask_lr"]
        run = Run(glocal.adapt(base, f"{images}/train", out=str(folder / "run"), **shared))
        encoder, mask = glocal.load(str(run), trust_code=True), read_mask(run.mask_file)
        share = run.mask_file.stat().st_size / (4 * mask.kept.size)
        found |= {"storage": share, "thirtieth": 1 / 30, "kept": float(mask.kept.mean())}
        settings = shared | {"max_steps": options["expert_steps"]}
        joined = cascade(base, encoder, f"{images}/train", folder, options["experts"], settings)
        found["cascade tenth"] = glocal.evaluate(joined, images, tasks=[tenth], **asked)[tenth]["top1"]
    scores = glocal.evaluate(encoder, images, tasks=[tenth, "knn"], **asked)
    return {"tenth": scores[tenth]["top1"], "knn": scores["knn"]["top1"], **found}


def cascade(
    base: str, dispatcher: Backbone, images: str, folder: Path, experts: int, settings: dict[str, Any]
) -> Cascade:
    """A mask that is there, an expert for each part of the photographs that it tells apart, joined."""
    source = open_source(images)
    features = torch.from_numpy(np.asarray(glocal.embed(dispatcher, images).pooled))
    parts = Parts(features, experts, seed=settings["seed"])
    found = []
    for k in range(experts):
        own = Subset(source, np.flatnonzero(parts(features).numpy() == k))
        if len(own) < FEWEST:
            found.append(dispatcher)
            continue
        smaller = settings | {"batch_size": min(settings["batch_size"], len(own) // 2)}
        found.append(
            glocal.load(str(glocal.adapt(base, own, out=str(folder / f"expert-{k}"), **smaller)), trust_code=True)
        )
    return Cascade(dispatcher, found, parts).eval()  # joined, but not whitened: few labels would suffer by that
