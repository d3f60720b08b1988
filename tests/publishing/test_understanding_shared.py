"""An encoder that recogniser and classifier have in common runs once, and the result is that of two runs."""

import numpy as np
import pytest
import torch

from trainers.classifiers import load_classifier
from trainers.recognisers import load_recogniser
from trainers.understanding import SpeechUnderstandingPipeline

from .tiny_recognisers import save_tiny_fastconformer, save_tiny_zipformer
from .understanding_kit import (
    SECONDS,
    assert_equal_to_separate,
    audio,
    separately,
    shared_ser,
    talk,
)


@pytest.mark.parametrize("name", ["tspc", "whisper"])
@pytest.mark.parametrize("features", [0, 1, "mix"])
def test_a_whisper_encoder_that_both_have_runs_once(name, features, tmp_path, request):
    recogniser = request.getfixturevalue(name)
    understand = SpeechUnderstandingPipeline(recogniser, shared_ser(recogniser, tmp_path, features))
    assert understand.shared == ["ears"]
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    clips.insert(1, np.zeros(8000, np.float32))  # the guards keep silence from Whisper's encoder: the rows move up
    runs = []
    handle = understand.classifier.pipe.model.encoders["ears"].register_forward_hook(lambda *_: runs.append(1))
    results = understand([audio(samples) for samples in clips], batch_size=5)
    handle.remove()
    # 0.1 s is too short to be sure of the padding; and Whisper never hears the silence.
    alone = 1 if name == "tspc" else 2
    assert understand.encoders.served == len(clips) - alone and len(runs) == 1
    assert_equal_to_separate(understand, clips, results)


SIZES = {
    "fastconformer": {"num_hidden_layers": 2},
    "zipformer": {"encoder_dim": [24, 16]},  # the last stack is narrower: its states are joined with the first one's
    "icefall": {"mask_padding": False},
}


@pytest.fixture(scope="module", params=list(SIZES))
def conformer(request, tmp_path_factory):
    save = save_tiny_fastconformer if request.param == "fastconformer" else save_tiny_zipformer
    folder = save(tmp_path_factory.mktemp(request.param), **SIZES[request.param])
    return load_recogniser(str(folder), device="cpu")


@pytest.mark.parametrize("features", [0, 1, 2, "mix"])
def test_a_conformer_that_both_have_runs_once(conformer, features, tmp_path):
    understand = SpeechUnderstandingPipeline(conformer, shared_ser(conformer, tmp_path, features))
    assert understand.shared == ["ears"]
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    clips.insert(1, np.zeros(8000, np.float32))  # the pipeline gives the encoder something else
    masked = getattr(conformer.pipe.model.config, "mask_padding", True)
    results = understand([audio(samples) for samples in clips], batch_size=5 if masked else 1)
    assert understand.encoders.served == 3
    assert_equal_to_separate(understand, clips, results)
    if not masked:  # only the longest row of a batch is as if it were alone
        understand([audio(samples) for samples in clips], batch_size=5)
        assert understand.encoders.served == 3 + 1


@pytest.mark.parametrize("name", ["whisper", "zipformer"])
def test_only_the_same_audio_is_the_same(name, request, tmp_path):
    recogniser = request.getfixturevalue(name)
    encoders = SpeechUnderstandingPipeline(recogniser, shared_ser(recogniser, tmp_path, 1)).encoders
    samples = talk(0.6)  # ends in a word
    with encoders.listening():
        recogniser.pipe(audio(samples))
        assert list(encoders.features(samples)) == ["ears"]
        assert list(encoders.features(samples + np.float32(1e-8))) == ["ears"]
        for other in (samples[16:], samples[:-160], np.roll(samples, 16), 1.01 * samples):
            assert encoders.features(other) == {}
    assert encoders.features(samples) == {}  # nothing is kept


def test_quiet_places_of_real_speech(zipformer, shared_data, tmp_path):
    # Its two front ends differ by 1.3e-4 in one bin.
    path = shared_data / "vi_asr" / "test" / "fosd_Set001_000007.ogg"
    if not path.is_file():
        pytest.skip("the recording is not at hand")
    understand = SpeechUnderstandingPipeline(zipformer, shared_ser(zipformer, tmp_path, 2))
    result = understand(str(path))
    assert understand.encoders.served == 1
    felt = understand.classifier.pipe(str(path))
    assert result["scores"] == pytest.approx({entry["label"]: entry["score"] for entry in felt}, abs=1e-5)


