"""NaViT: a vision transformer for photographs of any shape, many in one batch (Dehghani et al. 2023, arXiv:2307.06304).

Each photograph keeps its shape and is a row of patches of its own length. The rows of a batch lie one after the other
as one long row of tokens, without padding; attention alone knows where one photograph ends (`within`). Positions are
factorised: a token's is the sum of one vector for its column and one for its row, both as numbers of patches (absolute)
and as fractions of the photograph's sides. As in the paper, queries and keys are normalised, normalisations, queries,
keys and values have no bias, and a learnt query pools each photograph. Normalisations centre, which those of ViT-22B
do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glocal.features import Sequences

PATCH = 8
SIDE = 128  # of the photographs that it is made for: the root of their area
FARTHEST = 64  # patches, beyond which absolute positions are no longer told apart
STEPS = 16  # places along a side that have a vector of their own; between them it is interpolated
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LayerNorm = partial(nn.LayerNorm, bias=False, eps=1e-6)


@dataclass(frozen=True)
class Rows:
    """How a row of tokens divides into photographs: as many tokens of each as `lengths` says, equal ones together."""

    lengths: list[int]

    @cached_property
    def equal(self) -> list[tuple[int, int]]:
        """(number of photographs, their length), one for each length."""
        return [(len([*run]), length) for length, run in groupby(self.lengths)]

    @cached_property
    def ends(self) -> Tensor:
        """Where each begins, and the end of the last, (B + 1,) int32."""
        return F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).int()


def takes_lengths(q: Tensor) -> bool:
    """Whether there is a kernel for rows of different lengths: on CUDA from Ampere on, in half precision."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return q.is_cuda and half and torch.cuda.get_device_capability(q.device) >= (8, 0)


