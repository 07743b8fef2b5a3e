"""Encoders of text: a transformer over word pieces behind the same `Features`, and where its word pieces come from."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.features import Features

LENGTH = 512
"""Word pieces of a text that are read, its beginning and end marked; the rest of a longer one is not."""
PLACES = 0.1
"""Size of the positions' waves beside that of word pieces, 1."""
VOCABULARY = 8000
"""Word pieces that are learnt, at most."""


class TextModel(nn.Module):
    """A transformer (pre-norm, sinusoidal positions) over the word pieces of its tokenizer, which is kept as a buffer.

    It begins as a bag of words: positions count little beside them, and what the layers add is near 0. The last norm's
    gain begins at 1/√dim, so that dot products of means begin at 1 at most, as temperatures expect.

    Args:
        dim: width D.
        depth: layers.
        heads: of the attention.
    """

    tokenizer: Tensor

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("tokenizer", torch.zeros(0, dtype=torch.uint8))
        self.embed = nn.Embedding(3, dim)
        options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layers = [nn.TransformerEncoderLayer(dim, heads, 4 * dim, **options) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, dim**-0.5)
        for layer in layers:
            nn.init.normal_(layer.self_attn.out_proj.weight, std=1e-3)
            nn.init.normal_(layer.linear2.weight, std=1e-3)

    def adopt(self, tokenizer: str) -> None:
        """Read by this tokenizer, JSON as `tokenizers` writes it, from now on: new vectors for its word pieces.

        Three more than it has are the model's own: what fills up a batch, the beginning and the end of a text.
        """
        stored = np.frombuffer(tokenizer.encode(), np.uint8).copy()
        self.tokenizer = torch.from_numpy(stored).to(self.tokenizer.device)
        before = self.embed.weight
        new = nn.Embedding(_tokenizer(tokenizer).get_vocab_size() + 3, self.dim).to(before.device, before.dtype)
        self.embed = new.requires_grad_(before.requires_grad)

    @property
    def vocabulary(self) -> str:
        """The tokenizer, as `adopt` takes it; "" before there is one."""
        return _text_of(self.tokenizer)

    @property
    def filler(self) -> int:
        """The token that fills up a batch; all word pieces are below it, the marks of a text above."""
        return self.embed.num_embeddings - 3

    def split(self, texts: list[str]) -> list[np.ndarray]:
        """The word pieces of texts, (L,) int64 each; none of an empty one."""
        if not len(self.tokenizer):
            raise UsageError("this encoder has no tokenizer yet: train it, or let model.adopt(...) give it one")
        return pieces_of(self.vocabulary, texts)

    def pack(self, rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Word pieces of B texts as tokens (B, L), beginning and end marked, and a mask (B, L) of where they are."""
        rows, filler = [row[: LENGTH - 2] for row in rows], self.filler
        tokens = np.full((len(rows), max(map(len, rows)) + 2), filler, np.int64)
        for n, row in enumerate(rows):
            tokens[n, : len(row) + 2] = [filler + 1, *row, filler + 2]
        found = torch.from_numpy(tokens)
        return found, found != filler

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) of tokens (B, L) and mask (B, L)."""
        x = self.embed(tokens) + PLACES * _places(tokens.shape[1], self.dim, tokens.device)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return self.norm(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}tokenizer", self.tokenizer)
        if not torch.equal(stored.cpu(), self.tokenizer.cpu()):
            self.adopt(_text_of(stored))
        super()._load_from_state_dict(state_dict, prefix, *args)


def checkpoint_filter_fn(state: dict[str, Tensor], model: TextModel) -> dict[str, Tensor]:
    """What `load_weights` asks an architecture: the model first adopts the tokenizer that the weights are for."""
    model.adopt(_text_of(state["tokenizer"]))
    return state


class TextBackbone(nn.Module):
    """A `TextModel` as a map from tokens to `Features`. Made by `build_backbone`.

    Attributes:
        model: see there.
        reads: "text".
        dim: D, width of `tokens` and `pooled`.
        norm: "layer".
        config: arguments with which `build_backbone(**config)` makes it again as it was before training.
    """

    reads, norm, family, pool, image_size = "text", "layer", "vit", "mean", 0

    def __init__(self, model: TextModel, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.name, self.dim = model, str(arguments["name"]), model.dim
        self.config = {**arguments, "pool": self.pool}
        self.pretrained: bool | str = arguments["pretrained"]

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """Encode a batch of texts.

        Args:
            tokens: (B, L) int64.
            mask: (B, L) bool, false where a text has ended.

        Returns:
            A vector for each word piece, at positions 0, 1, ... (B, L, 1), and their mean over those that are there.
        """
        words = self.model(tokens, mask)
        weight = mask.to(words.dtype)[..., None]
        positions = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)[None, :, None]
        pooled = (words * weight).sum(1) / weight.sum(1)
        return Features(pooled, words, positions.expand(len(tokens), -1, -1), mask=mask)

    @torch.no_grad()
    def read(self, texts: list[str], batch_size: int = 64) -> Tensor:
        """The pooled features (N, D) of texts, on the CPU. Those of alike lengths are read together."""
        rows = self.model.split(texts)
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
        found = torch.empty(len(rows), self.dim)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens, mask = (
                part.to(self.model.embed.weight.device) for part in self.model.pack([rows[n] for n in chosen])
            )
            found[chosen] = self(tokens, mask).pooled.float().cpu()
        return found


def text_small() -> TextModel:
    """4 layers of width 256, 4 heads: 5 M parameters with 8,000 word pieces."""
    return TextModel(256, 4, 4)


def learn_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> str:
    """A tokenizer of word pieces, learnt by byte-pair encoding of lower-case texts, as JSON."""
    tokenizers = _library()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made.to_str()


def pieces_of(tokenizer: str, texts: list[str]) -> list[np.ndarray]:
    """The word pieces of texts by a tokenizer, JSON as `tokenizers` writes it: (L,) int64 each."""
    found = _tokenizer(tokenizer).encode_batch(texts, add_special_tokens=False)
    return [np.array(encoding.ids, np.int64) for encoding in found]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UsageError("texts need tokenizers: pip install 'glocal[text]'") from error
    return tokenizers


def _text_of(tokenizer: Tensor) -> str:
    return tokenizer.cpu().numpy().tobytes().decode()


@lru_cache(4)
def _tokenizer(text: str) -> Any:
    try:
        return _library().Tokenizer.from_str(text)
    except UsageError:
        raise
    except Exception as error:  # the library's own, of no narrower class
        raise UsageError(f"this is no tokenizer that the library tokenizers can read: {error}") from error


@lru_cache(8)
def _places(length: int, dim: int, device: torch.device) -> Tensor:
    """(L, D): sines and cosines of the position at wavelengths from 2π to 20,000π (Vaswani et al. 2017)."""
    with torch.inference_mode(False):
        rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-np.log(10_000.0) / dim))
        angle = torch.arange(length, device=device)[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
