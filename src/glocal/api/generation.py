"""Pictures out of runs that make some."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from glocal.progress import shown_progress


def generate(
    run: str,
    *,
    out: str,
    n: int = 64,
    cluster: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    solver: Literal["euler", "heun"] | None = None,
    seed: int = 0,
    device: str = "auto",
    trust_code: bool = False,
) -> Path:
    """Draw images that a run makes, as one picture.

    Args:
        run: one of --method flow, irmae or dcgan, or another that makes images.
        out: the picture, .png, .jpg or .webp.
        n: how many.
        cluster: of all images, where clusters or labels guide it; by default each is as frequent as in training.
        guidance: how much more than its own the cluster is to show, 0 by default; 1 to 3 give clearer and less
            different images.
        steps: of a flow's sampler, 16 by default.
        solver: of a flow: euler, or heun, which is more exact and takes twice as long.
        seed: of what is drawn.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        trust_code: import what generator.json names as module:attribute.

    Returns:
        The picture.

    Raises:
        UsageError: if the run makes no images, or none of that cluster.
    """
    from glocal.evaluation.extract import placed
    from glocal.generation import load_generator, write_samples

    generator = load_generator(run, trust_code=trust_code)
    settings = {"guidance": guidance, "steps": steps, "solver": solver}
    with placed(generator, device) as model, shown_progress() as progress:
        return write_samples(model, Path(out), n=n, seed=seed, cluster=cluster, settings=settings, progress=progress)
