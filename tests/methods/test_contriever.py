"""Contriever: what its views are, its steps on two processes, its runs."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import glocal
from glocal import cli
from glocal.backbones import build_backbone, load_encoder
from glocal.backbones.text import LENGTH, TextBackbone, TextModel, _places, learn_tokenizer
from glocal.data.text import Texts
from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.methods import Contriever
from glocal.run import Run
from glocal.training import optimizers
from glocal.views import Span, TextLoader
from processes import on_processes

WORDS = ("wing", "flow", "heat", "lift", "drag", "mach", "shock", "plate", "layer", "body", "cone", "jet", "wake")
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, 5 + 3 * (n % 9))) for n in range(40)]
FAST = {"workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32", "backbone": "text_small"}


@pytest.fixture
def corpus(tmp_path):
    """Forty texts, the 8th and 23rd empty, and two queries."""
    texts = ["" if n in (7, 22) else text for n, text in enumerate(TEXTS)]
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps({"id": n, "text": TEXTS[n][:20]}) for n in (3, 9)))
    (tmp_path / "qrels.json").write_text(json.dumps({"3": ["3"], "9": ["9", "10"]}))
    return tmp_path


def tiny(dtype=torch.float32):
    """An encoder of texts, as narrow as it goes."""
    torch.manual_seed(0)
    model = TextModel(8, 2, 2)
    model.adopt(learn_tokenizer(TEXTS, 300))
    return TextBackbone(model, {"name": "tiny", "pretrained": False}).to(dtype)


def loader(source, **options):
    settings = {"batch_size": 8, "seed": 3, **options}
    return TextLoader(source, (Span(), Span()), tiny().model, **settings)


def test_a_span_is_a_stretch_of_its_chunk_of_a_length_within_the_share():
    pieces, span = np.arange(1000), Span(share=(0.1, 0.5), deleted=0, chunk=256)
    rng = np.random.default_rng(0)
    found = [span.cut(pieces, u, draws, np.ones(256, bool)) for u, *draws in rng.random((500, 3))]
    lengths = [len(stretch) for stretch in found]
    assert (min(lengths) >= 26, max(lengths) <= 128) == (True, True)
    assert np.mean(lengths) == pytest.approx(0.3 * 256, rel=0.05)
    assert all((np.diff(stretch) == 1).all() for stretch in found)
    assert min(stretch[0] for stretch in found) < 60
    assert max(stretch[-1] for stretch in found) > 940
    one = [span.cut(pieces, 0.5, draws, np.ones(256, bool)) for draws in rng.random((500, 2))]
    assert max(stretch[-1] for stretch in one) - min(stretch[0] for stretch in one) < 256, "views share a chunk"
    short, none = span.cut(pieces[:1], 0.99, [0.99, 0.99], np.zeros(256, bool)), np.zeros(256, bool)
    assert short.tolist() == [0]
    assert span.cut(pieces[:10], 0.0, [0.0, 0.0], none).tolist() == [0], "one word piece stays"
    half = span.cut(pieces, 0.0, [0.999, 0.0], np.arange(256) % 2 == 0)
    assert half.tolist() == list(range(0, 128, 2))


def test_batches_are_a_pure_function_of_seed_epoch_and_text(corpus):
    source = Texts(str(corpus))
    whole = loader(source)
    assert whole.notes == ["2 texts are empty and left out: 7, 22"]
    batches = list(whole.epoch(1))
    assert len(batches) == whole.steps_per_epoch == 38 // 8
    assert not {7, 22} & {i for batch in batches for i in batch.index.tolist()}
    (late,) = list(whole.epoch(1, start=3))
    halves = [list(loader(source, batch_size=4, rank=r, world_size=2).epoch(1))[3] for r in range(2)]
    assert torch.equal(late.index, batches[3].index)
    assert torch.equal(torch.cat([half.index for half in halves]), late.index)
    for view in range(2):
        mine, theirs, shares = (
            [row[kept] for batch in group for row, kept in zip(*vars(batch.views[view]).values(), strict=True)]
            for group in ([late], [batches[3]], halves)
        )
        assert all(torch.equal(x, y) for others in (theirs, shares) for x, y in zip(mine, others, strict=True))
    other = next(iter(whole.epoch(2)))
    assert not torch.equal(other.index, batches[0].index)
    first, second = (view.tokens.tolist() for view in batches[0].views)
    assert first != second
    with pytest.raises(UsageError, match="has 38 texts, fewer than one batch of 64"):
        loader(source, batch_size=64)


def test_features_of_a_text_are_its_own_whatever_it_is_read_with():
    encoder = tiny().eval()
    alone = torch.cat([encoder.read([text]) for text in ["", *TEXTS[:5]]])
    together = encoder.read(["", *TEXTS[:5]])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
    assert together.isfinite().all()
    tokens, mask = encoder.model.pack(encoder.model.split(["wing", TEXTS[8]]))
    features = encoder(tokens, mask)
    assert (features.tokens.shape[:2], features.positions.shape) == (tokens.shape, (*tokens.shape, 1))
    assert torch.equal(features.mask, mask)
    torch.testing.assert_close(features.pooled[0], features.tokens[0, mask[0]].mean(0))
    assert encoder.model.pack([np.zeros(2 * LENGTH, np.int64)])[0].shape == (1, LENGTH)


def test_positions_are_the_sines_and_cosines_of_the_paper():
    found = _places(5, 6, torch.device("cpu"))
    for pos in range(5):
        for i in range(3):
            angle = pos / 10_000 ** (2 * i / 6)
            assert found[pos, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)


def two_steps():
    """Loss, gradients and buffers of the second step, of this process's half of each batch."""
    method = Contriever(tiny(torch.float64), queue=20, momentum=0.9).double()
    trained = DistributedDataParallel(method, broadcast_buffers=False) if world_size() > 1 else method
    optimizer = torch.optim.SGD(method.encoder.parameters(), lr=1.0)
    source = Texts.__new__(Texts)
    source.name, source._texts, source._keys = "texts", TEXTS, [str(n) for n in range(len(TEXTS))]
    batches = loader(source, batch_size=16 // world_size(), rank=rank(), world_size=world_size()).epoch(0)
    for batch in (next(batches), next(batches)):
        optimizer.zero_grad()
        loss = trained(batch).total
        loss.backward()
        grads = {name: p.grad.clone() for name, p in method.encoder.named_parameters()}
        optimizer.step()
        method.after_step(0.5)
    return loss.detach(), grads, dict(method.named_buffers()) | dict(method.teacher.named_parameters())


@pytest.mark.distributed("contriever")
def test_loss_gradients_and_queue_on_two_processes_are_those_of_the_joined_batch():
    loss, grads, buffers = two_steps()
    two = on_processes(2, two_steps)
    close = lambda ours, theirs: torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    close(sum(result[0] for result in two) / 2, loss)
    assert buffers["queue.next"] == 12, "32 keys in a queue of 20"
    for result in two:
        close(result[1], grads)
        close(result[2], buffers)


def test_stretches_of_a_text_itself_are_not_told_from_it():
    method, source = Contriever(tiny(torch.float64), queue=16).double(), Texts.__new__(Texts)
    source.name, source._texts, source._keys = "texts", TEXTS[:8], [str(n) for n in range(8)]
    (batch,) = loader(source).epoch(0)
    method(batch)
    q, k = (method.encoder(view.tokens, view.mask).pooled for view in batch.views)
    others = [torch.cat([k[n != torch.arange(8)], method.queue.embeddings[8:]]) for n in range(8)]
    logits = [torch.cat([k[n, None], others[n]]) @ q[n] / 0.05 for n in range(8)]
    by_hand = -torch.stack([torch.log_softmax(row, 0)[0] for row in logits]).mean()
    torch.testing.assert_close(method(batch).total, by_hand)


class Power(Exception):
    """The plug is pulled."""


def test_a_run_resumes_to_the_bit_and_its_encoder_is_loaded_with_its_word_pieces(corpus, tmp_path, monkeypatch):
    data, calls, rate = f"text:{corpus}", 0, optimizers.warmup_cosine
    whole = glocal.pretrain(data, method="contriever", max_steps=6, batch_size=8, out=str(tmp_path / "whole"), **FAST)

    def pulled(*args):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Power
        return rate(*args)

    out = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "warmup_cosine", pulled)
        given = {"max_steps": 6, "batch_size": 8, "checkpoint_steps": 2, "out": out, **FAST}
        with pytest.raises(Power):
            glocal.pretrain(data, method="contriever", **given)
    glocal.pretrain(resume=out, quiet=True)
    assert (whole / "encoder.safetensors").read_bytes() == Run(out).encoder_files[0].read_bytes()
    lines = [line for line in Run(whole).metrics() if "rank_pooled" in line]
    assert lines
    encoder, method = load_encoder(whole), glocal.load_method(whole)
    for found in (encoder.read(TEXTS[:3]), method.encoder.read(TEXTS[:3])):
        torch.testing.assert_close(found, method.encoder.read(TEXTS[:3]), rtol=0, atol=0)
    assert encoder.model.vocabulary == learn_tokenizer(["" if n in (7, 22) else text for n, text in enumerate(TEXTS)])
    assert (method.teacher.model.embed.weight - encoder.model.embed.weight).abs().max() > 0
    scores = glocal.evaluate(str(whole), str(corpus), tasks=["search"], baselines=True)
    assert scores["start"]["search"]["bm25_mrr"] == scores["search"]["bm25_mrr"]
    assert scores["start"]["search"].keys() == scores["search"].keys()


