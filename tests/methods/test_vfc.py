"""VFC: what it reads and sees, its step on two processes, its runs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

import glocal
from glocal.backbones import build_backbone
from glocal.cli import main
from glocal.data.moving import MovingWorld
from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.heads import sync_batch_norms
from glocal.losses import contrast_hard
from glocal.methods import VFC
from glocal.run import Run
from glocal.views import Appearance, ViewLoader
from power import left_after
from processes import on_processes

FAST = {"method": "vfc", "backbone": "tiny:Net", "image_size": 32, "batch_size": 8, "frames": 3, "hard": 2}
FAST |= {"width": 16, "workers": 0, "threads": 1, "report": False, "quiet": True, "precision": "32"}


def begun(clips=16, **options):
    """The method and clips of which it has read what is said."""
    torch.manual_seed(0)
    world = MovingWorld(clips, frames=3)
    method = VFC(build_backbone("tiny:Net"), **{"image_size": 32, "frames": 3, "width": 16, "hard": 3, **options})
    method.begin(world)
    return method, world


def first(method, world, size=8):
    """The first batch; on several processes this one's part."""
    loader = ViewLoader(
        world, method.recipe, batch_size=size // world_size(), seed=0, rank=rank(), world_size=world_size(),
        appearance=Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0),
    )  # fmt: skip
    return next(iter(loader.epoch(0)))


def test_the_texts_of_a_batch_are_those_of_its_clips():
    method, world = begun(calibrate=False)
    batch = first(method, world)
    tokens = batch.extra["texts"]
    assert tokens.shape[:3] == (8, 3, 5)  # clips, moments, texts
    spell = lambda row: method.text.model.split([row])[0].tolist()
    for n, frame in enumerate(batch.index.tolist()):
        clip = frame // 3
        rows = [[t for t in row.tolist() if t < method.text.model.filler] for row in tokens[n, 0]]
        sentence, verb = world.sentences[clip], world.verbs[frame]
        assert rows[0] == spell(sentence)
        assert rows[-1] == spell(verb)
        others = [v for v in sorted({*world.verbs}) if v != verb]
        wrong = [spell(sentence.replace(verb, v)) for v in others]
        assert all(row in wrong for row in rows[1:-1])
        assert len({tuple(row) for row in rows[1:-1]}) == 3


def test_its_terms_are_those_of_the_paper():
    method, world = begun()
    batch = first(method, world)
    clips, texts = method.watch(batch.views), method.read(batch.extra["texts"][:, 0])
    filler = method.text.model.filler
    there = torch.tensor([[int((row < filler).sum()) > 0 for row in rows[1:-1]] for rows in batch.extra["texts"][:, 0]])
    assert 0 < there.sum() < there.numel(), "calibrated, some have no place for a negative"
    loss = method(batch)
    torch.testing.assert_close(loss.terms["text"], 0.5 * contrast_hard(clips, texts[:, 0], 0.05, texts[:, 1:-1], there))
    torch.testing.assert_close(loss.terms["video"], contrast_hard(texts[:, 0], clips, 0.05))
    torch.testing.assert_close(loss.terms["verb"], 0.5 * contrast_hard(clips, texts[:, -1], 0.05))
    method.verb_weight = 0
    assert method(batch).terms.keys() == {"text", "video"}


def test_a_clip_backwards_is_another_clip():
    method, world = begun()
    views = first(method, world).views
    one, other = (F.normalize(method.watch(order), dim=1) for order in (views, views[::-1]))
    assert (one * other).sum(1).max() < 0.9999


def test_frames_of_a_clip_are_whole_and_in_order():
    method, world = begun()
    batch = first(method, world)
    for n, frame in enumerate(batch.index.tolist()):
        for k, view in enumerate(batch.views):
            there = torch.from_numpy(world.open(frame + k).decode()).permute(2, 0, 1) / 255
            torch.testing.assert_close(view.pixels[n], (there - 0.5) / 0.25, rtol=0, atol=1e-5)
            assert view.time[n] == k


