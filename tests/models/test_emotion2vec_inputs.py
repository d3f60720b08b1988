"""The feature extractor and the pipeline, with what people really hand over."""

import numpy as np
import pytest
import soundfile
import torch
from consumer_kit import run_consumer
from emotion2vec_kit import FEATURES, LABELS, inputs, make, waves
from transformers import pipeline

from models.emotion2vec import (
    AudioInputError,
    Emotion2VecFeatureExtractor,
    Emotion2VecForAudioClassification,
    Emotion2VecModel,
    SpeechClassificationPipeline,
    emotion2vec_layers,
    normalise_waveforms,
)
from models.emotion2vec.audio_input import split_at_quiet


@pytest.fixture(scope="module")
def classifier():
    return make(Emotion2VecForAudioClassification, active_labels=["angry", "happy", "sad"])


@pytest.fixture
def pipe(classifier):
    return pipeline(
        "audio-classification",
        model=classifier,
        feature_extractor=FEATURES,
        pipeline_class=SpeechClassificationPipeline,
        device="cpu",
    )


def test_each_utterance_is_normalised_over_its_own_samples():
    waveforms = [3.0 * waveform + 0.5 for waveform in waves(5000, 9000, 600)]
    batch = inputs(waveforms)
    assert batch["input_values"].shape == (3, 9000) and batch["attention_mask"].sum(1).tolist() == [5000, 9000, 600]
    for row, waveform in enumerate(waveforms):
        samples = torch.from_numpy(waveform)
        expected = torch.nn.functional.layer_norm(samples, samples.shape)
        assert torch.equal(batch["input_values"][row, : len(waveform)], expected)
        assert not batch["input_values"][row, len(waveform) :].any()
    raw = torch.zeros(3, 9000)
    for row, waveform in enumerate(waveforms):
        raw[row, : len(waveform)] = torch.from_numpy(waveform)
    raw[0, 5000:] = 7.0  # whatever lies behind an utterance
    torch.testing.assert_close(normalise_waveforms(raw, batch["attention_mask"]), batch["input_values"])


def test_forms_of_audio():
    mono = waves(4000)[0]
    expected = inputs([mono])["input_values"]
    for form in (mono, mono[None], [mono], mono.tolist(), torch.from_numpy(mono), [mono.astype(np.float64)]):
        assert torch.equal(inputs(form)["input_values"], expected)
    for stereo in (np.stack([mono, mono]), np.stack([mono, mono], axis=1)):
        torch.testing.assert_close(inputs([stereo])["input_values"], expected)
    integers = (mono / 8 * 32767).astype(np.int16)
    torch.testing.assert_close(inputs([integers])["input_values"], expected, rtol=0, atol=1e-2)
    assert inputs(np.stack([mono, mono, mono]))["input_values"].shape == (3, 4000), "an array is a batch"
    raw = Emotion2VecFeatureExtractor(do_normalize=False)
    assert np.array_equal(raw([mono], sampling_rate=16_000)["input_values"][0], mono)
    cut = FEATURES([mono], sampling_rate=16_000, max_length=1000, truncation=True, padding="max_length")
    assert cut["input_values"][0].shape == (1000,)


@pytest.mark.parametrize(
    "waveform, message",
    [
        (np.array([0.0, np.nan, np.inf], np.float32), "audio 1 holds 2 samples that are NaN or infinite, of 3"),
        (np.zeros(0, np.float32), "audio 1 is empty"),
        (np.zeros((3, 4, 5), np.float32), "3 dimensions"),
        (np.array(["a"]), "not numbers"),
    ],
    ids=["nan", "empty", "shape", "text"],
)
def test_audio_that_cannot_be_used_is_named(waveform, message):
    with pytest.raises(AudioInputError, match=message):
        inputs([waves(1000)[0], waveform])


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="audio is at 8000 Hz but the model hears 16000 Hz"):
        FEATURES(waves(100), sampling_rate=8000)


def test_the_model_names_inputs_of_another_shape():
    model = make(Emotion2VecModel)
    with pytest.raises(ValueError, match=r"has shape \(1, 1, 4000\).*use the feature extractor"):
        model(torch.zeros(1, 1, 4000))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 10\)"):
        model(torch.zeros(1, 4000), torch.ones(1, 10))


