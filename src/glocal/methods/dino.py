"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, arXiv:2104.14294)."""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.features import Features
from glocal.heads.projector import DINOHead
from glocal.losses import Loss
from glocal.losses.distillation import dino_loss, soft_cross_entropy, teacher_distribution
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset
from glocal.methods.teacher import DistillationHeads, cosine, ema_copy, update_ema
from glocal.views import Batch, Crop, Recipe, blur_at

SMALL: dict[str, Any] = {"outputs": 1024, "hidden": 1024, "head_norm": "batch", "momentum": 0.99}


class DINO(nn.Module):
    """A student's distribution over K directions, from any crop, matches that of its teacher, from a large one.

    The teacher is a moving average of the student; its output is centred (no direction wins everywhere) and sharpened
    (nor are all equal). Needs: two large crops and, for its best, 6 to 10 small ones; a second network in memory;
    any batch from 64. Choose it for vision transformers, for k-NN without training, and for attention maps that follow
    objects. Expect, on ImageNet, k-NN / linear: ViT-S/16 74.5 / 77.0, ViT-B/8 77.4 / 80.1, ResNet-50 67.5 / 75.3.

    If it collapses: with the loss at ln K (all directions alike) lower `teacher_temperature`; near 0 (one direction for
    all images) raise it, or lower `center_momentum`.

    Args:
        backbone: the encoder to train.
        image_size: side of the two large crops, pixels.
        scale: area of a large crop as a fraction of its image, (least, most).
        small_crops: number of small crops, which only the student sees.
        small_size: side of the small crops, pixels.
        small_scale: area of a small crop as a fraction of its image.
        outputs: K, number of directions.
        hidden: width of the head's hidden layers.
        bottleneck: width of the head's normalised vectors.
        head_norm: normalisation of the head's hidden layers.
        momentum: of the teacher at the start; it goes to 1 along a cosine.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax at the start, and after its warm-up.
        temperature_warmup: part of the run in which the teacher's temperature rises, linearly.
        center_momentum: of the centre.
        frozen_epochs: epochs in which the last layer does not move.
    """

    title = "DINO"
    paper = "Caron et al. Emerging Properties in Self-Supervised Vision Transformers. ICCV 2021. arXiv:2104.14294"
    native = True
    pool = "native"
    teacher_momentum = "momentum"  # the option that a short run may lower
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "paper-vit": lambda batch: {"drop_path": 0.1},
        "paper-resnet": lambda batch: {"scale": (0.14, 1.0), "small_scale": (0.05, 0.14), "head_norm": "batch"},
        # without small crops the authors advise large ones from .14
        "small": lambda batch: SMALL | {"small_crops": 0, "scale": (0.14, 1.0), "teacher_temperature": (0.04, 0.04)},
    }

    temperature: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.4, 1.0),
        small_crops: int = 8,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.05, 0.4),
        outputs: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        head_norm: Literal["batch", "none"] = "none",
        momentum: float = 0.996,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup: float = 0.3,
        center_momentum: float = 0.9,
        frozen_epochs: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        widths = {"hidden": hidden, "bottleneck": bottleneck, "outputs": outputs}
        self.new_head = partial(DINOHead, backbone.dim, norm=head_norm, **widths)
        self.momentum, self.center_momentum, self.frozen_epochs = momentum, center_momentum, frozen_epochs
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.temperature_warmup = temperature_warmup
        self.heads, self.teacher = self.new_heads(), ema_copy(backbone)
        self.register_buffer("temperature", torch.tensor(teacher_temperature[0]))
        first = Crop(image_size, scale, blur=1.0, sigma=blur_at(image_size))
        small = first.but(size=small_size, scale=small_scale, blur=0.5)
        self.recipe = Recipe((first, first.but(blur=0.1, solarize=0.2)) + (small,) * small_crops)

    @property
    def optimization(self) -> Optimization:
        """AdamW with rising decay; for networks with BatchNorm LARS, as in the authors' best ResNet-50 run."""
        frozen = {"heads.student.last": self.frozen_epochs, "local_heads.student.last": self.frozen_epochs}
        if self.encoder.norm == "batch":
            return Optimization("lars", lr=0.3, weight_decay=1e-6, frozen=frozen)
        published = Optimization("adamw", 5e-4, 0.04, final_weight_decay=0.4, final_lr=0.002, clip_per_parameter=3.0)
        return replace(published, frozen=frozen)

    def new_heads(self) -> DistillationHeads:
        return DistillationHeads(head := self.new_head(), len(head.last), self.center_momentum)

    def forward(self, batch: Batch) -> Loss:
        return self.objective(*self.represent(batch))

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        with torch.no_grad():
            teachers = encode(self.teacher, batch.views[:2], group="size")
        return encode(self.encoder, batch.views, group="size"), teachers

    def objective(self, students: list[Features], teachers: list[Features]) -> Loss:
        targets = self.target(self.heads, [f.pooled for f in teachers])
        pooled = [f.pooled for f in students]  # in one pass: batch statistics are those of all crops
        predictions = self.heads(torch.cat(pooled)).split([len(x) for x in pooled])
        return Loss.of({"distillation": dino_loss(predictions, targets, self.student_temperature)})

    @torch.no_grad()
    def target(self, heads: DistillationHeads, pooled: list[Tensor]) -> list[Tensor]:
        logits = heads.target(torch.cat(pooled)).split([len(x) for x in pooled])
        heads.seen += logits if self.training else ()
        return [teacher_distribution(each, heads.center, self.temperature) for each in logits]

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return soft_cross_entropy(prediction, target, self.student_temperature)

    def after_step(self, progress: float) -> None:
        update_ema(self.teacher, self.encoder, self.momentum_at(progress))
        self.heads.follow(self.momentum_at(progress))
        first, last = self.teacher_temperature
        self.temperature.fill_(first + (last - first) * min(1.0, progress / max(self.temperature_warmup, 1e-9)))

    def momentum_at(self, progress: float) -> float:
        return cosine(progress, self.momentum, 1.0)
