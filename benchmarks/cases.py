"""What is trained when training is timed."""

from __future__ import annotations

from dataclasses import dataclass

from glocal.methods.published import width_for


@dataclass(frozen=True)
class Case:
    """A method on a backbone; everything that both libraries are told alike.

    Attributes:
        method: "vicreg" or "vicregl".
        backbone: a timm name.
        image_size: side of the two crops, pixels.
        batch: photographs per step.
        stride: of the map where it is not the backbone's own.
        cells: side of the square map.
        compile: whether to measure Glocal with torch.compile too.
        seconds: how long to measure, per round.
        target_times_lightly: how many times lightly's rate we mean to reach; None: not said.
        target_efficiency: the share of the resident rate that we mean to reach; None: not said.
    """

    method: str
    backbone: str
    image_size: int
    batch: int
    cells: int
    stride: int | None = None
    compile: bool = False
    seconds: float = 4.0
    target_times_lightly: float | None = None
    target_efficiency: float | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.backbone} {self.image_size} px"

    @property
    def width(self) -> int:
        """Of the projector's three layers, as for small data."""
        return width_for(self.batch)

    @property
    def local_width(self) -> int:
        """Of the local projector's three layers."""
        return self.width // 4

    @property
    def matches(self) -> int:
        """Kept per map."""
        return max(1, round(0.4 * self.cells**2))

    @property
    def options(self) -> dict:
        """The method's options."""
        if self.method == "vicreg":
            return {"projector": (self.width,) * 3}
        return {
            "projector": (self.width,) * 3,
            "local_projector": (self.local_width,) * 3,
            "matches": (self.matches, self.matches),
        }


R18 = Case("vicreg", "resnet18", 96, 64, 3, seconds=8, target_times_lightly=1.8, target_efficiency=0.85)
R18_LOCAL = Case(
    "vicregl", "resnet18", 96, 64, 6, stride=16, seconds=8, target_times_lightly=1.8, target_efficiency=0.85
)
CASES = {
    "full": (
        R18,
        R18_LOCAL,
        Case("vicreg", "resnet50", 224, 16, 7, target_efficiency=0.95),
        Case("vicregl", "resnet50", 224, 16, 7, target_efficiency=0.95),
        Case("vicreg", "vit_small_patch16_224", 224, 16, 14, compile=True),
        Case("vicregl", "vit_small_patch16_224", 224, 16, 14, compile=True),
    ),
    "smoke": (
        Case("vicreg", "test_resnet", 32, 8, 1, seconds=0, target_times_lightly=1.8, target_efficiency=0.85),
        Case("vicregl", "test_vit", 64, 4, 4, seconds=0),
    ),
}