@pytest.mark.parametrize("samples", [1, 10, 399, 400, 401, 719, 720])
def test_clips_shorter_than_one_frame_sees(classifier, samples):
    waveform = waves(samples)
    output = classifier(**inputs(waveform))
    assert output.frame_mask.sum() == (2 if samples == 720 else 1) and output.logits[:, :2].isfinite().all()
    # Beside a longer one, and without the feature extractor's silence.
    beside = classifier(**inputs([*waveform, *waves(9000)]))
    torch.testing.assert_close(beside.logits[0], output.logits[0], rtol=0, atol=2e-5)
    values = inputs(waveform)["input_values"][:, :samples]
    torch.testing.assert_close(classifier(values).logits, output.logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silent_clips(classifier, level):
    silent = np.full(8000, level, np.float32)
    batch = inputs([silent, *waves(9000)])
    assert not batch["input_values"][0].any(), "a constant has no variance, and is silence"
    output = classifier(**batch)
    assert output.embeddings.isfinite().all() and output.logits.softmax(-1).isfinite().all()
    output = classifier.train()(**batch, labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in classifier.parameters())
    classifier.zero_grad()
    classifier.eval()


def test_a_long_clip_is_computed_in_blocks_that_fit(monkeypatch):
    model = make(Emotion2VecModel, conv_dim=[4] * 7, attention_block_elements=2**18)
    sizes, original = [], emotion2vec_layers.attention_bias

    def measured(*args):
        bias = original(*args)
        sizes.append(bias.numel())
        return bias

    monkeypatch.setattr(emotion2vec_layers, "attention_bias", measured)
    waveform = torch.randn(1, 30 * 16_000)
    with torch.no_grad():
        output = model(waveform)
        assert output.last_hidden_state.shape == (1, 1499, 32) and output.last_hidden_state.isfinite().all()
        assert len(sizes) > 50 and max(sizes) <= 2**18
        # The convolutions on the waveform take it in pieces of any size.
        monkeypatch.setattr(emotion2vec_layers, "FRAMES_AT_ONCE", 400)
        pieces = []
        model.feature_encoder.layers[0].register_forward_hook(lambda module, args, out: pieces.append(out.shape))
        again = model(waveform)
    assert len(pieces) == 3, "400, 400 and the rest"
    torch.testing.assert_close(again.last_hidden_state, output.last_hidden_state, rtol=0, atol=1e-5)


def test_pipeline_answers(pipe, classifier, tmp_path):
    wave = waves(8000)[0] * 0.1
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "stereo.flac", np.stack([wave, wave], 1), 16_000)
    probabilities = classifier(**inputs([wave])).logits[0].softmax(-1)
    expected = sorted(((p, LABELS[i]) for i, p in enumerate(probabilities.tolist()) if p > 0), reverse=True)
    assert [name for _, name in expected] == [row["label"] for row in pipe(str(tmp_path / "a.wav"))]
    assert len(expected) == 3, "neutral is not among the active labels"
    double = np.interp(np.arange(0, 8000, 16 / 44.1), np.arange(8000), wave).astype(np.float32)
    forms = {
        "path": str(tmp_path / "a.wav"),
        "file with channels": str(tmp_path / "stereo.flac"),
        "bytes": (tmp_path / "a.wav").read_bytes(),
        "array": wave,
        "stereo": np.stack([wave, wave]),
        "stereo as files are read": np.stack([wave, wave], axis=1),
        "dict": {"array": wave, "sampling_rate": 16_000},
        "44.1 kHz": {"raw": double, "sampling_rate": 44_100},
    }
    for name, form in forms.items():
        rows = pipe(form)
        assert [row["label"] for row in rows] == [label for _, label in expected], name
        tolerance = 0.05 if name == "44.1 kHz" else 1e-3
        np.testing.assert_allclose([row["score"] for row in rows], [score for score, _ in expected], atol=tolerance)
    assert sum(row["score"] for row in pipe(wave)) == pytest.approx(1, abs=1e-5)


