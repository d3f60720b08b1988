"""Where code-switched speech goes wrong: error rates on Vietnamese words, on English words and at switch points.

Reference words carry the language of their labelled span; words outside every span of a labelled utterance belong to
the matrix language (Vietnamese). Utterances without any span are unlabelled: they are counted and left out, never
guessed, unless the caller knows better (`spanless_language`). A **switch point word** is a reference word beside a
word of the other language, on either side.

Substitutions and deletions belong to their reference word. An **insertion** has none, so it is charged to one of the
two reference words it stands between: to the one that is itself wrong (substituted or deleted) when exactly one is,
else to the preceding one, and to the first word when nothing precedes. So `email` heard as `i meo` is two English
errors whichever half the alignment calls inserted. Every error is charged exactly once: the `vi` and `en` errors add
up to all errors of the labelled utterances; switch-point words are a subset of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from data_scripts.spans import LANGUAGES
from data_scripts.text.normalize import normalize_text, normalize_with_spans

from .alignment import ErrorCounts, align, check_pairs

Span = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, slots=True)
class CodeSwitchCounts:
    """Error counts of the labelled utterances by group, and how many utterances and words each group has.

    `groups` maps "vi", "en" and "switch" to counts with one entry per labelled utterance, in corpus order.
    """

    groups: dict[str, ErrorCounts]
    labelled_utterances: int
    unlabelled_utterances: int
    switching_utterances: int


def _as_tuple(span: Span) -> tuple[int, int, str]:
    start, end, language = (
        (span["start"], span["end"], span["lang"]) if isinstance(span, Mapping) else (span[0], span[1], span[2])
    )
    if language not in LANGUAGES:
        raise ValueError(f"span {start}-{end} has language {language!r}; allowed: {', '.join(LANGUAGES)}")
    return int(start), int(end), language


def word_languages(text: str, spans: Sequence[Span], matrix_language: str = "vi") -> tuple[list[str], list[str]]:
    """Words of the normalised text and the language of each, both of length num_words.

    A span claims every word it overlaps; where two do, the one covering more of the word.
    """
    normal, moved = normalize_with_spans(text, [_as_tuple(span) for span in spans])
    labelled = [_as_tuple(span) for span in moved]
    words, languages, position = normal.split(), [], 0
    for word in words:
        start = normal.index(word, position)
        position = start + len(word)
        overlaps = [(min(position, e) - max(start, s), language) for s, e, language in labelled]
        best = max(overlaps, default=(0, ""), key=lambda overlap: overlap[0])
        languages.append(best[1] if best[0] > 0 else matrix_language)
    return words, languages


def switch_points(languages: Sequence[str]) -> list[bool]:
    """True for every word that has a neighbour in another language.

    >>> switch_points(["vi", "vi", "en", "vi", "vi"])
    [False, True, True, True, False]
    """
    change = [False, *(a != b for a, b in pairwise(languages)), False]
    return [change[i] or change[i + 1] for i in range(len(languages))]


def charged_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[str, int]]:
    """Every edit as (operation, index of the reference word it is charged to); the reference must not be empty."""
    steps = align(reference, hypothesis)
    operation = {step.reference_index: step.op for step in steps if step.reference_index is not None}
    charged, following = [], 0
    for step in steps:
        if step.reference_index is not None:
            following = step.reference_index + 1
            if step.op != "equal":
                charged.append((step.op, step.reference_index))
            continue
        sides = [index for index in (following - 1, following) if 0 <= index < len(reference)]
        wrong = [index for index in sides if operation[index] != "equal"]
        charged.append(("insert", wrong[0] if len(wrong) == 1 else sides[0]))
    return charged


def codeswitch_error_counts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    spans: Sequence[Sequence[Span] | None],
    spanless_language: str | None = None,
) -> CodeSwitchCounts:
    """Counts behind `codeswitch_error_rates` (same arguments and errors)."""
    check_pairs(references, hypotheses)
    check_pairs(references, spans)
    if spanless_language not in (None, *LANGUAGES):
        raise ValueError(f"spanless_language is {spanless_language!r}; allowed: None, {', '.join(LANGUAGES)}")
    rows: dict[str, list[tuple[int, int, int, int]]] = {"vi": [], "en": [], "switch": []}
    switching = 0
    for row, (reference, hypothesis, row_spans) in enumerate(zip(references, hypotheses, spans, strict=True)):
        if not row_spans and spanless_language is None:
            continue
        try:
            matrix_language = "vi" if row_spans else str(spanless_language)
            words, languages = word_languages(reference, row_spans or (), matrix_language)
        except ValueError as error:
            raise ValueError(f"utterance {row}: {error}") from error
        at_switch = switch_points(languages)
        switching += any(at_switch)
        # An emptied reference has no word to charge; its insertions stay in the overall WER alone.
        charged = charged_errors(words, normalize_text(hypothesis).split()) if words else []
        members = {"vi": [x == "vi" for x in languages], "en": [x == "en" for x in languages], "switch": at_switch}
        for name, member in members.items():
            ops = [op for op, index in charged if member[index]]
            rows[name].append((ops.count("replace"), ops.count("delete"), ops.count("insert"), sum(member)))
    labelled = len(rows["vi"])
    groups = {name: ErrorCounts.from_rows(group) for name, group in rows.items()}
    return CodeSwitchCounts(groups, labelled, len(references) - labelled, switching)


def codeswitch_error_rates(
    references: Sequence[str],
    hypotheses: Sequence[str],
    spans: Sequence[Sequence[Span] | None],
    spanless_language: str | None = None,
) -> dict[str, float | int]:
    """Word error rates by language and at switch points.

    Args:
        references, hypotheses: one text an utterance; normalised here, the spans moved along.
        spans: for each utterance its `{"start", "end", "lang"}` mappings or (start, end, lang) tuples, character
            offsets into the reference as given; empty or None marks the utterance as unlabelled.
        spanless_language: "vi" or "en" if utterances without spans are known to be in that language alone.

    Returns:
        `"wer_vi"`, `"wer_en"`, `"wer_switch"` as fractions, each only if the corpus has such words, and the counts
        `"vi_words"`, `"en_words"`, `"switch_words"`, `"labelled_utterances"`, `"unlabelled_utterances"`,
        `"switching_utterances"` (those with at least one switch point).

    Raises:
        ValueError: the lists differ in length, or a span names another language.
    """
    counts = codeswitch_error_counts(references, hypotheses, spans, spanless_language)
    out: dict[str, float | int] = {f"wer_{name}": c.rate for name, c in counts.groups.items() if c.total_length}
    out |= {f"{name}_words": c.total_length for name, c in counts.groups.items()}
    return out | {
        "labelled_utterances": counts.labelled_utterances,
        "unlabelled_utterances": counts.unlabelled_utterances,
        "switching_utterances": counts.switching_utterances,
    }
