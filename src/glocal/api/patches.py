"""One encoder at one patch, or at all."""

from pathlib import Path
from typing import Literal

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.run import Run


def with_patches(
    encoder: str | Backbone, opened: Backbone, patch: int | Literal["all"] | None, image_size: int | None
) -> list[tuple[str, Backbone]]:
    """What to call it, and the encoder with patches of that side; as it is, and called "", for None.

    Args:
        encoder: as it was asked for; a run knows which patches it was trained with.
        opened: the encoder.
        patch: in pixels.
        image_size: of the images to come; None: the encoder's own.

    Raises:
        UsageError: for a patch that the encoder or the image does not take.
    """
    if patch is None:
        return [("", opened)]
    side = image_size or opened.image_size
    sides = (
        [patch]
        if patch != "all"
        else _trained_with(encoder)
        or [patch for patch in opened.traits.patches if 8 <= patch <= side // 2 and side % patch == 0]
    )
    views = {each: opened.at(each) for each in sides or [opened.stride]}
    for each, view in views.items():
        if reason := view.refusal(side):
            raise UsageError(f"--patch {each}: {reason}")
    return [(f"patch {each}", view) for each, view in views.items()]


def _trained_with(encoder: str | Backbone) -> list[int]:
    """The patches of a run, or of the one that a file lies in; none where that is not known."""
    if not isinstance(encoder, str):
        return []
    run = Run(Path(encoder).parent if Path(encoder).is_file() else encoder)
    return sorted(run.encoder().get("extra", {}).get("patches", []))