def within(q: Tensor, k: Tensor, v: Tensor, rows: Rows | None) -> Tensor:
    """Attention of each photograph's queries to its own keys and values only; the result has the shape of `q`.

    By a kernel for rows of different lengths where there is one, else by one call for all photographs of a length:
    nothing is padded, and no score is computed that a mask would hide.

    Args:
        q: (T, heads, d), the tokens of one photograph after the other, or (B, heads, d), one query for each.
        k, v: (T, heads, d).
        rows: how these divide. None: all are (B, N, heads, d), of one shape.
    """
    if rows is None:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    single = len(q) == len(rows.lengths)
    if takes_lengths(q):
        from torch.nn.attention.varlen import varlen_attn

        ends = rows.ends.to(q.device, non_blocking=True)
        asking = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device) if single else ends
        longest = max(rows.lengths)
        found = varlen_attn(q, k, v, asking, ends, 1 if single else longest, longest)
        assert isinstance(found, Tensor)  # asked for nothing else
        return found
    sizes = [number * length for number, length in rows.equal]
    asking_sizes = [number for number, _ in rows.equal] if single else sizes
    split = zip(rows.equal, q.split(asking_sizes), k.split(sizes), v.split(sizes), strict=True)
    parts = []
    for (number, _), *of_length in split:
        a, b, c = (x.unflatten(0, (number, -1)).transpose(1, 2) for x in of_length)
        parts.append(F.scaled_dot_product_attention(a, b, c).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, of (B, N, D), or of a row of tokens (T, D)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = LayerNorm(dim // heads), LayerNorm(dim // heads)

    def forward(self, x: Tensor, rows: Rows | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # under autocast norms give float32
        return self.proj(within(q, k, v, rows).flatten(-2))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.attn = LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.mlp = LayerNorm(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, rows: Rows | None) -> Tensor:
        x = x + self.attn(self.norm1(x), rows)
        return x + self.mlp(self.norm2(x))


class AttentionPool(nn.Module):
    """What a learnt query finds in the tokens of a photograph, and a perceptron after it."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, dim // heads))
        self.kv, self.proj = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, dim)
        self.norm, self.mlp = LayerNorm(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, rows: Rows | None) -> Tensor:
        """(B, D) of tokens (B, N, D), or of a row of them (T, D)."""
        k, v = self.kv(x).unflatten(-1, (2, *self.query.shape)).unbind(-3)
        q = self.query.to(k.dtype).expand(x.shape[0] if rows is None else len(rows.lengths), -1, -1)
        found = within(q[:, None] if rows is None else q, k, v, rows)
        pooled = self.proj(found.reshape(q.shape[0], -1))
        return pooled + self.mlp(self.norm(pooled))


class Positions(nn.Module):
    """A vector for each patch, the sum of those of its column and its row, absolute and as fractions of the sides."""

    def __init__(self, dim: int):
        super().__init__()
        self.absolute = nn.ParameterList(nn.Parameter(torch.empty(FARTHEST, dim)) for _ in "xy")
        self.fraction = nn.ParameterList(nn.Parameter(torch.empty(STEPS, dim)) for _ in "xy")

    def forward(self, positions: Tensor, sides: Sequence[int | Tensor]) -> Tensor:
        """(..., D) of patches at (..., 2), (x, y), in photographs of so many columns and rows, (...) each."""
        parts = []
        for axis, side in enumerate(sides):
            at = positions[..., axis]
            parts.append(F.embedding(at.clamp(max=FARTHEST - 1), self.absolute[axis]))
            table = self.fraction[axis]
            place = ((at.to(table.dtype) + 0.5) * STEPS / side - 0.5).clamp(0, STEPS - 1)
            low = place.long()
            high = (low + 1).clamp(max=STEPS - 1)
            parts.append(torch.lerp(F.embedding(low, table), F.embedding(high, table), (place - low)[..., None]))
        return parts[0] + parts[1] + parts[2] + parts[3]


class NaViT(nn.Module):
    """The network, of patches of 8 pixels; what timm's models have, and `forward_packed`.

    Args:
        dim: D, the width of a token.
        heads: of attention, each of D / heads numbers.
        depth: number of blocks.
    """

    dynamic_img_size = True
    grad_checkpointing = False

    def __init__(self, dim: int, heads: int, depth: int = 12):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": MEAN, "std": STD}
        self.embed, self.positions = nn.Linear(3 * PATCH**2, dim), Positions(dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.pool = LayerNorm(dim), AttentionPool(dim, heads)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                trunc_normal_(parameter, std=0.02)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Its layers, first to last, as timm's optimisers count them."""
        return {"stem": r"^embed|^positions", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^pool", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks are computed again for gradients."""
        self.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised tokens (B, N, D), row by row, of photographs of one shape, (B, 3, h, w)."""
        height, width = x.shape[2:]
        assert height % PATCH == width % PATCH == 0, f"its sides are to be multiples of {PATCH}"
        patches = x.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 3, 5, 1)
        rows, columns = height // PATCH, width // PATCH
        y, x_ = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
        at = torch.stack([x_.expand(rows, -1), y[:, None].expand(-1, columns)], -1).flatten(0, 1)
        return self._tokens(patches.flatten(1, 2).flatten(2), at, (columns, rows), None)

    def forward_head(self, tokens: Tensor, pre_logits: bool = True) -> Tensor:
        """(B, D) of tokens (B, N, D)."""
        return self.pool(tokens, None)

    def forward_packed(self, packed: Sequences) -> tuple[Tensor, Tensor]:
        """Normalised tokens (S, L, D), 0 where nothing is, and pooled photographs (B, D)."""
        image, device = packed.image.flatten(), packed.device
        counts = image[image >= 0].bincount(minlength=len(packed))
        order = counts.argsort(descending=True, stable=True)  # photographs of a length come side by side
        rank = order.argsort()
        at = torch.where(image < 0, len(order), rank[image]).argsort(stable=True)[: int(counts.sum())]
        sides = packed.grids[image[at]].to(device, non_blocking=True).unbind(1)[::-1]
        at, rank = at.to(device, non_blocking=True), rank.to(device, non_blocking=True)
        rows = Rows(counts[order].tolist())
        patches, positions = packed.patches.flatten(0, 1)[at], packed.positions.flatten(0, 1)[at]
        x = self._tokens(patches, positions, sides, rows)
        tokens = x.new_zeros(len(image), x.shape[1]).index_copy(0, at, x)
        return tokens.unflatten(0, tuple(packed.image.shape)), self.pool(x, rows)[rank]

    def _tokens(self, patches: Tensor, positions: Tensor, sides: Sequence[int | Tensor], rows: Rows | None) -> Tensor:
        x = self.embed(patches) + self.positions(positions, sides)
        for block in self.blocks:
            x = checkpoint(block, x, rows, use_reentrant=False) if self.grad_checkpointing else block(x, rows)
        return self.norm(x)


navit_tiny = partial(NaViT, 192, 3)  # as wide as DeiT-Ti: 5.8 million parameters
navit_small = partial(NaViT, 384, 6)  # as DeiT-S
navit_base = partial(NaViT, 768, 12)  # as ViT-B