def test_a_given_tokenizer_is_used(corpus, tmp_path):
    (tmp_path / "mine.json").write_text(learn_tokenizer(["wing flow"], 270))
    words = f"pretrain text:{corpus} --method contriever --backbone text_small --tokenizer {tmp_path}/mine.json"
    cli.run(f"{words} --max-steps 1 --batch-size 8 --threads 1 --report false --quiet --out {tmp_path}/run".split())
    assert load_encoder(tmp_path / "run").model.vocabulary == (tmp_path / "mine.json").read_text()
    (tmp_path / "mine.json").unlink()
    assert glocal.load_method(tmp_path / "run").encoder.model.embed.num_embeddings < 300


def test_mistakes_are_told_in_a_line(corpus, tmp_path):
    texts, pages = f"text:{corpus}", tmp_path / "broken.json"
    pages.write_text("{}")
    mistakes = {
        f"pretrain {texts} --method vicreg --backbone text_small": "VICReg learns from images; these are texts",
        f"pretrain {corpus} --method contriever --backbone text_small": "has no images",
        "pretrain parts:n=16,size=32 --method contriever --backbone text_small": "learns from texts; give text:PATH",
        f"pretrain {texts} --method contriever": "Contriever learns from texts, resnet50 reads images: take --backbone",
        f"pretrain {texts} --method contriever --backbone text_small --guard": "--guard is for encoders of images",
        f"pretrain {texts} --method contriever --backbone text_small --tokenizer {pages}": "is no tokenizer",
        f"pretrain {texts} --method contriever --backbone text_small --tokenizer none.json": "none.json cannot be read",
        f"embed timm:test_resnet:random {texts} --out x.npz": "is text: that is for --method contriever",
    }
    for words, said in mistakes.items():
        more = f" --out {tmp_path / 'run'} --threads 1 --batch-size 8" if words.startswith("pretrain") else ""
        with pytest.raises(UsageError, match=said) as error:
            cli.run(f"{words}{more}".split())
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="has no tokenizer yet"):
        build_backbone("text_small").read(["wing"])


