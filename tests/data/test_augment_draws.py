"""What is drawn for a row: a function of (seed, epoch, row), one generator for each kind of change."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from data_scripts.augment import EMOTION_CHANGES, Augmenter, EmotionChange
from data_scripts.schema import EMOTIONS
from trainers.arguments import AugmentationArguments
from trainers.checks import ConfigError

KEYS = [(seed, epoch, row) for seed in (0, 2**32 - 1) for epoch in (0, 7) for row in (0, 2**64 - 1)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of noise and one of rooms."""
    place = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name in ("noise", "rooms"):
        (place / name).mkdir()
        for number in range(3):
            decay = np.exp(-np.arange(4000) / 400) if name == "rooms" else 1.0
            sound = 0.2 * rng.standard_normal(4000) * decay
            sound[0] = 0.9
            soundfile.write(place / name / f"{number}.wav", sound, 16_000)
    return {"noise_folders": [str(place / "noise")], "rir_folders": [str(place / "rooms")]}


@pytest.fixture(scope="module")
def everything(folders):
    return AugmentationArguments(
        speed=0.1,
        pitch_semitones=2.0,
        gain_db=6.0,
        noise_snr_db=5.0,
        emotion_strength=1.0,
        time_masks=2,
        frequency_masks=2,
        **folders,
    )


def test_nothing_is_changed_by_default(tone):
    augmenter = Augmenter(AugmentationArguments())
    out = augmenter.waveform(tone, KEYS[0], "angry")
    np.testing.assert_array_equal(out, tone)
    assert out is not tone and out.dtype == np.float32
    assert not AugmentationArguments().active


def test_same_key_same_audio_and_input_untouched(tone, everything):
    augmenter, before = Augmenter(everything), tone.copy()
    outs = [augmenter.waveform(tone, key, "sad") for key in KEYS]
    np.testing.assert_array_equal(tone, before)
    other = pickle.loads(pickle.dumps(Augmenter(everything)))
    for key, out in reversed(list(zip(KEYS, outs, strict=True))):
        np.testing.assert_array_equal(other.waveform(tone, key, "sad"), out)
    assert len({out.tobytes() for out in outs}) == len(KEYS)
    assert all(np.isfinite(out).all() and np.abs(out).max() <= 1.0 + 1e-6 for out in outs)


def test_another_process_draws_the_same(tone, everything, repo_root):
    code = (
        "import pickle, sys, numpy as np, hashlib\n"
        "from data_scripts.augment import Augmenter\n"
        "settings, tone, keys = pickle.load(sys.stdin.buffer)\n"
        "augmenter = Augmenter(settings)\n"
        "for key in keys: print(hashlib.sha256(augmenter.waveform(tone, key, 'angry').tobytes()).hexdigest())\n"
    )
    given = pickle.dumps((everything, tone, KEYS))
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, stdout=subprocess.PIPE, check=True, cwd=repo_root, timeout=120
    )
    augmenter = Augmenter(everything)
    wanted = [hashlib.sha256(augmenter.waveform(tone, key, "angry").tobytes()).hexdigest() for key in KEYS]
    assert done.stdout.decode().split() == wanted


OFF = {
    "speed": {"speed": 0.0},
    "semitones": {"pitch_semitones": 0.0},
    "gain_db": {"gain_db": 0.0},
    "snr_db": {"noise_snr_db": None, "noise_folders": []},
    "reverberated": {"rir_folders": []},
    "emotion": {"emotion_strength": 0.0},
}


@pytest.mark.parametrize("name", OFF)
def test_turning_one_off_leaves_the_draws_of_the_others(name, everything):
    some = replace(everything, **{f"{share}_probability": 0.5 for share in ("speed", "pitch", "noise", "rir", "gain")})
    whole, part = Augmenter(some), Augmenter(replace(some, **OFF[name]))
    changed = 0
    for row in range(40):
        one, two = whole.changes((3, 1, row), "happy"), part.changes((3, 1, row), "happy")
        changed += getattr(one, name) != getattr(two, name)
        assert replace(one, **{name: None}) == replace(two, **{name: None})
    assert changed > 5


def test_masks_do_not_depend_on_the_waveform_changes(everything):
    features = np.random.default_rng(1).standard_normal((100, 16)).astype(np.float32)
    alone = AugmentationArguments(time_masks=2, frequency_masks=2)
    for key in KEYS:
        one, two = (Augmenter(s).features(features, key, frame_s=0.01) for s in (everything, alone))
        np.testing.assert_array_equal(one, two)
    never = Augmenter(replace(alone, mask_probability=0.0))
    np.testing.assert_array_equal(never.features(features, KEYS[0], frame_s=0.01), features)


def test_ranges_and_shares_are_those_asked_for(everything):
    settings = replace(everything, speed_probability=0.3, noise_probability=0.6, noise_snr_range_db=10.0)
    drawn = [Augmenter(settings).changes((0, 0, row)) for row in range(2000)]
    speeds = [one.speed for one in drawn if one.speed != 1.0]
    assert len(speeds) / 2000 == pytest.approx(0.3, abs=0.04)
    assert 0.9 <= min(speeds) < 0.91 and 1.09 < max(speeds) <= 1.1
    ratios = [one.snr_db for one in drawn if one.snr_db is not None]
    assert len(ratios) / 2000 == pytest.approx(0.6, abs=0.04)
    assert 5.0 <= min(ratios) < 5.2 and 14.8 < max(ratios) <= 15.0
    assert all(one.emotion is None for one in drawn)
    # Independent of each other: rows with another speed are not those with noise.
    both = np.corrcoef([one.speed != 1.0 for one in drawn], [one.snr_db is not None for one in drawn])[0, 1]
    assert abs(both) < 0.07


