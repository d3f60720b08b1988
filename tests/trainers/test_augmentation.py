"""What the model is fed: the same for the same (seed, epoch, row), however many workers or ranks, resumed or not."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny_tspc import feature_extractor, make_rows
from torch.utils.data import DataLoader, Subset
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

from data_scripts.augment import Augmenter
from trainers.arguments import AugmentationArguments
from trainers.assembly import build_collator
from trainers.building import log_augmentation
from trainers.checks import ConfigError
from trainers.collators import RowError, SpeechInputs, row_key
from trainers.config import read_config
from trainers.datasets_map import EpochRows

NUM_ROWS = 12


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Everything on, each for some of the rows."""
    place = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name in ("noise", "rooms"):
        (place / name).mkdir()
        for number in range(3):
            sound = 0.2 * rng.standard_normal(3000) * (np.exp(-np.arange(3000) / 300) if name == "rooms" else 1.0)
            soundfile.write(place / name / f"{number}.flac", sound, 16_000)
    shares = {f"{name}_probability": 0.7 for name in ("speed", "pitch", "gain", "noise", "rir", "emotion", "mask")}
    return AugmentationArguments(
        speed=0.1,
        pitch_semitones=2.0,
        gain_db=6.0,
        noise_snr_db=5.0,
        noise_folders=[str(place / "noise")],
        rir_folders=[str(place / "rooms")],
        emotion_strength=1.0,
        time_masks=1,
        time_mask_s=0.05,
        frequency_masks=1,
        frequency_mask_bins=4,
        **shares,
    )


@pytest.fixture(scope="module")
def rows():
    rows = make_rows(NUM_ROWS)
    return rows.add_column("emotion", [("angry", "sad", "neutral", None)[i % 4] for i in range(NUM_ROWS)])


class Hashes:
    """Collates one row at a time to its id and a digest of what the model would be fed."""

    def __init__(self, settings: AugmentationArguments):
        self.inputs = SpeechInputs(feature_extractor(), seed=5, augmentation=Augmenter(settings))

    def __call__(self, rows):
        return [(row["id"], row["epoch"], digest(self.inputs([row])["input_features"])) for row in rows]


