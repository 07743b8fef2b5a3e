"""JEPA on clips, and what it is compared with (Sobal et al. 2022, arXiv:2211.10831)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.distributed import gather
from glocal.heads import projector as build_projector
from glocal.losses import Loss, covariance_penalty, info_nce, invariance, variance_hinge
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset
from glocal.views import Batch, Crop, Frames, Recipe


class JEPA(nn.Module):
    """From the code of a clip's first frame and the actions, a recurrent network predicts the codes of the next ones.

    What can be predicted best is what does not change: where a background stays the same throughout a clip, its code
    satisfies all terms, and what moves is forgotten. No loss shows that; the diagnosis of the run does. Needs: clips
    of `frames` frames (`dots`, or --fps), if you like with actions; batches from 32. Choose it to see what is learnt
    from time, with `objective="reconstruction"` where backgrounds stay. Expect, on a dot that moves over noise, the
    place by a linear probe: within half a pixel where the noise changes, no better than chance where it is fixed.

    Args:
        objective: what of the predictions is wanted: that they are the codes, which stay spread out ("vicreg"); that
            they are told from those of other clips ("simclr"); that the frames can be drawn from them
            ("reconstruction"); or nothing of them, but the action between two codes ("inverse").
        frames: of a sample.
        actions: numbers in an action; clips without actions have zeros.
        invariance_weight: of the mean squared difference between predictions and codes.
        variance_weight: of the hinge that keeps the standard deviation of each dimension at 1, at each time.
        covariance_weight: of the squared covariances, at each time.
        projector: widths of the layers before the contrast of "simclr".
        temperature: of that contrast.
    """

    title = "JEPA"
    paper = "Sobal et al. Joint Embedding Predictive Architectures Focus on Slow Features. 2022. arXiv:2211.10831"
    reads = "clips"
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"invariance_weight": 25.0, "variance_weight": 25.0},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        objective: Literal["vicreg", "simclr", "reconstruction", "inverse"] = "vicreg",
        frames: int = 17,
        actions: int = 2,
        invariance_weight: float = 4.08,
        variance_weight: float = 1.18,
        covariance_weight: float = 1.0,
        projector: tuple[int, ...] = (512, 512, 512),
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        dim, self.objective, self.actions, self.temperature = backbone.dim, objective, actions, temperature
        self.encoder = backbone
        self.weights = invariance_weight, variance_weight, covariance_weight
        if objective == "inverse":
            self.head = build_projector((2 * dim, dim, actions), norm=backbone.norm)
        else:
            self.predictor = nn.GRU(actions, dim, batch_first=True)
        if objective == "simclr":
            self.head = build_projector((dim, *projector), norm=backbone.norm)
        if objective == "reconstruction":
            self.head = _decoder(dim, image_size)
        whole = Crop(image_size, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0)
        self.recipe = Recipe((whole,) * frames, frames=Frames(frames))
        self.optimization = Optimization("adamw", lr=2e-3, weight_decay=1e-5)

    def forward(self, batch: Batch) -> Loss:
        codes = torch.stack([f.pooled for f in encode(self.encoder, batch.views, group="size")], 1)  # (B, T, D)
        action = batch.extra.get("action", codes.new_zeros(*codes.shape[:2], self.actions))[:, :-1]
        if self.objective == "inverse":
            pairs = torch.cat([codes[:, :-1], codes[:, 1:]], 2)
            return Loss.of({"action": F.mse_loss(self.head(pairs).float(), action)})
        predicted = self.predictor(action.to(codes.dtype), codes[None, :, 0].contiguous())[0]
        if self.objective == "reconstruction":
            frames = torch.stack([view.pixels for view in batch.views[1:]], 1)
            wrong = [F.mse_loss(self.decode(z).float(), frames) for z in (predicted, codes[:, 1:])]
            return Loss.of({"reconstruction": torch.stack(wrong).mean()})
        if self.objective == "simclr":
            guesses, found = (self.head(z).unbind(1) for z in (predicted, codes[:, 1:]))
            each = [info_nce(a, b, self.temperature) for a, b in zip(guesses, found, strict=True)]
            return Loss.of({"contrast": torch.stack(each).mean()})
        z, guess = (gather(x).transpose(0, 1) for x in (codes[:, 1:], predicted))  # (T - 1, B, D)
        terms = {"invariance": invariance(guess, z), "variance": variance_hinge(z), "covariance": covariance_penalty(z)}
        return Loss.of({name: w * term for w, (name, term) in zip(self.weights, terms.items(), strict=True)})

    def decode(self, codes: Tensor) -> Tensor:
        """Frames (..., 3, h, w), normalised, of codes (..., D)."""
        return self.head(codes.flatten(0, -2)).unflatten(0, codes.shape[:-1])


def _decoder(dim: int, image_size: int) -> nn.Sequential:
    """(B, D) -> (B, 3, image_size, image_size)."""
    side = -(-image_size // 4)
    layers: list[nn.Module] = [nn.Linear(dim, 32 * side**2), nn.Unflatten(1, (32, side, side))]
    for size, before, after in ((2 * side, 32, 16), (image_size, 16, 3)):
        layers += [nn.ReLU(inplace=True), nn.Upsample((size, size)), nn.Conv2d(before, after, 5, padding=2)]
    return nn.Sequential(*layers)
