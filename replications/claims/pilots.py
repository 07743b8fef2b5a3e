"""The pilots: trials on seeds that no claim uses, by which worlds and seeds are chosen, and premises looked at."""

from __future__ import annotations

from replications.claims.architectures import pair
from replications.claims.arms import method
from replications.claims.clustering import SEER
from replications.claims.co_ssl import LARGE
from replications.claims.contrastive import BARLOW, DCL
from replications.claims.multi_crop import SMALL
from replications.claims.transformers import ATTENTION
from replications.plan import Arm, Claim, Statement


def pilot(name: str, world: str, minutes: float, *arms: Arm, seeds: int = 1, spread: str = "") -> Claim:
    """Trials on seeds that no claim uses; with `spread`, also of how far a score's paired differences scatter."""
    first, *others = (arm.name for arm in arms if "method" in arm.options)
    statements = tuple(Statement(f"{other} over {first}", spread, (other,), (first,)) for other in others if spread)
    return Claim(name, world, arms, tuple(range(100, 100 + seeds)), minutes, paper=name, statements=statements)


def trio() -> tuple[Arm, ...]:
    """The three methods by which a world is chosen, and what they begin with."""
    return (Arm("random"), *(Arm(name, {"method": name}) for name in ("vicreg", "simclr", "byol")))


def small(scale: tuple[float, float]) -> Arm:
    """SwAV with small crops of some size."""
    return method("swav", f"-{scale[0]}", **SMALL, small_scale=scale)


VICREGL = Arm("vicregl-0.75", {"method": "vicregl", "alpha": 0.75})
SCALES = (0.05, 0.14), (0.1, 0.4)
PILOTS = (
    pilot("cifar10", "cifar10", 5, *trio()),
    pilot("parts", "parts", 5, *trio()),
    pilot("cifar10-spread", "cifar10", 5, *trio()[1:], seeds=4, spread="linear"),
    pilot("parts-spread", "parts", 5, *trio()[1:2], VICREGL, seeds=4, spread="miou"),
    pilot("large-crops", "cifar10", 6, trio()[3], method("byol", "-large", **LARGE), seeds=2, spread="linear"),
    pilot("batches", "cifar10", 5, *BARLOW.arms[:3], *(arm for arm in DCL.arms if "simclr" in arm.name)),
    pilot("small-crops", "cifar10", 6, *(small(scale) for scale in SCALES)),
    pilot("stream", "cifar10", 3, *(arm for arm in SEER.arms if arm.name in ("random", "seer-curated"))),
    pilot("transformer", "parts", 9, *(arm for arm in ATTENTION.arms if arm.name in ("random-vit", "dino-vit"))),
    pilot("large-images", "clothes", 7.5, *pair(256)),
)
