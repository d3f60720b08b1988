"""The training-loop filter: its bounds, its reasons, and the seeded share of easy rows."""

import math

import pytest

from data_scripts.curation.confidence import ConfidenceSettings, fraction_of, judge, quantile_floor


def score(confidence=0.6, error_rate=0.2, **more):
    kept = {"confidence": confidence, "min_window_confidence": 0.1, "greedy_confidence": 0.99}
    return {**kept, "error_rate": error_rate, "problem": None, **more}


@pytest.mark.parametrize(
    ("confidence", "error_rate", "reasons"),
    [
        (0.6, 0.2, []),
        (0.31, 0.39, []),
        (0.3, 0.2, ["low_confidence"]),
        (0.95, 0.2, ["high_confidence"]),
        (0.6, 0.05, ["low_error_rate"]),
        (0.6, 0.40, ["high_error_rate"]),
        (0.1, 0.9, ["low_confidence", "high_error_rate"]),
        (0.99, 0.0, ["high_confidence", "low_error_rate"]),
        (0.99, 0.9, ["high_error_rate", "high_confidence"]),
    ],
)
def test_the_published_bounds_are_outside(confidence, error_rate, reasons):
    assert judge("x", score(confidence, error_rate), ConfidenceSettings()).reasons == reasons


def test_a_share_of_the_easy_rows_stays_and_no_hard_one():
    settings = ConfidenceSettings(keep_easy_fraction=0.25, seed=3)
    easy = [judge(f"row {n}", score(0.99, 0.0), settings) for n in range(2000)]
    kept = [one for one in easy if not one.reasons]
    assert len(kept) == pytest.approx(500, abs=80)
    assert all(one.notes == ["kept_easy"] for one in kept)
    hard = [judge(f"row {n}", score(0.99, 0.5), settings) for n in range(200)]
    assert all(one.reasons for one in hard)
    everything = ConfidenceSettings(keep_easy_fraction=1.0)
    assert judge("x", score(1.0, 0.0), everything).reasons == []


def test_the_share_depends_on_id_and_seed_alone():
    first = [fraction_of(f"row {n}", 0) for n in range(500)]
    assert first == [fraction_of(f"row {n}", 0) for n in range(500)]
    assert first != [fraction_of(f"row {n}", 1) for n in range(500)]
    assert min(first) >= 0 and max(first) < 1 and sum(first) / 500 == pytest.approx(0.5, abs=0.05)


def test_measures():
    assert judge("x", score(), ConfidenceSettings(measure="min_window")).reasons == ["low_confidence"]
    assert judge("x", score(), ConfidenceSettings(measure="greedy")).reasons == ["high_confidence"]


def test_what_was_not_scored_is_dropped_with_its_problem():
    settings = ConfidenceSettings(keep_easy_fraction=1.0)
    assert judge("x", None, settings).reasons == ["not_scored"]
    assert judge("x", score(None, None, problem="too_few_frames"), settings).reasons == ["not_scored:too_few_frames"]
    assert judge("x", score(0.5, None), settings).reasons == ["not_scored:no_transcript"]


def test_the_quantile_of_the_lowest():
    values = [n / 10 for n in range(10)]
    assert quantile_floor(values, 0.2) == 0.2
    assert sum(value < quantile_floor(values, 0.2) for value in values) == 2
    assert quantile_floor(values, 0.0) == -math.inf == quantile_floor([None, math.nan], 0.5)
    floor = quantile_floor([0.5, 0.7], 0.5)
    assert judge("x", score(0.6), ConfidenceSettings(), floor).reasons == ["low_confidence"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 0.95},
        {"min_error_rate": 0.5},
        {"keep_easy_fraction": 1.5},
        {"drop_quantile": 1.0},
        {"max_confidence": 2.0},
    ],
)
def test_settings_out_of_range_name_the_field(wrong):
    with pytest.raises(ValueError, match="^" + next(iter(wrong))):
        ConfidenceSettings(**wrong)
