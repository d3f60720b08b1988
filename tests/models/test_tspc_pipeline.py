"""The pipeline: every input form, batches, long audio, clear errors; with and without remote code."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import torch
from model_kit import PHONEMES, feature_extractor, make_p2t, make_s2p, make_tspc, speech, word_tokenizer
from transformers import pipeline

from models.tspc import (
    AudioInputError,
    CheckpointError,
    S2PForConditionalGeneration,
    S2PProcessor,
    TSPCPipeline,
    TSPCProcessor,
    build_phoneme_tokenizer,
)

TASK = "automatic-speech-recognition"
LOCAL = {"pipeline_class": TSPCPipeline, "trust_remote_code": False, "device": "cpu"}


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tspc_folder(tmp_path_factory):
    words = word_tokenizer()
    p2t = make_p2t(vocab_size=len(words), tie_lm_head=False)
    with torch.no_grad():  # untrained, but it says something
        p2t.lm_head.weight.mul_(8)
    model = make_tspc(bridge=True, p2t=p2t, max_text_tokens_per_phoneme=0.2)
    model.generation_config.min_new_tokens = 4
    return save(tmp_path_factory.mktemp("tspc"), model, TSPCProcessor(feature_extractor(), words, PHONEMES))


@pytest.fixture(scope="module")
def asr(tspc_folder):
    return pipeline(TASK, model=str(tspc_folder), **LOCAL)


@pytest.fixture(scope="module")
def s2p_asr(tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("s2p"), make_s2p(), S2PProcessor(feature_extractor(), PHONEMES))
    return pipeline(TASK, model=str(folder), **LOCAL)


def test_text_and_phonemes_are_those_of_generate(asr):
    audio = speech(1.0)
    result = asr(audio, return_phonemes=True)
    inputs = asr.processor(audio=audio, sampling_rate=16_000)
    with torch.no_grad():
        output = asr.model.generate(**inputs, return_phonemes=True)
    assert result["text"] == asr.tokenizer.decode(output.sequences[0], skip_special_tokens=True) != ""
    assert result["phonemes"] == asr.processor.decode_phonemes(output.phoneme_ids)[0] != ""
    assert set(asr(audio)) == {"text"}


def test_s2p_alone_gives_phonemes_as_text(s2p_asr):
    result = s2p_asr(speech(1.0), return_phonemes=True)
    assert result["text"] == result["phonemes"]
    assert set(result["text"].split()) <= set(PHONEMES.get_vocab())


def test_every_input_form(asr, tmp_path):
    audio = speech(0.8)
    soundfile.write(tmp_path / "a.wav", audio, 16_000, subtype="FLOAT")
    expected = asr(audio)
    for source in (
        str(tmp_path / "a.wav"),
        (tmp_path / "a.wav").read_bytes(),
        torch.from_numpy(audio),
        np.stack([audio, audio]),
        {"array": audio, "sampling_rate": 16_000},
        {"raw": audio, "sampling_rate": 16_000},
        {"path": str(tmp_path / "a.wav"), "bytes": None},
    ):
        assert asr(source) == expected
    assert asr({"array": speech(0.8, rate=44_100), "sampling_rate": 44_100})["text"] is not None


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_gives_what_each_gives_alone(asr, num_beams):
    audios = [speech(seconds, seed=i) for i, seconds in enumerate((0.9, 0.31, 1.7, 0.02))]
    options = {"return_phonemes": True, "generate_kwargs": {"num_beams": num_beams}}
    alone = [asr(audio, **options) for audio in audios]
    assert asr(audios, batch_size=3, **options) == alone
    assert list(asr((audio for audio in audios), batch_size=2, **options)) == alone
    assert len({result["phonemes"] for result in alone}) > 1


def test_wav2vec2_batches_too(tmp_path):
    folder = save(tmp_path, make_s2p("wav2vec2", decoder="gru"), S2PProcessor(feature_extractor("wav2vec2"), PHONEMES))
    pipe = pipeline(TASK, model=str(folder), **LOCAL)
    audios = [speech(0.5), speech(0.3, seed=1)]
    assert pipe(audios, batch_size=2) == [pipe(audio) for audio in audios]


def test_long_audio_is_cut_at_pauses_and_joined(asr):
    pause = np.zeros(3_200, np.float32)
    words = [speech(1.2, seed=seed) for seed in range(4)]
    audio = np.concatenate([part for word in words for part in (word, pause)])
    whole = asr(audio, batch_size=2, return_phonemes=True)
    assert whole == asr(audio, chunk_length_s=100, return_phonemes=True)
    finer = asr(audio, chunk_length_s=0.7, batch_size=3, return_phonemes=True)
    assert (
        len(finer["phonemes"].split())
        > len(whole["phonemes"].split())
        > len(asr(words[0], return_phonemes=True)["phonemes"]) / 3
    )
    mixed = asr([audio, words[0]], batch_size=4)
    assert mixed == [asr(audio), asr(words[0])]


def test_minutes_of_audio_pass_through_in_pieces(asr):
    seen = []
    generate = asr.model.generate

    def watched(input_features, **options):
        seen.append(tuple(input_features.shape))
        return generate(input_features=input_features, **options)

    asr.model.generate = watched
    try:
        text = asr(np.tile(speech(2.0), 30), batch_size=8, max_new_tokens=4)["text"]
    finally:
        del asr.model.generate
    assert text
    assert max(shape[0] for shape in seen) == 8 and max(shape[2] for shape in seen) <= 200


def test_other_keys_pass_through(asr):
    result = asr({"array": speech(0.4), "sampling_rate": 16_000, "speaker": "a"})
    assert result["speaker"] == ["a"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tspc_folder, dtype):
    pipe = pipeline(TASK, model=str(tspc_folder), dtype=dtype, **LOCAL)
    assert pipe.model.dtype == dtype
    assert isinstance(pipe(speech(0.6), generate_kwargs={"num_beams": 2})["text"], str)


def test_bad_audio_names_the_input(asr, tmp_path):
    (tmp_path / "notes.wav").write_text("not a sound at all, only words")
    for source, error, says in (
        (str(tmp_path / "gone.flac"), FileNotFoundError, "gone.flac: no such audio file"),
        (str(tmp_path / "notes.wav"), AudioInputError, "notes.wav: not readable as audio"),
        (np.full(100, np.nan), AudioInputError, "100 of 100 samples are NaN"),
        (b"", AudioInputError, "empty, 0 bytes"),
    ):
        with pytest.raises(error, match=says):
            asr(source)
    with pytest.raises(AudioInputError, match=r"notes\.wav"):
        asr([speech(0.3), str(tmp_path / "notes.wav")], batch_size=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"return_timestamps": True}, "return_timestamps is not supported"),
        ({"return_timestamps": "word"}, "return_timestamps is not supported"),
        ({"stride_length_s": 1}, "without overlap"),
        ({"return_language": True}, "not supported"),
        ({"chunk_length_s": -1}, "must be positive"),
        ({"generate_kwargs": {"num_return_sequences": 2, "num_beams": 2}}, "one text an input"),
    ],
)
def test_unsupported_options_teach(asr, options, says):
    with pytest.raises(ValueError, match=says):
        asr(speech(0.3), **options)


def test_silence_and_one_sample_are_transcribed_without_error(asr):
    for audio in (np.zeros(16_000, np.float32), np.zeros(1, np.float32)):
        assert isinstance(asr(audio)["text"], str)


def test_a_model_object_needs_no_folder():
    words = word_tokenizer()
    model = make_tspc(p2t=make_p2t(vocab_size=len(words)))
    parts = {"feature_extractor": feature_extractor(), "tokenizer": words}
    pipe = TSPCPipeline(model=model, device="cpu", **parts)
    pipe(speech(0.3))
    with pytest.raises(ValueError, match="pass processor=TSPCProcessor"):
        pipe(speech(0.3), return_phonemes=True)
    processor = TSPCProcessor(phoneme_tokenizer=PHONEMES, **parts)
    assert TSPCPipeline(model=model, processor=processor, device="cpu")(speech(0.3), return_phonemes=True)["phonemes"]
    with pytest.raises(ValueError, match="needs a feature_extractor"):
        TSPCPipeline(model=model, tokenizer=words, device="cpu")


def test_a_processor_of_another_model_is_refused(tspc_folder, tmp_path):
    other = build_phoneme_tokenizer(["a", "b"])
    processor = TSPCProcessor(feature_extractor(), word_tokenizer(), other)
    save(tmp_path, make_tspc(p2t=make_p2t(vocab_size=len(word_tokenizer()))), processor)
    with pytest.raises(ValueError, match=f"phoneme tokenizer has 6 tokens but the model emits {len(PHONEMES)}"):
        pipeline(TASK, model=str(tmp_path), **LOCAL)


def test_a_truncated_checkpoint_is_refused(tspc_folder, tmp_path):
    from shutil import copytree

    folder = copytree(tspc_folder, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        pipeline(TASK, model=str(folder), **LOCAL)


def test_a_checkpoint_without_a_tensor_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_s2p().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["decoder.layers.0.fc1.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: decoder\.layers\.0\.fc1\.bias"):
        S2PForConditionalGeneration.from_pretrained(tmp_path)


def test_weights_of_another_vocabulary_are_refused(tmp_path):
    make_s2p().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))
    with pytest.raises(CheckpointError, match=rf"has shape \({len(PHONEMES)}, 24\) .* but \(50, 24\) by config"):
        S2PForConditionalGeneration.from_pretrained(tmp_path)
    model = S2PForConditionalGeneration.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert model.proj_out.weight.shape == (50, 24)


def test_remote_code_beside_the_imported_package(tspc_folder, asr):
    pipe = pipeline(TASK, model=str(tspc_folder), trust_remote_code=True, device="cpu")
    assert pipe(speech(0.5)) == asr(speech(0.5))


def test_the_stock_pipeline_generates_too(tspc_folder):
    """Registered names make `AutomaticSpeechRecognitionPipeline` call generate(), with stock features."""
    from transformers import AutomaticSpeechRecognitionPipeline

    pipe = pipeline(
        TASK,
        model=str(tspc_folder),
        pipeline_class=AutomaticSpeechRecognitionPipeline,
        trust_remote_code=False,
        device="cpu",
    )
    assert pipe.type == "seq2seq"
    assert isinstance(pipe(speech(0.5), max_new_tokens=5)["text"], str)


FRESH = textwrap.dedent(
    """
    import json, sys
    sys.path = [path for path in sys.path if "site-packages" in path or "python3" in path]
    import numpy as np
    from transformers import AutoModelForSeq2SeqLM, pipeline
    tspc, s2p, p2t, audio_file, again = sys.argv[1:]
    pipe = pipeline("automatic-speech-recognition", model=tspc, trust_remote_code=True, device="cpu")
    audio = np.load(audio_file)
    assert "models" not in sys.modules and "transformers_modules" in type(pipe).__module__
    results = [pipe(audio, return_phonemes=True, generate_kwargs={"num_beams": beams}) for beams in (1, 3)]
    results += pipe([audio, audio[:8000]], batch_size=2, return_phonemes=True)
    pipe.save_pretrained(again)
    results.append(pipeline("automatic-speech-recognition", model=s2p, trust_remote_code=True, device="cpu")(audio))
    results.append(type(AutoModelForSeq2SeqLM.from_pretrained(p2t, trust_remote_code=True)).__name__)
    print(json.dumps(results))
    """
)


@pytest.mark.slow
def test_a_fresh_process_with_only_the_folders(asr, tspc_folder, s2p_asr, tmp_path):
    audio = speech(1.5)
    np.save(tmp_path / "audio.npy", audio)
    make_p2t().save_pretrained(tmp_path / "p2t")
    script = tmp_path / "fresh.py"
    script.write_text(FRESH)
    folders = [tspc_folder, s2p_asr.model.name_or_path, tmp_path / "p2t"]
    run = subprocess.run(
        [sys.executable, script, *folders, tmp_path / "audio.npy", tmp_path / "again"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    greedy, beams, whole, half, phonemes, p2t_class = json.loads(run.stdout.strip().splitlines()[-1])
    assert greedy == whole == asr(audio, return_phonemes=True)
    assert beams == asr(audio, return_phonemes=True, generate_kwargs={"num_beams": 3})
    assert half == asr(audio[:8000], return_phonemes=True)
    assert phonemes == s2p_asr(audio)
    assert p2t_class == "P2TForConditionalGeneration"
    assert (tmp_path / "again" / "pipeline_tspc.py").exists()
