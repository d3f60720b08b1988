"""FastConformer's features and processor, and the published folder in a process of its own."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from fastconformer_kit import HEADS, TINY
from model_kit import speech
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoFeatureExtractor, AutoProcessor, ParakeetFeatureExtractor, PreTrainedTokenizerFast
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from models.fastconformer import (
    FastConformerConfig,
    FastConformerFeatureExtractor,
    FastConformerForASR,
    FastConformerProcessor,
    check_compatible,
    plain_tokenizer,
)

SENTENCES = ["xin chào các bạn", "hôm nay tôi đi họp với đội", "hạn chót của dự án là mai"]


def bpe(blank_last=False):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = ["<unk>"] if blank_last else ["<blank>", "<unk>"]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=60, special_tokens=specials))
    if blank_last:
        tokenizer.add_special_tokens(["<blank>"])
    return tokenizer


def wrapped(tokenizer, kind=PreTrainedTokenizerFast):
    return kind(tokenizer_object=tokenizer, pad_token="<blank>", unk_token="<unk>", clean_up_tokenization_spaces=False)


def make_processor():
    return FastConformerProcessor(FastConformerFeatureExtractor(), wrapped(bpe()))


def test_features_do_not_depend_on_the_batch():
    extractor = FastConformerFeatureExtractor()
    waveforms = [speech(seconds, seed=seed) for seed, seconds in enumerate((1.0, 0.63, 0.02))]
    options = {"sampling_rate": 16_000, "padding": "longest", "return_attention_mask": True, "return_tensors": "pt"}
    batch = extractor(waveforms, **options)
    assert batch["input_features"].shape == (3, 100, 80) and batch["attention_mask"].sum(1).tolist() == [100, 63, 5]
    for row, waveform in enumerate(waveforms):
        alone = extractor([waveform], **options)["input_features"][0]
        torch.testing.assert_close(batch["input_features"][row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert not batch["input_features"][row, len(alone) :].any()


def test_parakeet_makes_nan_of_what_is_short_and_we_do_not():
    short = speech(0.015)
    stock = ParakeetFeatureExtractor()([short], sampling_rate=16_000, return_tensors="pt")
    assert stock["input_features"].isnan().any()
    for samples in (short[:1], short, np.zeros(16_000, np.float32)):
        ours = FastConformerFeatureExtractor()([samples], sampling_rate=16_000, return_tensors="pt")
        assert ours["input_features"].isfinite().all() and ours["input_features"].abs().max() < 10


def test_forms_of_audio():
    extractor = FastConformerFeatureExtractor()
    mono = speech(0.3)
    expected = extractor(mono, sampling_rate=16_000, return_tensors="pt")["input_features"]
    stereo = np.stack([mono, mono], 1)
    for form in ([mono], mono[None], [stereo], mono.tolist()):
        got = extractor(form, sampling_rate=16_000, return_tensors="pt")["input_features"]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert isinstance(extractor(mono, sampling_rate=16_000, return_tensors="np")["input_features"], np.ndarray)
    for audio, message in (
        ([mono, mono[:0]], "audio 1 is empty"),
        ([np.array([0.0, np.nan], np.float32)], "audio 0 holds 1 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor(audio, sampling_rate=16_000)
    with pytest.raises(ValueError, match="8000 Hz but the model hears 16000"):
        extractor([mono], sampling_rate=8000)


def test_processor_makes_features_and_labels_and_comes_back_from_its_folder(tmp_path):
    processor = make_processor()
    batch = processor([speech(0.3), speech(0.2)], ["xin chào các bạn", "mai"], sampling_rate=16_000)
    labels = batch["labels"]
    assert labels[1, -1] == -100 and not (labels == 0).any() and batch["input_features"].shape[0] == 2
    assert processor.tokenizer.decode(labels[0]) == "xin chào các bạn"
    processor.save_pretrained(tmp_path)
    FastConformerConfig(**{**TINY, "num_mel_bins": 80}).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(loaded) is FastConformerProcessor and type(extractor) is FastConformerFeatureExtractor
    again = loaded([speech(0.3), speech(0.2)], ["xin chào các bạn", "mai"], sampling_rate=16_000)
    assert all(torch.equal(again[key], batch[key]) for key in batch)
    with pytest.raises(ValueError, match="audio, text or both"):
        processor()
    with pytest.raises(ValueError, match=r"sampling_rate=16000"):
        processor(speech(0.3))


def test_parts_that_do_not_belong_together_are_refused():
    processor = make_processor()
    config = FastConformerConfig(**TINY)
    with pytest.raises(ValueError, match=rf"{len(processor.tokenizer)} tokens but the model 20"):
        check_compatible(config, tokenizer=processor.tokenizer)
    with pytest.raises(ValueError, match="80 mel bins but the model reads 16"):
        check_compatible(config, feature_extractor=processor.feature_extractor)
    check_compatible(
        FastConformerConfig(**{**TINY, "num_mel_bins": 80, "vocab_size": len(processor.tokenizer)}),
        feature_extractor=processor.feature_extractor,
        tokenizer=processor.tokenizer,
    )


def test_the_processor_of_a_stock_parakeet_keeps_repeated_tokens(tmp_path):
    from transformers import ParakeetCTCConfig

    stock = wrapped(bpe(blank_last=True), ParakeetTokenizer)
    twice = stock("xin xin", add_special_tokens=False)["input_ids"]
    repeated = [token for token in twice[: len(twice) // 2] for _ in range(2)]
    assert stock.decode(repeated) != plain_tokenizer(stock).decode(repeated)
    stock.save_pretrained(tmp_path)
    ParakeetFeatureExtractor().save_pretrained(tmp_path)
    ParakeetCTCConfig(vocab_size=len(stock), pad_token_id=len(stock) - 1).save_pretrained(tmp_path)
    processor = FastConformerProcessor.from_parakeet(tmp_path)
    assert processor.tokenizer.pad_token_id == len(stock) - 1 == len(processor.tokenizer) - 1
    assert processor.tokenizer.decode(repeated) == plain_tokenizer(stock).decode(repeated)
    assert not processor(text=SENTENCES)["labels"].eq(len(stock) - 1).any()
    ParakeetCTCConfig(model_type="parakeet_ctc").encoder_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a Parakeet or FastConformer"):
        FastConformerProcessor.from_parakeet(tmp_path)


@pytest.mark.slow
def test_published_folders_transcribe_in_a_process_of_their_own(tmp_path):
    processor = make_processor()
    sizes = {**TINY, "num_mel_bins": 80, "vocab_size": len(processor.tokenizer)}
    for head in HEADS:
        torch.manual_seed(0)
        FastConformerForASR(FastConformerConfig(**sizes, head=head)).save_pretrained(tmp_path / head)
        processor.save_pretrained(tmp_path / head)
    program = f"""
        import numpy as np, sys
        from transformers import pipeline
        assert not any(name.split(".")[0] in ("models", "trainers") for name in sys.modules)
        samples = (np.random.default_rng(0).standard_normal(24_000) * 0.1).astype("f4")
        for head in {HEADS}:
            recognise = pipeline("automatic-speech-recognition", r"{tmp_path}/" + head, trust_remote_code=True)
            alone = recognise(samples, return_timestamps="word")
            both = recognise([samples, samples[:9000]], batch_size=2)
            assert both[0]["text"] == alone["text"] and alone["text"], head
            assert all(0 <= c["timestamp"][0] <= c["timestamp"][1] <= 1.5 for c in alone["chunks"]), alone
        print("fine")
    """
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("fine\n"), done.stderr[-3000:]
