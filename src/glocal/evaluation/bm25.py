"""BM25 (Robertson and Zaragoza 2009), the search by words that every encoder of texts is compared with."""

from collections.abc import Sequence

import numpy as np

from glocal.errors import UsageError


class BM25:
    """Texts, to be searched by the words that they share with a query.

    A text scores Σ_w ln(1 + (N − n_w + ½)/(n_w + ½)) · f/(f + k1·(1 − b + b·l/l̄)) over the words w of a query, f times
    in the text, of l words, l̄ being the mean; n_w of the N texts have it (Lucene's variant). Words are runs of letters
    and digits, in lower case.

    Args:
        texts: N of them, one with a word at least.
        k1: how soon more of the same word counts no more.
        b: how far long texts count less.

    Raises:
        UsageError: if there is no word in any of them.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        from scipy.sparse import csr_array
        from sklearn.feature_extraction.text import CountVectorizer  # a second, for this alone

        self.words = CountVectorizer(token_pattern=r"(?u)\w+")
        try:
            found = csr_array(self.words.fit_transform(texts)).astype(np.float64)
        except ValueError as error:
            raise UsageError("none of the texts has a word: a letter or a digit") from error
        have = np.bincount(found.indices, minlength=found.shape[1])
        rarity = np.log1p((len(texts) - have + 0.5) / (have + 0.5))
        length = np.asarray(found.sum(1)).ravel()
        row = np.repeat(np.arange(len(texts)), np.diff(found.indptr))
        found.data *= rarity[found.indices] / (found.data + k1 * (1 - b + b * length[row] / length.mean()))
        self.weights = found

    def scores(self, query: str) -> np.ndarray:
        """The score (N,) of each text."""
        return np.asarray(self.weights @ self.words.transform([query]).toarray()[0].astype(np.float64))