def test_the_command_of_the_page(tmp_path):
    """A folder for each clip, and nothing said of frames a second."""
    world, clips = MovingWorld(8, frames=3), tmp_path / "clips"
    for i in range(len(world)):
        frame = clips / f"{i // 3}" / f"{i % 3}.png"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(world.open(i).decode()).save(frame)
    said = [f"{k},{sentence},{world.verbs[3 * k]}" for k, sentence in enumerate(world.sentences)]
    (tmp_path / "captions.csv").write_text("\n".join(["video,caption,verb", *said]))
    wrong = [f"{sentence},a red ball sleeps" for sentence in sorted({*world.sentences})]
    (tmp_path / "negatives.csv").write_text("\n".join(["caption,negative", *wrong]))
    words = f"pretrain {clips} --method vfc --captions {tmp_path}/captions.csv --negatives {tmp_path}/negatives.csv"
    small = "--backbone test_resnet --image-size 32 --frames 3 --batch-size 4 --max-steps 1 --workers 0 --report false"
    main([*words.split(), *small.split(), "--quiet", "--out", str(tmp_path / "verbs")])
    method = glocal.load_method(tmp_path / "verbs")
    sentence = world.sentences[0]
    assert len(method.text.model.split([sentence])[0]) < len(sentence) / 2, "its word pieces are those of the captions"


def step():
    method, world = begun()
    method = sync_batch_norms(method.double())
    parallel = DistributedDataParallel(method, broadcast_buffers=False) if world_size() > 1 else method
    batch = first(method, world)
    for view in batch.views:
        view.pixels = view.pixels.double()
    loss = parallel(batch).total
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.distributed("vfc")
def test_two_processes_are_one():
    loss, grads = step()
    two = on_processes(2, step)
    torch.testing.assert_close((two[0][0] + two[1][0]) / 2, loss)
    for _, other in two:
        torch.testing.assert_close(other, grads, rtol=1e-6, atol=1e-8)
    assert any(gradient.abs().max() > 1e-4 for gradient in grads.values())


def test_a_run_resumes_to_the_bit_and_its_method_reads_again(tmp_path, monkeypatch):
    data, stopped = "moving:n=24,frames=3", tmp_path / "stopped"
    with left_after(2, stopped, monkeypatch):
        run = glocal.pretrain(data, out=str(tmp_path / "whole"), epochs=2, checkpoint_steps=2, **FAST)
    glocal.pretrain(resume=str(stopped), quiet=True, trust_code=True)
    ours, theirs = (glocal.load_method(where, trust_code=True) for where in (stopped, run))
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert len(ours.text.read(["a red ball rises"])[0]) == ours.text.dim
    assert all(np.isfinite(line["loss"]) for line in Run(run).metrics() if "loss" in line)


def test_texts_that_changed_meanwhile_are_told_and_no_run_goes_on_with_them(tmp_path, monkeypatch):
    world, said = MovingWorld(24, frames=3), tmp_path / "said.csv"
    pairs = list(zip(world.groups["video"].names, world.sentences, strict=True))
    said.write_text("video,caption\n" + "".join(f"{video},{text}\n" for video, text in pairs))
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("caption,negative\n" + "".join(f"{text},a dog sleeps\n" for text in {t for _, t in pairs}))
    told = {"captions": str(said), "negatives": str(wrong), "verb_weight": 0.0, "calibrate": False}
    with left_after(2, tmp_path / "run", monkeypatch):
        glocal.pretrain(
            "moving:n=24,frames=3", out=str(tmp_path / "whole"), max_steps=3, checkpoint_steps=2, **FAST, **told
        )
    wrong.write_text(wrong.read_text().replace("sleeps", "barks"))
    with pytest.raises(UsageError, match="not those that the run began with"):
        glocal.pretrain(resume=str(tmp_path / "run"), quiet=True, trust_code=True)
    wrong.write_text(wrong.read_text().replace("barks", "sleeps"))
    glocal.pretrain(resume=str(tmp_path / "run"), quiet=True, trust_code=True)


@pytest.mark.parametrize(
    ("data", "options", "what"),
    [
        ("parts:n=24", {}, "has no clips: give --fps"),
        ("moving:n=24,frames=2", {}, "no video has the 3 frames of a sample, the longest has 2"),
        ("dots:n=24,frames=3", {}, "nothing is said of the clips of dots-changing: give --captions FILE"),
        ("moving:n=24,frames=3", {"captions": "gone.csv"}, "gone.csv"),
    ],
)
def test_mistakes_are_one_clear_line(data, options, what, tmp_path):
    if data.startswith("dots"):
        pytest.importorskip("glocal.data.dots")
    with pytest.raises(UsageError, match=what):
        glocal.pretrain(data, out=str(tmp_path / "run"), **FAST, **options)