def digest(features: torch.Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()


def epoch_of(settings, rows, epoch, *, workers=0, part=None):
    """What the rows of an epoch become, in the order in which they come."""
    stamped = EpochRows(rows)
    stamped.set_epoch(epoch)
    taken = stamped if part is None else Subset(stamped, part)
    loader = DataLoader(taken, batch_size=3, num_workers=workers, collate_fn=Hashes(settings))
    return [item for batch in loader for item in batch]


def test_workers_ranks_and_a_resume_change_nothing(settings, rows):
    straight = epoch_of(settings, rows, 1)
    assert len({features for _, _, features in straight}) == NUM_ROWS
    assert epoch_of(settings, rows, 1, workers=2) == straight
    # A run resumed in the middle of the epoch, and the halves of two ranks.
    assert epoch_of(settings, rows, 1, workers=2, part=range(7, NUM_ROWS)) == straight[7:]
    assert epoch_of(settings, rows, 1, part=range(0, NUM_ROWS, 2)) == straight[::2]
    before = epoch_of(settings, rows, 0)
    assert not {features for _, _, features in before} & {features for _, _, features in straight}


def test_emotions_of_rows_reach_the_augmenter(settings, rows):
    plain = dict(name_and_digest(epoch_of(replace(settings, emotion_strength=0.0), rows, 0)))
    moved = dict(name_and_digest(epoch_of(replace(settings, emotion_probability=1.0), rows, 0)))
    same = {name for name in plain if plain[name] == moved[name]}
    assert same == {row["id"] for row in rows if row["emotion"] is None}


def name_and_digest(items):
    return [(name, features) for name, _, features in items]


def test_rows_without_an_epoch_are_left_alone(settings, rows):
    plain = SpeechInputs(feature_extractor())
    augmented = SpeechInputs(feature_extractor(), augmentation=Augmenter(settings))
    batch = [rows[0], rows[1]]
    assert torch.equal(augmented(batch)["input_features"], plain(batch)["input_features"])


@pytest.mark.parametrize(
    ("extractor", "frame_s", "stack"),
    [
        (feature_extractor(), 0.01, 1),
        (SeamlessM4TFeatureExtractor(), 0.02, 2),
        (SeamlessM4TFeatureExtractor(stride=3), 0.03, 3),
    ],
    ids=["whisper", "wav2vec2-bert", "three stacked"],
)
def test_masks_last_as_long_whatever_the_front_end(extractor, frame_s, stack, rows):
    inputs = SpeechInputs(extractor)
    assert (inputs.frame_s, inputs.frame_stack) == (pytest.approx(frame_s), stack)
    rng = np.random.default_rng(0)
    audio = {"array": (0.1 * rng.standard_normal(14_400)).astype(np.float32), "sampling_rate": 16_000}
    made = [{**rows[0], "id": str(number), "audio": audio, "epoch": 0} for number in range(60)]
    plain = inputs(made[:1])
    masked = SpeechInputs(extractor, augmentation=Augmenter(AugmentationArguments(time_masks=1, time_mask_s=0.2)))
    by_time = (1, 2) if inputs.is_whisper else (1, 1)
    before = plain["input_features"].transpose(*by_time)[0]
    # The extractor's own frames are as far apart as we believe.
    assert len(before) * frame_s == pytest.approx(0.9, abs=0.04)
    after = masked(made)["input_features"].transpose(*by_time)
    longest = max((frames != before).all(-1).sum().item() for frames in after)
    assert longest * frame_s == pytest.approx(0.2, abs=0.035)


def test_a_waveform_model_hears_augmented_audio_without_masks(settings, rows):
    inputs = SpeechInputs(Wav2Vec2FeatureExtractor(), augmentation=Augmenter(settings))
    one, again = (inputs([{**rows[3], "epoch": 2}])["input_features"] for _ in range(2))
    assert one.ndim == 2 and torch.equal(one, again)


def test_noise_that_disappears_is_named(settings, rows, tmp_path):
    soundfile.write(tmp_path / "only.wav", np.random.default_rng(0).standard_normal(1000) * 0.1, 16_000)
    changed = replace(settings, noise_folders=[str(tmp_path)], noise_probability=1.0, rir_folders=[])
    inputs = SpeechInputs(feature_extractor(), augmentation=Augmenter(changed))
    (tmp_path / "only.wav").unlink()
    with pytest.raises(RowError, match=r"row-0.*data\.augmentation\.noise_folders: none of the 1 files"):
        inputs([{**rows[0], "epoch": 0}])


S2P = ["--data.train", "[{path: x}]", "--data.validation", "[{path: x}]"]


def test_a_folder_without_audio_stops_the_run_at_its_start(tmp_path):
    argv = ["--data.augmentation.noise_snr_db", "5", "--data.augmentation.noise_folders", f"[{tmp_path}]"]
    config = read_config([*S2P, *argv])
    stage = SimpleNamespace(processor=SimpleNamespace(feature_extractor=feature_extractor()))
    with pytest.raises(ConfigError, match=f"no audio in {tmp_path}") as error:
        build_collator(config, stage)
    assert error.value.key == "data.augmentation.noise_folders"


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        (
            ["--data.augmentation.rir_folders", "[/no/such]"],
            "data.augmentation.rir_folders",
            "no such folder: /no/such",
        ),
        (["--data.augmentation.pitch_semitones", "12"], "data.augmentation.pitch_semitones", "between 0 and 6"),
        (["--data.short_medium.longest_s", "4"], "data.short_medium.longest_s", "above data.short_medium.boundary_s"),
        (["--data.short_medium.ratio", "-1"], "data.short_medium.ratio", "at least 0"),
        (
            ["--data.short_medium.ratio", "4", "--stage", "p2t"],
            "data.short_medium.ratio",
            "stage p2t reads text",
        ),
        (
            ["--data.short_medium.ratio", "4", "--data.train", "[{path: x, streaming: true}]"]
            + ["--training.max_steps", "5"],
            "data.short_medium.ratio",
            "turn streaming off",
        ),
    ],
)
def test_configs_that_cannot_be(argv, key, words):
    with pytest.raises(ConfigError, match=words) as error:
        read_config([*S2P, *argv])
    assert error.value.key == key


def test_what_augmentation_does_is_logged(settings, rows, caplog):
    collator = SimpleNamespace(inputs=SpeechInputs(feature_extractor(), seed=5, augmentation=Augmenter(settings)))
    with caplog.at_level("INFO"):
        log_augmentation(collator, rows)
    counts = collator.inputs.augmentation.count(
        [(row_key(5, {"id": row["id"], "epoch": 0}), row["emotion"]) for row in rows]
    )
    assert f"first {NUM_ROWS} rows: {dict(counts)}" in caplog.text and 0 < counts["speed"] <= NUM_ROWS
    assert "has an emotion" not in caplog.text
    log_augmentation(collator, rows.remove_columns("emotion").add_column("emotion", [None] * NUM_ROWS))
    assert "none of the first 12 rows has an emotion" in caplog.text
    log_augmentation(SimpleNamespace(), rows)
