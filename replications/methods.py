"""Every method, with its recipe for small data, learns more than nothing.

Claim: trained by its preset `small`, each registered method gives a linear classifier better features than the weights
that it started from.

Protocol, written before it was run. Train each method on the training images of clothing + pets + camvid together
(3,735) for 200 steps of 64 images (3.4 epochs), in bf16, with what glocal decides for it and nothing else: ResNet-18 at
64 px, or, for the two that leave out patches (MSN, LOCA), ViT-Tiny/16 at 128 px, of which 64 px would show 16 patches.
Evaluate the last step: linear and kNN on clothing at the size of training, test split, and the same of the very weights
that the run began with. Three seeds, differences paired by seed. PAWS alone sees labels: a tenth of those of clothing
and pets. In 3.4 epochs DeepCluster and DeepCluster-v2 cluster four times, DeeperCluster twice.

Cost is processor time per training image, starting and clustering included, of one thread, relative to VICReg's; the
median over the seeds, since the first one also decodes the images. Memory is the most that the process ever held.

Verdict rule. A method "learns" if the mean over the seeds of (linear − linear of its random initialisation) is positive
and exceeds two standard errors of that mean.

    python -m replications.methods --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.methods --table         # from what is kept
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import yaml

import glocal
from glocal.backbones import build_backbone
from glocal.comparison.measure import train
from glocal.methods import method_class, method_names, method_options
from glocal.random import derive
from glocal.training import read_metrics
from glocal.training.run import read_config
from replications.protocol import Arm, arguments, cpu_seconds, keep, kept, spread

NAME = "methods"
STEPS = 200
SETS = ("clothing", "pets", "camvid")
REFERENCE = "vicreg"  # whose cost is 1
COMMON: dict[str, Any] = {
    "batch_size": 64,
    "epochs": 1000,
    "monitor_every": 1000,
    "precision": "bf16-mixed",
    "workers": 0,
    "threads": 1,
    "report": False,
}
CONVOLUTIONAL = {"backbone": "resnet18", "image_size": 64}
TRANSFORMER = {"backbone": "vit_tiny_patch16_224", "image_size": 128}
TRANSFORMERS = ("loca", "msn")
# The weights that runs begin with: these differ by what decides the encoder.
RANDOM = {
    "random": CONVOLUTIONAL,
    "random-stride8": CONVOLUTIONAL | {"output_stride": 8},  # what glocal decides for VICRegL at this size
    "random-vit": TRANSFORMER,
    "random-vit-mean": TRANSFORMER | {"pool": "mean"},
}
ARMS = [Arm(name, options) for name, options in RANDOM.items()] + [
    Arm(name, {"method": name, **(TRANSFORMER if name in TRANSFORMERS else CONVOLUTIONAL)}) for name in method_names()
]


def baseline(method: str) -> str:
    """The arm of `RANDOM` that a method's runs begin with."""
    return {"msn": "random-vit", "loca": "random-vit-mean", "vicregl": "random-stride8"}.get(method, "random")


def scores(encoder: Any, data: Path, image_size: int) -> dict[str, float]:
    """The two numbers of the protocol."""
    result = glocal.evaluate(encoder, str(data / "clothing"), tasks=["knn", "linear"], image_size=image_size)
    return {"knn": result["knn"]["top1"], "linear": result["linear"]["top1"]}


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train, or go on training, and evaluate."""
    image_size = arm.options["image_size"]
    if arm.name in RANDOM:
        return {"scores": scores(at_start(arm.options, seed), data, image_size)}
    folder = runs / f"{NAME}-{arm.name}-{seed}"
    settings = folder.with_suffix(".yaml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    sets = [str(data / name) for name in SETS]
    settings.write_text(yaml.safe_dump({"data": sets, "seed": seed, "max_steps": STEPS, **COMMON, **arm.options}))
    resumed, before = folder.exists(), cpu_seconds()
    cost = train(settings, folder)
    last = [line for line in read_metrics(folder) if "time" in line][-1]
    return {
        "scores": scores(glocal.load(str(folder)), data, image_size),
        "images": last["step"] * COMMON["batch_size"],
        "train_seconds": cost.seconds,
        "train_cpu_seconds": None if resumed else cpu_seconds() - before,
        "peak_memory": cost.peak_memory,
        "head_parameters": head_parameters(folder),
        "last": last,
    }


def at_start(options: dict[str, Any], seed: int) -> Any:
    """The encoder with the weights that a run of this seed begins with."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        return build_backbone(options["backbone"], **{k: v for k, v in options.items() if k != "backbone"}).eval()


