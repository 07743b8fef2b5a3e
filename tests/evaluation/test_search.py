"""Search: BM25 and the scores of a ranking, beside other implementations and by hand."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from glocal.backbones import build_backbone
from glocal.backbones.text import learn_tokenizer
from glocal.data.source import Queries
from glocal.data.text import Texts
from glocal.errors import UsageError
from glocal.evaluation import evaluate_encoder, possible_tasks
from glocal.evaluation.bm25 import BM25
from glocal.evaluation.search import ranked

TEXTS = ["A wing in a slipstream.", "", "the wing, the WING and the flow", "heat flow", "a slipstream of heat"]


def bm25_by_hand(texts, query, k1=1.5, b=0.75):
    """The formula, word by word."""
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, split)) / len(split)
    found = []
    for words in split:
        counts, score = Counter(words), 0.0
        for word in re.findall(r"\w+", query.lower()):
            have = sum(word in other for other in split)
            rarity = math.log(1 + (len(texts) - have + 0.5) / (have + 0.5))
            score += rarity * counts[word] / (counts[word] + k1 * (1 - b + b * len(words) / mean))
        found.append(score)
    return found


@pytest.mark.parametrize("query", ["the wing", "Flow of heat, heat!", "nothing known", ""])
def test_bm25_is_its_formula(query):
    ours = BM25(TEXTS).scores(query)
    np.testing.assert_allclose(ours, bm25_by_hand(TEXTS, query), atol=1e-12)
    assert ours[1] == 0, "an empty text"


def test_bm25_is_that_of_bm25s():
    bm25s = pytest.importorskip("bm25s")
    theirs = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    split = [re.findall(r"\w+", text.lower()) for text in TEXTS]
    theirs.index(split, show_progress=False)
    for query in ("the wing", "flow of heat", "slipstream"):
        scores = theirs.get_scores(query.split())
        np.testing.assert_allclose(BM25(TEXTS).scores(query), scores, atol=1e-4)


def test_a_ranking_scores_as_torchmetrics_has_it():
    from torchmetrics.functional import retrieval

    draw = np.random.default_rng(0)
    for n, relevant in ((300, 7), (300, 30), (15, 1), (15, 15)):
        scores = 1 + draw.permutation(n).astype(np.float32)
        chosen = draw.permutation(n)[:relevant]
        truth = torch.zeros(n, dtype=torch.bool)
        truth[torch.from_numpy(chosen)] = True
        given = torch.from_numpy(scores), truth
        theirs = [retrieval.retrieval_normalized_dcg(given[0], truth.long(), top_k=10)]
        theirs += [retrieval.retrieval_recall(*given, top_k=k) for k in (10, 100)]
        theirs += [retrieval.retrieval_reciprocal_rank(*given)]
        np.testing.assert_allclose(ranked(scores, chosen.tolist()), [float(x) for x in theirs], atol=1e-6)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(filter(None, TEXTS)))
    source = Texts(str(path))
    source.queries = Queries(["q", "r", "s"], ["wing", "no text answers it", "heat"], [[0, 1], [], [2]])
    return source


def test_the_task_ranks_by_cosine_or_dot_product_and_says_what_bm25_does(source):
    torch.manual_seed(0)
    encoder = build_backbone("text_small").eval()
    encoder.model.adopt(learn_tokenizer(TEXTS, 300))
    assert possible_tasks(source) == ["search"]
    found = evaluate_encoder(encoder, source, tasks=["search"])["search"]
    texts = [source.text(i) for i in range(len(source))]
    bank, queries = encoder.read(texts).double(), encoder.read(["wing", "heat"]).double()
    cosine = torch.cosine_similarity(queries[:, None], bank[None], dim=2)
    dot = evaluate_encoder(encoder, source, tasks=["search"], options={"search": {"similarity": "dot"}})["search"]
    by_dot = np.mean([ranked(np.asarray(q @ bank.T), rows) for q, rows in zip(queries, ([0, 1], [2]), strict=True)], 0)
    assert [dot["ndcg_at_10"], dot["mrr"]] == pytest.approx(by_dot[[0, 3]])
    for name, scores in {"": cosine, "bm25_": [BM25(texts).scores(q) for q in ("wing", "heat")]}.items():
        by_hand = [ranked(np.asarray(row), relevant) for row, relevant in zip(scores, ([0, 1], [2]), strict=True)]
        means = dict(zip(("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr"), np.mean(by_hand, 0), strict=True))
        assert {key: found[name + key] for key in means} == pytest.approx(means)
    assert found["queries"] == 2
    with pytest.raises(UsageError, match="needs images; the training images of texts have none"):
        evaluate_encoder(encoder, source, tasks=["knn"])
    with pytest.raises(UsageError, match="search reads texts; test_resnet reads images"):
        evaluate_encoder(build_backbone("test_resnet", image_size=32), source, tasks=["search"])
    source.queries = None
    with pytest.raises(UsageError, match=r"needs queries: queries\.jsonl and qrels\.json"):
        evaluate_encoder(encoder, source, tasks=["search"])


def test_texts_without_a_word_are_refused():
    with pytest.raises(UsageError, match="none of the texts has a word"):
        BM25(["!!!", "???"])
