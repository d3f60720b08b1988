"""Both phases by `scripts/train_asr.py` on tiny audio: from scratch, then replayed, adapted and scored by domain."""

import csv
import os
import runpy
import shutil
from itertools import product
from pathlib import Path

import pytest
import soundfile
from tiny_tspc import WORDS, speech
from transformers import WhisperForConditionalGeneration, pipeline

from trainers.recognisers import load_recogniser, recognise
from trainers.runs import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model.whisper.window_s": 1,
    "model.whisper.vocab_size": 280,
    "model.whisper.d_model": 32,
    "model.whisper.encoder_layers": 1,
    "model.whisper.decoder_layers": 1,
    "model.whisper.num_heads": 2,
    "model.whisper.ffn_dim": 32,
    "data.max_duration_s": 1,
    "data.min_duration_s": 0.05,
    "training.use_cpu": "true",
    "training.max_steps": 4,
    "training.logging_steps": 1,
    "training.eval_strategy": "steps",
    "training.eval_steps": 2,
    "training.save_strategy": "steps",
    "training.save_steps": 2,
    "training.per_device_train_batch_size": 4,
    "training.generation_max_length": 12,
    "training.learning_rate": "1e-3",
    "training.report_to": "[none]",
}


def train(*argv, **options):
    os.chdir(ROOT)
    flags = [part for name, value in {**TINY, **options}.items() for part in (f"--{name}", str(value))]
    return runpy.run_path(str(ROOT / "scripts" / "train_asr.py"))["main"](["--system", "whisper", *flags, *argv])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones of tiny_tspc: `general` and `domain`, each with train and validation."""
    folder = tmp_path_factory.mktemp("tones")
    texts = [" ".join(pair) for pair in product(WORDS, WORDS)]
    number = 0
    for corpus, count in (("general", 12), ("domain", 8)):
        for split, rows in (("train", count), ("validation", 3)):
            place = folder / corpus / split
            place.mkdir(parents=True)
            with (place / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                table = csv.writer(file)
                table.writerow(["file_name", "id", "text"])
                for _ in range(rows):
                    text = texts[number]
                    (place / f"{number}.flac").write_bytes(speech(text))
                    table.writerow([f"{number}.flac", f"{corpus}-{number}", text])
                    number += 1
    return folder


def sources(folder, *names, split="train"):
    return "[" + ", ".join(f"{{path: {folder}/{name}, split: {split}, corpus: {name}}}" for name in names) + "]"


@pytest.fixture(scope="module")
def phase1(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase1") / "run"
    argv = {"data.train": sources(data, "general"), "data.validation": sources(data, "general", split="validation")}
    helped = {"model.whisper.ctc_weight": 0.3, "model.whisper.timestamp_share": 0.5, "training.output_dir": folder}
    scores = train(**argv, **helped)
    return folder, scores


@pytest.mark.slow
def test_from_scratch_to_a_stock_folder(phase1, data):
    folder, scores = phase1
    assert {"eval_wer", "eval_loops", "eval_ctc_loss"} <= set(scores) and "eval_wer_general" not in scores
    assert all("ctc_loss" in line for line in read_metrics(folder) if "loss" in line)
    loaded, info = WhisperForConditionalGeneration.from_pretrained(folder / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.generation_config.language == "<|vi|>"
    file = next((data / "general" / "validation").glob("*.flac"))
    samples, rate = soundfile.read(file, dtype="float32")
    stock = pipeline("automatic-speech-recognition", model=str(folder / "model"))
    assert set(stock({"raw": samples, "sampling_rate": rate}, return_timestamps="word")) == {"text", "chunks"}
    ours = load_recogniser(str(folder / "model"), device="cpu")
    rows = [{"audio": {"path": str(file), "bytes": None}, "duration_s": len(samples) / rate}]
    assert len(recognise(ours, rows).texts) == 1


@pytest.mark.slow
def test_second_phase_with_adapters_replay_and_both_domains(phase1, data, tmp_path):
    folder, _ = phase1
    argv = {
        "model.whisper.path": folder / "model",
        "model.whisper.timestamp_share": 0.5,
        "data.train": sources(data, "domain"),
        "data.replay": sources(data, "general"),
        "data.replay_share": 0.25,
        "data.validation": sources(data, "domain", "general", split="validation"),
        "lora.rank": 2,
        "training.output_dir": tmp_path / "run",
        "training.metric_for_best_model": "eval_wer_domain",
    }
    scores = train(**argv)
    assert {"eval_wer", "eval_wer_domain", "eval_wer_general", "eval_loops"} <= set(scores)
    first = WhisperForConditionalGeneration.from_pretrained(folder / "model").state_dict()
    second = WhisperForConditionalGeneration.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert first.keys() == second.keys()  # adapters are merged
    changed = {name for name in first if not first[name].equal(second[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)
    assert {name.split(".")[1] for name in changed} == {"encoder", "decoder"}


@pytest.mark.slow
def test_an_interrupted_first_phase_goes_on_to_the_same_weights(phase1, data, tmp_path):
    """The CTC head is in its checkpoints."""
    folder, _ = phase1
    argv = {"data.train": sources(data, "general"), "data.validation": sources(data, "general", split="validation")}
    helped = {"model.whisper.ctc_weight": 0.3, "model.whisper.timestamp_share": 0.5}
    run = tmp_path / "run"
    train(**argv, **helped, **{"training.output_dir": run})
    shutil.rmtree(run / "model")
    for path in run.glob("checkpoint-4"):
        shutil.rmtree(path)
    train(**argv, **helped, **{"training.output_dir": run, "training.resume": "true"})
    one, two = (WhisperForConditionalGeneration.from_pretrained(path / "model").state_dict() for path in (folder, run))
    assert all(one[name].equal(two[name]) for name in one)
