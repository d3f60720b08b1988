"""A complete model folder made of nothing, and a hub to push it to."""

import json

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from trainers.card import write_model_card

from .loopback_hub import TOKEN, serve_hub


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