def test_emotions_move_speech_their_own_way(tone):
    augmenter = Augmenter(AugmentationArguments(emotion_strength=1.0))
    speech = np.tile(tone, 4)
    for emotion, faster, louder in (("angry", True, True), ("sad", False, False)):
        outs = [augmenter.waveform(speech, (0, 0, row), emotion) for row in range(20)]
        lengths = np.array([len(out) for out in outs])
        levels = np.array([np.sqrt(np.mean(out[1000:-1000] ** 2)) for out in outs])
        limit = round(len(speech) / EMOTION_CHANGES[emotion].tempo[1 if faster else 0])
        assert (lengths <= len(speech)).all() if faster else (lengths >= len(speech)).all()
        assert lengths.min() >= limit if faster else lengths.max() <= limit
        plain = np.sqrt(np.mean(speech**2))
        assert (levels >= 0.98 * plain).all() if louder else (levels <= 1.02 * plain).all()
        assert np.ptp(lengths) > 500
    np.testing.assert_array_equal(augmenter.waveform(speech, (0, 0, 0), None), speech)
    np.testing.assert_array_equal(augmenter.waveform(speech, (0, 0, 0), "bored"), speech)


def test_every_emotion_is_processed_and_none_far():
    assert set(EMOTION_CHANGES) == set(EMOTIONS)
    for change in EMOTION_CHANGES.values():
        assert 0.85 <= change.tempo[0] < change.tempo[1] <= 1.15
        assert -6 <= change.gain_db[0] < change.gain_db[1] <= 6
        assert -2 <= change.semitones[0] < change.semitones[1] <= 2
    # Classes without a direction stay where they are on average.
    for name in ("neutral", "disgust", "negative", "positive"):
        change = EMOTION_CHANGES[name]
        assert sum(change.tempo) == pytest.approx(2.0) and sum(change.gain_db) == sum(change.semitones) == 0


def test_strength_scales_emotions_and_a_table_of_ones_own_replaces_them(tone):
    rng = np.random.default_rng
    full, half = (EMOTION_CHANGES["angry"].draw(rng(5), strength) for strength in (1.0, 0.5))
    assert half == pytest.approx(((1 + full.tempo) / 2, full.gain_db / 2, full.semitones / 2))
    settings = AugmentationArguments(emotion_strength=1.0)
    bored = Augmenter(settings, {"bored": EmotionChange(tempo=(0.8, 0.8))})
    assert len(bored.waveform(tone, KEYS[0], "bored")) == len(tone) / 0.8
    assert bored.changes(KEYS[0], "angry").emotion is None


def test_counts(everything):
    settings = replace(everything, rir_probability=0.0, noise_probability=0.5, emotion_probability=0.5)
    rows = [((0, 0, row), ("angry", "sad", None)[row % 3]) for row in range(300)]
    counts = Augmenter(settings).count(rows)
    assert counts["rows"] == counts["pitch"] == counts["gain"] == 300
    # a thousandth of no change is none
    assert 290 < counts["speed"] <= 300
    assert "reverberation" not in counts and 120 < counts["noise"] < 180
    assert 30 < counts["emotion: angry"] < 70 and 30 < counts["emotion: sad"] < 70
    assert not [name for name in counts if "None" in name]


def test_what_would_become_too_long_keeps_its_speed_and_its_noise(tone):
    slow = Augmenter(AugmentationArguments(speed=0.4, noise_snr_db=10.0))
    keys = [(0, 0, row) for row in range(30)]
    for key in keys:
        free, bound = slow.waveform(tone, key), slow.waveform(tone, key, max_samples=len(tone))
        assert len(bound) == (len(free) if len(free) <= len(tone) else len(tone))
        assert not np.array_equal(bound[: len(tone)], tone[: len(bound)])


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(1), np.ones(1), np.zeros(800), np.ones(50)], ids=len)
def test_short_and_silent_audio_survives_everything(audio, everything):
    augmenter = Augmenter(everything)
    for row in range(5):
        out = augmenter.waveform(audio.astype(np.float32), (0, 0, row), "angry")
        assert np.isfinite(out).all() and out.dtype == np.float32 and np.abs(out).max(initial=0.0) <= 1.0 + 1e-6
        assert augmenter.features(np.zeros((0, 8), np.float32), (0, 0, row), frame_s=0.01).shape == (0, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 0.6}, "speed: must be between 0 and 0.5"),
        ({"pitch_semitones": 7.0}, "pitch_semitones"),
        ({"emotion_strength": 1.5}, "emotion_strength"),
        ({"noise_probability": 1.1}, "noise_probability"),
        ({"noise_snr_db": 200.0}, "noise_snr_db"),
        ({"noise_snr_db": 0.0, "noise_folders": ["/no/such/folder"]}, "noise_folders: no such folder: /no/such"),
        ({"rir_folders": ["/no/such/folder"]}, "rir_folders: no such folder"),
        ({"noise_folders": ["."]}, "noise_folders: needs noise_snr_db"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        AugmentationArguments(**settings)


def test_longest_stretch_bounds_what_happens(tone):
    settings = AugmentationArguments(speed=0.2, emotion_strength=1.0)
    lengths = [len(Augmenter(settings).waveform(tone, (0, 0, row), "sad")) for row in range(200)]
    assert 1.2 < max(lengths) / len(tone) <= settings.longest_stretch == pytest.approx(1 / (0.8 * 0.87))
    assert AugmentationArguments(pitch_semitones=3).longest_stretch == 1.0
