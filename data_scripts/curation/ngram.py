"""A back-off n-gram language model: train it on text, score sentences, read and write ARPA files.

    model = train_ngram(["xin chào các bạn", ...], order=4)
    model.score("xin chào")             # log10 probability of the sentence, its end included
    model.save("lm.arpa.gz")            # kenlm, SRILM and every decoder read it

Scores are those of kenlm to within 1e-4. Many sentences are scored at once with array look-ups: use `score_batch`.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_scripts.curation.arpa import BEGIN, END, UNKNOWN, ArpaError, NgramTable, find_keys, read_arpa, write_arpa
from data_scripts.curation.ngram_training import DISCOUNT_FALLBACK, estimate

__all__ = ["DISCOUNT_FALLBACK", "ArpaError", "NgramModel", "Perplexity", "train_ngram"]

_SENTENCES_AT_ONCE = 4096
_NO_UNKNOWN_LOG_PROB = -100.0  # of a word outside a vocabulary that has no <unk>, as in kenlm


class Perplexity(NamedTuple):
    """How well a model predicts a text; each sentence's end counts as a word.

    Attributes:
        all_words: perplexity with unknown words at their (small) probability.
        known_words: perplexity of the words that the model knows.
        num_words, num_unknown: what the text held, ends of sentences included.
    """

    all_words: float
    known_words: float
    num_words: int
    num_unknown: int


class NgramModel:
    """Words and n-gram tables; immutable, safe to share between threads and cheap to pickle.

    Args:
        words: by number; `<s>` and `</s>` are among them.
        tables: one for each order, from 1 up.
    """

    def __init__(self, words: Sequence[str], tables: Sequence[NgramTable]) -> None:
        self.words, self.tables = list(words), list(tables)
        if UNKNOWN not in self.words:
            self.words.append(UNKNOWN)
            self.tables = _with_unknown(self.tables, len(words))
        self._ids = {word: number for number, word in enumerate(self.words)}
        self._unknown, self._begin, self._end = (self._ids.pop(mark) for mark in (UNKNOWN, BEGIN, END))

    @property
    def order(self) -> int:
        """Longest n-gram."""
        return len(self.tables)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of n-grams of each order, from 1 up."""
        return tuple(len(table.keys) for table in self.tables)

    def __contains__(self, word: str) -> bool:
        """Whether the word was in the training text (or file)."""
        return word in self._ids

    def score(self, text: str, bos: bool = True, eos: bool = True) -> float:
        """Log10 probability of a normalised text.

        Args:
            bos: the text begins a sentence; otherwise its first word has no context.
            eos: the text ends a sentence, whose end counts too. `""` scores 0 without it.
        """
        return float(self.score_batch([text], bos, eos)[0])

    def score_batch(
        self, texts: Iterable[str], bos: bool = True, eos: bool = True, *, per_word: bool = False
    ) -> np.ndarray:
        """Log10 probability of each text: float64 (n,).

        Args:
            texts: normalised; read a few thousand at a time.
            bos, eos: as of `score`.
            per_word: divide by the number of words (and 1 for the end if `eos`), which makes lengths comparable.
        """
        scores: list[np.ndarray] = [np.empty(0)]
        for tokens, owners, log_probs in self._scored(texts, bos, eos):
            counted = tokens != self._begin
            totals = np.bincount(owners, np.where(counted, log_probs, 0), minlength=int(owners[-1]) + 1)
            if per_word:
                totals /= np.maximum(np.bincount(owners, counted, minlength=len(totals)), 1)
            scores.append(totals)
        return np.concatenate(scores)

    def perplexity(self, texts: Iterable[str]) -> Perplexity:
        """Perplexity of sentences; texts without a word are left out. NaN for a part that holds no words."""
        sums, counts = np.zeros(2), np.zeros(2, int)  # of known and of unknown words
        for tokens, _, log_probs in self._scored((text for text in texts if text.split()), True, True):
            unknown = tokens[tokens != self._begin] == self._unknown
            log_probs = log_probs[tokens != self._begin]
            sums += log_probs[~unknown].sum(), log_probs[unknown].sum()
            counts += np.count_nonzero(~unknown), np.count_nonzero(unknown)
        every, known = (
            10 ** (-s / n) if n else math.nan for s, n in ((sums.sum(), counts.sum()), (sums[0], counts[0]))
        )
        return Perplexity(float(every), float(known), int(counts.sum()), int(counts[1]))

    def _scored(self, texts: Iterable[str], bos: bool, eos: bool) -> Iterator[tuple[np.ndarray, ...]]:
        """(tokens, number of the text in its part, log10 probability of each token) of some thousand texts at a time.

        Each text has a `<s>` in front, which carries no score; without `bos` nothing sees it either.
        """
        texts, number_of, unknown = iter(texts), self._ids.get, repeat(self._unknown)
        while part := list(islice(texts, _SENTENCES_AT_ONCE)):
            flat, edges = array("q"), [0]
            for text in part:
                flat.append(self._begin)
                flat.extend(map(number_of, text.split(), unknown))
                if eos:
                    flat.append(self._end)
                edges.append(len(flat))
            tokens, lengths = np.array(flat), np.diff(edges)
            owners = np.repeat(np.arange(len(part)), lengths)
            offsets = np.arange(len(tokens)) - np.repeat(edges[:-1], lengths)
            yield tokens, owners, self._log_probs(tokens, offsets - (0 if bos else 1))

    def _log_probs(self, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Log10 probability of each token after those before it; `offsets` is how many tokens it may look back on."""
        log_probs = self.tables[0].log_probs[tokens].astype(np.float64)
        rows = tokens  # of the n-gram that ends at each token, in the table of the last order looked at
        for level in range(2, self.order + 1):
            lower, table = self.tables[level - 2], self.tables[level - 1]
            ends = np.flatnonzero((offsets[1:] >= level - 1) & (rows[:-1] >= 0)) + 1
            contexts = rows[ends - 1]
            if not len(table.keys):
                log_probs[ends] += lower.log_backoffs[contexts]
                break
            found = find_keys(table.keys, contexts * len(self.words) + tokens[ends])
            backed_off = log_probs[ends] + lower.log_backoffs[contexts]
            log_probs[ends] = (
                np.where(found >= 0, table.log_probs[found], backed_off) if len(table.keys) else backed_off
            )
            rows = np.full(len(tokens), -1, np.int64)
            rows[ends] = found
        return log_probs

    def save(self, path: str | Path) -> None:
        """Write an ARPA file; a name that ends in .gz or .xz compresses. `load` gives the same model back."""
        write_arpa(path, self.words, self.tables)

    @classmethod
    def load(cls, path: str | Path) -> "NgramModel":
        """Read an ARPA file, also of another tool.

        Raises:
            ArpaError: with file and line of what is wrong.
        """
        return cls(*read_arpa(path))


def _perplexity(log10_prob: float, num_words: int) -> float:
    return float(10 ** (-log10_prob / num_words)) if num_words else math.nan


def _with_unknown(tables: list[NgramTable], num_words: int) -> list[NgramTable]:
    """Tables whose vocabulary has one more word, the last, that no n-gram holds."""
    first = tables[0]
    wider = [
        NgramTable(
            np.arange(num_words + 1),
            np.append(first.log_probs, np.float32(_NO_UNKNOWN_LOG_PROB)),
            np.append(first.log_backoffs, np.float32(0)),
        )
    ]
    for table in tables[1:]:
        contexts, last = np.divmod(table.keys, num_words)
        wider.append(table._replace(keys=contexts * (num_words + 1) + last))
    return wider


def train_ngram(
    sentences: Iterable[str],
    order: int = 4,
    *,
    prune: Sequence[int] = (),
    discount_fallback: tuple[float, float, float] | None = DISCOUNT_FALLBACK,
) -> NgramModel:
    """An interpolated modified Kneser-Ney model of normalised sentences, equal to `lmplz -o 4 --discount_fallback`.

    The model does not depend on the order of the sentences. (lmplz counts the last n-gram of each order below the
    highest by its occurrences, which moves its discounts by one part in the number of n-grams.)

    Args:
        sentences: words between white space; sentences without a word are left out.
        order: longest n-gram.
        prune: n-grams that occur this often or less are dropped, by order from 1 up, the last value for all higher
            ones: `(0, 0, 1)` drops 3-grams and 4-grams that occur once. The first must be 0.
        discount_fallback: discounts of n-grams with count 1, 2 and more of an order where the text is too small to
            estimate them (with a warning); None raises instead.

    Raises:
        ValueError: no words at all, a sentence that holds `<s>`, `</s>` or `<unk>`, bad settings.
    """
    return NgramModel(*estimate(sentences, order, prune, discount_fallback))