def test_pipeline_options(pipe):
    clips = waves(8000, 300, 5000, 12_000)
    assert pipe([clip.copy() for clip in clips], batch_size=3, top_k=2) == [
        [pytest.approx(row | {"score": pytest.approx(row["score"], abs=1e-5)}) for row in pipe(clip, top_k=2)]
        for clip in clips
    ]
    assert len(pipe(clips[0], top_k=1)) == 1 and len(pipe(clips[0], top_k=99)) == 3
    shorter = pipeline(
        "audio-classification",
        model=pipe.model,
        feature_extractor=FEATURES,
        pipeline_class=SpeechClassificationPipeline,
        device="cpu",
        top_k=2,
    )
    assert [len(shorter(clips[0])), len(shorter(clips[0], top_k=1)), len(shorter(clips[0]))] == [2, 1, 2]
    for wrong in ({"top_k": 0}, {"top_k": "2"}, {"function_to_apply": "argmax"}, {"chunk_length_s": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pipe(clips[0], **wrong)
    logits = pipe(clips[0], function_to_apply="none")
    assert [row["score"] for row in logits] == sorted((row["score"] for row in logits), reverse=True)
    with pytest.raises(AudioInputError, match="NaN"):
        pipe(np.full(500, np.nan, np.float32))
    with pytest.raises(FileNotFoundError, match="no such audio file"):
        pipe("nowhere.wav")


def test_pipeline_cuts_long_audio_when_asked(pipe, classifier):
    long, short = waves(40_000, 7000)
    long[20_000:24_000] = 0.0
    whole = pipe(long)
    assert pipe(long, chunk_length_s=10) == whole, "shorter than that"
    pieces = list(split_at_quiet(long, 16_000, 1.5))
    assert [len(piece) for piece in pieces] != [40_000] and sum(len(piece) for piece in pieces) == 40_000
    scores = torch.stack([classifier(**inputs([piece])).logits[0].softmax(-1) for piece in pieces])
    weights = torch.tensor([len(piece) / 40_000 for piece in pieces])
    expected = {LABELS[i]: p for i, p in enumerate((scores * weights[:, None]).sum(0).tolist()) if p > 0}
    for answer in (pipe(long, chunk_length_s=1.5), pipe([short, long, short], chunk_length_s=1.5, batch_size=2)[1]):
        assert {row["label"]: pytest.approx(row["score"], abs=1e-5) for row in answer} == expected
    assert pipe(long) == whole, "the option of one call is not that of the next"


def test_half_a_minute_is_the_longest_piece_unless_told_otherwise(pipe):
    """Attention over ten minutes at once takes 25 times the work, even of a tiny encoder."""
    (long,) = waves(31 * 16_000)
    assert pipe(long) == pipe(long, chunk_length_s=30.0) != pipe(long, chunk_length_s=None)


CONSUMER = """
import numpy as np
import soundfile
import torch
from transformers import AutoModel, pipeline

folder, audio = sys.argv[1:]
wave, _ = soundfile.read(f"{audio}/a.wav", dtype="float32")
pipe = pipeline("audio-classification", model=folder, trust_remote_code=True, device="cpu")
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
out = {
    "path": pipe(f"{audio}/a.wav"),
    "stereo": pipe(np.stack([wave, wave])),
    "batch": pipe([wave.copy(), wave[:3000].copy(), f"{audio}/a.wav"], batch_size=3),
    "single": [pipe(wave.copy()), pipe(wave[:3000].copy()), pipe(f"{audio}/a.wav")],
    "top": pipe(wave.copy(), top_k=1),
    "bf16": pipeline(model=folder, trust_remote_code=True, device="cpu", dtype=torch.bfloat16)(wave.copy(), top_k=1),
    "id2label": pipe.model.config.id2label,
    "encoder": list(encoder(torch.zeros(1, 400)).pooler_output.shape),
}
"""


@pytest.mark.slow
def test_a_stranger_classifies_with_transformers_alone(classifier, pipe, tmp_path):
    wave = waves(8000)[0] * 0.1
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    folder = tmp_path / "model"
    classifier.save_pretrained(folder)
    FEATURES.save_pretrained(folder)
    out = run_consumer(CONSUMER, folder, tmp_path, home=tmp_path)
    assert out["id2label"] == {str(index): name for index, name in enumerate(LABELS)}
    assert out["encoder"] == [1, 32]
    expected = pipe(str(tmp_path / "a.wav"))
    for answer in (out["path"], out["stereo"], out["batch"][0], out["batch"][2]):
        assert [row["label"] for row in answer] == [row["label"] for row in expected]
        np.testing.assert_allclose(
            [row["score"] for row in answer], [row["score"] for row in expected], rtol=0, atol=1e-5
        )
    for row, single in zip(out["batch"], out["single"], strict=True):
        assert [x["label"] for x in row] == [x["label"] for x in single]
        np.testing.assert_allclose([x["score"] for x in row], [x["score"] for x in single], rtol=0, atol=1e-5)
    assert len(out["top"]) == 1 and out["top"][0]["label"] == expected[0]["label"] and len(out["bf16"]) == 1
