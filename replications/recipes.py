"""A version for whatever decides a run's numbers, raised when they change: results of two versions never mix.

A refactor keeps them. tests/test_replications_recipes.py trains each method for a few steps, looks through each network
once, and compares with what `python -m replications recipes` stored under its version: it fails where numbers changed
and the version did not. By more than a part in a thousand, since sums round differently on other processors.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

RECIPES: dict[str, int] = {
    "random": 1,
    "barlow_twins": 2,
    "byol": 2,
    "co-byol": 2,
    "contriever": 2,
    "co-dino": 3,
    "co-mocov3": 2,
    "co-vicreg": 2,
    "dcl": 2,
    "dclw": 2,
    "deepcluster": 1,
    "deepcluster_v2": 2,
    "deepercluster": 1,
    "dino": 3,
    "distill": 1,
    "directclr": 2,
    "dcgan": 2,
    "flow": 2,
    "irmae": 2,
    "jepa": 1,
    "loca": 2,
    "mocov3": 2,
    "msn": 2,
    "nnclr": 2,
    "paws": 2,
    "seer": 2,
    "simclr": 2,
    "swav": 2,
    "vicreg": 2,
    "vicregl": 2,
    "vfc": 1,
    "replications.variants:NoPredictor": 2,
    "replications.variants:SimSiam": 2,
    "replications.variants:NoStopGradient": 2,
    "replications.variants:PlainOrder": 1,
    "replications.variants:Projected": 2,
    "replications.variants:PositionsOnly": 2,
    "replications.variants:ClustersOnly": 2,
    "replications.variants:Supervised": 2,
}
NETWORKS: dict[str, int] = {
    "rn8_w16_s8": 1,
    "rn8_w16_s8_rf19": 1,
    "rn8_w24_s16": 1,
    "sobel_rn8_w16_s8": 1,
    "text_small": 1,
    "vit_w64_p4": 1,
    "vit_w64_p8": 1,
    "navit_w64_p8": 3,
    "flexivit_w64": 2,
    "resmlp_w64_p4": 1,
    "vit22b_w64_p4": 2,
    "vit22b_w64_p4_no_qk_norm": 2,
    "xcit_w64_p8": 1,
    "test_resnet": 1,
    "mobilenet_v1_050": 1,
}
OTHERS = ("test_resnet", "mobilenet_v1_050", "text_small")
"""Networks that are not of `replications.networks`."""
PROBES: dict[str, int] = {
    "knn": 1,
    "linear": 1,
    "segment": 1,
    "rank": 1,
    "correspond": 1,
    "robustness": 1,
    "internal": 1,
    "attack": 1,
    "redundancy": 1,
    "search": 1,
    "replications.probes:few": 1,
    "replications.probes:frequent": 1,
    "replications.probes:attention": 1,
    "replications.aligned:graph": 1,
    "replications.asking:curate": 1,
    "replications.asking:ask": 1,
    "replications.naming:reco": 2,
    "replications.naming:ger": 2,
    "replications.watching:dots": 1,
    "replications.watching:salads": 1,
    "replications.watching:frames": 1,
    "replications.adapted:pruned": 2,
    "replications.adapted:masked": 3,
    "replications.extended:classes": 3,
    "replications.extended:few_labels": 1,
    "replications.extended:keypoints": 2,
    "replications.generating:codes": 1,
    "replications.generating:flow": 1,
    "replications.generating:painted": 1,
    "replications.inspiring:inspire": 2,
    "replications.probes:knn_at": 1,
    "replications.verbs:train": 1,
}
TRAINED: dict[str, tuple[str, ...]] = {
    "replications.watching:dots": ("jepa",),
    "replications.watching:frames": ("msn",),
    "replications.generating:codes": ("irmae",),
    "replications.generating:flow": ("flow", "vicreg"),
    "replications.generating:painted": ("irmae",),
    "replications.verbs:train": ("vfc",),
}
"""Methods that a cell of its own trains without naming them in its options."""

GOLDEN = Path(__file__).parent / "recipes.json"
TOLERANCE = 1e-3
STEPS = 3
LONG = {"batch_size": 128, "max_steps": 1200, "epochs": 10_000}
"""A run of the plan, on 50,000 images: what is decided for it is compared too."""
RUN: dict[str, Any] = {
    "image_size": 32,
    "batch_size": 16,
    "max_steps": STEPS,
    "epochs": STEPS,
    "monitor_every": STEPS,
    "accelerator": "cpu",
    "precision": "32-true",
    "workers": 0,
    "threads": 1,
    "cache": False,
    "compile": False,
    "report": False,
    "quiet": True,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "paws": {"labelled": 0.5, "support_images": 2},
    "msn": {"small_size": 16},
    "loca": {"small_size": 16},
    "deepcluster": {"clusters": 8, "components": 4},
    "deepcluster_v2": {"prototypes": 8},
    "deepercluster": {"clusters": 8, "components": 4},
    "flow": {"guide": "own", "clusters": 8},
}
TRANSFORMERS = ("msn", "loca")


def backbone(method: str) -> str:
    own = {"flow": "unet_tiny", "dcgan": "strided_small"}
    return own.get(method) or "replications.networks:" + ("vit_w64_p4" if method in TRANSFORMERS else "rn8_w16_s8")


def numbers(name: str) -> dict[str, float]:
    """What a method or network of the plan comes to."""
    return seen(name) if name in NETWORKS else learnt(name)


def seen(network: str) -> dict[str, float]:
    """Of a network with weights that are nowhere 0: what it says of two images, and how its weights respond."""
    import torch

    from glocal.backbones import build_backbone

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build_backbone(f"{'' if network in OTHERS else 'replications.networks:'}{network}", image_size=32)
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        features = made.train()(torch.randn(2, 3, 32, 32))
        total = (features.pooled * torch.randn_like(features.pooled)).sum()
        total = total + (features.tokens * torch.randn_like(features.tokens)).sum()
        gradients = torch.autograd.grad(total, list(made.parameters()), allow_unused=True)
    squares = sum(float(each.double().square().sum()) for each in gradients if each is not None)
    sizes = {"pooled": features.pooled, "tokens": features.tokens}
    return {**{key: float(value.detach().abs().mean()) for key, value in sizes.items()}, "gradient": math.sqrt(squares)}


def learnt(method: str) -> dict[str, float]:
    """What a method's recipe comes to: the first and last loss of a few steps, and what is decided for a longer run."""
    import torch

    import glocal
    from glocal.methods import method_class
    from glocal.run import Run

    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder, "run"))
            options = {**RUN, **OPTIONS.get(method, {}), **method_class(method).needs}
            options |= {"method": method, "backbone": backbone(method)}
            glocal.pretrain("parts:n=48,size=32", out=str(run), **options)
            losses = {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}
    finally:
        torch.set_num_threads(threads)
    return {"first loss": losses[1], "last loss": losses[STEPS], **decided(method)}


