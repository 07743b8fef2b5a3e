"""Pictures inspired by others, and closed forms: Rozière et al.; Balestriero and LeCun."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim, Statement

FIVE = tuple(range(5))
GAN = {"method": "dcgan", "backbone": "strided_small", "image_size": 32, "batch_size": 32, "lr": 4e-4}
INSPIRE = Claim(
    name="inspire",
    world="own",
    arms=(Arm("dcgan", {**GAN, "max_steps": 1000}, run="replications.inspiring:inspire"),),
    seeds=FIVE[:4],
    minutes=6,
    paper="Rozière et al. Inspirational Adversarial Image Generation. 2019",
    text="The picture of a generator that is nearest to a given one is found by gradient; without one, by comparisons,"
    " nearly so; and by asking a person which of a few is best.",
    published="Progressive GANs of fashion, faces and more, 128 to 512 px: satisfactory pictures in most cases by all"
    " ways; several gradient-free optimisers are as good as the best of many Adam runs.",
    statements=(
        Statement("after 200 looks nearer by gradient than by CMA", "cma - gradient", ("dcgan",)),
        Statement("nearer by CMA than at random", "random - cma", ("dcgan",)),
        Statement("30 answers lead nearer than the 120 pictures at random", "drawn - asked", ("dcgan",)),
    ),
    missing="People: a hidden photograph answers. Distances are logarithms, each the mean over 30 photographs of"
    " clothes that the DC-GAN of 32 px has not seen, after 1,000 steps, which are few. The authors' code never restarts"
    " Adam nor lowers its rate, by a slip (it assigns to names of its own); ours does what the paper says.",
)
GRAPHS = Claim(
    name="spectral-graphs",
    world="own",
    arms=tuple(
        Arm(
            f"{of}-{number}-{'contrast' if invariance is None else f'{invariance:g}'}",
            {"of": of, "number": number, "invariance": invariance},
            run="replications.aligned:graph",
        )
        for of, number, weights in (
            ("class", "many", (0.1, 100.0)),
            ("class", "few", (0.1, 100.0)),
            ("tint", "many", (0.1, 100.0, None)),
        )
        for invariance in weights
    ),
    seeds=tuple(range(10)),
    minutes=0.2,
    paper="Balestriero, LeCun. Contrastive and Non-Contrastive SSL Recover Global and Local Spectral Embedding Methods"
    " 2022",
    text="Where what makes two images a pair is what is asked for, the best linear encoder is the supervised one,"
    " and with few images a large weight of VICReg's invariance is better; where it is something else, a small one.",
    published="Proofs; and linear and deep networks on small data whose pairs are, or are not, of the classes.",
    statements=(
        Statement(
            "pairs of a class: the subspace of linear discriminants",
            "cosine - line",
            ("class-many-100",),
            every_seed=True,
        ),
        more(
            "pairs of a class, 300 images: a large invariance is better", "accuracy", "class-few-100", "class-few-0.1"
        ),
        more(
            "pairs of a class, 100 labels: a large invariance is better",
            "accuracy_few",
            "class-many-100",
            "class-many-0.1",
        ),
        more("pairs of a tint: a small invariance is better", "accuracy", "tint-many-0.1", "tint-many-100"),
        more(
            "pairs of a tint: VICReg's small one is better than contrast",
            "accuracy",
            "tint-many-0.1",
            "tint-many-contrast",
        ),
    ),
    missing="Deep networks. The contrast is that with a square in place of the logarithm, whose optimum is known.",
)
CLAIMS = (INSPIRE, GRAPHS)
