"""Word, syllable and character error rates of normalised text.

Both sides always pass through the project's one normaliser, so `hoà` against `hòa`, NFD against NFC or a capital
letter is never an error. The three units:

- **syllable** (SyER): a whitespace token of the normalised text. Normalising turns punctuation into spaces, so a
  hyphenated `wi-fi` or `ki-lô-mét` counts as two or three syllables, as Vietnamese orthography means it.
- **word** (WER): a whitespace token of the text as it was written; what a hyphen joins is one word. Vietnamese writes
  a space after every syllable, so WER and SyER are equal unless the text has hyphens; on text that was normalised
  before (the rows of this project's loaders) they are always equal.
- **character** (CER): a character of the normalised text, spaces between words included (as jiwer counts).
"""

import re
from collections.abc import Sequence
from typing import Any

from data_scripts.text.normalize import normalize_text

from .alignment import ErrorCounts, check_pairs, count_errors

# U+002D hyphen-minus, U+2010 hyphen, U+2011 non-breaking hyphen; dashes separate words and are not here.
_HYPHENS = re.compile("[-\u2010\u2011]")


def syllables(text: str) -> list[str]:
    """Whitespace tokens of the normalised text: `"Mạng Wi-Fi"` → `["mạng", "wi", "fi"]`."""
    return normalize_text(text).split()


def words(text: str) -> list[str]:
    """Tokens of the normalised text with hyphenated compounds kept whole: `"Mạng Wi-Fi"` → `["mạng", "wi-fi"]`."""
    if not _HYPHENS.search(text):
        return syllables(text)
    found: list[str] = []
    for token in text.split():
        joined: list[str] = []
        for part in _HYPHENS.split(token):
            pieces = syllables(part)
            if joined and pieces:
                joined[-1] += "-" + pieces.pop(0)
            joined += pieces
        found += joined
    return found


def text_error_counts(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, ErrorCounts]:
    """`{"wer": …, "syer": …, "cer": …}`, the counts behind `error_rates`, for intervals and sums over corpora."""
    check_pairs(references, hypotheses)
    # Cached per call: greedy and beam hypotheses of one test set are mostly equal to each other and to the reference.
    normal = {text: normalize_text(text) for text in {*references, *hypotheses}}
    units = {text: normal[text].split() for text in normal}
    whole = {text: words(text) for text in normal if _HYPHENS.search(text)}

    def counts(table: dict[str, Any]) -> ErrorCounts:
        return count_errors([table[text] for text in references], [table[text] for text in hypotheses])

    syer = counts(units)
    return {"wer": counts(units | whole) if whole else syer, "syer": syer, "cer": counts(normal)}


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float | int]:
    """Corpus error rates of texts, normalised here.

    Args:
        references: what was said, one text an utterance. hypotheses: what was recognised, in the same order.

    Returns:
        `{"wer", "syer", "cer"}` as fractions (0.25 is 25 %), and the counts behind them: `"utterances"`,
        `"reference_words"`, `"word_substitutions"`, `"word_deletions"`, `"word_insertions"`, `"empty_references"` and
        `"insertions_on_empty_references"` (these are part of the word insertions).

    Raises:
        ValueError: the lists differ in length, or no reference has a word in it.
    """
    counts = text_error_counts(references, hypotheses)
    wer = counts["wer"]
    if not wer.total_length:
        raise ValueError(
            f"none of the {len(references)} references has a word left after normalisation, so there is no error "
            "rate; check that the text column is the right one"
        )
    empty = wer.reference_lengths == 0
    return {
        **{name: each.rate for name, each in counts.items()},
        "utterances": len(references),
        "reference_words": wer.total_length,
        "word_substitutions": int(wer.substitutions.sum()),
        "word_deletions": int(wer.deletions.sum()),
        "word_insertions": int(wer.insertions.sum()),
        "empty_references": int(empty.sum()),
        "insertions_on_empty_references": int(wer.insertions[empty].sum()),
    }
