"""English words set into the sentences of any Vietnamese corpus, with span labels.

Two things happen to a line. Phrases with an everyday English counterpart (`resources/loans.tsv`: "cuộc họp" →
"meeting") are exchanged, each with some probability; and a remark with English in it (`resources/insertions.tsv`:
"ok …", "… qua email") may be put before or after. Words that are no Vietnamese syllables ("facebook" in the line)
are labelled English as well.

A line and all its code-switched versions belong to one split: the split is a hash of the line with everything
exchanged and remarks taken off, which is the same for all versions.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b
from random import Random

from data_scripts.synthesis.grammar import Phrase, has_english, join_words, parse_phrase, read_resource
from data_scripts.synthesis.sentences import SPLITS, SentenceRow, split_of
from data_scripts.text.normalize import normalize_text, text_problems
from data_scripts.text.syllables import is_syllable

logger = logging.getLogger(__name__)

Words = tuple[str, ...]


@cache
def loan_words() -> dict[Words, Words]:
    """Vietnamese phrase → English counterpart, as words; a phrase has one counterpart only."""
    return {tuple(row["vi"].split()): tuple(row["en"].split()) for row in read_resource("loans.tsv")}


@cache
def _remarks(place: str) -> tuple[Phrase, ...]:
    rows = [row for row in read_resource("insertions.tsv") if row["place"] == place]
    return tuple(parse_phrase(row["pattern"], f"insertions.tsv {row['pattern']!r}") for row in rows)


@cache
def _lengths() -> dict[str, list[int]]:
    """First word of a phrase → lengths of the phrases that begin so, longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in loan_words():
        lengths.setdefault(phrase[0], set()).add(len(phrase))
    return {word: sorted(found, reverse=True) for word, found in lengths.items()}


@cache
def _plain_remarks(place: str) -> tuple[Words, ...]:
    return tuple(tuple(word for word, _ in remark) for remark in _remarks(place))


def insert_english(
    lines: Iterable[str],
    seed: int = 0,
    *,
    exchange_share: float = 0.5,
    remark_share: float = 0.15,
    split: str | None = None,
    only_code_switched: bool = False,
    max_words: int = 40,
    corpus: str = "text",
) -> Iterator[SentenceRow]:
    """Labelled, partly code-switched versions of corpus lines, streamed, at most one for each distinct line.

    Version i depends on (seed, i, line) alone; another seed gives another version of the same line. Lines that cannot
    be read as written (digits, other scripts …), that are too long, or that repeat an earlier line are left out and
    counted in the log. What is remembered of each line is eight bytes.

    Args:
        lines: one sentence each; normalised here.
        seed: choice of exchanges and remarks.
        exchange_share: probability with which each exchangeable phrase becomes English.
        remark_share: probability of a remark with English in it, before or after.
        split: "train", "validation" or "test" for the lines of that split, None for all.
        only_code_switched: leave out lines that end up without English.
        max_words: longest result.
        corpus: name written into the rows and their ids.

    Raises:
        ValueError: a share outside 0…1, or an unknown split.
    """
    for name, share in (("exchange_share", exchange_share), ("remark_share", remark_share)):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {share}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    for index, line in enumerate(lines):
        problems = text_problems(line)
        if problems:
            left_out[problems[0]] += 1
            continue
        words = tuple(normalize_text(line).split())
        key = _sentence_key(words)
        digest = blake2b(key.encode(), digest_size=8).digest()
        if digest in seen:
            left_out["repeated"] += 1
            continue
        seen.add(digest)
        if split is not None and split_of(key) != split:
            continue
        switched = _switch(words, Random(f"{seed}-{index}-{key}"), exchange_share, remark_share)
        if len(switched) > max_words:
            left_out["too_long"] += 1
        elif has_english(switched) or not only_code_switched:
            text, spans = join_words(switched)
            row_id = f"{corpus}-{seed}-{index:08d}"
            yield SentenceRow(id=row_id, text=text, spans=spans, split=split_of(key), corpus=corpus)
    if left_out:
        logger.info("%s: lines left out: %s", corpus, ", ".join(f"{c} {n}" for c, n in left_out.most_common()))


def _switch(words: Words, rng: Random, exchange_share: float, remark_share: float) -> Phrase:
    switched: list[tuple[str, str]] = []
    for chunk, english in _matches(words):
        if english and rng.random() < exchange_share:
            switched.extend((word, "en") for word in english)
        else:
            switched.extend((word, "vi" if is_syllable(word) else "en") for word in chunk)
    if rng.random() < remark_share:
        if rng.random() < 0.5:
            return rng.choice(_remarks("before")) + tuple(switched)
        return tuple(switched) + rng.choice(_remarks("after"))
    return tuple(switched)


def _matches(words: Words) -> Iterator[tuple[Words, Words | None]]:
    """The line in pieces: (phrase, its English counterpart) longest first from the left, or (one word, None)."""
    loans, lengths = loan_words(), _lengths()
    i = 0
    while i < len(words):
        for length in lengths.get(words[i], ()):
            english = loans.get(words[i : i + length])
            if english:
                yield words[i : i + length], english
                i += length
                break
        else:
            yield words[i : i + 1], None
            i += 1


def _sentence_key(words: Words) -> str:
    """What all versions of a line have in common: everything exchanged, remarks taken off."""
    exchanged = tuple(word for chunk, english in _matches(words) for word in english or chunk)
    while True:
        before = next((r for r in _plain_remarks("before") if exchanged[: len(r)] == r and exchanged != r), ())
        after = next((r for r in _plain_remarks("after") if exchanged[-len(r) :] == r and exchanged != r), ())
        if before:
            exchanged = exchanged[len(before) :]
        elif after:
            exchanged = exchanged[: -len(after)]
        else:
            return " ".join(exchanged)
