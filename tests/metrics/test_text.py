"""Text error rates against jiwer, a naive alignment and cases counted by hand."""

import jiwer
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_scripts.text.normalize import normalize_text
from trainers.metrics import align, count_errors, error_rates, text_error_counts
from trainers.metrics.text import syllables, words

# Speed is not what these check, and the machine may be busy with something else.
RELAXED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SENTENCES = st.lists(st.sampled_from(["ba", "bà", "email", "tôi", "mở", "a"]), max_size=8)


def naive_distance(reference, hypothesis):
    table = np.zeros((len(reference) + 1, len(hypothesis) + 1), dtype=int)
    table[:, 0], table[0, :] = np.arange(len(reference) + 1), np.arange(len(hypothesis) + 1)
    for i, r in enumerate(reference, 1):
        for j, h in enumerate(hypothesis, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (r != h))
    return int(table[-1, -1])


@RELAXED
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_counts_are_minimal_and_consistent(pairs):
    counts = count_errors([r for r, _ in pairs], [h for _, h in pairs])
    assert counts.errors.tolist() == [naive_distance(r, h) for r, h in pairs]
    length_changes = [len(h) - len(r) for r, h in pairs]
    assert (counts.insertions - counts.deletions).tolist() == length_changes
    assert counts.reference_lengths.tolist() == [len(r) for r, _ in pairs]


@RELAXED
@given(SENTENCES, SENTENCES)
def test_alignment_spells_both_sides(reference, hypothesis):
    steps = align(reference, hypothesis)
    assert [s.reference_index for s in steps if s.reference_index is not None] == list(range(len(reference)))
    assert [s.hypothesis_index for s in steps if s.hypothesis_index is not None] == list(range(len(hypothesis)))
    assert sum(s.op != "equal" for s in steps) == naive_distance(reference, hypothesis)
    for op, r, h in steps:
        if op in ("equal", "replace"):
            assert (reference[r] == hypothesis[h]) == (op == "equal")


@RELAXED
@given(st.lists(st.tuples(SENTENCES.filter(bool), SENTENCES), min_size=1, max_size=8))
def test_rates_equal_jiwer_on_normalised_text(pairs):
    references = [normalize_text(" ".join(r)) for r, _ in pairs]
    hypotheses = [normalize_text(" ".join(h)) for _, h in pairs]
    ours, theirs = error_rates(references, hypotheses), jiwer.process_words(references, hypotheses)
    assert ours["wer"] == pytest.approx(theirs.wer)
    assert ours["syer"] == ours["wer"]
    assert ours["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    counted = (ours["word_substitutions"], ours["word_deletions"], ours["word_insertions"])
    assert counted == (theirs.substitutions, theirs.deletions, theirs.insertions)


def test_corpus_rate_is_not_a_mean_of_utterances():
    # 1 error in 1 word and 0 in 3: 1/4, where the mean of utterance rates would say 1/2.
    assert error_rates(["ba", "bà ba bà"], ["bà", "bà ba bà"])["wer"] == 0.25


def test_writing_styles_are_not_errors():
    references = ["Tôi ở nhà, hòa bình!", "thu\u0309y"]  # the second decomposed
    hypotheses = ["tôi ở nhà hoà bình", "thủy"]
    rates = error_rates(references, hypotheses)
    assert (rates["wer"], rates["syer"], rates["cer"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "as_words", "as_syllables"),
    [
        ("Mạng Wi-Fi tốt.", ["mạng", "wi-fi", "tốt"], ["mạng", "wi", "fi", "tốt"]),
        ("ki-lô-mét", ["ki-lô-mét"], ["ki", "lô", "mét"]),
        ("mua - bán", ["mua", "bán"], ["mua", "bán"]),
        ("wi\u2011fi", ["wi-fi"], ["wi", "fi"]),
        ("", [], []),
    ],
)
def test_hyphens_join_words_and_split_syllables(text, as_words, as_syllables):
    assert words(text) == as_words
    assert syllables(text) == as_syllables


def test_wer_and_syer_differ_on_hyphens_only():
    rates = error_rates(["mạng wi-fi tốt"], ["mạng wi-phi tốt"])
    assert rates["wer"] == pytest.approx(1 / 3)
    assert rates["syer"] == pytest.approx(1 / 4)
    # Same syllables, other words: a hyphen left out is two word errors (replace, insert) and no syllable error.
    rates = error_rates(["mạng wi-fi tốt"], ["mạng wi fi tốt"])
    assert (rates["wer"], rates["syer"], rates["cer"]) == (pytest.approx(2 / 3), 0, 0)


def test_empty_references_are_counted():
    rates = error_rates(["", "ba bà", "…"], ["à ừ", "ba bà", ""])
    assert rates["empty_references"] == 2
    assert rates["insertions_on_empty_references"] == 2
    assert rates["wer"] == 1.0  # two insertions over two reference words
    with pytest.raises(ValueError, match="none of the 2 references"):
        error_rates(["", "?"], ["a", "b"])


@pytest.mark.parametrize(("references", "hypotheses"), [(["a", "b"], ["a"]), ("a", "a")])
def test_mismatched_lists_are_refused(references, hypotheses):
    with pytest.raises(ValueError, match="references"):
        error_rates(references, hypotheses)


def test_counts_carry_utterances_for_intervals():
    counts = text_error_counts(["ba bà", "tôi"], ["ba", "tôi đi"])
    assert counts["syer"].errors.tolist() == [1, 1]
    summary = counts["wer"].summary(num_samples=200)
    assert summary["errors"] == 2 and summary["length"] == 3
    assert summary["low"] <= summary["value"] <= summary["high"]
    assert "low" not in counts["wer"].summary(num_samples=0)
