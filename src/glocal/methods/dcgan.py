"""DC-GAN: a generator and a discriminator that learn against each other (Radford et al., ICLR 2016)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from glocal.backbones import Backbone
from glocal.backbones.fold import Folding
from glocal.errors import UsageError
from glocal.heads.decoder import Decoder
from glocal.losses import Loss
from glocal.losses.loss import upcast
from glocal.methods.published import Optimization, Preset
from glocal.views import Batch, Crop, Recipe


class DCGAN(nn.Module):
    """A generator paints images from random numbers; the encoder tells them from photographs, and is fooled.

    Non-saturating loss (Goodfellow et al. 2014), the gradient penalty R1 at photographs (Mescheder et al. 2018) and
    spectral normalisation (Miyato et al. 2018) of the encoder; both networks move at every step. Needs: a network
    without BatchNorm (`strided_small`, which it takes by itself), images of 16 to 64 pixels, many steps. Choose it to
    draw sharp images, and for `glocal inspire`, whose realism term is this discriminator; it is also the encoder that
    is exported, whose features are weaker than those of methods that compare views. Expect both losses to level off and
    go on swinging: neither says how good the images are.

    Args:
        image_size: side of the images, pixels; a multiple of 8.
        latent: random numbers of which an image is made.
        width: channels of the generator's last map but one.
        penalty: γ, weight of the squared gradient of the discriminator at photographs, halved.
    """

    mean: Tensor
    std: Tensor

    title = "DC-GAN"
    paper = (
        "Radford, Metz, Chintala. Unsupervised Representation Learning with Deep Convolutional Generative Adversarial"
        " Networks. ICLR 2016. arXiv:1511.06434"
    )
    backbone = "strided_small"
    presets: ClassVar[dict[str, Preset]] = {"paper": lambda batch: {}, "small": lambda batch: {}}

    def __init__(
        self, backbone: Backbone, *, image_size: int = 32, latent: int = 64, width: int = 32, penalty: float = 0.1
    ) -> None:
        super().__init__()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules()):
            raise UsageError(
                f"--backbone {backbone.name} has BatchNorm, by which images would tell of each other: leave it out, for"
                " strided_small, or take one without"
            )
        self.encoder, self.penalty = backbone, penalty
        for name in ("mean", "std"):  # of the pixels
            self.register_buffer(name, torch.tensor(getattr(backbone, name))[:, None, None], persistent=False)
        self.generator = AdversarialGenerator(image_size, latent, width, backbone.dim)
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                parametrize.register_parametrization(module, "weight", Spectral(module.weight))
        self.recipe = Recipe((Crop(image_size, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0),))
        self.optimization = Optimization("adamw", 2e-4, 0.0, warmup_epochs=0.0, final_lr=0.1, momentum=0.5)

    def forward(self, batch: Batch) -> Loss:
        real = batch.views[0].pixels.detach().requires_grad_()
        fake = (upcast(self.generator(self.draw(real))) - self.mean) / self.std
        with parametrize.cached():
            on_real, on_fake = self.judge(real), self.judge(fake.detach())
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        trained = [p for p in (*self.encoder.parameters(), *self.generator.realism.parameters()) if p.requires_grad]
        for parameter in trained:  # the generator learns from the discriminator, which does not from this
            parameter.requires_grad_(False)
        fooled = self.judge(fake)
        for parameter in trained:
            parameter.requires_grad_(True)
        return Loss.of(
            {
                "discriminator": (F.softplus(-on_real) + F.softplus(on_fake)).mean(),
                "penalty": self.penalty / 2 * slope.square().flatten(1).sum(1).mean(),
                "generator": F.softplus(-fooled).mean(),
            }
        )

    def judge(self, images: Tensor) -> Tensor:
        """How real each looks (B,), of normalised images: the logarithm of its odds."""
        return upcast(self.generator.realism(self.encoder(images).pooled))[:, 0]

    def draw(self, x: Tensor) -> Tensor:
        """A latent for each image."""
        return torch.randn(len(x), *self.generator.latent_shape, device=x.device, dtype=x.dtype)


class AdversarialGenerator(nn.Module):
    """A decoder with BatchNorm, of standard normal latents.

    Args:
        image_size, latent, width: see `DCGAN`.
        dim: of the discriminator's pooled features.

    Attributes:
        realism: those features, of the encoder that it learnt against -> how real an image looks.
    """

    def __init__(self, image_size: int, latent: int, width: int, dim: int) -> None:
        super().__init__()
        self.decode, self.realism = Decoder(latent, image_size, width, norm=True), nn.Linear(dim, 1)
        self.config: dict[str, Any] = {"name": "dcgan", "image_size": image_size, "latent": latent}
        self.config |= {"width": width, "dim": dim}
        self.latent_shape = (latent,)

    def forward(self, z: Tensor) -> Tensor:
        return self.decode(z)


class Spectral(Folding):
    """weight / σ, its largest singular value, to which each look in training comes nearer by a power iteration."""

    left: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("left", F.normalize(torch.linspace(1, 2, len(weight)), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(matrix.T @ self.left, dim=0)
            left = F.normalize(matrix @ right, dim=0)
            if self.training:
                self.left.copy_(left)
        return weight / (left @ matrix @ right)
