"""How like pictures are to one, as an encoder sees them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.errors import UsageError


class Likeness:
    """The distance of images to a picture: mean ‖φ(x') − φ(x)‖², φ an encoder's features.

    It is 0 where the encoder sees nothing that tells an image from the picture, and 1 of a blank image in the picture's
    mean colour, so that distances by several encoders can be compared and added.

    Args:
        encoder: in evaluation mode: normalised (B, 3, h, w) -> `Features`, with `.mean` and `.std`.
        picture: (3, h, w), RGB in [0, 1], of the size that the encoder is to see.
        dense: compare place by place, in place of the pooled features: the layout, too, is to be the same.
    """

    def __init__(self, encoder: Any, picture: Tensor, *, dense: bool = False) -> None:
        self.encoder, self.dense, self.size = encoder, dense, picture.shape[1:]
        with torch.no_grad():
            blank = picture.mean((1, 2), keepdim=True).expand_as(picture)
            self.wanted, empty = self.features(torch.stack([picture, blank])).split(1)
            if not self.wanted.isfinite().all():
                raise UsageError("the encoder's features of the picture are not finite: give another encoder")
            # of a picture that is blank itself there is nothing to be a share of
            self.scale = torch.maximum((empty - self.wanted).square().mean(), 1e-6 * self.wanted.square().mean())

    def features(self, images: Tensor) -> Tensor:
        """(B, D), or (B, N, D) place by place, of images (B, 3, h, w) in [0, 1] of any size."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        found = self.encoder(normal(self.encoder, images))
        return (found.tokens if self.dense else found.pooled).float()

    def between(self, found: Tensor, wanted: Tensor) -> Tensor:
        """(B,), the distance of features (B, ...) to others (1, ...)."""
        return (found - wanted).square().flatten(1).mean(1) / self.scale

    def __call__(self, images: Tensor) -> Tensor:
        """(B,), the distance of images (B, 3, h, w) in [0, 1]; differentiable."""
        return self.between(self.features(images), self.wanted)


def normal(encoder: Any, images: Tensor) -> Tensor:
    """Images (B, 3, h, w) in [0, 1] as an encoder takes them."""
    mean, std = (torch.tensor(x).to(images)[:, None, None] for x in (encoder.mean, encoder.std))
    return (images - mean) / std
