"""Push to a hub, then transcribe in a process that has transformers and none of this project's packages."""

import numpy as np
import pytest
import soundfile
from consumer_kit import run_consumer

from trainers.publishing import publish
from trainers.recognisers import load_recogniser

from .loopback_hub import TOKEN

CONSUMER = """
import numpy as np
import soundfile
import torch
from transformers import pipeline

repo, folder = sys.argv[1:]
audio, rate = soundfile.read(f"{folder}/a.wav", dtype="float32")
pipe = pipeline("automatic-speech-recognition", model=repo, trust_remote_code=True, device="cpu")
double = np.interp(np.arange(0, len(audio), 16 / 44.1), np.arange(len(audio)), audio).astype("float32")
out = {
    "path": pipe(f"{folder}/a.wav"),
    "bytes": pipe(open(f"{folder}/a.wav", "rb").read()),
    "array": pipe(audio.copy()),
    "dict": pipe({"array": audio.copy(), "sampling_rate": 16000}),
    "44.1 kHz": pipe({"array": double, "sampling_rate": 44100}),
    "stereo": pipe(f"{folder}/stereo.flac"),
    "batch": pipe([audio.copy(), audio[:6000].copy(), audio[:9000].copy()], batch_size=2),
    "single": [pipe(audio.copy()), pipe(audio[:6000].copy()), pipe(audio[:9000].copy())],
    "long": pipe(f"{folder}/long.ogg", chunk_length_s=1, batch_size=2),
    "beams": pipe(audio.copy(), generate_kwargs={"num_beams": 4}),
    "phonemes": pipe(audio.copy(), return_phonemes=True),
    "bf16": pipeline(model=repo, trust_remote_code=True, device="cpu", dtype=torch.bfloat16)(audio.copy()),
    "task": pipe.task,
}
"""


@pytest.mark.slow
def test_a_stranger_transcribes_with_transformers_alone(hub, tiny_models, tmp_path):
    seconds = np.arange(14_000) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * (180 + 200 * seconds) * seconds)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16_000)
    soundfile.write(tmp_path / "stereo.flac", np.stack([wave, wave], axis=1), 16_000)
    soundfile.write(tmp_path / "long.ogg", np.tile(wave, 5), 16_000)
    publish(tiny_models["tspc"], "tester/mine", endpoint=hub.endpoint)
    to = {"home": tmp_path, "endpoint": hub.endpoint, "token": TOKEN}
    out = run_consumer(CONSUMER, "tester/mine", tmp_path, **to)
    assert out["task"] == "automatic-speech-recognition"
    text = out["path"]["text"]
    assert text
    for name in ("bytes", "array", "dict", "stereo"):
        assert out[name]["text"] == text, name
    assert out["44.1 kHz"]["text"] and out["bf16"]["text"] and out["beams"]["text"]
    assert [x["text"] for x in out["batch"]] == [x["text"] for x in out["single"]]
    assert len(out["long"]["text"]) > 2 * len(text)
    assert len(out["phonemes"]["phonemes"].split()) > 1 and out["phonemes"]["text"] == text
    # The same checkpoint through the local classes, without remote code, says the same.
    local = load_recogniser(str(tiny_models["tspc"]), device="cpu").pipe(str(tmp_path / "a.wav"), return_phonemes=True)
    assert (local["text"], local["phonemes"]) == (text, out["phonemes"]["phonemes"])
    assert any(request.startswith("GET /tester/mine/resolve/") for request in hub.requests)
