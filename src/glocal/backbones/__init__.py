"""Vision encoders behind one door."""

from glocal.backbones.backbone import Backbone
from glocal.backbones.build import build_backbone, list_backbones
from glocal.backbones.encoder import load_encoder, save_encoder
from glocal.backbones.traits import Traits

__all__ = ["Backbone", "Traits", "build_backbone", "list_backbones", "load_encoder", "save_encoder"]
