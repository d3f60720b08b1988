"""The emotion pipeline: every input form, batches, long audio, clear errors; with and without remote code."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import torch
from model_kit import word_tokenizer
from ser_kit import STACKED, make_ser, speech
from transformers import Wav2Vec2FeatureExtractor, pipeline

from models.ser import (
    AudioInputError,
    CheckpointError,
    KNNDatastore,
    SERConfig,
    SERForAudioClassification,
    SERPipeline,
    build_feature_extractor,
)

TASK = "audio-classification"
LOCAL = {"pipeline_class": SERPipeline, "trust_remote_code": False, "device": "cpu"}
LABELS = {0: "neutral", 1: "angry", 2: "sad"}


def save(folder, model, *parts):
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = make_ser(id2label=LABELS, head="speechformer")
    keys = torch.randn(6, model.head.embedding_size, generator=torch.Generator().manual_seed(1))
    model.datastore = KNNDatastore(keys, torch.arange(6) % 3, model.label_names, beta=0.5, k=3)
    return save(tmp_path_factory.mktemp("ser"), model, build_feature_extractor())


@pytest.fixture(scope="module")
def ser(folder):
    return pipeline(TASK, model=str(folder), **LOCAL)


def as_dict(result):
    return {entry["label"]: entry["score"] for entry in result}


def same(one, other, tolerance=1e-5):
    return as_dict(one).keys() == as_dict(other).keys() and all(
        abs(score - as_dict(other)[label]) < tolerance for label, score in as_dict(one).items()
    )


def test_scores_are_the_probabilities_of_the_model(ser):
    audio = speech(1.0)
    result = ser(audio)
    with torch.no_grad():
        output = ser.model(torch.from_numpy(audio)[None])
    assert [entry["label"] for entry in result] == [
        LABELS[i] for i in output.probabilities[0].argsort(descending=True).tolist()
    ]
    assert [entry["score"] for entry in result] == pytest.approx(
        output.probabilities[0].sort(descending=True)[0].tolist()
    )
    plain = as_dict(ser(audio, knn=False))
    assert [plain[LABELS[i]] for i in range(3)] == pytest.approx(output.logits[0].softmax(0).tolist())
    assert not same(result, ser(audio, knn=False), 1e-3)
    assert ser(audio, top_k=1) == result[:1] and ser(audio, top_k=9) == result


def test_every_input_form(ser, tmp_path):
    audio = speech(0.8)
    soundfile.write(tmp_path / "a.wav", audio, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "stereo.wav", np.stack([audio, audio], axis=1), 16_000, subtype="FLOAT")
    expected = ser(audio)
    for source in (
        str(tmp_path / "a.wav"),
        str(tmp_path / "stereo.wav"),
        (tmp_path / "a.wav").read_bytes(),
        torch.from_numpy(audio),
        np.stack([audio, audio]),
        np.stack([audio, audio], axis=1),
        {"array": audio, "sampling_rate": 16_000},
        {"raw": np.stack([audio, audio]), "sampling_rate": 16_000},
        {"path": str(tmp_path / "a.wav"), "bytes": None},
    ):
        assert ser(source) == expected
    assert len(ser({"array": speech(0.8, rate=44_100), "sampling_rate": 44_100})) == 3


def test_a_batch_gives_what_each_gives_alone(ser):
    audios = [speech(seconds, seed=i) for i, seconds in enumerate((0.9, 0.31, 1.7, 0.01))]
    alone = [ser(audio) for audio in audios]
    for results in (ser(audios, batch_size=3), list(ser((audio for audio in audios), batch_size=2))):
        assert all(same(one, other) for one, other in zip(results, alone, strict=True))


def test_long_audio_is_the_mean_of_its_pieces(ser):
    audio = np.concatenate([speech(1.3), np.zeros(4_800, np.float32), 3 * speech(0.7, seed=1)])
    from models.ser.audio_input import split_at_quiet

    pieces = list(split_at_quiet(audio, 16_000, 1.8))
    assert len(pieces) > 1
    expected = {
        name: sum(as_dict(ser(piece))[name] * len(piece) for piece in pieces) / len(audio) for name in LABELS.values()
    }
    result = as_dict(ser(audio, piece_s=1.8, batch_size=2))
    assert result == pytest.approx(expected, abs=1e-5)


def test_ten_minutes_pass_through_in_pieces():
    narrow = {**STACKED, "conv_dim": [2] * 7, "num_hidden_layers": 0}
    encoders = [{"kind": "wav2vec2", "config": narrow, "features": "conv"}]
    model = SERForAudioClassification(SERConfig(encoders=encoders, head="linear")).eval()
    pipe = SERPipeline(model=model, feature_extractor=build_feature_extractor(), device="cpu")
    seen = []
    encode = model.encode
    model.encode = lambda waveforms, *rest: seen.append(waveforms.shape) or encode(waveforms, *rest)
    result = pipe(np.tile(speech(2.0), 300), batch_size=4)
    assert sum(as_dict(result).values()) == pytest.approx(1)
    assert len(seen) >= 8 and max(shape[1] for shape in seen) <= 320_000


def test_silence_and_one_sample_get_probabilities(ser):
    for audio in (np.zeros(16_000, np.float32), np.zeros(1, np.float32)):
        assert sum(as_dict(ser(audio)).values()) == pytest.approx(1)


def test_bad_audio_names_the_input(ser, tmp_path):
    (tmp_path / "notes.wav").write_text("not a sound at all, only words")
    for source, error, says in (
        (str(tmp_path / "gone.flac"), FileNotFoundError, "gone.flac: no such audio file"),
        (str(tmp_path / "notes.wav"), AudioInputError, "notes.wav: not readable as audio"),
        (np.full(100, np.nan), AudioInputError, "100 of 100 samples are NaN"),
        (b"", AudioInputError, "empty, 0 bytes"),
    ):
        with pytest.raises(error, match=says):
            ser(source)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"topk": 2}, "unknown options topk; there are: top_k, piece_s, knn"),
        ({"top_k": 0}, "at least 1"),
        ({"piece_s": -1.0}, "must be positive"),
        ({"function_to_apply": "sigmoid"}, "this pipeline gives probabilities"),
    ],
)
def test_bad_options_teach(ser, options, says):
    with pytest.raises(ValueError, match=says):
        ser(speech(0.2), **options)


def test_other_feature_extractors_are_refused(ser):
    for extractor, says in (
        (None, "needs a feature extractor"),
        (Wav2Vec2FeatureExtractor(do_normalize=True), "use the one saved with the model"),
        (
            Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8_000),
            "works at 8000 Hz but the model hears 16000",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            SERPipeline(model=ser.model, feature_extractor=extractor, device="cpu")


@pytest.mark.parametrize(
    "model",
    [
        make_ser((("whisper", 1),)),  # a window of 2 s
        make_ser((("wav2vec2", 0),), head="speechformer", speechformer_exact=True, speechformer_frames=100),
    ],
    ids=["whisper", "exact"],
)
def test_windows_limit_the_pieces(model):
    pipe = SERPipeline(model=model, feature_extractor=build_feature_extractor(), device="cpu")
    assert len(list(pipe.preprocess(speech(5.0)))) >= 3
    assert sum(as_dict(pipe(speech(5.0))).values()) == pytest.approx(1)


def test_transcripts_are_read(tmp_path):
    words = word_tokenizer()
    model = make_ser((("wav2vec2", 1),), fusion="cross_attention", text_vocab_size=len(words), id2label=LABELS)
    with torch.no_grad():
        model.fusion.text_embedding.weight.mul_(50)
    pipe = pipeline(TASK, model=str(save(tmp_path, model, build_feature_extractor(), words)), **LOCAL)
    audio = {"array": speech(0.5), "sampling_rate": 16_000}
    silent, empty = pipe(dict(audio)), pipe({**audio, "text": " "})
    spoken = pipe({**audio, "text": "xin chào các bạn"})
    assert same(silent, empty) and not same(spoken, empty, 1e-4)
    batch = pipe([{**audio, "text": "xin chào các bạn"}, dict(audio)], batch_size=2)
    assert same(batch[0], spoken) and same(batch[1], empty)
    pipe.tokenizer = None
    with pytest.raises(ValueError, match="reads transcripts: save its tokenizer"):
        pipe(dict(audio))


def test_half_precision(folder):
    pipe = pipeline(TASK, model=str(folder), dtype=torch.bfloat16, **LOCAL)
    assert pipe.model.dtype == torch.bfloat16 and sum(as_dict(pipe(speech(0.6))).values()) == pytest.approx(
        1, abs=0.01
    )


def test_a_missing_head_is_an_error(folder, tmp_path):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    copy = copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["head.classifier.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: head\.classifier\.weight"):
        pipeline(TASK, model=str(copy), **LOCAL)


def test_remote_code_beside_the_imported_package(folder, ser):
    pipe = pipeline(TASK, model=str(folder), trust_remote_code=True, device="cpu")
    assert pipe(speech(0.5)) == ser(speech(0.5))


FRESH = textwrap.dedent(
    """
    import json, sys
    sys.path = [path for path in sys.path if "site-packages" in path or "python3" in path]
    import numpy as np
    from transformers import pipeline
    folder, audio_file, wav, again = sys.argv[1:]
    pipe = pipeline("audio-classification", model=folder, trust_remote_code=True, device="cpu")
    audio = np.load(audio_file)
    assert "models" not in sys.modules and "transformers_modules" in type(pipe).__module__
    results = [pipe(audio), pipe(wav), pipe(np.stack([audio, audio])), pipe(audio, top_k=2)]
    results += pipe([audio, audio[:8000]], batch_size=2)
    pipe.save_pretrained(again)
    results.append(pipeline("audio-classification", model=again, trust_remote_code=True, device="cpu")(audio))
    print(json.dumps(results))
    """
)


@pytest.mark.slow
def test_a_fresh_process_with_only_the_folder(ser, folder, tmp_path):
    audio = speech(1.5)
    np.save(tmp_path / "audio.npy", audio)
    soundfile.write(tmp_path / "a.wav", audio, 16_000, subtype="FLOAT")
    (tmp_path / "fresh.py").write_text(FRESH)
    run = subprocess.run(
        [sys.executable, "fresh.py", folder, "audio.npy", "a.wav", tmp_path / "again"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    array, file, stereo, two, first, half, again = json.loads(run.stdout.strip().splitlines()[-1])
    expected = ser(audio)
    assert array == file == stereo == again and same(array, expected) and two == array[:2]
    assert same(first, expected) and same(half, ser(audio[:8000]))
