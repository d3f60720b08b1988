"""Text and emotion together equal the two models one after the other, whatever runs once for both."""

import json

import numpy as np
import pytest
import soundfile
from transformers import PreTrainedTokenizerFast

from data_scripts.text.emotion_rules import EmotionRules
from models.tspc.audio_input import split_at_quiet
from trainers.classifiers import load_classifier
from trainers.recognisers import load_recogniser
from trainers.understanding import SpeechUnderstandingPipeline, UnderstandingError

from .ser_folders import save_emotion2vec, save_ser, save_stock
from .understanding_kit import (
    RATE,
    SECONDS,
    assert_equal_to_separate,
    audio,
    save_reading_dfat,
    separately,
    shared_ser,
    talk,
)


@pytest.mark.parametrize("name", ["tspc", "whisper", "zipformer"])
def test_joint_equals_separate(name, fusion, request):
    understand = SpeechUnderstandingPipeline(request.getfixturevalue(name), fusion)
    assert understand.shared == []
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    results = understand([audio(samples) for samples in clips], batch_size=3)
    assert_equal_to_separate(understand, clips, results)
    assert ("phonemes" in results[0]) == (name == "tspc")
    assert understand([]) == []


@pytest.mark.parametrize("name", ["tspc", "whisper", "zipformer"])
def test_long_recordings(name, fusion, tmp_path, request):
    recogniser = request.getfixturevalue(name)
    understand = SpeechUnderstandingPipeline(recogniser, fusion)
    samples = talk(4.3, seed=9)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    result = understand(tmp_path / "long.wav", segments=True, chunk_length_s=1.0, batch_size=2)
    heard = recogniser.pipe(audio(samples), chunk_length_s=1.0)
    assert result["text"] == heard["text"].strip()
    pieces = list(split_at_quiet(samples, RATE, 1.0))
    segments = result["segments"]
    ends = np.cumsum([len(piece) for piece in pieces]) / RATE
    assert [segment["end_s"] for segment in segments] == pytest.approx(ends, abs=1e-3)
    assert [segment["start_s"] for segment in segments] == pytest.approx([0, *ends[:-1]], abs=1e-3)
    for piece, segment in zip(pieces, segments, strict=True):
        assert segment["scores"] == pytest.approx(separately(recogniser, fusion, piece)[1], abs=1e-5)
        assert segment["emotion"] == max(segment["scores"], key=segment["scores"].get)
    weights = np.array([len(piece) for piece in pieces]) / len(samples)
    mean = sum(weight * segment["scores"]["negative"] for weight, segment in zip(weights, segments, strict=True))
    assert result["scores"]["negative"] == pytest.approx(mean, abs=1e-9)
    assert " ".join(filter(None, (segment["text"] for segment in segments))) == result["text"]


