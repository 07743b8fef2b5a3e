"""IRMAE: an autoencoder whose linear layers make the rank of its codes small (Jing et al., NeurIPS 2020)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.distributed import all_sum, world_size
from glocal.heads.decoder import GaussianCodes
from glocal.losses import Loss
from glocal.losses.loss import upcast, without_autocast
from glocal.methods.published import Optimization, Preset
from glocal.views import Batch, Crop, Recipe


class IRMAE(nn.Module):
    """A decoder paints the image again from a code; linear layers before it, of no use to that, keep codes simple.

    Gradient descent on a product of matrices finds one of low rank; in the end the product is one matrix, and the
    encoder's pooled features are the codes. Needs: one view, any batch, images of 16 to 64 pixels; the paper's encoder,
    `conv_coder`, which it takes by itself, or any other whose last map is of a cell or a few. Choose it to see in how
    many ways images differ (`glocal evaluate --tasks dimension`), to draw images, or to go from one to another, and as
    the baseline of reconstruction. Expect blurred images, and features worse than those of methods that compare views.

    Args:
        image_size: side of the images, pixels.
        code: width of the code.
        layers: square linear layers behind the one that makes the code; 0 for a plain autoencoder.
        kl: weight of the divergence of codes from N(0, I): above 0, with `layers` 0, a variational autoencoder.
    """

    moments: Tensor
    mean: Tensor
    std: Tensor

    title = "IRMAE"
    paper = "Jing, Zbontar, LeCun. Implicit Rank-Minimizing Autoencoder. NeurIPS 2020. arXiv:2010.00679"
    backbone = "conv_coder"
    presets: ClassVar[dict[str, Preset]] = {"paper": lambda batch: {}, "small": lambda batch: {}}

    def __init__(
        self, backbone: Backbone, *, image_size: int = 64, code: int = 128, layers: int = 8, kl: float = 0.0
    ) -> None:
        super().__init__()
        backbone.add_code(code, layers)
        self.encoder, self.layers, self.kl = backbone, layers, kl
        for name in ("mean", "std"):  # of the pixels
            self.register_buffer(name, torch.tensor(getattr(backbone, name))[:, None, None], persistent=False)
        self.codes = GaussianCodes(code, image_size)
        self.log_variance = nn.Linear(code, code) if kl else None
        # of (1, code): the weight of what was seen, its mean, its products
        self.register_buffer("moments", torch.zeros(code, code + 2))
        self.recipe = Recipe((Crop(image_size, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0),))
        self.optimization = Optimization("adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=0.0)

    def forward(self, batch: Batch) -> Loss:
        x = batch.views[0].pixels
        codes = upcast(self.encoder(x).pooled)
        self.remember(codes.detach())
        terms: dict[str, Tensor] = {}
        if self.log_variance is not None:
            log_variance = upcast(self.log_variance(codes)).clamp(-10, 10)
            divergence = (codes.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
            terms["divergence"] = self.kl * divergence.mean() / x[0].numel()
            codes = codes + (log_variance / 2).exp() * torch.randn_like(codes)
        error = F.mse_loss(upcast(self.codes.decode(codes)), x * self.std + self.mean)
        return Loss.of({"reconstruction": error} | terms)

    @torch.no_grad()
    def remember(self, codes: Tensor) -> None:
        """Take codes (B, n) of all processes into a running mean of them and of their products."""
        with without_autocast(codes):
            parts = torch.cat([torch.ones_like(codes[:1].T), codes.mean(0)[:, None], codes.T @ codes / len(codes)], 1)
        self.moments.lerp_(all_sum(parts) / world_size(), 0.01)

    @property
    def generator(self) -> GaussianCodes:
        """The decoder, of codes from the Gaussian fitted to those of the last steps."""
        weight, mean, products = self.moments.split([1, 1, len(self.moments)], dim=1)
        mean = mean / weight
        self.codes.fit(mean[:, 0], products / weight - mean @ mean.T)
        return self.codes
