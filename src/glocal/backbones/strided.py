"""The discriminator of DC-GAN as a backbone: strided convolutions and leaky units, no pooling, no normalisation."""

from functools import partial

from torch import Tensor, nn


class Strided(nn.Module):
    """Convolutions of 4×4 pixels and stride 2 (Radford et al. 2016, arXiv:1511.06434), without their BatchNorm.

    Args:
        widths: channels after each.
        num_classes: of a linear classifier, 0 for none.
    """

    def __init__(self, widths: tuple[int, ...], *, num_classes: int = 0) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        channels = (3, *widths)
        convs = [nn.Conv2d(before, after, 4, 2, 1) for before, after in zip(channels, widths, strict=False)]
        self.convs = nn.ModuleList(convs)
        self.num_features, self.num_classes = widths[-1], num_classes
        self.fc: nn.Module = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = nn.functional.leaky_relu(conv(x), 0.2)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


strided_small = partial(Strided, (32, 64, 128, 256))  # .7 M parameters
strided_base = partial(Strided, (64, 128, 256, 512))  # 2.8 M
