"""Counting n-grams and smoothing them: interpolated modified Kneser-Ney, with numbers equal to those of kenlm's lmplz.

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998), equations (20) to (26);
Heafield et al., "Scalable Modified Kneser-Ney Language Model Estimation" (ACL 2013), for sentence marks and `<unk>`.

Two million words (3.5 million n-grams of order 1 to 4) take 3 s on one core and 140 bytes of memory a word.
"""

import logging
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_scripts.curation.arpa import BEGIN, END, UNKNOWN, NgramTable

logger = logging.getLogger(__name__)

DISCOUNT_FALLBACK = (0.5, 1.0, 1.5)  # of lmplz --discount_fallback
_UNKNOWN_ID, _BEGIN_ID, _END_ID = range(3)
_BEGIN_LOG_PROB = -99.0  # by convention: nothing ever predicts <s>


class Counts(NamedTuple):
    """N-grams of one order, sorted by key (see `arpa`).

    Attributes:
        keys: int64 (n,).
        occurrences: int64 (n,).
        adjusted: int64 (n,), number of different words on the left, the Kneser-Ney count; occurrences in the highest
            order and for n-grams that begin with `<s>`, which nothing precedes.
        suffixes: int64 (n,), row of the n-gram without its first word in the table one order below; empty for order 1.
    """

    keys: np.ndarray
    occurrences: np.ndarray
    adjusted: np.ndarray
    suffixes: np.ndarray


def estimate(
    sentences: Iterable[str], order: int, prune: Sequence[int], discount_fallback: tuple[float, float, float] | None
) -> tuple[list[str], list[NgramTable]]:
    """Words and tables of a new model; arguments as of `train_ngram`."""
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    thresholds = _thresholds(order, prune)
    words, tokens, offsets = _read(sentences)
    counts = _count(tokens, offsets, len(words), order)
    tables: list[NgramTable] = []
    lower_probs = np.full(1, 1 / (len(words) - 1))  # uniform over all words but <s>
    for level, (table, threshold) in enumerate(zip(counts, thresholds, strict=True), 1):
        pruned = table.occurrences <= threshold if threshold else np.zeros(len(table.keys), bool)
        discounts = _discounts(table.adjusted, level, discount_fallback)
        contexts = table.keys // len(words) if level > 1 else np.zeros(len(table.keys), np.int64)
        num_contexts = len(counts[level - 2].keys) if level > 1 else 1
        totals = np.bincount(contexts, table.adjusted, num_contexts)
        discount = np.where(pruned, table.adjusted, discounts[np.minimum(table.adjusted, 3)])
        # Mass taken from what follows a context; a context that nothing follows backs off for free.
        left = np.bincount(contexts, discount, num_contexts)
        backoffs = np.divide(left, totals, out=np.ones(num_contexts), where=totals > 0)
        suffixes = table.suffixes if level > 1 else np.zeros(len(table.keys), np.int64)
        probs = (table.adjusted - discount) / totals[contexts] + backoffs[contexts] * lower_probs[suffixes]
        if level > 1:
            tables[-1] = tables[-1]._replace(log_backoffs=np.log10(backoffs).astype(np.float32))
        log_probs = np.minimum(np.log10(probs), 0).astype(np.float32)
        if level == 1:
            log_probs[_BEGIN_ID] = _BEGIN_LOG_PROB
        tables.append(NgramTable(table.keys, log_probs, np.zeros(len(table.keys), np.float32)))
        lower_probs = probs
    if any(thresholds):
        tables = _prune(tables, [c.occurrences > t for c, t in zip(counts, thresholds, strict=True)], len(words))
    return words, tables


def _thresholds(order: int, prune: Sequence[int]) -> list[int]:
    thresholds = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
    if len(prune) > order or thresholds[0] != 0 or sorted(thresholds) != thresholds:
        raise ValueError(
            f"prune must hold at most {order} counts, of order 1 upwards, the first 0 and none below the one before "
            f"it (as (0, 0, 1)), got {tuple(prune)}"
        )
    return thresholds


