"""The vision transformers of ViT-22B (Dehghani et al., ICML 2023, arXiv:2302.05442).

Attention and MLP stand side by side, behind one normalisation: y = LN(x), x + Attention(y) + MLP(y), with one matrix
into both and one out of both. Queries and keys are normalised, so that attention logits cannot grow without bound.
Normalisations neither centre nor shift (RMSNorm, Zhang and Sennrich 2019); queries, keys and values have no bias. In
place of the authors' attention pooling, tokens are averaged: their count of parameters does not hold the pooling
either.
"""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import RmsNorm
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer


def vit22b(
    width: int,
    depth: int,
    heads: int,
    patch: int,
    *,
    num_classes: int = 0,
    img_size: int | None = None,
    dynamic_img_size: bool = True,
    drop_path_rate: float = 0.0,
    qk_norm: bool = True,
) -> Any:
    """timm's vision transformer of timm's parallel blocks, initialised as there."""
    model: Any = VisionTransformer(
        img_size=img_size or 224,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=num_classes,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        qkv_bias=False,
        qk_norm=qk_norm,
        dynamic_img_size=dynamic_img_size,
        drop_path_rate=drop_path_rate,
        norm_layer=RmsNorm,
        block_fn=partial(ParallelScalingBlock, fuse_out_proj=True),  # type: ignore[arg-type]
    )
    model.pretrained_cfg = {"input_size": (3, 224, 224), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return model


vit22b_tiny = partial(vit22b, 192, 12, 3, 16)
vit22b_small = partial(vit22b, 384, 12, 6, 16)
vit22b_22b = partial(vit22b, 6144, 48, 48, 14)
