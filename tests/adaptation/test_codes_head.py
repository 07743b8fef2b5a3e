"""Codes decoded from maps: the beam against scoring every code, a name nothing was learnt from, none of these."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glocal.adaptation.codebook import Codebook, Trie
from glocal.adaptation.codes import REFUSED, SMOOTHING, Codes, Decoder, beam_search
from glocal.adaptation.ranked import NONE, read_names, twins
from glocal.data import ArraySource
from glocal.errors import UsageError
from glocal.features import Features


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def features(number=3, dim=6):
    where = torch.tensor([[x, y] for y in (8.0, 24.0) for x in (8.0, 24.0)])
    return Features(drawn(number, dim), drawn(number, 4, dim, seed=1), where, (2, 2))


@pytest.fixture
def decoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Decoder(6, 9, 4)
    made.pieces.weight.data *= 8  # so that codes differ
    return made.eval()


@pytest.fixture
def codes():
    return np.unique(np.random.default_rng(3).integers(0, 9, (50, 4)), axis=0)


def scored(decoder, seen, codes):
    """The logarithm of each code's probability, piece by piece, (B, N)."""
    found = torch.zeros(len(seen), len(codes))
    for n, code in enumerate(torch.from_numpy(codes)):
        for depth in range(len(code)):
            begun = code[:depth].expand(len(seen), 1, -1)
            found[:, n] += decoder(seen, begun)[:, 0, -1].log_softmax(-1)[:, code[depth]]
    return found


@torch.no_grad()
def test_a_full_beam_is_scoring_every_code(decoder, codes):
    seen = decoder.seen(features())
    expected, order = scored(decoder, seen, codes).sort(dim=1, descending=True)
    rows, score = beam_search(decoder, seen, Trie.of(codes), len(codes), len(codes))
    torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rows, order)
    first, _ = beam_search(decoder, seen, Trie.of(codes), 1, 1)
    greedy, there = [], torch.from_numpy(codes)
    for image in range(len(seen)):
        left = torch.arange(len(codes))
        for depth in range(4):
            begun = there[left[0], :depth].expand(1, 1, -1)
            chance = decoder(seen[image : image + 1], begun)[0, 0, -1]
            left = left[there[left, depth] == there[left[chance[there[left, depth]].argmax()], depth]]
        greedy.append(int(left[0]))
    assert first[:, 0].tolist() == greedy