@pytest.mark.parametrize("features", ["conv", 1, "mix"])
def test_a_wav2vec2_encoder_that_both_have_runs_once(features, tiny_ctc, tmp_path):
    recogniser = load_recogniser(str(tiny_ctc), device="cpu")
    extractor = recogniser.pipe.feature_extractor
    classifier = shared_ser(recogniser, tmp_path, features, own={"normalise": extractor.do_normalize})
    understand = SpeechUnderstandingPipeline(recogniser, classifier)
    assert understand.shared == ["ears"]
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    assert_equal_to_separate(understand, clips, understand([audio(samples) for samples in clips]))
    assert understand.encoders.served == 3
    # In a batch the stock encoder lets padding into its norm: only the longest row is as if it were alone.
    batch = understand([audio(samples) for samples in clips[:3]], batch_size=3)
    assert understand.encoders.served == 4
    for samples, result in zip(clips, batch, strict=False):
        assert result["scores"] == pytest.approx(separately(recogniser, classifier, samples)[1], abs=1e-5)


def test_tspc_on_wav2vec2_shares_whole_batches(tiny_models, tiny_ctc, tmp_path):
    from transformers import AutoTokenizer, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    import models.tspc as tspc
    from trainers.recognisers import Recogniser

    p2t = tspc.P2TForConditionalGeneration.from_pretrained(tiny_models["p2t"])
    phonemes = AutoTokenizer.from_pretrained(tiny_models["p2t"], subfolder="phoneme_tokenizer")
    text = AutoTokenizer.from_pretrained(tiny_models["p2t"])
    torch.manual_seed(5)
    s2p = tspc.S2PForConditionalGeneration(
        tspc.S2PConfig(
            encoder_config=Wav2Vec2Config.from_pretrained(tiny_ctc), vocab_size=len(phonemes), d_model=16,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_target_positions=64,
            max_phonemes_per_frame=0.1, initializer_range=0.6,
        )
    ).eval()  # fmt: skip
    model = tspc.TSPCForConditionalGeneration.from_stages(s2p, p2t, max_text_tokens_per_phoneme=0.5).eval()
    processor = tspc.TSPCProcessor(Wav2Vec2FeatureExtractor(return_attention_mask=True), text, phonemes)
    pipe = tspc.TSPCPipeline(
        model=model, processor=processor, tokenizer=text, feature_extractor=processor.feature_extractor, device="cpu"
    )
    recogniser = Recogniser("tspc", pipe, "tspc", "full")
    for features in ("conv", 0, 1):
        understand = SpeechUnderstandingPipeline(recogniser, shared_ser(recogniser, tmp_path, features))
        clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
        results = understand([audio(samples) for samples in clips], batch_size=4)
        assert understand.shared == ["ears"] and understand.encoders.served == 3
        assert_equal_to_separate(understand, clips, results)


@pytest.mark.parametrize(
    "own, reason",
    [({"frozen": False}, "trained"), ({"normalise": True}, "normalises its waveforms"), ({"features": 0}, None)],
)
def test_what_is_not_shared_says_why(own, reason, whisper, tmp_path):
    classifier = shared_ser(whisper, tmp_path, 1, own=own)
    understand = SpeechUnderstandingPipeline(whisper, classifier)
    assert (understand.shared == []) == (reason is not None)
    if reason:
        assert reason in understand.encoders.reasons["ears"]


def test_other_weights_and_windows_are_not_shared(tspc, whisper, fusion, tmp_path):
    classifier = shared_ser(whisper, tmp_path / "a", 1)
    with torch.no_grad():
        classifier.pipe.model.encoders["ears"].model.conv2.bias[0] += 1e-6
    understand = SpeechUnderstandingPipeline(whisper, classifier)
    assert understand.encoders.reasons == {"ears": "other weights (conv2.bias)"}
    classifier = shared_ser(tspc, tmp_path / "b", 1)
    tspc.pipe.model.s2p.encoder.window = "trimmed"
    try:
        reasons = SpeechUnderstandingPipeline(tspc, classifier).encoders.reasons
    finally:
        tspc.pipe.model.s2p.encoder.window = "padded"
    assert "trimmed" in reasons["ears"]
    assert "no wav2vec2 encoder" in SpeechUnderstandingPipeline(whisper, fusion).encoders.reasons["wav2vec2"]


def test_sharing_in_half_precision(tmp_path, tiny_whisper):
    recogniser = load_recogniser(str(tiny_whisper), device="cpu", dtype="bfloat16")
    kept = load_recogniser(str(tiny_whisper), device="cpu")
    shared_ser(kept, tmp_path, 1)
    other = SpeechUnderstandingPipeline(recogniser, load_classifier(str(tmp_path), device="cpu"))
    assert "another type" in other.encoders.reasons["ears"]
    understand = SpeechUnderstandingPipeline(
        recogniser, load_classifier(str(tmp_path), device="cpu", dtype="bfloat16")
    )
    samples = talk(0.8)
    result = understand(samples)
    assert understand.encoders.served == 1
    expected = separately(recogniser, understand.classifier, samples)[1]
    assert result["scores"] == pytest.approx(expected, abs=0.01)
