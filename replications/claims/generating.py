"""Images that are made: of autoencoders' codes, of flows under clusters that nobody named."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import NET, more
from replications.plan import Arm, Claim, Statement

SEEDS = tuple(range(1, 5))
"""The pilot looked at 0."""
CODES = {"image_size": 32, "code": 128, "batch_size": 32, "images": 5000, "max_steps": 1500, "lr": 1e-3}


def coded(name: str, **options: Any) -> Arm:
    return Arm(name, {**CODES, **options}, run="replications.generating:codes")


def painted(name: str, **options: Any) -> Arm:
    return Arm(name, {**CODES, "images": 2000, **options}, run="replications.generating:painted")


DIMENSION = Claim(
    name="dimension",
    world="own",
    arms=(coded("codes-irmae", layers=4), coded("codes-plain", layers=0)),
    seeds=SEEDS[:3],
    minutes=6,
    paper="Jing, Zbontar, LeCun. Implicit rank-minimizing autoencoder. 2020",
    text="Four linear layers behind the code make the effective dimension of codes that of the images, 4 (within .5,"
    " for each of three draws), where a plain autoencoder uses more than 8. Ellipses of which place, size and turn"
    " differ; exp of the entropy of the singular values of"
    " centred codes.",
    published="Synthetic shapes, codes of 32 dimensions: about as many as the shapes have degrees of freedom, where a"
    " plain autoencoder uses nearly all.",
    statements=(
        Statement("no more than 4.5", "most - effective", ("codes-irmae",), every_seed=True),
        Statement("no less than 3.5", "effective - least", ("codes-irmae",), every_seed=True),
        Statement("a plain one uses more than 8", "effective - eight", ("codes-plain",), every_seed=True),
    ),
    missing="100 epochs of 50,000 images; shapes of several kinds.",
)
SAMPLES = Claim(
    name="codes",
    world="own",
    arms=(
        painted("painted-irmae", layers=4),
        painted("painted-plain", layers=0),
        painted("painted-vae", layers=0, kl=0.01),
    ),
    seeds=SEEDS,
    minutes=7,
    paper="Jing, Zbontar, LeCun. Implicit rank-minimizing autoencoder. 2020",
    text="Images from a Gaussian fitted to IRMAE's codes are nearer to real ones, by Frechet's distance, than those of"
    " a plain and of a variational autoencoder; and the codes are worth more with 100 labels than a plain"
    " autoencoder's. Clothing at 32 pixels, 2,000 images, features of MobileNet x0.5. The weight of the variational"
    " one's divergence is the one of .01, .1 and 1 that had the lowest distance on seed 100 (456, 470, 527).",
    published="MNIST and CelebA at 64 pixels: a lower FID than both; MNIST with few labels: a higher accuracy.",
    statements=(
        Statement("nearer than the plain one's", "fid", ("painted-plain",), ("painted-irmae",), least=1.0),
        Statement("nearer than the variational one's", "fid", ("painted-vae",), ("painted-irmae",), least=1.0),
        more("more with 100 labels", "logistic_10", "painted-irmae", "painted-plain"),
    ),
    missing="Faces at 64 pixels, 100 epochs, mixtures in place of one Gaussian: a small replication.",
)
FLOW = {
    "backbone": "unet_tiny", "image_size": 16, "batch_size": 64, "max_steps": 800, "clusters": 50, "guidance": 0.5,
    "images": 2000, "guide_backbone": f"{NET}rn8_w16_s8", "guide_steps": 400,
    "guide_scale": (0.2, 1.0),
}  # fmt: skip


def flow(guide: str, **options: Any) -> Arm:
    return Arm(f"flow-{guide or 'free'}", {**FLOW, "guide": guide, **options}, run="replications.generating:flow")


LEARNT = more("the guide sees more than an untrained one", "guide knn", "flow-vicreg", "flow-random")
GUIDED = Claim(
    name="guided",
    world="own",
    arms=(flow("vicreg", steps=(4, 8, 32)), flow(""), flow("random"), flow("labels", clusters=10), flow("own")),
    seeds=SEEDS,
    minutes=10,
    paper="Hu et al. Guided diffusion from self-supervised diffusion features. 2023",
    text="Clusters of an encoder trained without labels (VICReg, 50 of them) guide a flow to images nearer to real"
    " ones, by kernel distance, than no guide and than clusters of an untrained network; clusters of its own features,"
    " found while it learns, give it better nearest neighbours. CIFAR-10 at 16 pixels, 2,000 images, 16 Euler steps,"
    " features of MobileNet x0.5; kernel distances are times 1,000.",
    published="ImageNet at 256 pixels, and ImageNet-100 at 64: on par with classes as guides, far ahead of none.",
    statements=(
        Statement("nearer than without a guide", "kid", ("flow-free",), ("flow-vicreg",), least=0.1),
        Statement("nearer than random clusters", "kid", ("flow-random",), ("flow-vicreg",), least=0.1, premise=LEARNT),
        Statement("no further than with classes", "kid", ("flow-labels",), ("flow-vicreg",), least=0.1, margin=1.0),
        Statement("its own clusters: nearer than without", "kid", ("flow-free",), ("flow-own",), least=0.1),
        more("its own clusters: better neighbours", "knn", "flow-own", "flow-free"),
    ),
    missing="More than 16 pixels and 51,000 images seen, weights of the guidance chosen for each arm: a small"
    " replication.",
)
CLAIMS = (DIMENSION, SAMPLES, GUIDED)
