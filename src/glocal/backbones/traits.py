"""What an architecture can do, as data."""

from functools import cached_property
from typing import Any

from glocal.backbones.dropping import can_drop
from glocal.errors import UsageError


class Traits:
    """What an architecture can do beside encoding whole images of its own size; each is found out when first asked for.

    It is read off the timm model, or tried on it; a model of another kind says of itself what it can: by an attribute
    `patches` (see `FlexiViT`), by a method `forward_packed`.
    """

    class_token: bool
    """Has a token that stands for the whole image."""

    def __init__(self, backbone: Any, *, class_token: bool) -> None:
        """Those of a `Backbone`, which knows this class and need not be known here."""
        self._backbone, self.class_token = backbone, class_token

    @cached_property
    def any_size(self) -> bool:
        """Takes images of other sizes, if perhaps only those that its patches divide: one larger by a cell is tried."""
        stride = self._backbone.stride
        return self._backbone.refusal((self._backbone.image_size // stride + 1) * stride) is None

    @property
    def drops_patches(self) -> bool:
        """Can be run on some of an image's patches."""
        return can_drop(self._backbone.model)

    @property
    def packs(self) -> bool:
        """Takes images of several shapes in one sequence."""
        return hasattr(self._backbone.model, "forward_packed")

    @property
    def patches(self) -> range:
        """Sides in pixels of the patches that `Backbone.patch` may be set to; empty where they are of one size."""
        return getattr(self._backbone.model, "patches", range(0))

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Tags of the released weights that timm has: "a1_in1k" of resnet50.a1_in1k."""
        import timm

        architecture = self._backbone.name.partition(".")[0]
        return tuple(name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*"))

    @cached_property
    def receptive_field(self) -> int | None:
        """Side in pixels of the square that one cell sees; None where that is the whole image, or too large to tell."""
        from glocal.backbones.receptive_field import receptive_field

        if self._backbone.family == "vit":
            return None
        try:
            return receptive_field(self._backbone).size
        except UsageError:
            return None