def _read(sentences: Iterable[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(the three marks and the sorted words, number of each word and mark of the text, its place in its sentence)."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    for mark in (UNKNOWN, BEGIN, END):
        ids[mark]
    tokens, lengths = array("i"), array("i")
    for number, sentence in enumerate(sentences, 1):
        words = sentence.split()
        if not words:
            continue
        numbers = [ids[word] for word in words]
        if min(numbers) <= _END_ID:
            raise ValueError(f"sentence {number} holds one of {UNKNOWN}, {BEGIN}, {END}: {sentence[:80]!r}")
        tokens.append(_BEGIN_ID)
        tokens.extend(numbers)
        tokens.append(_END_ID)
        lengths.append(len(words) + 2)
    if not lengths:
        raise ValueError("no sentence with a word in it: nothing to train a language model on")
    words = list(ids)
    arrangement = sorted(range(3, len(words)), key=words.__getitem__)
    # Sorted, so that the model does not depend on the order of the sentences.
    renumbered = np.empty(len(words), np.int32)
    renumbered[[0, 1, 2, *arrangement]] = np.arange(len(words))
    starts = np.cumsum(lengths) - lengths
    offsets = np.arange(len(tokens), dtype=np.int32) - np.repeat(starts, lengths).astype(np.int32)
    return (
        [UNKNOWN, BEGIN, END, *(words[i] for i in arrangement)],
        renumbered[np.frombuffer(tokens, np.int32)],
        offsets,
    )


def _count(tokens: np.ndarray, offsets: np.ndarray, num_words: int, order: int) -> list[Counts]:
    """Counts of order 1 to `order`; the adjusted counts of one order need those of the next."""
    rows = tokens.astype(np.int64)  # of the n-gram of the current order that ends at each token
    unigrams = np.bincount(tokens, minlength=num_words)
    unigrams[_BEGIN_ID] = 0
    tables = [Counts(np.arange(num_words), unigrams, unigrams, np.empty(0, np.int64))]
    for level in range(2, order + 1):
        ends = np.flatnonzero(offsets >= level - 1)
        keys, first, inverse, occurrences = np.unique(
            rows[ends - 1] * num_words + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        suffixes = rows[ends[first]]
        lower = tables[-1]
        adjusted = np.bincount(suffixes, minlength=len(lower.keys))
        begins = _begins_sentence(tables)
        adjusted[begins] = lower.occurrences[begins]
        tables[-1] = lower._replace(adjusted=adjusted)
        tables.append(Counts(keys, occurrences, occurrences, suffixes))
        rows = np.full(len(tokens), -1, np.int64)
        rows[ends] = inverse
    return tables


def _begins_sentence(tables: list[Counts]) -> np.ndarray:
    """bool (n,): which n-grams of the last table have `<s>` as their first word."""
    begins = np.zeros(len(tables[0].keys), bool)
    begins[_BEGIN_ID] = True
    for table in tables[1:]:
        begins = begins[table.keys // len(tables[0].keys)]
    return begins


def _discounts(adjusted: np.ndarray, order: int, fallback: tuple[float, float, float] | None) -> np.ndarray:
    """(0, D1, D2, D3+) by equation (26), or the fallback where the counts of counts forbid it."""
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if n[1:4].all():
        y = n[1] / (n[1] + 2 * n[2])
        found = np.array([0.0] + [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)])
        if np.all((found >= 0) & (found <= np.arange(4))):
            return found
    counts = ", ".join(f"{int(n[k])} of count {k}" for k in (1, 2, 3, 4))
    if fallback is None:
        raise ValueError(
            f"Kneser-Ney discounts of order {order} cannot be estimated from {counts}: the text is too small or full "
            f"of repeats; remove repeats or allow discount_fallback={DISCOUNT_FALLBACK}"
        )
    logger.warning("%d-grams: %s; discounts %s are used in place of estimates", order, counts, fallback)
    return np.array([0.0, *fallback])


def _prune(tables: list[NgramTable], kept: list[np.ndarray], num_words: int) -> list[NgramTable]:
    """Without the rows that are not kept; what remains has its contexts, as thresholds never fall with the order."""
    pruned = [tables[0]]
    for table, mask, lower_mask in zip(tables[1:], kept[1:], [np.ones(num_words, bool), *kept[1:]], strict=False):
        contexts, last = np.divmod(table.keys[mask], num_words)
        keys = (np.cumsum(lower_mask) - 1)[contexts] * num_words + last
        pruned.append(NgramTable(keys, table.log_probs[mask], table.log_backoffs[mask]))
    return pruned
