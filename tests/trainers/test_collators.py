"""Rows to batches: literal tensors, seeded randomness, errors that name the row."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_tspc import (
    PHONEME_TOKENIZER,
    TEXT_TOKENIZER,
    LetterG2P,
    make_rows,
    make_s2p,
    p2t_collator,
    s2p_collator,
    speech,
    tspc_collator,
)

from data_scripts.augment import Augmenter
from data_scripts.text.phonemes import phoneme_symbols
from models.tspc import build_phoneme_tokenizer
from trainers.arguments import AugmentationArguments
from trainers.collators import P2TCollator, PhonemeLabels, RowError, SpeechInputs, TextLabels, row_rng
from trainers.datasets_map import EpochRows, row_lengths, with_phoneme_counts

AUGMENTER = Augmenter(
    AugmentationArguments(
        speed=0.1,
        gain_db=3.0,
        noise_snr_db=20.0,
        time_masks=1,
        time_mask_s=0.1,
        frequency_masks=1,
        frequency_mask_bins=4,
    )
)


def row(text, **changes):
    return {"id": f"id-{text}", "text": text, "audio": {"path": None, "bytes": speech(text)}, "spans": []} | changes


def test_s2p_batch():
    batch = s2p_collator()([row("ab"), row("dad")])
    assert batch["labels"].tolist() == [[4, 5, 1, -100], [7, 4, 7, 1]]
    # 0.08 s and 0.12 s are heard in 10 and 14 mel frames of 10 ms, counting those that straddle the end
    assert batch["input_features"].shape == (2, 16, 14)
    assert batch["attention_mask"].tolist() == [[1] * 10 + [0] * 4, [1] * 14]


def test_p2t_batch():
    batch = p2t_collator()([row("abc"), row("dad beg")])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[4, 5, 6, 1, 0, 0, 0], [7, 4, 7, 5, 8, 10, 1]],
        "attention_mask": [[1, 1, 1, 1, 0, 0, 0], [1] * 7],
        "labels": [[4, 1, -100], [6, 7, 1]],
    }


def test_tspc_batch_from_audio_and_from_cache():
    batch = tspc_collator()([row("abc")])
    assert sorted(batch) == ["attention_mask", "input_features", "labels"]
    cached = [
        {
            "id": "x",
            "text": "abc",
            "phoneme_ids": np.array([4, 1], dtype=np.int32),
            "s2p_states": np.ones((2, 3), np.float16),
        },
        {
            "id": "y",
            "text": "dad",
            "phoneme_ids": np.array([7, 4, 1], dtype=np.int32),
            "s2p_states": np.ones((3, 3), np.float16),
        },
    ]
    batch = tspc_collator()(cached)
    assert batch["phoneme_ids"].tolist() == [[4, 1, 0], [7, 4, 1]]
    assert batch["phoneme_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["s2p_states"].dtype == torch.float32 and batch["s2p_states"].sum() == 15
    assert batch["labels"].tolist() == [[4, 1], [6, 1]]


def test_batches_feed_the_model():
    model = make_s2p()
    assert model(**s2p_collator()([row("ab"), row("dad")])).loss.isfinite()


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-bert"])
def test_other_front_ends_give_the_same_names(name):
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    extractor = {"wav2vec2": Wav2Vec2FeatureExtractor, "wav2vec2-bert": SeamlessM4TFeatureExtractor}[name]()
    batch = SpeechInputs(extractor)([row("ab"), row("dad")])
    assert sorted(batch) == ["attention_mask", "input_features"]
    assert batch["input_features"].shape[:2] == batch["attention_mask"].shape
    assert batch["attention_mask"][0].sum() < batch["attention_mask"][1].sum()


def test_augmentation_is_a_function_of_epoch_and_row():
    collate = s2p_collator(augmentation=AUGMENTER)
    plain = s2p_collator()([row("abcdef")])["input_features"]

    def features(**changes):
        return collate([row("abcdef", **changes)])["input_features"]

    assert torch.equal(features(), plain)
    assert not torch.equal(features(epoch=0), plain)
    assert torch.equal(features(epoch=1), features(epoch=1))
    one, two = features(epoch=0), features(epoch=1)
    assert one.shape != two.shape or not torch.equal(one, two)
    # Batch mates change nothing.
    alone, beside = collate([row("abcdef", epoch=3)]), collate([row("ab", epoch=3), row("abcdef", epoch=3)])
    assert torch.equal(alone["input_features"][0], beside["input_features"][1])


def test_sampled_pronunciations_and_noise_leave_targets_alone():
    collate, plain = p2t_collator(noise=0.3), p2t_collator(noise=0.3)([row("dad beg")])
    draws = [collate([row("dad beg", epoch=epoch)]) for epoch in range(30)]
    assert all(torch.equal(draw["labels"], plain["labels"]) for draw in draws)
    assert len({tuple(draw["input_ids"][0].tolist()) for draw in draws}) > 10
    assert all(draw["input_ids"][0, -1] == 1 and draw["input_ids"].min() >= 1 for draw in draws)
    again = p2t_collator(noise=0.3)([row("dad beg", epoch=4)])
    assert torch.equal(draws[4]["input_ids"], again["input_ids"])


def test_shuffled_words_change_input_and_target_alike():
    collate, plain = p2t_collator(shuffle=1.0), p2t_collator()
    orders = {tuple(collate([row("dad beg gab", epoch=epoch)])["labels"][0].tolist()) for epoch in range(40)}
    assert len(orders) == 6
    draw = collate([row("dad beg gab", epoch=1)])
    text = TEXT_TOKENIZER.decode(draw["labels"][0], skip_special_tokens=True)
    assert torch.equal(draw["input_ids"], plain([row(text)])["input_ids"])
    assert torch.equal(collate([row("dad beg gab")])["labels"], plain([row("dad beg gab")])["labels"])
    some = p2t_collator(shuffle=0.5)
    orders = [some([row("dad beg gab", epoch=epoch)])["labels"] for epoch in range(200)]
    kept = sum(torch.equal(order, plain([row("dad beg gab")])["labels"]) for order in orders)
    assert 80 < kept < 150  # half, and a sixth of the other half


def test_noise_has_the_asked_share_and_the_mistakes_of_s2p():
    tokenizer = build_phoneme_tokenizer(phoneme_symbols("full"))
    labels = PhonemeLabels(LetterG2P(), tokenizer)
    collate = P2TCollator(labels, TextLabels(TEXT_TOKENIZER), noise=0.2)
    hook, dot = labels.vocabulary["-2"], labels.vocabulary["-5"]
    heard = Counter()
    for seed in range(200):
        heard.update(collate._disturb([hook] * 100, np.random.default_rng(seed)))
    assert heard[hook] / 20_000 == pytest.approx(0.82, abs=0.02)
    # ngã and hỏi are confused most of all; tones become tones
    assert heard.most_common(2)[1][0] == labels.vocabulary["-3"]
    assert {tokenizer.convert_ids_to_tokens(i)[0] for i in heard} == {"-"}
    for ids in ([hook], [dot, hook]):
        assert all(collate._disturb(ids, np.random.default_rng(seed)) for seed in range(200))


def test_generator_differs_between_rows_and_epochs():
    draws = {row_rng(1, {"id": name, "epoch": epoch}).integers(2**60) for name in "ab" for epoch in (0, 1)}
    assert len(draws) == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("ab", audio={"path": None, "bytes": b"not audio"}), "id-ab"),
        (row("ab", audio={"path": "/no/such/file.wav", "bytes": None}), "file.wav"),
        (row("ab", audio={"path": None, "bytes": speech("abcdefgh" * 4)}), "1.3 s.*max_duration_s"),
        (row("ab") | {"text": "xyz"}, "no phonemes"),
    ],
)
def test_bad_rows_are_named(bad, message):
    with pytest.raises(RowError, match=message):
        s2p_collator()([row("dad"), bad])


def test_phoneme_outside_the_vocabulary():
    class Foreign(LetterG2P):
        def phonemise(self, text, spans=(), seed=None, dialect=None):
            return SimpleNamespace(phonemes=["ʒ"], unknown=[])

    with pytest.raises(RowError, match=r"ʒ.*register"):
        PhonemeLabels(Foreign(), PHONEME_TOKENIZER)(row("ab"))


def test_unknown_words_are_reported_once(caplog):
    labels = PhonemeLabels(LetterG2P(), PHONEME_TOKENIZER)
    labels(row("ab zz"))
    labels(row("dad zz"))
    assert len(caplog.records) == 1 and "no pronunciation for ['zz']" in caplog.text


def test_text_labels_end_once():
    assert TextLabels(TEXT_TOKENIZER)([row("dad")]).tolist() == [[6, 1]]


def test_rows_are_stamped_and_lengths_checked():
    rows = make_rows(4)
    stamped = EpochRows(rows)
    stamped.set_epoch(3)
    assert stamped[1]["epoch"] == 3 and stamped[1]["id"] == rows[1]["id"]
    counted = with_phoneme_counts(rows, PhonemeLabels(LetterG2P(), PHONEME_TOKENIZER))
    assert row_lengths(counted, "num_phonemes") == [sum(c != " " for c in text) + 1 for text in rows["text"]]
    with pytest.raises(ValueError, match="no column 'seconds'"):
        row_lengths(rows, "seconds")
    with pytest.raises(ValueError, match="row-0"):
        row_lengths(rows.remove_columns("duration_s").add_column("duration_s", [None, 1.0, 1.0, 1.0]), "duration_s")


def test_text_ids_have_their_row_in_the_embedding():
    rows = [{"id": "u1", "text": "abc dad"}]
    highest = int(TextLabels(TEXT_TOKENIZER)(rows).max())
    assert TextLabels(TEXT_TOKENIZER, highest + 1)(rows).max() == highest
    with pytest.raises(RowError, match=rf"row 'u1'.* token id {highest}, .* {highest} rows"):
        TextLabels(TEXT_TOKENIZER, highest)(rows)


def test_a_label_longer_than_the_decoder_is_named():
    row = {**make_rows(1)[0], "id": "u1", "text": "abc dad"}
    collator = s2p_collator()
    collator.max_phonemes = 7
    assert collator([row])["labels"].shape == (1, 7)
    collator.max_phonemes = 6
    with pytest.raises(RowError, match=r"row 'u1': 7 phonemes with </s>, the decoder has 6 places"):
        collator([row])
