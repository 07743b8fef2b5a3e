"""How an image becomes views: geometry per image, appearance per batch."""

from glocal.views.appearance import Appearance
from glocal.views.cache import PixelCache, cache_folder, worth_caching
from glocal.views.loader import Loader, ViewLoader
from glocal.views.packing import pack
from glocal.views.plain_images import EpochPlan, PlainImages
from glocal.views.recipe import (
    Crop,
    Frames,
    Packing,
    Recipe,
    Span,
    Support,
    blur_at,
    multi_crop,
    simclr_views,
    two_views,
)  # fmt: skip
from glocal.views.text import TextLoader
from glocal.views.view import Batch, TokenView, View, grid_centers

__all__ = [
    "Appearance", "Batch", "Crop", "EpochPlan", "Frames", "Loader", "Packing", "PixelCache", "PlainImages", "Recipe",
    "Span", "Support", "TextLoader", "TokenView", "View", "ViewLoader", "blur_at", "cache_folder", "grid_centers",
    "multi_crop", "pack", "simclr_views", "two_views", "worth_caching",
]  # fmt: skip
