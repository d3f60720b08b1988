"""Each rule, its edges, and that rows of real reading pass."""

import csv
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.curation.rules import (
    RULE_CODES,
    RuleSettings,
    SpeakingRates,
    longest_loop,
    rule_findings,
    rule_reasons,
)

GOOD = "hôm nay trời nắng nên chúng tôi đi chợ mua cá"  # it is sunny today, so we go to the market for fish


def row(text=GOOD, duration_s=4.0, corpus="c"):
    return {"text": text, "duration_s": duration_s, "corpus": corpus}


@pytest.mark.parametrize(
    ("given_row", "codes"),
    [
        (row(), []),
        (row(""), ["no_text"]),
        (row("  "), ["no_text"]),
        (row(None), ["no_text"]),
        (row("tôi có 3 con mèo", 2.0), ["digits"]),
        (row("tôi có ba² mèo", 2.0), ["digits"]),
        (row("tôi nói 你好 với mẹ", 2.0), ["non_latin"]),
        (row("giá giảm mười % thôi", 2.0), ["non_latin"]),
        (row("vui quá 😀 nhé bạn", 2.0), ["non_latin"]),
        (row("Tiáº¿ng Viá»‡t", 2.0), ["non_latin"]),
        (row("hello how are you", 2.0), ["no_tone_mark"]),
        (row("anh đi ra sân", 2.0), ["no_tone_mark"]),  # level tone has no mark: the price of the rule
        (row("hôm nay anh đi chơ\u0323", 2.0), []),  # marks that are not composed count
        (row(duration_s=14.99), []),
        (row(duration_s=15.0), ["too_long"]),
        (row(" ".join(["mưa", "to", "lắm", "rồi"] * 21), 14.9), ["word_loop"]),
        (row(" ".join(f"mưá{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(84)), 14.9), []),
        (row(" ".join(f"mưá{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(85)), 14.9), ["too_many_words"]),
        (row(GOOD, 0.9), ["too_fast"]),
        (row(GOOD, 0.0), ["too_fast"]),
        (row("xin chào", 4.1), ["too_slow"]),
        (row("ồ", 1.5), ["too_slow"]),  # one letter
        (row("vâng " * 4 + "ạ", 2.0), []),
        (row("vâng " * 5 + "ạ", 2.0), ["word_loop"]),
        (row("các bạn ơi " * 5, 8.0), ["word_loop"]),
        (row("3 3 3 3 3 и", 20.0), ["digits", "non_latin", "no_tone_mark", "word_loop", "too_long", "too_slow"]),
        ({"text": GOOD}, []),
        (row(duration_s=None), []),
    ],
)
def test_rules(given_row, codes):
    assert rule_reasons(given_row, RuleSettings()) == codes
    assert set(codes) <= set(RULE_CODES)


def test_findings_say_what_was_found():
    found = dict(rule_findings(row("mưa 25 mm ở 北京 " + "a " * 6, 20.0), RuleSettings()))
    assert found["digits"] == "25"
    assert found["non_latin"] == "other_script: 北京"
    assert found["word_loop"] == "6 × 'a'"
    assert found["too_long"] == "20.00 s"
    assert dict(rule_findings(row(duration_s=0.5), RuleSettings()))["too_fast"] == "22 words a second"


def test_every_rule_can_be_turned_off():
    off = RuleSettings(False, False, False, *[None] * 8)
    for text in ("3 3 3 3 3 и", "и " * 100, "x"):
        assert rule_reasons(row(text, 900.0), off) == []
    assert rule_reasons(row(""), off) == ["no_text"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_duration_s": 0}, "max_duration_s must be above 0, got 0"),
        ({"max_words": 0}, "max_words must be at least 1"),
        ({"max_phrase_repeats": 0}, "max_phrase_repeats must be at least 1"),
        ({"min_words_per_s": 9.0}, "0 <= min_words_per_s < max_words_per_s, got 9.0, 8.0"),
        ({"min_letters_per_s": -1.0}, "min_letters_per_s"),
        ({"max_rate_z": float("nan")}, "max_rate_z must be above 0, got nan"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        RuleSettings(**settings)


def rows_of_rates(rng):
    rates = [(f"c{i % 2}", rng.gauss(3.5 + 2 * (i % 2), 0.6)) for i in range(600)]
    return [row(" ".join(["chó"] * 12), 12 / max(rate, 0.6), corpus) for corpus, rate in rates]


def test_rates_within_the_corpus():
    rows = rows_of_rates(random.Random(0))
    rates = SpeakingRates()
    for one in rows:
        rates.add(one)
    rates.add(row(""))
    median, spread = rates.z_scores()["c0"]
    seconds = np.array([12 / one["duration_s"] for one in rows if one["corpus"] == "c0"])
    assert median == pytest.approx(np.median(seconds), abs=0.06)
    assert spread == pytest.approx(1.4826 * np.median(np.abs(seconds - np.median(seconds))), abs=0.12)
    settings = RuleSettings(max_rate_z=4.0, max_phrase_repeats=None)
    fast = row(" ".join(["chó"] * 12), 12 / 6.5, "c0")
    (finding,) = rule_findings(fast, settings, rates.z_scores())
    assert finding.code == "odd_rate" and "6.5 words a second, c0 has 3." in finding.detail
    assert rule_reasons({**fast, "corpus": "c1"}, settings, rates.z_scores()) == []
    assert rule_reasons({**fast, "corpus": "unheard"}, settings, rates.z_scores()) == []
    with pytest.raises(ValueError, match="max_rate_z compares with the rest of the corpus"):
        rule_reasons(fast, settings)


def test_rates_do_not_depend_on_order_or_parts():
    rows = rows_of_rates(random.Random(1))
    whole, first, second = SpeakingRates(), SpeakingRates(), SpeakingRates()
    for one in rows:
        whole.add(one)
    for one in rows[200:]:
        first.add(one)
    for one in rows[:200]:
        second.add(one)
    first.merge(second)
    assert first.z_scores() == whole.z_scores()


@given(st.lists(st.sampled_from("ab"), max_size=14))
def test_loops_are_all_found(words):
    def repeats(phrase, start):
        count = 0
        while words[start + count * len(phrase) : start + (count + 1) * len(phrase)] == phrase:
            count += 1
        return count

    phrases = [(words[i : i + n], i) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1)]
    assert longest_loop(words)[0] == max((repeats(*phrase) for phrase in phrases), default=0)


@given(st.text(max_size=80), st.floats(0, 100) | st.none())
def test_any_text_is_judged(text, duration_s):
    for code, detail in rule_findings(row(text, duration_s), RuleSettings()):
        assert code in RULE_CODES and len(detail) < 200


def test_read_speech_passes(shared_data):
    broken = []
    with open(shared_data / "vi_asr" / "train" / "metadata.csv", encoding="utf-8") as file:
        rows = [row(line["text"], float(line["duration"])) for line in csv.DictReader(file)]
    for one in rows:
        broken += rule_reasons(one, RuleSettings())
    assert broken.count("too_fast") + broken.count("too_slow") + broken.count("digits") == 0
    assert len(broken) < 0.05 * len(rows)
