"""Where the class token of a transformer looks."""

from typing import Any

from torch import Tensor

from glocal.backbones.backbone import Backbone
from glocal.backbones.cells import evaluating
from glocal.errors import UsageError


def class_attention(encoder: Backbone, pixels: Tensor) -> Tensor:
    """What share of its attention the class token gives each cell, in the last layer that it passes.

    That is self-attention in a vision transformer, class-attention in XCiT and CaiT.

    Args:
        encoder: used in eval mode.
        pixels: (B, 3, h, w) normalised.

    Returns:
        (B, heads, H, W). What a head lacks to a sum of 1 is for class and register tokens.

    Raises:
        UsageError: where there is no class token, or no attention of these kinds.
    """
    last = _last_attention(encoder)
    seen: list[Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    try:
        with evaluating(encoder):
            height, width = encoder(pixels).dense.shape[2:]
            q, k = _queries_and_keys(last, seen[0])
            weights = (q[:, :, :1] @ k.transpose(2, 3) * last.scale).softmax(-1)
    finally:
        hook.remove()
    return weights[:, :, 0, -height * width :].unflatten(2, (height, width))


def _last_attention(encoder: Backbone) -> Any:
    """timm's last layer of such attention."""
    from timm.models.cait import ClassAttn
    from timm.models.vision_transformer import Attention

    found = [module for module in encoder.model.modules() if isinstance(module, Attention | ClassAttn)]
    if not (found and encoder.traits.class_token):
        raise UsageError(f"{encoder.name} has no class token that attends to its cells; take a vision transformer")
    return found[-1]


def _queries_and_keys(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, heads, N, D) each, of tokens (B, N, D)."""
    heads = attention.num_heads
    if not hasattr(attention, "qkv"):
        q, k = (part(x).unflatten(2, (heads, -1)).transpose(1, 2) for part in (attention.q, attention.k))
        return q, k
    q, k, _ = attention.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attention.q_norm(q), attention.k_norm(k)
