"""A complete model folder made of nothing, and a hub to push it to."""

import json

import huggingface_hub
import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from trainers.card import write_model_card
from trainers.classifiers import load_classifier
from trainers.recognisers import load_recogniser

from .loopback_hub import TOKEN, serve_hub
from .ser_folders import save_ser
from .tiny_baselines import save_tiny_ctc, save_tiny_whisper
from .tiny_recognisers import save_tiny_zipformer


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A loopback hub that this process talks to, with a token that may write."""
    with serve_hub() as running:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("trainers.publishing.time.sleep", lambda seconds: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield running


def tokenizer_json(size):
    vocab = {f"t{i}": i for i in range(size)}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab}})


@pytest.fixture
def model_folder(tmp_path):
    """A TSPC-shaped folder: everything `check_folder` asks for, no real model."""
    folder = tmp_path / "model"
    (folder / "phoneme_tokenizer").mkdir(parents=True)
    config = {
        "model_type": "tspc",
        "s2p_config": {"vocab_size": 8},
        "p2t_config": {"vocab_size": 12},
        "auto_map": {"AutoConfig": "configuration_x.C", "AutoModelForSpeechSeq2Seq": "modeling_x.M"},
        "custom_pipelines": {"automatic-speech-recognition": {"impl": "pipeline_x.P", "pt": []}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_x.py").write_text("class C: ...\n")
    (folder / "modeling_x.py").write_text("from .configuration_x import C\nfrom .helper_x import h\n")
    (folder / "helper_x.py").write_text("h = 1\n")
    (folder / "pipeline_x.py").write_text("class P: ...\n")
    for name in ("generation_config.json", "processor_config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "phoneme_tokenizer" / "tokenizer_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(tokenizer_json(12))
    (folder / "phoneme_tokenizer" / "tokenizer.json").write_text(tokenizer_json(8))
    save_file({"w": np.arange(600, dtype=np.float32)}, folder / "model.safetensors")
    write_model_card(folder, stage="tspc")
    return folder


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("baselines") / "whisper")


@pytest.fixture(scope="session")
def tiny_ctc(tmp_path_factory):
    return save_tiny_ctc(tmp_path_factory.mktemp("baselines") / "ctc")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Folders "s2p", "p2t" and "tspc" of random models in register full."""
    from .tiny_tspc import save_tiny_models

    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Four tones of different lengths with texts, one with a switch, and two rows that cannot be used."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = ["file_name,id,marked_text,speaker"]
    texts = ["mở [en]email[/en] đi", "xin chào", "tôi là [en]team leader[/en]", "ba má"]
    for index, text in enumerate(texts):
        seconds = np.arange(int((0.3 + 0.2 * ((index * 3) % 4)) * 16_000)) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * (200 + 40 * index) * seconds)
        soundfile.write(folder / f"{index}.wav", wave.astype(np.float32), 16_000)
        rows.append(f"{index}.wav,u{index},{text},s{index % 2}")
    soundfile.write(folder / "silent.wav", np.zeros(8000, np.float32), 16_000)
    rows += ["silent.wav,silence,ba,s0", "gone.wav,gone,má,s0"]
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tspc(tiny_models):
    """Recogniser."""
    return load_recogniser(str(tiny_models["tspc"]), device="cpu")


@pytest.fixture(scope="module")
def whisper(tiny_whisper):
    """Recogniser."""
    return load_recogniser(str(tiny_whisper), device="cpu")


@pytest.fixture(scope="module")
def zipformer(tmp_path_factory):
    """Recogniser."""
    return load_recogniser(str(save_tiny_zipformer(tmp_path_factory.mktemp("zipformer"))), device="cpu")


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    """Classifier of emotions."""
    return load_classifier(str(save_ser(tmp_path_factory.mktemp("fusion"))), device="cpu")
