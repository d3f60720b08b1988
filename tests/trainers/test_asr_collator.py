"""Batches of aligned recognisers: features as the extractors give them, masks over true frames, plain labels."""

import numpy as np
import pytest
import torch
from tiny_aligned import TOKENIZER, aligned_collator, make_fastconformer, make_zipformer
from tiny_tspc import make_rows, text_of

from data_scripts.audio import read_audio
from data_scripts.augment import Augmenter
from trainers.aligned import PieceLabels
from trainers.arguments import AugmentationArguments
from trainers.collators import IGNORED, RowError

MODELS = {"zipformer": make_zipformer, "fastconformer": make_fastconformer}


@pytest.mark.parametrize("system", MODELS)
def test_batches_are_what_the_extractor_and_the_tokenizer_give(system):
    collator, rows = aligned_collator(MODELS[system]()), [make_rows(3)[index] for index in range(3)]
    batch = collator(rows)
    audio = [read_audio(row["audio"], 16_000) for row in rows]
    expected = collator.inputs.feature_extractor(audio, sampling_rate=16_000, return_tensors="pt")
    assert batch.keys() == {"input_features", "attention_mask", "labels"}
    torch.testing.assert_close(batch["input_features"], expected["input_features"], rtol=0, atol=0)
    assert torch.equal(batch["attention_mask"], expected["attention_mask"].long())
    labels = [[token for token in one if token != IGNORED] for one in batch["labels"].tolist()]
    assert TOKENIZER.batch_decode(labels) == [text_of(index) for index in range(3)]
    assert all(token > 1 for one in labels for token in one)


@pytest.mark.parametrize("system", MODELS)
def test_masks_hide_true_frames_of_training_rows_alone(system):
    settings = AugmentationArguments(time_masks=4, time_mask_s=0.05, time_mask_share=0.5, frequency_masks=1)
    plain, masked = (aligned_collator(MODELS[system](), one) for one in (None, Augmenter(settings)))
    rows = [dict(make_rows(2)[index]) for index in range(2)]
    training = [{**rows[0], "epoch": 0}, rows[1]]
    before, after = plain(training), masked(training)
    assert torch.equal(before["input_features"][1], after["input_features"][1])
    frames = int(before["attention_mask"][0].sum())
    assert torch.equal(before["input_features"][0, frames:], after["input_features"][0, frames:])
    changed = (before["input_features"][0] != after["input_features"][0]).float().mean()
    assert 0 < changed < 0.9
    # What hides is the mean of the utterance, which says nothing.
    mean = before["input_features"][0, :frames].mean()
    hidden = after["input_features"][0, :frames][
        before["input_features"][0, :frames] != after["input_features"][0, :frames]
    ]
    torch.testing.assert_close(hidden, mean.expand_as(hidden), rtol=1e-4, atol=1e-4)
    assert torch.equal(masked(training)["input_features"], after["input_features"])


def test_time_mask_share_is_icefalls_rule():
    features = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    settings = AugmentationArguments(time_masks=10, time_mask_s=1.0, time_mask_share=0.15)
    hidden = []
    for epoch in range(200):
        masked = Augmenter(settings).features(features, [0, epoch, 1], frame_s=0.01)
        changed = (masked != features).all(axis=1)
        hidden.append(changed.sum())
        starts = np.flatnonzero(np.diff(np.concatenate([[0], changed.astype(int)])) == 1)
        assert len(starts) <= 1, "0.6 s may be hidden, which one stretch of up to a second can do"
    assert max(hidden) <= 60 and 20 < np.mean(hidden) < 40
    long = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    counts = [
        (Augmenter(settings).features(long, [0, epoch, 1], frame_s=0.01) != long).all(axis=1).sum()
        for epoch in range(50)
    ]
    assert max(counts) <= 300


def test_labels_of_another_tokenizer_are_named():
    with pytest.raises(RowError, match=r"row 'row-0'.*the model has 5 tokens"):
        PieceLabels(TOKENIZER, 5)([make_rows(1)[0]])
