"""The vi / en / switch-point split on cases counted by hand, and its invariants."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainers.metrics import codeswitch_error_counts, codeswitch_error_rates, error_rates
from trainers.metrics.codeswitch import charged_errors, switch_points, word_languages

# Speed is not what these check, and the machine may be busy with something else.
RELAXED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = "tôi mở email đi nhé"
SPANS = [{"start": s, "end": e, "lang": lang} for s, e, lang in ((0, 6, "vi"), (7, 12, "en"), (13, 19, "vi"))]


def test_words_take_the_language_of_their_span():
    assert word_languages(TEXT, SPANS) == (TEXT.split(), ["vi", "vi", "en", "vi", "vi"])
    assert word_languages(TEXT, [(7, 12, "en")])[1] == ["vi", "vi", "en", "vi", "vi"]


def test_spans_move_with_normalisation():
    words, languages = word_languages("Ừ... Mở  E-mail!", [(9, 15, "en")])
    assert words == ["ừ", "mở", "e", "mail"]
    assert languages == ["vi", "vi", "en", "en"]


def test_repeated_words_keep_their_own_span():
    assert word_languages("an an", [(3, 5, "en")])[1] == ["vi", "en"]


def test_switch_points():
    assert switch_points([]) == []
    assert switch_points(["en"]) == [False]
    assert switch_points(["vi", "en", "en", "en", "vi"]) == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("tôi mở email đi nhé", (0, 0, 0)),
        ("tôi mở i meo đi nhé", (0, 2, 2)),  # split English word: both edits are English
        ("tôi mở đi nhé", (0, 1, 1)),
        ("tôi mơ email đi nhé", (1, 0, 1)),  # Vietnamese word beside the switch
        ("tui mở email đi nhé", (1, 0, 0)),  # Vietnamese word away from it
        ("ờ tôi mở email đi nhé", (1, 0, 0)),  # nothing precedes: the first word
        ("tôi mở email đi nhé nha", (1, 0, 0)),
        ("tôi mở cái email đi nhé", (1, 0, 1)),  # both neighbours right: the preceding word, at the switch
        ("", (4, 1, 3)),
    ],
)
def test_errors_by_hand(hypothesis, expected):
    counts = codeswitch_error_counts([TEXT], [hypothesis], [SPANS])
    assert tuple(counts.groups[name].total_errors for name in ("vi", "en", "switch")) == expected
    assert tuple(counts.groups[name].total_length for name in ("vi", "en", "switch")) == (4, 1, 3)


def test_rates_and_counts():
    rates = codeswitch_error_rates(
        [TEXT, "xin chào", "xin chào"], ["tôi mở i meo đi nhé", "xin", "x"], [SPANS, [(0, 8, "vi")], []]
    )
    assert rates["wer_vi"] == pytest.approx(1 / 6)
    assert rates["wer_en"] == pytest.approx(2 / 1)
    assert rates["wer_switch"] == pytest.approx(2 / 3)
    assert (rates["labelled_utterances"], rates["unlabelled_utterances"], rates["switching_utterances"]) == (2, 1, 1)


def test_absent_languages_have_no_rate():
    rates = codeswitch_error_rates(["xin chào"], ["xin"], [[(0, 8, "vi")]])
    assert rates["wer_vi"] == 0.5 and rates["en_words"] == 0
    assert "wer_en" not in rates and "wer_switch" not in rates
    assert codeswitch_error_rates(["xin"], ["xin"], [None])["unlabelled_utterances"] == 1


def test_spanless_utterances_of_a_known_language():
    rates = codeswitch_error_rates([TEXT, "xin chào"], [TEXT, "xin"], [SPANS, []], spanless_language="vi")
    assert rates["wer_vi"] == pytest.approx(1 / 6)
    assert (rates["labelled_utterances"], rates["unlabelled_utterances"]) == (2, 0)
    with pytest.raises(ValueError, match="allowed: None, vi, en"):
        codeswitch_error_rates(["xin"], ["xin"], [[]], spanless_language="fr")


def test_wrong_language_names_the_utterance():
    with pytest.raises(ValueError, match=r"utterance 1.*'fr'.*vi, en"):
        codeswitch_error_rates(["a", "b"], ["a", "b"], [[], [(0, 1, "fr")]])


WORDS = st.lists(st.sampled_from(["mở", "email", "ba", "team"]), min_size=1, max_size=7)


@RELAXED
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_every_error_is_charged_once(pairs):
    references, hypotheses = [" ".join(r) for r, _ in pairs], [" ".join(h) for _, h in pairs]
    spans = []
    for words, _ in pairs:
        starts = [sum(map(len, words[:i])) + i for i in range(len(words))]
        spans.append(
            [(s, s + len(w), "en" if w in ("email", "team") else "vi") for s, w in zip(starts, words, strict=True)]
        )
    groups = codeswitch_error_counts(references, hypotheses, spans).groups
    overall = error_rates(references, hypotheses)
    total = overall["word_substitutions"] + overall["word_deletions"] + overall["word_insertions"]
    assert groups["vi"].total_errors + groups["en"].total_errors == total
    assert groups["vi"].total_length + groups["en"].total_length == overall["reference_words"]
    assert groups["switch"].total_errors <= total
    for words, hypothesis in pairs:
        assert all(0 <= index < len(words) for _, index in charged_errors(words, hypothesis))