def head_parameters(folder: Path) -> int:
    """What a run trained beside its encoder."""
    config = read_config(folder)
    cls = method_class(config["method"])
    encoder = build_backbone(config["backbone"], image_size=config["image_size"], pool=cls.pool)
    method = cls(encoder, **{name: config[name] for name in method_options(cls)})
    trained = lambda module: sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trained(method) - trained(encoder)


def gain(found: dict[str, dict[int, dict[str, Any]]], method: str, score: str = "linear") -> tuple[float, float] | None:
    """Mean difference from random over the seeds that both have, and its standard error; None of fewer than two."""
    ours, theirs = found.get(method, {}), found.get(baseline(method), {})
    differences = [ours[seed]["scores"][score] - theirs[seed]["scores"][score] for seed in ours.keys() & theirs.keys()]
    if len(differences) < 2:
        return None
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def learns(mean: float, error: float) -> bool:
    """The verdict rule."""
    return mean > 0 and mean > 2 * error


def cost(found: dict[str, dict[int, dict[str, Any]]], method: str) -> float | None:
    """Processor seconds per image, the median over the runs that nothing interrupted."""
    runs = [r for r in found.get(method, {}).values() if r["train_cpu_seconds"] is not None]
    return statistics.median(r["train_cpu_seconds"] / r["images"] for r in runs) if runs else None


def cells(found: dict[str, dict[int, dict[str, Any]]], method: str) -> list[str]:
    """Recipe, linear, kNN, gain over random, whether it learns, cost and memory of one method."""
    options = next(arm.options for arm in ARMS if arm.name == method)
    recipe = f"{options['backbone']}, {options['image_size']} px, {COMMON['batch_size']} × {STEPS}"
    runs = list(found.get(method, {}).values())
    if not runs:
        return [recipe, *["not run yet"] * 4, "", ""]
    linear, knn = (spread([r["scores"][key] for r in runs]) for key in ("linear", "knn"))
    difference, (ours, theirs) = gain(found, method), (cost(found, name) for name in (method, REFERENCE))
    return [
        recipe,
        linear,
        knn,
        f"{difference[0]:+.3f} ± {difference[1]:.3f}" if difference else "",
        ("yes" if learns(*difference) else "no") if difference else "undecided",
        f"{ours / theirs:.1f}" if ours and theirs else "",
        f"{max(r['peak_memory'] for r in runs) / 2**30:.1f} GB",
    ]


def table() -> str:
    """Markdown: a row for each method and for what they began with."""
    found = kept(NAME)
    lines = ["| method | recipe | linear | kNN | linear − random | learns | cost | memory |", "|---" * 8 + "|"]
    for name, options in RANDOM.items():
        runs = list(found.get(name, {}).values())
        if runs:
            what = ", ".join(f"{key} {value}" for key, value in options.items())
            both = (spread([r["scores"][key] for r in runs]) for key in ("linear", "knn"))
            lines.append(f"| {name} | {what} | " + " | ".join(both) + " | | | | |")
    lines += [f"| {name} | " + " | ".join(cells(found, name)) + " |" for name in method_names()]
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__ or "", ARMS)
    if not options.table:
        for seed in options.seeds:
            for arm in ARMS:
                if arm.name in options.arms:
                    keep(NAME, arm, seed, lambda arm=arm, seed=seed: run(arm, seed, options.data, options.runs))
                    print(f"{arm.name} seed {seed}: done", flush=True)
    print(table())


if __name__ == "__main__":
    main()
