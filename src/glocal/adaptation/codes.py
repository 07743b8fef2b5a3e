"""Codes: a name is decoded from the map of an image, piece by piece (GER-ALD, Caron et al. 2024, arXiv:2403.02041)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.adaptation.classify import Classify
from glocal.adaptation.codebook import Codebook, Trie
from glocal.adaptation.heads import Labelled, Standardised
from glocal.adaptation.ranked import TOP, Ranked
from glocal.data.source import ImageSource
from glocal.errors import UsageError, did_you_mean
from glocal.features import Features
from glocal.run import Run

WIDTH, LAYERS = 256, 2
SMOOTHING = 0.1
"""Of the targets, as when the published decoder is fine-tuned."""
BEAM = 10
"""Beginnings of codes that are followed at once."""
REFUSED = 0.05
"""The share of what it names rightly, of the images that it is checked on, that is to be called none of these."""
_WAVES = 8


class Decoder(nn.Module):
    """A transformer that says how likely each word piece is to come next in a code, looking at the tokens of an image.

    Args:
        dim: D of the tokens.
        size: V word pieces.
        length: L of a code.
    """

    waves: Tensor

    def __init__(self, dim: int, size: int, length: int) -> None:
        super().__init__()
        self.standardised, self.look = Standardised(dim), nn.Linear(dim + 4 * _WAVES, WIDTH)
        self.begin, self.place = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(length, WIDTH))
        self.pieces = nn.Embedding(size, WIDTH)
        nn.init.normal_(self.pieces.weight, std=WIDTH**-0.5)
        options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerDecoderLayer(WIDTH, 4, 4 * WIDTH, **options)
        self.layers = nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(WIDTH))
        self.register_buffer("waves", torch.pi * 2.0 ** (torch.arange(_WAVES) - 1), persistent=False)

    def seen(self, features: Features) -> Tensor:
        """What it looks at, (B, N, W): the tokens, and where they are."""
        places = features.positions / features.positions.amax(-2, keepdim=True).clamp_min(1)
        angles = (places[..., None] * self.waves).flatten(-2)
        where = torch.cat([angles.sin(), angles.cos()], -1).expand(len(features.tokens), -1, -1)
        return self.look(torch.cat([self.standardised(features.tokens.float()), where], 2))

    def forward(self, seen: Tensor, codes: Tensor) -> Tensor:
        """Logits (B, b, t, V) of the pieces 1 ... t of b codes of each image, each given those before.

        Args:
            seen: (B, N, W).
            codes: (B, b, t - 1), their first pieces.
        """
        batch, beams, length = codes.shape[0], codes.shape[1], codes.shape[2] + 1
        begin = self.begin.expand(batch, beams, 1, WIDTH)
        x = torch.cat([begin, self.pieces(codes)], 2) + self.place[:length]
        own = torch.eye(beams, device=x.device).kron(torch.ones(length, length, device=x.device).tril())
        found = self.layers(x.flatten(1, 2), seen, tgt_mask=own == 0)
        return (found @ self.pieces.weight.T).unflatten(1, (beams, length))


@torch.no_grad()
def beam_search(decoder: Decoder, seen: Tensor, trie: Trie, beam: int, top: int) -> tuple[Tensor, Tensor]:
    """The codes that are likeliest among those that exist, and the logarithms of their probabilities, (B, top) each.

    A probability is the product of those of its pieces; what they lack to 1 is that of codes that no name has. With a
    beam as wide as there are codes these are all scored.
    """
    node = torch.zeros(len(seen), 0, dtype=torch.int64, device=seen.device)
    score, codes = seen.new_zeros(len(seen), 1), torch.zeros(len(seen), 1, 0, dtype=torch.int64, device=seen.device)
    for depth, pieces in enumerate(trie.pieces):
        each = decoder(seen, codes)[:, :, -1].float().log_softmax(-1)  # (B, b, V)
        if depth == 0:
            children = torch.arange(len(pieces), device=seen.device).expand(len(seen), 1, -1)
            there = torch.ones_like(children, dtype=torch.bool)
        else:
            first = trie.first[depth - 1]
            number = first[node + 1] - first[node]
            step = torch.arange(int(number.max()), device=seen.device)
            children, there = first[node][..., None] + step, step < number[..., None]
            children = children.clamp_max(len(pieces) - 1)
        found = score[..., None] + each.gather(2, pieces[children])
        found = found.masked_fill(~there, -torch.inf).flatten(1)
        score, best = found.topk(min(beam, found.shape[1]), dim=1)
        before = best // children.shape[2]
        node = children.flatten(1).gather(1, best)
        codes = torch.cat([codes.gather(1, before[..., None].expand(-1, -1, depth)), pieces[node][..., None]], 2)
    return trie.rows[node[:, :top]], score[:, :top]


class Codes(Ranked):
    """Which of many names an image has, also such as no image to learn from had: these are made of the same pieces."""

    needs = "labels"
    main = "top1"
    options = ("names",)

    least: Tensor

    def __init__(self, dim: int, classes: list[str], names: str | None = None) -> None:
        nn.Module.__init__(self)
        self.classes = list(classes)
        kept = names is not None and names.endswith(".json")
        self.book = Codebook.open(names) if kept else Codebook.of(self.classes)  # type: ignore[arg-type]
        self.decoder = Decoder(dim, self.book.size, self.book.codes.shape[1])
        self.register_buffer("least", torch.zeros(()))
        self.choose(self.classes)

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """The images that have a label, which is to be one of the names."""
        there = {source.classes[k] for k in np.unique(source.labels) if k >= 0} if source.classes else set()  # type: ignore[arg-type]
        if classes is not None and (unknown := sorted(there - {*classes})):
            hint = did_you_mean(unknown[0], classes[:100_000])
            raise UsageError(f"{source.name} has images of '{unknown[0]}', which is not among the names{hint}")
        return Classify.read(source, classes)

    def choose(self, names: list[str]) -> None:
        """Answer with one of these names from now on; new ones get codes, all others keep theirs."""
        self.classes, self.book = list(names), self.book.extended(names)
        codes = self.book.codes[self.book.rows(names)]
        self.codes, self.trie = torch.from_numpy(codes), Trie.of(codes)

    def keep(self, run: Run) -> None:
        """Write the codes into the run's folder."""
        self.book.save(run.kept["names"])

    def looked_at(self, features: Features) -> Tensor:
        """The features of some 16 cells of each image, (M, D)."""
        return features.tokens[:, :: max(1, features.tokens.shape[1] // 16)].flatten(0, 1)

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """Knowing nothing."""
        self.decoder.standardised.take(seen)

    def forward(self, features: Features) -> Tensor:
        """What the decoder looks at (B, N, W); in evaluation mode numbers and log-probabilities of names (B, k, 2)."""
        seen = self.decoder.seen(features)
        if self.training:
            return seen
        self.trie = self.trie.to(seen.device)
        rows, score = beam_search(self.decoder, seen, self.trie, BEAM, min(TOP, len(self.classes)))
        return torch.stack([rows.to(score), score], 2)

    def losses(self, logits: Tensor, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the code of each image, a mean over its pieces (B,), and its class (B,)."""
        self.codes = self.codes.to(target.device)
        codes = self.codes[target]
        found = self.decoder(logits, codes[:, None, :-1])[:, 0].float()
        each = F.cross_entropy(found.mT, codes, reduction="none", label_smoothing=SMOOTHING)
        return each.mean(1), target

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """The likeliest names and their probabilities, (k, 2)."""
        return torch.stack([logits[:, 0], logits[:, 1].exp()], 1).cpu().numpy()

    def settle(self, answers: Iterable[tuple[int, np.ndarray]], source: ImageSource) -> None:
        """Set the probability under which it says "none of these", from answers about images with a known name."""
        assert source.labels is not None
        sure = [answer[0, 1] for i, answer in answers if answer[0, 0] == source.labels[i]]
        self.least.fill_(float(np.quantile(sure, REFUSED)) if sure else 0.0)

    @property
    def threshold(self) -> float:  # type: ignore[override]
        """See `Ranked`."""
        return float(self.least)
