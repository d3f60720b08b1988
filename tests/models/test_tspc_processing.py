"""Phoneme tokenizer, processors and the check that a processor fits a model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import PHONEMES, SYMBOLS, WORDS, feature_extractor, make_s2p, make_tspc, speech, word_tokenizer
from transformers import AutoProcessor, AutoTokenizer, SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from models.tspc import S2PProcessor, TSPCProcessor, build_phoneme_tokenizer, check_compatible, speech_inputs


def test_special_ids_are_fixed():
    assert PHONEMES.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<s>", SYMBOLS[0]]) == [0, 1, 2, 3, 4]
    assert (PHONEMES.pad_token_id, PHONEMES.eos_token_id, PHONEMES.unk_token_id, PHONEMES.bos_token_id) == (0, 1, 2, 3)
    assert len(PHONEMES) == 4 + len(SYMBOLS)
    assert PHONEMES("t i -0")["input_ids"][-1] == 1
    assert PHONEMES("t nothing")["input_ids"][1] == 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(SYMBOLS), max_size=20))
def test_phonemes_round_trip(phonemes):
    text = " ".join(phonemes)
    ids = PHONEMES(text)["input_ids"]
    assert len(ids) == len(phonemes) + 1
    assert PHONEMES.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("symbols", [[], ["t", "t"], ["t i"], [""], ["</s>"], ["a\u00a0b"]])
def test_impossible_symbols_are_refused(symbols):
    with pytest.raises(ValueError, match="phoneme"):
        build_phoneme_tokenizer(symbols)


@pytest.mark.parametrize("encoder", ["whisper", "wav2vec2", "wav2vec2-bert"])
def test_features_do_not_depend_on_the_batch(encoder):
    extractor = feature_extractor(encoder)
    waveforms = [speech(1.1), speech(0.53, seed=1), speech(0.001, seed=2)]
    batch = speech_inputs(extractor, waveforms, 16_000)
    for row, waveform in enumerate(waveforms):
        alone = speech_inputs(extractor, [waveform])
        true = int(alone["attention_mask"].sum())
        assert true == batch["attention_mask"][row].sum() > 0
        features, single = batch["input_features"][row], alone["input_features"][0]
        if encoder == "whisper":
            features, single = features.T, single.T
        torch.testing.assert_close(features[:true], single[:true], atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [8000, 8160, 8320, 8480])
def test_stacked_frames_of_the_longest_are_not_cut_off(samples):
    extractor = SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8, stride=3)
    waveform, longer = speech(1.0)[:samples], speech(1.1, seed=1)
    alone, batch = speech_inputs(extractor, [waveform]), speech_inputs(extractor, [longer, waveform])
    true = int(batch["attention_mask"][1].sum())
    assert alone["attention_mask"].sum() == true
    torch.testing.assert_close(alone["input_features"][0, :true], batch["input_features"][1, :true], atol=1e-6, rtol=0)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 8000, 12_345, 31_999, 32_000])
def test_log_mel_is_that_of_the_full_window(samples):
    extractor = feature_extractor()
    waveform = speech(2.0)[:samples]
    full = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    features = speech_inputs(extractor, [waveform])["input_features"][0]
    frames = features.shape[1]
    assert frames % 2 == 0
    torch.testing.assert_close(features, full[:, :frames], atol=2e-5, rtol=0)
    # and nothing of the utterance lies beyond
    silence = max(float(full.amax()) - 2, -1.5)
    torch.testing.assert_close(full[:, frames:], torch.full_like(full[:, frames:], silence), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("waveform", "rate", "says"),
    [
        (np.zeros(0), None, "audio 0 is empty"),
        (np.array([0.1, np.nan]), None, "1 samples that are NaN or infinite"),
        (np.zeros((2, 100)), None, "must be mono"),
        (np.zeros(100), 8000, "8000 Hz but the model hears 16000 Hz"),
        (np.zeros(40_000), None, "2.5 s but the encoder's window is 2 s"),
    ],
)
def test_audio_that_cannot_be_used_is_named(waveform, rate, says):
    with pytest.raises(ValueError, match=says):
        speech_inputs(feature_extractor(), [waveform], rate)


def test_s2p_processor(tmp_path):
    processor = S2PProcessor(feature_extractor(), PHONEMES)
    batch = processor(audio=[speech(0.5), speech(0.3)], phonemes=["t i -0", "z"], sampling_rate=16_000)
    assert batch["input_features"].shape[:2] == (2, 80)
    assert batch["labels"].tolist()[1] == [PHONEMES.convert_tokens_to_ids("z"), 1, -100, -100]
    one = processor(audio=speech(0.5), sampling_rate=16_000)
    torch.testing.assert_close(one["input_features"][0], batch["input_features"][0])
    with pytest.raises(ValueError, match="got nothing"):
        processor()
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert loaded.tokenizer.get_vocab() == PHONEMES.get_vocab()
    assert type(loaded).__name__ == "S2PProcessor"
    again = S2PProcessor.from_pretrained(tmp_path)(audio=speech(0.5), phonemes="t i -0", sampling_rate=16_000)
    assert torch.equal(again["input_features"], one["input_features"])


def test_samples_as_files_are_read():
    """Integers and (samples, channels), which others take for loud audio and for thousands of utterances."""
    processor = S2PProcessor(feature_extractor(), PHONEMES)
    integers = np.round(speech(0.5) * 32767).astype(np.int16)
    wanted = processor(audio=integers.astype(np.float32) / 32768, sampling_rate=16_000)["input_features"]
    stereo = np.stack([integers, integers], 1)
    for audio in (integers, stereo, torch.from_numpy(stereo), [integers]):
        torch.testing.assert_close(processor(audio=audio, sampling_rate=16_000)["input_features"], wanted)
    batch = processor(audio=np.stack([integers, integers]), sampling_rate=16_000)["input_features"]
    torch.testing.assert_close(batch, wanted.expand(2, -1, -1))
    with pytest.raises(ValueError, match="sampling_rate is not given"):
        processor(audio=speech(0.5))


def test_tspc_processor(tmp_path):
    processor = TSPCProcessor(feature_extractor(), word_tokenizer(), PHONEMES)
    batch = processor(audio=speech(0.5), text="xin chào các bạn", sampling_rate=16_000)
    assert batch["labels"].shape == (1, 5)
    processor.save_pretrained(tmp_path)
    make_tspc().config.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    assert isinstance(loaded, TSPCProcessor)
    assert loaded.phoneme_tokenizer.get_vocab() == PHONEMES.get_vocab()
    assert loaded.tokenizer.get_vocab() == word_tokenizer().get_vocab()
    assert loaded.decode_phonemes(PHONEMES(["t i -0", "z u"])["input_ids"]) == ["t i -0", "z u"]
    alone = AutoTokenizer.from_pretrained(tmp_path, subfolder="phoneme_tokenizer", trust_remote_code=False)
    assert alone("t i -0")["input_ids"] == PHONEMES("t i -0")["input_ids"]


def test_parts_of_other_checkpoints_are_refused():
    config = make_tspc().config
    fitting = {"feature_extractor": feature_extractor(), "tokenizer": word_tokenizer(), "phoneme_tokenizer": PHONEMES}
    check_compatible(config, **fitting)
    check_compatible(make_s2p().config, feature_extractor=feature_extractor(), tokenizer=PHONEMES)
    other = build_phoneme_tokenizer(SYMBOLS[:-3])
    many = word_tokenizer([*WORDS, *map(str, range(50))])
    for part, value, says in (
        ("phoneme_tokenizer", other, f"{len(other)} tokens but the model emits {len(PHONEMES)}"),
        ("tokenizer", many, f"text tokenizer has {len(many)} tokens but the model has 40"),
        ("feature_extractor", WhisperFeatureExtractor(feature_size=128, chunk_length=2), "128 mel bins .* expects 80"),
        ("feature_extractor", WhisperFeatureExtractor(chunk_length=30), "30 s but the encoder holds 2 s"),
        ("feature_extractor", feature_extractor("wav2vec2"), "does not make inputs for a 'whisper' encoder"),
    ):
        with pytest.raises(ValueError, match=says):
            check_compatible(config, **{**fitting, part: value})
    with pytest.raises(ValueError, match=f"emits {len(PHONEMES)}"):
        check_compatible(make_s2p().config, tokenizer=other)
