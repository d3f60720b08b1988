"""Phoneme error rates in both registers, tone confusions, and the all-in-one score."""

import json

import pytest

from data_scripts.text.normalize import NORMALIZER_VERSION
from data_scripts.text.phonemes import full_to_vmd
from data_scripts.text.spoken import SPOKEN_FORM_VERSION
from trainers.metrics import phoneme_error_rate, score, tone_confusions


def test_full_is_scored_in_both_registers():
    # ʈʂ (tr) and t͡ɕ (ch) are one sound in vmd: an error in full alone.
    reference, hypothesis = "ʈʂ a -0", "t͡ɕ a -0"
    assert full_to_vmd(reference.split()) == full_to_vmd(hypothesis.split())
    assert phoneme_error_rate([reference], [hypothesis]) == {"per_full": pytest.approx(1 / 3), "per_vmd": 0.0}


def test_vmd_is_scored_in_vmd_alone():
    assert phoneme_error_rate(["t i -0"], [["t", "i", "-4"]], register="vmd") == {"per_vmd": pytest.approx(1 / 3)}


def test_marks_are_not_phonemes():
    rates = phoneme_error_rate([["<s>", "t", "i", "-0", "$", "m", "a", "-1", "</s>"]], ["t i -0 m a -1 </s> <pad>"])
    assert set(rates.values()) == {0.0}
    assert phoneme_error_rate(["t i -0"], ["t <unk> -0"])["per_full"] == pytest.approx(1 / 3)


def test_unknown_register():
    with pytest.raises(ValueError, match="full, vmd"):
        phoneme_error_rate(["t"], ["t"], register="ipa")


def test_tone_confusions_by_hand():
    result = tone_confusions(["má mở email bà", "ba"], ["mà mơ email", "ba"])
    assert result["confusions"]["sắc"]["huyền"] == 1
    assert result["confusions"]["hỏi"]["ngang"] == 1
    assert result["confusions"]["ngang"]["ngang"] == 1  # the deleted "bà" and the English word have no pair
    assert sum(sum(row.values()) for row in result["confusions"].values()) == 3
    assert result["tone_only_substitutions"] == 2


def test_a_tone_of_another_syllable_is_not_tone_only():
    result = tone_confusions(["má"], ["là"])
    assert result["confusions"]["sắc"]["huyền"] == 1
    assert result["tone_only_substitutions"] == 0


def test_score_is_complete_and_json_ready():
    result = score(
        ["mở email đi", "xin chào"],
        ["mở i meo đi", "xin chào"],
        spans=[[(3, 8, "en")], [(0, 8, "vi")]],
        reference_phonemes=[["m", "əː", "-3"], ["s", "i", "-0", "nz"]],
        hypothesis_phonemes=[["m", "əː", "-3"], ["s", "i", "-0"]],
        num_samples=100,
    )
    assert set(result["metrics"]) == {"wer", "syer", "cer", "per_full", "per_vmd", "wer_vi", "wer_en", "wer_switch"}
    assert result["metrics"]["wer"]["value"] == pytest.approx(2 / 5)
    assert result["metrics"]["wer_en"]["errors"] == 2
    assert result["counts"]["switching_utterances"] == 1
    assert result["normalizer_version"] == NORMALIZER_VERSION
    assert result["spoken_form_version"] == SPOKEN_FORM_VERSION
    for metric in result["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    json.dumps(result, allow_nan=False)


def test_score_leaves_out_what_was_not_given():
    result = score(["mở email đi"], ["mở email"], num_samples=0)
    assert set(result["metrics"]) == {"wer", "syer", "cer"}
    assert "low" not in result["metrics"]["wer"]
    with pytest.raises(ValueError, match="none of the 1 references"):
        score([""], ["a"])


def test_score_of_phonemes_alone():
    result = score(
        ["mở"], None, spans=[[]], reference_phonemes=["m əː -3"], hypothesis_phonemes=["m əː"], num_samples=0
    )
    assert set(result["metrics"]) == {"per_full", "per_vmd"} and "tones" not in result
