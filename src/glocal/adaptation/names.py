"""Names: an image and a text find each other, after a look at what is like them in a memory of images with captions.

RECO, retrieval-enhanced contrastive learning (Iscen et al. 2023, arXiv:2306.07196). There both towers are CLIP's; here
any encoder of images and any of texts, which linear maps bring together.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.adaptation.classify import _labels
from glocal.adaptation.heads import Labelled, Standardised
from glocal.adaptation.ranked import TOP, Ranked
from glocal.data import Subset
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.extract import extract
from glocal.features import Features
from glocal.heads.neighbour_fusion import SCALE, NeighbourFusion
from glocal.language.readers import Reader, open_reader
from glocal.losses import contrast_pairs
from glocal.run import Run

DUPLICATE = 0.98
"""Cosine from which on images are one: a pair is not shown itself, under any name, while it learns."""
RIDGE = 1.0
"""Of the regression from features to texts that the map of images begins as, beside their mean variance."""
_BLOCK = 1024


class Seen(NamedTuple):
    """Images of a batch: mapped (B, D), fused with their neighbours (B, D), and which pairs are themselves (B, M)."""

    images: Tensor
    fused: Tensor
    own: Tensor


class Names(Ranked):
    """Which text says what an image shows; also texts that no image to learn from had.

    `search` "uni" looks for the neighbours of an image among images, "cross" among texts; `fusion` "uni" fuses it with
    their images, "cross" with their texts; likewise of a text. `neighbours` 0 leaves the plain contrast of both towers.
    """

    needs = "captions"
    main = "top1"
    options = ("text",)
    search, fusion = "uni", "cross"
    neighbours = 10

    texts: Tensor
    centre: Tensor
    index: Tensor

    def __init__(self, dim: int, classes: list[str], text: str | Reader | None = None) -> None:
        nn.Module.__init__(self)
        if text is None:
            raise UsageError(
                "--head names needs --text, which reads the captions: a run on texts (glocal pretrain text:PATH), a"
                " folder with a table and tokenizer.json, or http://127.0.0.1:8000/v1#MODEL"
            )
        self.classes, self.reader = list(classes), open_reader(text) if isinstance(text, str) else text
        width = self.reader.dim
        self.standardised = Standardised(dim)
        self.maps = nn.ModuleDict({"image": nn.Linear(dim, width), "text": nn.Linear(width, width, bias=False)})
        nn.init.eye_(self.maps["text"].weight)  # type: ignore[arg-type]
        self.fusions = nn.ModuleDict({kind: NeighbourFusion(width) for kind in self.maps} if self.neighbours else {})
        self.sharpness = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("texts", torch.zeros(0, width))
        self.register_buffer("memory_image", torch.zeros(0, dim))
        self.register_buffer("memory_text", torch.zeros(0, width))
        self.register_buffer("index", torch.zeros(0, dtype=torch.int64))
        self._named: Tensor | None = None  # texts as they are compared with images, between two steps

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """The images that have a caption: their classes are the different captions."""
        said = [" ".join((caption or "").split()) for caption in source.captions or []]
        classes = sorted({*said} - {""}) if classes is None else classes
        number = {caption: k for k, caption in reversed(list(enumerate(classes)))}
        labels = np.array([number.get(caption, -1) for caption in said], np.int64)
        known = Subset(source, np.flatnonzero(labels >= 0))
        known.labels, known.classes = labels[labels >= 0], classes
        return Labelled(known, classes, np.bincount(known.labels, minlength=len(classes)), _labels)

    def keep(self, run: Run) -> None:
        """Write what reads texts into the run's folder."""
        self.reader.keep(run.kept["text"])

    def looked_at(self, features: Features) -> Tensor:
        """The pooled features, (B, D)."""
        return features.pooled

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """As ridge regression from features to texts."""
        self.standardised.take(seen)
        texts = self.reader.read(self.classes)
        self.centre.copy_(texts.mean(0))
        self.texts = self.read_texts(self.classes, texts)
        x, y = self.raw(seen).double(), self.texts[torch.from_numpy(np.asarray(source.labels))[index]].double()
        mean, inner = y.mean(0), x.T @ x + RIDGE * len(x) / x.shape[1] * torch.eye(x.shape[1], dtype=torch.float64)
        with torch.no_grad():
            self.maps["image"].weight.copy_(torch.linalg.solve(inner, x.T @ (y - mean)).T)  # type: ignore[operator]
            self.maps["image"].bias.copy_(mean)  # type: ignore[operator]

    def read_texts(self, texts: list[str], found: Tensor | None = None) -> Tensor:
        """Vectors (N, D) of texts, around their mean, of length 1."""
        found = self.reader.read(texts) if found is None else found
        return F.normalize(found.to(self.centre) - self.centre, dim=1)

    def remember(self, seen: Tensor, labels: Tensor, index: Tensor, texts: Tensor | None = None) -> None:
        """Look from now on at pairs: pooled features (M, D), numbers of their texts (M,), positions (M,)."""
        seen, labels = seen.to(self.centre), labels.to(self.centre.device)
        self.memory_image = self.raw(seen)
        self.memory_text = (self.texts if texts is None else texts)[labels]
        self.index, self._named = index.to(labels.device), None

    def look_at(self, encoder: Any, source: ImageSource, **options: Any) -> None:
        """Look from now on at the images of a source that have captions, in place of those that it learnt from."""
        pairs = self.read(source)
        if not len(pairs.source):
            raise UsageError(f"--memory {source.name} has no captions: a column caption in a list, or captions.csv")
        bank = extract(encoder, pairs.source, crop_pct=self.crop_pct, **options)
        self.remember(bank.pooled, bank.labels, bank.index, self.read_texts(pairs.classes))  # type: ignore[arg-type]

    def choose(self, names: list[str]) -> None:
        """Answer with one of these texts from now on."""
        self.classes, self.texts, self._named = list(names), self.read_texts(names), None

    def forward(self, features: Features, index: Tensor | None = None) -> Any:
        """What `losses` wants of training images `index` (B, n); in evaluation mode logits (B, K)."""
        raw = self.raw(features.pooled.float())
        if self.training:
            self._named = None
            own = raw.detach() @ self.memory_image.T > DUPLICATE
            if index is not None:
                own |= (self.index == index[..., None]).any(1)
            return Seen(self.mapped("image", raw), self.fused("image", raw, own), own)
        if self._named is None or self._named.device != raw.device:
            self._named = torch.cat([self.fused("text", part) for part in self.texts.split(_BLOCK)])
        return self.sharpness.exp() * self.fused("image", raw) @ self._named.T

    def raw(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, D), standardised and of length 1."""
        return F.normalize(self.standardised(pooled), dim=1)

    def mapped(self, kind: str, raw: Tensor) -> Tensor:
        """Where images and texts are compared, (..., D) of length 1."""
        return F.normalize(self.maps[kind](raw), dim=-1)

    def fused(self, kind: str, raw: Tensor, own: Tensor | None = None) -> Tensor:
        """Images or texts (B, D) as they are after a look at their neighbours, (B, D) of length 1.

        Args:
            kind: "image" or "text".
            raw: (B, D) of length 1, before the map.
            own: (B, M), pairs of the memory that are not looked at.
        """
        x, other = self.mapped(kind, raw), {"image": "text", "text": "image"}[kind]
        most = len(self.index) if own is None else int((~own).sum(1).min())
        if not (number := min(self.neighbours, most)):
            return x
        memory = {"image": self.memory_image, "text": self.memory_text}
        with torch.no_grad():
            near = raw @ memory[kind].T if self.search == "uni" else x @ self.mapped(other, memory[other]).T
            near = near if own is None else near.masked_fill(own, -2.0)
            at = near.topk(number, dim=1).indices
        shown = kind if self.fusion == "uni" else other
        return F.normalize(self.fusions[kind](x, self.mapped(shown, memory[shown][at])), dim=1)

    def losses(self, logits: Seen, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """NCE(v̄, t̄) + NCE(v̄, t) + NCE(v, t̄) of each pair, a third of it (B,), and its text (B,)."""
        raw, (images, fused, own) = self.texts[target], logits
        texts, enhanced = self.mapped("text", raw), self.fused("text", raw, own)
        pairs = ((fused, enhanced), (fused, texts), (images, enhanced))
        temperature = (-self.sharpness).exp()
        each = torch.stack([contrast_pairs(v, t, target, temperature) for v, t in pairs])
        return each.mean(0), target

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """The likeliest texts and their probabilities, (k, 2)."""
        shares, rows = logits.float().softmax(0).topk(min(TOP, len(logits)))
        return torch.stack([rows.to(shares), shares], 1).cpu().numpy()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("texts", "memory_image", "memory_text", "index"):  # of as many as there were
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.centre.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
