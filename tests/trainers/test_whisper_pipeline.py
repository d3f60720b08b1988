"""Whisper in use: a published folder in the stock pipeline, long files and word times in both."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from tiny_whisper import by_rule, make_whisper
from transformers import pipeline

from trainers.whisper_guards import STOCK_FALLBACK
from trainers.whisper_pipeline import GuardedWhisperPipeline

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Whisper with a 2 s window that writes the same two words whatever it hears."""
    folder = tmp_path_factory.mktemp("published")
    texts = {"window_s": 2, "texts": ["một hai ba"]}
    processor, _ = make_whisper(**texts)
    tokenizer = processor.tokenizer
    start = [tokenizer.convert_tokens_to_ids(token) for token in ("<|notimestamps|>", "<|transcribe|>", "<|0.00|>")]
    pieces = [*tokenizer(" một hai", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    model = by_rule({**dict(pairwise(pieces)), **dict.fromkeys(start, pieces[0])}, **texts)
    for part in (processor, model):
        part.save_pretrained(folder)
    return folder


def sound(seconds, silent_from=None):
    time = np.arange(int(seconds * RATE)) / RATE
    samples = (0.2 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)
    if silent_from is not None:
        samples[int(silent_from * RATE) :] = 0
    return samples


@pytest.fixture(scope="module")
def guarded(folder):
    return pipeline("automatic-speech-recognition", model=str(folder), pipeline_class=GuardedWhisperPipeline)


@pytest.fixture(scope="module")
def stock(folder):
    return pipeline("automatic-speech-recognition", model=str(folder))


def test_one_window(guarded, stock):
    given = {"raw": sound(1.5), "sampling_rate": RATE}
    assert guarded(dict(given)) == {"text": "một hai"}
    assert stock(dict(given))["text"].strip() == "một hai"
    assert guarded(dict(given), generate_kwargs={"num_beams": 2})["text"] == "một hai"


def test_longer_than_the_window(guarded):
    result = guarded({"raw": sound(5.0), "sampling_rate": RATE}, return_timestamps=True)
    spans = [chunk["timestamp"] for chunk in result["chunks"]]
    assert spans[0][0] == 0.0 and spans[-1][1] == pytest.approx(5.0) and len(spans) >= 3
    assert all(one[1] == pytest.approx(two[0]) for one, two in pairwise(spans))
    assert all(end - start <= 2.0 for start, end in spans)
    assert result["text"] == " ".join(["một hai"] * len(spans))
    shorter = guarded({"raw": sound(5.0), "sampling_rate": RATE}, chunk_length_s=1.0, return_timestamps=True)
    assert len(shorter["chunks"]) > len(spans)


def test_word_times(guarded, stock):
    result = guarded({"raw": sound(5.0), "sampling_rate": RATE}, return_timestamps="word")
    words = result["chunks"]
    assert [word["text"].strip() for word in words] == result["text"].split()
    times = [time for word in words for time in word["timestamp"]]
    assert times == sorted(times) and times[-1] <= 5.0 and times[-1] > 3.0
    plain = stock({"raw": sound(5.0), "sampling_rate": RATE}, return_timestamps="word", chunk_length_s=2)
    assert {"text", "chunks"} <= set(plain) and all(len(word["timestamp"]) == 2 for word in plain["chunks"])


def test_silence(guarded):
    before = guarded.counts.silent
    assert guarded(np.zeros(RATE, np.float32), return_timestamps="word") == {"text": "", "chunks": []}
    assert guarded.counts.silent == before + 1
    half = guarded({"raw": sound(6.0, silent_from=1.9), "sampling_rate": RATE}, return_timestamps=True)
    assert half["text"] == "một hai" and half["chunks"][0]["timestamp"][0] == 0.0


def test_batches_and_other_inputs(guarded, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(1.0), 8_000)  # other rate: twice as long
    inputs = [str(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes(), sound(0.3), sound(3.0)]
    results = guarded(inputs, batch_size=4, return_timestamps="word")
    assert [result["text"] for result in results] == ["một hai", "một hai", "một hai", "một hai một hai"]
    assert results == [guarded(one, return_timestamps="word") for one in inputs]
    assert guarded({"raw": sound(0.3), "sampling_rate": RATE, "name": "c"})["name"] == ["c"]


def test_without_guards(folder):
    pipe = pipeline("automatic-speech-recognition", model=str(folder), pipeline_class=GuardedWhisperPipeline)
    pipe.guards = None
    assert pipe(np.zeros(RATE, np.float32))["text"] == "một hai"  # what silence can do
    assert pipe(sound(1.0), return_timestamps="word")["text"] == "một hai"
    assert pipe.counts.utterances == 0


def test_refused_options(guarded):
    with pytest.raises(ValueError, match="True or 'word'"):
        guarded(sound(1.0), return_timestamps="char")
    with pytest.raises(ValueError, match="must be positive"):
        guarded(sound(1.0), chunk_length_s=-1)


def test_the_stock_pipeline_takes_the_fallback(stock):
    """The thresholds of Whisper's authors, as its users are told to pass them."""
    result = stock({"raw": sound(1.5), "sampling_rate": RATE}, generate_kwargs=dict(STOCK_FALLBACK))
    assert isinstance(result["text"], str)


def test_temperatures_are_enough_for_the_stored_threshold(tmp_path):
    """A model that loops, published: the stock pipeline tries again as soon as it is given temperatures."""
    processor, model = make_whisper(seed=1)
    for part in (processor, model):
        part.save_pretrained(tmp_path)
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    given = {"raw": sound(0.8), "sampling_rate": RATE}
    looped = pipe(dict(given), generate_kwargs={"max_new_tokens": 40, "num_beams": 1})["text"]
    tried = {"max_new_tokens": 40, "num_beams": 1, "temperature": (0.0, 2.0)}
    assert pipe(dict(given), generate_kwargs=tried)["text"] != looped


def test_what_a_generation_config_cannot_hold(folder, tmp_path):
    """Why STOCK_FALLBACK is not in the published generation config: the stock code would fail on every call."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, "logprob_threshold": -1.0}))
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    with pytest.raises((TypeError, IndexError, AttributeError)):
        pipe({"raw": sound(1.0), "sampling_rate": RATE})


FRESH_PROCESS = """
import json, resource, sys
import soundfile
from transformers import pipeline
folder, path, ours = sys.argv[1], sys.argv[2], sys.argv[3] == "ours"
options = {"batch_size": 16, "return_timestamps": "word"}
if ours:
    from trainers.whisper_pipeline import GuardedWhisperPipeline
    pipe = pipeline("automatic-speech-recognition", model=folder, pipeline_class=GuardedWhisperPipeline)
else:
    pipe = pipeline("automatic-speech-recognition", model=folder)
    options["chunk_length_s"] = 2
samples, rate = soundfile.read(path, dtype="float32")
pipe({"raw": samples[: 60 * rate], "sampling_rate": rate}, **options)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = pipe({"raw": samples, "sampling_rate": rate}, **options)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
words = [word for word in result["chunks"] if word["timestamp"][1] is not None]
print(json.dumps({"words": len(words), "last": words[-1]["timestamp"][1], "grown_mb": grown / 1024}))
"""


def transcribe(folder, path, which):
    command = [sys.executable, "-c", FRESH_PROCESS, str(folder), str(path), which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_half_an_hour(folder, tmp_path):
    """Memory does not grow with the file."""
    soundfile.write(tmp_path / "long.wav", np.tile(sound(60.0), 30), RATE)
    found = transcribe(folder, tmp_path / "long.wav", "ours")
    # Two words in each piece of at most 2 s; the samples, 115 MB, are there before and once more while they are cut.
    assert found["words"] >= 1800 and 1795 < found["last"] <= 1800 and found["grown_mb"] < 300


@pytest.mark.slow
def test_the_stock_pipeline_reads_a_long_file(folder, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.tile(sound(60.0), 4), RATE)
    found = transcribe(folder, tmp_path / "long.wav", "stock")
    assert found["words"] >= 2 and found["last"] <= 242
