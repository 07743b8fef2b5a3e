"""Recipes of the published methods."""

from __future__ import annotations

import pytest

from glocal.backbones import build_backbone
from glocal.methods import method_class
from glocal.views import Crop, Recipe, multi_crop, simclr_views, two_views


def test_a_crop_by_default_is_inceptions():
    assert (Crop(224).scale, Crop(224).ratio, Crop(224).flip) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5)


def test_two_views_are_the_asymmetric_pair():
    common = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter": 0.8, "gray": 0.2}
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "sigma": (0.1, 2.0)}
    assert two_views(224) == Recipe(
        (Crop(224, **common, **colour, blur=1.0, solarize=0.0), Crop(224, **common, **colour, blur=0.1, solarize=0.2))
    )


def test_multi_crop_alternates_and_keeps_each_kinds_scale():
    views = multi_crop(224, 6, 96).views
    assert [v.size for v in views] == [224] * 2 + [96] * 6
    assert [v.scale for v in views] == [(0.4, 1.0)] * 2 + [(0.08, 0.4)] * 6
    assert [(v.blur, v.solarize) for v in views] == [(1.0, 0.0), (0.1, 0.2)] * 4
    odd = multi_crop(64, 1, 32, large_scale=(0.5, 1.0), small_scale=(0.1, 0.5)).views
    assert [(v.size, v.scale, v.blur) for v in odd] == [(64, (0.5, 1), 1), (64, (0.5, 1), 0.1), (32, (0.1, 0.5), 1)]


def test_blur_is_as_strong_for_small_images_as_the_papers_at_224():
    assert {view.sigma for view in multi_crop(224, 2, 96).views} == {(0.1, 2.0)}
    for views in (two_views(112).views, simclr_views(112).views, multi_crop(112, 2, 48).views):
        assert {view.sigma for view in views} == {(0.05, 1.0)}


@pytest.mark.parametrize("name", ["dino", "msn", "loca"])
def test_methods_with_views_of_their_own_blur_alike(name):
    options = {"outputs": 8, "hidden": 8} if name == "dino" else {}
    method = method_class(name)(build_backbone("test_vit", image_size=112), image_size=112, **options)
    assert {view.sigma for view in method.recipe.views} == {(0.05, 1.0)}


def test_simclrs_views_are_alike_and_twice_as_colourful():
    colour = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "jitter": 0.8, "gray": 0.2}
    crop = Crop(96, scale=(0.2, 1.0), **colour, blur=0.5, solarize=0.0, sigma=(0.1 * 96 / 224, 2 * 96 / 224))
    assert simclr_views(96, (0.2, 1.0)) == Recipe((crop, crop))
    assert [view.scale for view in simclr_views(96).views] == [(0.08, 1.0)] * 2