def decided(method: str) -> dict[str, float]:
    """The numbers that glocal decides for a run of the plan: the method's options and its optimisation."""
    from glocal.backbones import build_backbone
    from glocal.config import PretrainConfig
    from glocal.methods import method_class
    from glocal.training.defaults import Machine, resolve

    cls = method_class(method)
    asked = {**LONG, **cls.needs, "method": method, "backbone": backbone(method), "image_size": 32}
    config, images, machine = PretrainConfig.from_dict(asked), range(50_000), Machine(1, 1, "32-true")
    options = resolve(config, images, machine)[0].config.options
    built = cls(build_backbone(backbone(method), image_size=32, pool=cls.pool), image_size=32, **options)
    found = resolve(config, images, replace(machine, published=built.optimization))[0]
    optimization = {f"optimization.{name}": value for name, value in asdict(found.optimization).items()}
    values = options | optimization | {"lr": found.config.lr}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def differing(name: str, found: dict[str, float]) -> list[str]:
    """What is not as stored, in words; a number's name that is new or gone is a refactor's business."""
    stored = json.loads(GOLDEN.read_text()).get(name, {"version": None, "numbers": {}})
    if stored["version"] != (version := (RECIPES | NETWORKS)[name]):
        return [f"version {version} is not stored: run python -m replications recipes"]
    return [
        f"{key} is {found[key]}, stored is {value}"
        for key, value in stored["numbers"].items()
        if key in found and not math.isclose(found[key], value, rel_tol=TOLERANCE, abs_tol=_near(key))
    ]


def _near(name: str) -> float:
    """A mean of cosines may be near 0."""
    return TOLERANCE / 10 if "loss" in name else 0.0


def methods() -> list[str]:
    """Those that are trained on images to be compared."""
    from glocal.methods import method_names

    return [name for name in method_names("images") if name in RECIPES]


def networks() -> list[str]:
    """Those that see images."""
    return [name for name in NETWORKS if not name.startswith("text_")]


def store() -> int:
    """Store the numbers of the methods and networks whose version was raised, or is new.

    Returns:
        An exit code: 1 where numbers changed under an old version, which are not stored.
    """
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    failed = []
    for name in (*methods(), *networks()):
        found, version = numbers(name), (RECIPES | NETWORKS)[name]
        if kept.get(name, {}).get("version") != version:
            kept[name] = {"version": version, "numbers": found}
        elif wrong := differing(name, found):
            failed.append(f"{name}: {'; '.join(wrong)}; raise its version in replications/recipes.py")
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(failed) or "stored", file=sys.stderr if failed else sys.stdout)
    return int(bool(failed))
