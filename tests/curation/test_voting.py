"""Votes: which pairs are compared, what agreement is, and which hypothesis wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.curation.voting import VotingSettings, disagreement, vote

NUMBERS = "một hai ba bốn năm sáu bảy tám chín mười"


def heard(model, text, speed=1.0, lm_score=None, unit="syllable"):
    return {"model": model, "speed": speed, "unit": unit, "hypothesis": text, "lm_score": lm_score}


def test_ten_percent_is_agreement_and_more_is_not():
    one_wrong = NUMBERS.replace("mười", "chục")
    assert vote([heard("a", NUMBERS), heard("b", one_wrong)], VotingSettings()).agreement == pytest.approx(0.1)
    assert vote([heard("a", NUMBERS), heard("b", one_wrong)], VotingSettings()).text == NUMBERS
    two_wrong = vote([heard("a", NUMBERS), heard("b", one_wrong.replace("một", "mốt"))], VotingSettings())
    assert two_wrong.reason == "vote_disagreement" and two_wrong.text == "" and two_wrong.agreement == 0.2


def test_two_speeds_of_one_model_are_no_vote():
    alone = vote([heard("a", NUMBERS), heard("a", NUMBERS, 0.9), heard("b", "khác hẳn")], VotingSettings())
    assert alone.reason == "vote_disagreement"
    assert vote([heard("a", NUMBERS), heard("a", NUMBERS, 0.9)], VotingSettings()).reason == "vote_missing"


def test_the_slow_pass_is_a_second_chance():
    fast = [heard("a", "bà ba"), heard("b", "một hai ba")]
    slow = [heard("a", "một hai ba", 0.9), heard("b", "một hai ba", 0.9)]
    assert vote(fast, VotingSettings()).reason == "vote_disagreement"
    assert vote(fast + slow, VotingSettings()).text == "một hai ba"


def test_pairs_at_other_speeds_only_when_asked_for():
    crossed = [heard("a", "một hai", 0.9), heard("b", "một hai"), heard("a", "mốt"), heard("b", "hài hai", 0.9)]
    assert vote(crossed, VotingSettings()).reason == "vote_disagreement"
    assert vote(crossed, VotingSettings(pairs="any_speed")).text == "một hai"


def test_the_language_model_chooses_among_those_that_agree():
    other = NUMBERS.replace("mười", "mươi")
    candidates = [heard("a", NUMBERS, lm_score=-2.0), heard("b", other, lm_score=-1.5)]
    candidates.append(heard("c", "tôi", lm_score=-0.1))
    chosen = vote(candidates, VotingSettings())
    assert (chosen.text, chosen.lm_score, chosen.reason) == (other, -1.5, None)
    assert vote(candidates, VotingSettings(min_lm_score=-1.0)).reason == "vote_unlikely_text"
    assert vote(candidates, VotingSettings(min_lm_score=-1.5)).reason is None
    without = [{**one, "lm_score": None} for one in candidates]
    assert vote(without, VotingSettings()).text == NUMBERS
    assert vote(without, VotingSettings(min_lm_score=-9.0)).reason == "vote_unlikely_text"


def test_silence_failures_and_phonemes():
    assert vote([heard("a", ""), heard("b", "")], VotingSettings()).reason == "vote_silent"
    assert vote([heard("a", ""), heard("b", "một")], VotingSettings()).reason == "vote_disagreement"
    assert vote([heard("a", None), heard("b", "một")], VotingSettings()).reason == "vote_missing"
    assert vote([heard("a", "m o", unit="phoneme"), heard("b", "m o")], VotingSettings()).reason == "vote_missing"
    assert vote([], VotingSettings()).reason == "vote_missing"


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_disagreement_does_not_depend_on_the_order(one, other):
    first, second = " ".join(one), " ".join(other)
    assert disagreement(first, second) == disagreement(second, first)
    assert (disagreement(first, second) == 0) == (one == other and bool(one))


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="max_wer must be at least 0"):
        VotingSettings(max_wer=-0.1)