def test_every_kind_of_input(tspc, fusion, tmp_path):
    understand = SpeechUnderstandingPipeline(tspc, fusion)
    samples = talk(0.8, seed=2)
    expected = understand(samples)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([samples, samples], axis=1), RATE, subtype="FLOAT")
    inputs = [path, str(path), path.read_bytes(), audio(samples), audio(np.stack([samples, samples]))]
    for result in [*understand(inputs, batch_size=2), *understand(iter(inputs))]:
        assert result["text"] == expected["text"]
        assert result["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    soundfile.write(tmp_path / "8k.wav", talk(0.8, rate=8000), 8000, subtype="FLOAT")
    slow = understand(str(tmp_path / "8k.wav"))
    assert slow["scores"] == pytest.approx(
        {entry["label"]: entry["score"] for entry in fusion.pipe(str(tmp_path / "8k.wav"))}, abs=1e-4
    )
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        understand(str(tmp_path / "gone.wav"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        understand(samples, batch_size=0)
    with pytest.raises(ValueError, match="chunk_length_s is -1"):
        understand(samples, chunk_length_s=-1)


def test_a_recording_is_read_once(tspc, fusion, tmp_path, monkeypatch):
    import soxr

    made = []
    stream = soxr.ResampleStream
    monkeypatch.setattr(soxr, "ResampleStream", lambda *args, **options: made.append(1) or stream(*args, **options))
    monkeypatch.setattr(soxr, "resample", lambda *args, **options: pytest.fail("resampled again"))
    soundfile.write(tmp_path / "8k.wav", talk(3, rate=8000), 8000)
    SpeechUnderstandingPipeline(tspc, fusion)(str(tmp_path / "8k.wav"))
    assert made == [1]


def test_results_come_while_inputs_go_in(tspc, fusion):
    taken = []

    def clips():
        for seed in range(4):
            taken.append(seed)
            yield talk(0.4, seed)

    results = SpeechUnderstandingPipeline(tspc, fusion)(clips(), batch_size=2)
    next(results)
    assert len(taken) <= 3


def test_words_have_the_times_of_the_recording(zipformer, fusion):
    samples = talk(2.6, seed=3)
    options = {"return_timestamps": "word", "chunk_length_s": 1.0}
    result = SpeechUnderstandingPipeline(zipformer, fusion)(samples, segments=True, **options)
    chunks = zipformer.pipe(audio(samples), **options)["chunks"]
    assert [chunk["text"] for chunk in result["chunks"]] == [chunk["text"] for chunk in chunks]
    times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
    assert times == pytest.approx([time for chunk in chunks for time in chunk["timestamp"]], abs=2e-3)


@pytest.fixture
def listening(whisper, tmp_path):
    """A classifier that reads transcripts, by letters."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    vocab = {"<pad>": 0, "<unk>": 1, **{letter: index + 2 for index, letter in enumerate("abcdefghiklmnopqrstuvxy")}}
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    return shared_ser(whisper, tmp_path, 1, fusion="cross_attention", text_vocab_size=len(vocab), fusion_heads=2)


def test_a_classifier_that_reads_gets_the_recognised_text(whisper, listening):
    assert listening.reads_text
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    clips.append(np.zeros(6000, np.float32))  # no text
    understand = SpeechUnderstandingPipeline(whisper, listening)
    results = understand([audio(samples) for samples in clips], batch_size=3)
    assert results[-1]["text"] == "" and results[0]["text"]
    assert_equal_to_separate(understand, clips, results)
    other = listening.pipe({"raw": clips[0], "sampling_rate": RATE, "text": "something else"})
    assert {entry["label"]: entry["score"] for entry in other} != pytest.approx(results[0]["scores"], abs=1e-5)


def test_dfat_gets_the_recognised_text(tspc, tmp_path):
    classifier = load_classifier(str(save_reading_dfat(tmp_path)), device="cpu")
    assert classifier.reads_text
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    understand = SpeechUnderstandingPipeline(tspc, classifier)
    results = understand([audio(samples) for samples in clips], batch_size=4)
    assert results[0]["text"] and understand.shared == []
    assert_equal_to_separate(understand, clips, results)
    other = classifier.pipe({"raw": clips[0], "sampling_rate": RATE, "text": "xin chào"})
    assert {entry["label"]: entry["score"] for entry in other} != pytest.approx(results[0]["scores"], abs=1e-5)


def instead_of_models(monkeypatch, tspc, fusion, text):
    """Models that answer at once: each call of `text` is what is heard next; 0.3 is negative."""
    scores = [{"label": "neutral", "score": 0.7}, {"label": "negative", "score": 0.3}]
    heard = lambda self, inputs, **_: [{"text": text(), "phonemes": ""} for _ in inputs]  # noqa: E731
    monkeypatch.setattr(type(tspc.pipe), "__call__", heard)
    monkeypatch.setattr(type(fusion.pipe), "__call__", lambda self, inputs, **_: [scores] * len(inputs))


def test_memory_does_not_grow_with_the_recording(tspc, fusion, tmp_path, monkeypatch):
    import tracemalloc

    instead_of_models(monkeypatch, tspc, fusion, lambda: "a")
    monkeypatch.setattr(type(tspc.pipe), "longest_piece_s", 30.0)
    understand, peaks = SpeechUnderstandingPipeline(tspc, fusion), []
    for minutes in (4, 10):
        soundfile.write(tmp_path / "long.wav", np.tile(talk(60), minutes), RATE)
        tracemalloc.start()
        result = understand(tmp_path / "long.wav", segments=True, batch_size=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert result["segments"][-1]["end_s"] == pytest.approx(600, abs=1e-3)
    assert result["scores"] == pytest.approx({"neutral": 0.7, "negative": 0.3})
    assert peaks[1] < peaks[0] + 2**20  # six minutes of samples are 23 MB


def test_rules(tspc, fusion, tmp_path, monkeypatch):
    lexicon = {
        "version": "1", "threshold": 0.0, "kinds": {"rude": "rude words"},
        "entries": [{"cue": "mày", "kind": "rude", "weight": 1.0}],
    }  # fmt: skip
    (tmp_path / "rules.json").write_text(json.dumps(lexicon), encoding="utf-8")
    understand = SpeechUnderstandingPipeline(tspc, fusion, EmotionRules.load(tmp_path / "rules.json"))
    texts = iter(["mày nói", "may nói", "mày", ""])
    instead_of_models(monkeypatch, tspc, fusion, lambda: next(texts))
    rude, lucky = understand([talk(0.5), talk(0.5)])
    assert (rude["emotion"], lucky["emotion"]) == ("negative", "neutral")
    assert rude["cues"][0]["text"] == "mày" and "cues" not in lucky
    assert rude["scores"] == {"neutral": 0.7, "negative": 0.3}
    long = understand(talk(1.3), segments=True)
    assert [segment["emotion"] for segment in long["segments"]] == ["negative", "neutral"]
    assert long["emotion"] == "negative" and json.dumps(long)


def test_classifiers_of_others(tspc, tmp_path):
    clips = [talk(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    for save in (save_emotion2vec, save_stock):
        classifier = load_classifier(str(save(tmp_path / save.__name__)), device="cpu")
        understand = SpeechUnderstandingPipeline(tspc, classifier)
        results = understand([audio(samples) for samples in clips], batch_size=4)
        assert understand.shared == [] and list(results[0]["scores"]) == classifier.labels
        assert_equal_to_separate(understand, clips, results)


def test_models_that_do_not_go_together(tiny_models, tspc, fusion, tmp_path):
    with pytest.raises(UnderstandingError, match="hears phonemes, not text"):
        SpeechUnderstandingPipeline(load_recogniser(str(tiny_models["s2p"]), device="cpu"), fusion)
    with pytest.raises(UnderstandingError, match="there is none"):
        SpeechUnderstandingPipeline(tspc, None, EmotionRules.load())
    others = load_classifier(str(save_stock(tmp_path / "stock")), device="cpu")
    with pytest.raises(UnderstandingError, match="has: neu, hap, ang, sad"):
        SpeechUnderstandingPipeline(tspc, others, EmotionRules.load())
    others.pipe.feature_extractor.sampling_rate = 8000
    with pytest.raises(UnderstandingError, match=r"16000 Hz but .* 8000 Hz"):
        SpeechUnderstandingPipeline(tspc, others)


def test_from_pretrained(tiny_models, tmp_path):
    folder = save_ser(tmp_path / "ser")
    understand = SpeechUnderstandingPipeline.from_pretrained(
        str(tiny_models["tspc"]), str(folder), rules=True, device="cpu"
    )
    samples = talk(0.6)
    plain = SpeechUnderstandingPipeline.from_pretrained(str(tiny_models["tspc"]), str(folder), device="cpu", knn=False)
    assert understand.rules is not None and plain.rules is None
    assert understand(samples)["scores"] != pytest.approx(plain(samples)["scores"], abs=1e-6)
    text_alone = SpeechUnderstandingPipeline(understand.recogniser)(samples, segments=True)
    assert text_alone["text"] == plain(samples)["text"] and "emotion" not in text_alone
    assert list(text_alone["segments"][0]) == ["start_s", "end_s", "text"]