@torch.no_grad()
def test_codes_of_an_image_do_not_see_each_other(decoder, codes):
    seen, begun = decoder.seen(features()), torch.from_numpy(codes[None, :7, :3]).expand(3, -1, -1)
    together = decoder(seen, begun)
    alone = torch.cat([decoder(seen, begun[:, n : n + 1]) for n in range(7)], 1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    changed = begun.clone()
    changed[:, :, 2] = (changed[:, :, 2] + 1) % 9
    later = decoder(seen, changed)
    torch.testing.assert_close(later[:, :, :3], together[:, :, :3], atol=1e-4, rtol=1e-4)
    assert (later[:, :, 3] - together[:, :, 3]).abs().max() > 1e-2
    moved = Features(drawn(3, 6), features().tokens, features().positions.flip(0), (2, 2))
    assert (decoder.seen(moved) - seen).abs().max() > 1e-2, "where a token is counts"


def head(names=("red hat", "blue hat", "red crane")):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Codes(6, list(names))


def test_the_loss_is_the_smoothed_cross_entropy_of_each_piece():
    model, target = head(), torch.tensor([2, 0, 1])
    each, classes = model.losses(model(features()), target, None)
    assert classes is target
    codes = model.codes[target]
    logits = model.decoder(model.decoder.seen(features()), codes[:, None, :3])[:, 0].double()
    size = logits.shape[-1]
    wanted = F.one_hot(codes, size).double() * (1 - SMOOTHING) + SMOOTHING / size
    torch.testing.assert_close(each.double(), -(wanted * logits.log_softmax(-1)).sum(-1).mean(1), atol=1e-5, rtol=1e-5)


def test_what_it_looks_at_is_standardised_by_the_training_images():
    model, seen = head(), 5 + 3 * drawn(40, 6)
    source = ArraySource(np.zeros((3, 4, 4, 3), np.uint8))
    assert model.looked_at(features()).shape == (12, 6)
    model.begin(seen, source, torch.arange(3))
    torch.testing.assert_close(model.decoder.standardised(seen).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decoder.standardised(seen).std(0, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_other_names_can_be_chosen_among_and_old_codes_stay():
    model = head().eval()
    before = {name: code.tolist() for name, code in zip(model.classes, model.codes, strict=True)}
    model.choose(["blue crane", "red hat"])
    assert model.codes[1].tolist() == before["red hat"]
    assert model.codes[0].tolist() not in before.values()
    answer = model.answer(model(features())[0].detach(), (32, 32), None)
    assert answer.shape == (2, 2)
    assert sorted(answer[:, 0]) == [0, 1]
    assert 1 >= answer[0, 1] >= answer[1, 1] > 0


def test_none_of_these_is_what_few_right_answers_are_less_sure_than(tmp_path):
    model, source = head(), ArraySource(np.zeros((200, 4, 4, 3), np.uint8))
    source.labels = np.zeros(200, np.int64)
    sure = np.linspace(0.01, 1, 200)
    answers = [(i, np.array([[i % 2, sure[i]], [1 - i % 2, 0.0]])) for i in range(200)]  # every second one is right
    model.settle(answers, source)
    right = sure[::2]
    assert (right < model.threshold).mean() == pytest.approx(REFUSED, abs=0.01)
    said = [model.said(np.array([[1, p], [0, 0.0]])) for p in (0.9, 0.01)]
    assert said == ["blue hat", NONE]
    model.write(tmp_path / "out.csv", [("a.png", np.array([[1, 0.9], [2, 0.05], [0, 0.01]]))])
    header, row = (line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines())
    assert header[:5] == ["image_path", "label", "probability", "name_1", "probability_1"]
    assert row == ["a.png", "blue hat", "0.9", "blue hat", "0.9", "red crane", "0.05", "red hat", "0.01"]
    model.settle([], source)
    assert model.threshold == 0


def test_lists_of_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("crane\n hat \ncrane\n")
    assert read_names(file) == ["crane", "hat", "crane"]
    assert "1 name is there more than once (crane)" in twins(read_names(file))[0]
    assert twins(["a", "b"]) == []
    for text in ("crane\n\nhat\n", "\ncrane", ""):
        file.write_text(text)
        with pytest.raises(UsageError, match="is empty"):
            read_names(file)
    Codebook.of(["hat", "crane"]).save(tmp_path / "codes.json")
    assert read_names(tmp_path / "codes.json") == ["hat", "crane"]


def test_a_class_that_is_not_among_the_names():
    source = ArraySource(np.zeros((4, 4, 4, 3), np.uint8))
    source.labels, source.classes = np.arange(4) % 2, ["hat", "crane"]
    known = Codes.read(source, ["old", "crane", "hat", "crane"])
    assert known.source.labels.tolist() == [2, 1, 2, 1]
    with pytest.raises(UsageError, match=r"'crane', which is not among the names \(did you mean crate\?\)"):
        Codes.read(source, ["hat", "crate"])
    with pytest.raises(UsageError, match="'hat', which"):
        Codes.read(source, ["crane"])


def test_the_first_name_counts_and_the_first_five():
    model, source = head(), ArraySource(np.zeros((3, 4, 4, 3), np.uint8), np.array([2, 0, 1]))
    answers = [np.array([[k, 0.5] for k in order]) for order in ((2, 0, 1), (1, 0, 2), (0, 2, 2))]
    tallies = sum(model.tally(answer, source, i) for i, answer in enumerate(answers))
    assert model.scores(tallies) == pytest.approx({"top1": 1 / 3, "top5": 2 / 3})