def test_the_views_of_a_text_are_independent_stretches_of_one_chunk(corpus):
    spans = (Span((0.1, 0.5), 0.0, 20), Span((0.1, 0.5), 0.0, 20))
    model = tiny().model
    pieces = model.split([TEXTS[8]])[0]
    found = TextLoader(Texts(str(corpus)), spans, model, batch_size=8, seed=3)
    views = lambda epoch: [found._view(n, span, epoch, np.array([8]), [pieces]) for n, span in enumerate(spans)]
    lengths = np.array([[int(view.mask.sum()) for view in views(epoch)] for epoch in range(300)])
    assert lengths.std(0).min() > 1
    assert abs(np.corrcoef(lengths.T)[0, 1]) < 0.2


def test_directions_are_contrasted_where_that_is_asked_for():
    """The lengths of keys and queries, and of what is in the queue, make no difference."""
    source, losses = Texts.__new__(Texts), []
    source.name, source._texts, source._keys = "texts", TEXTS, [str(n) for n in range(len(TEXTS))]
    first, second, *_ = loader(source).epoch(0)
    for normalize, length in ((True, 1.0), (True, 3.0), (False, 1.0), (False, 3.0)):
        method = Contriever(tiny(torch.float64), queue=8, normalize=normalize).double()
        for network in (method.encoder, method.teacher):
            network.model.norm.weight.data *= length
            network.model.norm.bias.data *= length
        method(first)
        losses.append(method(second).total.item())
    assert losses[0] == pytest.approx(losses[1])
    assert losses[2] != pytest.approx(losses[3], rel=1e-2)
    q = method.encoder(*vars(second.views[0]).values()).pooled
    k = method.teacher(*vars(second.views[1]).values()).pooled
    held = method.teacher(*vars(first.views[1]).values()).pooled
    q, k, held = (F.normalize(each, dim=1) for each in (q, k, held))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ held.T], 1) / 0.05
    assert losses[0] == pytest.approx(F.cross_entropy(logits, torch.zeros(8, dtype=torch.int64)).item())


def test_its_preset_is_the_papers():
    method = Contriever(tiny())
    assert not method.normalize
    assert (method.queue.embeddings.shape[0], method.momentum, method.temperature) == (131_072, 0.9995, 0.05)
    assert [(span.share, span.deleted, span.chunk) for span in method.recipe.spans] == [((0.1, 0.5), 0.1, 256)] * 2
    assert method.optimization.beta2 == 0.98


def test_what_is_to_be_found_is_read_by_the_teacher():
    method, source = Contriever(tiny(torch.float64), queue=16).double(), Texts.__new__(Texts)
    source.name, source._texts, source._keys = "texts", TEXTS[:8], [str(n) for n in range(8)]
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.mul_(1.5)
    (batch,) = loader(source).epoch(0)
    method(batch)
    view = batch.views[1]
    torch.testing.assert_close(method.queue.embeddings[:8], method.teacher(view.tokens, view.mask).pooled)
