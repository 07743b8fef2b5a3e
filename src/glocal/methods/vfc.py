"""VFC: verb-focused contrastive learning of clips and sentences (Momeni et al., ICCV 2023, arXiv:2304.06708)."""

import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone, build_backbone
from glocal.backbones.text import learn_tokenizer
from glocal.data import ClipSource
from glocal.data.sentences import sentences_of
from glocal.errors import UsageError
from glocal.losses import Loss, contrast_hard
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset
from glocal.views import Batch, Crop, Frames, Recipe, View


class VFC(nn.Module):
    """A clip finds its sentence among others, some of which differ in the verb only, and a sentence its clip.

    Needs: clips (`--fps`), and a sentence of each. Choose it to tell what happens in clips, where what is seen in them
    would be enough for plain contrast. Expect, from CLIP's weights, on Kinetics: verbs told in 4 to 10 points more of
    the cases; of small collections learnt from nothing, far less.

    Args:
        captions: a table `video,caption` and, if known, `verb`, the words of each caption that say what happens. By
            default what the data itself says.
        negatives: a table `caption,negative` of hard negatives; by default each caption with the other verbs.
        hard: how many of these are used of each caption, at most.
        calibrate: use no verb in more negatives than captions.
        frames: moments of a clip that are looked at.
        every: from one of them to the next, frames.
        width: of the embeddings.
        temperature: τ of the softmax over cosine similarities.
        verb_weight: weight of finding, of each clip, its verb phrase; 0 leaves it out.
    """

    said: Tensor

    title = "VFC"
    reads = "clips"
    paper = (
        "Momeni, Caron, Nagrani, Zisserman, Schmid. Verbs in Action: Improving Verb Understanding in Video-Language"
        " Models. ICCV 2023. arXiv:2304.06708"
    )
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {"frames": 32, "temperature": 0.005},
        "small": lambda batch: {},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        captions: str | None = None,
        negatives: str | None = None,
        hard: int = 5,
        calibrate: bool = True,
        frames: int = 8,
        every: int = 1,
        width: int = 256,
        temperature: float = 0.05,
        verb_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder, self.text = backbone, build_backbone("text_small")
        self.captions, self.negatives, self.hard, self.calibrate = captions, negatives, hard, calibrate
        self.temperature, self.verb_weight = temperature, verb_weight
        layer: Any = nn.TransformerEncoderLayer
        self.place = nn.Parameter(torch.randn(frames, width) / width**0.5)
        self.into = nn.Linear(backbone.dim, width)
        self.time = nn.TransformerEncoder(
            layer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False
        )
        self.words = nn.Linear(self.text.dim, width)
        whole = Crop(image_size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, gray=0.0)
        self.register_buffer("said", torch.zeros((), dtype=torch.int64))  # digest of what the clips were said to be
        self.register_load_state_dict_pre_hook(_compare)
        self.recipe = Recipe((whole,) * frames, frames=Frames(frames, every))
        # published from CLIP's weights: 1e-7 at a batch of 256
        self.optimization = Optimization("adamw", lr=5e-4, weight_decay=0.05)

    def begin(self, source: Any) -> None:
        """Before training, with the clips: keep with them the word pieces of what is said of each."""
        if not isinstance(source, ClipSource):
            raise UsageError(f"{source.name} has no clips: give --fps, to read its folders or films as videos")
        said = sentences_of(source, self.captions, self.negatives)
        if self.verb_weight and "" in said.verbs:
            raise UsageError("not all captions have a verb: fill in their column verb, or give --verb-weight 0")
        said = said.calibrated() if self.calibrate else said
        self.text.model.adopt(learn_tokenizer(said.texts))
        rows = [text for texts in said.rows(self.hard) for text in texts]
        tokens, _ = self.text.model.pack(self.text.model.split(rows))
        self.said.fill_(int.from_bytes(hashlib.sha256(repr(rows).encode()).digest()[:7]))
        of_clip = tokens.unflatten(0, (-1, self.hard + 2)).numpy()
        source.extra = {**source.extra, "texts": of_clip[source.groups["video"].of]}

    def forward(self, batch: Batch) -> Loss:
        clips = self.watch(batch.views)
        tokens = batch.extra["texts"][:, 0]  # the same at each moment: (B, 2 + hard, L)
        texts = self.read(tokens)
        caption, hard, verb = texts[:, 0], texts[:, 1:-1], texts[:, -1]
        there = tokens[:, 1:-1, 2] < self.text.model.filler  # an empty one is filled up from its third place on
        terms = {
            "text": 0.5 * contrast_hard(clips, caption, self.temperature, hard, there),
            "video": contrast_hard(caption, clips, self.temperature),
        }
        if self.verb_weight:
            terms["verb"] = self.verb_weight * contrast_hard(clips, verb, self.temperature)
        return Loss.of(terms)

    def watch(self, views: list[View]) -> Tensor:
        """(B, width) of the moments of clips."""
        features = encode(self.encoder, views, group="size")
        x = self.into(torch.stack([f.pooled for f in features], 1)) + self.place
        return self.time(x).mean(1)

    def read(self, tokens: Tensor) -> Tensor:
        """(..., width) of texts (..., L), packed by the text backbone."""
        flat = tokens.flatten(0, -2)
        return self.words(self.text(flat, flat != self.text.model.filler).pooled).unflatten(0, tokens.shape[:-1])


def _compare(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A hook: the texts of a run that is resumed are those that it began with, and so is what its tokens mean."""
    before, now = (int(value) for value in (state.get(f"{prefix}said", module.said), module.said))
    if now and before != now:
        raise UsageError("the captions or negatives are not those that the run began with: put them back to resume it")
