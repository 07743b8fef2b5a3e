"""SEER: SwAV on any images, in one pass (Goyal et al. 2021, arXiv:2103.01988)."""

from typing import ClassVar

from glocal.backbones import Backbone
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.methods.swav import SwAV


class SEER(SwAV):
    """SwAV for very many uncurated images, of which each is seen once: a RegNetY, more prototypes.

    No queue, no normalisation in the projector, harder codes by more rounds of Sinkhorn. It asks nothing of the data
    but images: no labels, no ids, no end. Needs: large batches (published at 8192), and millions of images rather than
    thousands: there, SwAV's many passes win. Choose it for more uncurated images than can be seen twice, in one pass:
    `glocal pretrain stream:FOLDER --method seer --max-steps N`. Expect, fine-tuned on ImageNet from a billion images:
    RegNetY-32GF 83.4%, -256GF 84.2%. timm has them as `regnety_320.seer`, `regnety_640.seer`, `regnety_1280.seer`.
    """

    title = "SEER"
    paper = "Goyal et al. Self-supervised Pretraining of Visual Features in the Wild. 2021. arXiv:2103.01988"
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {
            "projector": (512, 128),
            "prototypes": min(16_000, 2 * batch),
            "epsilon": 0.015,
            "small_crops": 0,
        },
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.14, 1.0),
        small_crops: int = 4,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.05, 0.14),
        projector: tuple[int, ...] = (8192, 8192, 256),
        prototypes: int = 16_000,
        temperature: float = 0.1,
        epsilon: float = 0.03,
        rounds: int = 10,
        frozen_epochs: float = 0.0026,
    ) -> None:
        super().__init__(
            backbone,
            image_size=image_size,
            scale=scale,
            small_crops=small_crops,
            small_size=small_size,
            small_scale=small_scale,
            projector=projector,
            projector_norm="none",
            prototypes=prototypes,
            temperature=temperature,
            epsilon=epsilon,
            rounds=rounds,
            frozen_epochs=frozen_epochs,
        )
        frozen = {"prototypes": frozen_epochs}  # warm-up over 8,000 of 122,000 steps
        lars = Optimization("lars", lr=0.3, weight_decay=1e-5, warmup_epochs=0.066, frozen=frozen)
        self.optimization = suited_to(backbone.norm, lars)
