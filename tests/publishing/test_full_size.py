"""The real thing at full size, with random weights: trained on human recordings, published, used by a stranger."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from trainers.publishing import publish
from trainers.runs import read_metrics

from .loopback_hub import TOKEN

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = """
import json, sys
from transformers import pipeline
pipe = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True, device="cpu")
print("RESULT " + json.dumps(pipe(sys.argv[2], return_phonemes=True, generate_kwargs={"max_new_tokens": 8})))
print("CODE " + type(pipe.model).__module__)
"""
# A few recordings of each source, without GPU, processes or trackers.
SMALL = ["--data.max_rows", "12", "--data.batch_duration_s", "30", "--training.use_cpu", "true"]
SMALL += ["--training.bf16", "false", "--training.dataloader_num_workers", "0", "--training.report_to", "[none]"]
SMALL += ["--training.dataloader_persistent_workers", "false", "--training.early_stopping_patience", "null"]
SMALL += ["--training.load_best_model_at_end", "false", "--training.eval_strategy", "no"]
SMALL += ["--training.eval_on_start", "false", "--training.save_strategy", "no", "--training.logging_steps", "1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size_on_human_speech(shared_data, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # vinai/PhoWhisper-base is whisper-base, tuned: this is its exact shape.
    WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51_865,
            d_model=512,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_ffn_dim=2048,
        )
    ).save_pretrained(tmp_path / "encoder")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "encoder")
    train = runpy.run_path(str(ROOT / "scripts" / "train_tspc.py"))["main"]
    source = json.dumps([{"path": str(shared_data / "vi_asr"), "split": "train"}])
    common = ["--data.train", source, "--data.validation", "[]", "--cache.folder", str(tmp_path / "cache"), *SMALL]

    def stage(name: str, steps: int, *options: str) -> Path:
        folder = tmp_path / name
        where = ["--training.output_dir", str(folder), "--training.max_steps", str(steps)]
        train(["--config", f"configs/tspc/{name}.yaml", *common, *where, *options])
        return folder

    s2p = stage("s2p", 2, "--model.s2p.encoder", str(tmp_path / "encoder"))
    # The sizes of t5-small are the defaults.
    sizes = ["--model.p2t.pretrained", "null", "--model.p2t.text_vocab_size", "300"]
    text = ["--data.synthetic_sentences", "50", "--data.synthetic_validation_sentences", "0"]
    p2t = stage("p2t", 2, *sizes, *text, "--data.batch_phonemes", "600")
    stages = ["--model.s2p.path", str(s2p / "model"), "--model.p2t.path", str(p2t / "model")]
    joint = stage("joint", 12, *stages, "--training.learning_rate", "1e-3")
    losses = [line["loss"] for line in read_metrics(joint) if "loss" in line]
    assert len(losses) == 12 and min(losses[-3:]) < losses[0], losses

    publish(joint / "model", "tester/full", endpoint=hub.endpoint)
    recording = next((shared_data / "vi_asr" / "test").glob("*.ogg"))
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", CONSUMER, "tester/full", str(recording)]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "CODE transformers_modules." in done.stdout
    result = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])
    assert result["phonemes"].split() and isinstance(result["text"], str)
