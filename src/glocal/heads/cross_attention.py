"""A transformer block in which tokens look at other tokens."""

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttentionBlock(nn.Module):
    """x ← x + attention(LN(x), LN(context)); x ← x + MLP(LN(x)): the decoder of LOCA (Caron et al. 2024)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_context, self.norm_mlp = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Tokens (B, N, D) that have looked at those of the context (B, M, D), (B, N, D)."""
        split = lambda tokens: tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = split(self.query(self.norm_queries(x)))
        key, value = (split(part) for part in self.key_value(self.norm_context(context)).chunk(2, dim=-1))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.mlp(self.norm_mlp(x))
