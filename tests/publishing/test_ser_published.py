"""Emotion classifiers as publishing assembles them: complete or refused, and heard by a stranger's process."""

import json
from shutil import copytree

import numpy as np
import pytest
import soundfile
from consumer_kit import run_consumer
from safetensors.torch import load_file, save_file

from trainers.classifiers import load_classifier
from trainers.publishing import check_folder, files_to_publish, merge_adapters, publish

from .loopback_hub import TOKEN
from .ser_folders import noise, save_emotion2vec, save_ser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_ser(tmp_path_factory.mktemp("ser") / "model")


def test_a_whole_folder_is_published_with_its_datastore(folder, tmp_path):
    assert check_folder(folder) == [] and check_folder(save_emotion2vec(tmp_path / "emotion2vec")) == []
    names = files_to_publish(folder)
    wanted = {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "knn.json",
        "knn.safetensors",
        "README.md",
    }
    assert wanted <= set(names) and {"modeling_ser.py", "pipeline_ser.py", "strict_model.py"} <= set(names)


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        (lambda f: drop(f, "head.classifier.weight"), "model.safetensors", "no head.classifier.weight: the head"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json", "missing"),
        (lambda f: (f / "knn.safetensors").unlink(), "knn.safetensors", "missing, though knn.json is there"),
        (lambda f: (f / "knn.json").unlink(), "knn.json", "missing, though knn.safetensors is there"),
        (lambda f: (f / "knn.json").write_text("{"), "knn.json", "not valid JSON"),
        (lambda f: cut(f / "knn.safetensors"), "knn.safetensors", "truncated"),
        (lambda f: (f / "pipeline_ser.py").unlink(), "pipeline_ser.py", "the loader needs it"),
        (lambda f: edit(f, text_vocab_size=9), "tokenizer.json", "reads transcripts"),
    ],
)
def test_what_a_stranger_could_not_use_is_refused(change, file, message, folder, tmp_path):
    copy = copytree(folder, tmp_path / "copy")
    change(copy)
    found = [problem for problem in check_folder(copy) if problem.file == file]
    assert len(found) == 1 and message in str(found[0])


def drop(folder, name):
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_classifiers_of_dfat_belong_to_its_folder(tmp_path):
    """The list of digests says what is shipped, and each file is what it says."""
    import hashlib

    members = tmp_path / "classifiers"
    members.mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "amvi_dfat", "auto_map": {"AutoConfig": "c.C"}}))
    (tmp_path / "c.py").write_text("class C: ...\n")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    save_file({"member_weights": load_weights()}, tmp_path / "model.safetensors")
    digests = {}
    for name in ("lr.skops", "xgb.json"):
        (members / name).write_text(f'"{name}"')
        digests[name] = hashlib.sha256((members / name).read_bytes()).hexdigest()
    (members / "stranger.pkl").write_text("no")
    (members / "digests.json").write_text(json.dumps({"files": digests}))
    assert check_folder(tmp_path, card_required=False) == []
    shipped = {name for name in files_to_publish(tmp_path) if "/" in name}
    assert shipped == {"classifiers/digests.json", "classifiers/lr.skops", "classifiers/xgb.json"}
    (members / "lr.skops").write_text("other")
    (members / "xgb.json").unlink()
    problems = {problem.file: problem.problem for problem in check_folder(tmp_path, card_required=False)}
    assert problems.keys() == {"classifiers/lr.skops", "classifiers/xgb.json"}
    assert "not the file" in problems["classifiers/lr.skops"] and "missing" in problems["classifiers/xgb.json"]
    (members / "digests.json").unlink()
    assert "classifiers/digests.json" in {each.file for each in check_folder(tmp_path, card_required=False)}


def load_weights():
    import torch

    return torch.ones(2) / 2


def test_adapters_are_merged(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from models.emotion2vec import Emotion2VecForAudioClassification

    base = save_emotion2vec(tmp_path / "base")
    model = Emotion2VecForAudioClassification.from_pretrained(base)
    lora = LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["classifier"], init_lora_weights=False)
    tuned = get_peft_model(model, lora).eval()
    waveforms = torch.from_numpy(noise(0.5))[None]
    expected = tuned(waveforms).logits
    tuned.save_pretrained(tmp_path / "adapters")
    merged = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert check_folder(merged) == []
    assert torch.allclose(
        Emotion2VecForAudioClassification.from_pretrained(merged)(waveforms).logits, expected, atol=1e-5
    )


CONSUMER = """
import numpy as np
import soundfile
from transformers import AutoModelForAudioClassification, pipeline

repo, folder, headless = sys.argv[1:]
audio, rate = soundfile.read(f"{folder}/a.wav", dtype="float32")
pipe = pipeline("audio-classification", model=repo, trust_remote_code=True, device="cpu")
out = {
    "path": pipe(f"{folder}/a.wav"),
    "array": pipe(audio.copy()),
    "stereo": pipe(np.stack([audio, audio])),
    "dict": pipe({"array": audio.copy(), "sampling_rate": 16000}),
    "batch": pipe([audio.copy(), audio[:6000].copy(), audio[:9000].copy()], batch_size=3),
    "single": [pipe(audio.copy()), pipe(audio[:6000].copy()), pipe(audio[:9000].copy())],
    "top": pipe(audio.copy(), top_k=1),
    "plain": pipe(audio.copy(), knn=False),
    "id2label": pipe.model.config.id2label,
    "errors": [],
}
loaders = (
    lambda: pipeline("audio-classification", model=headless, trust_remote_code=True, device="cpu"),
    lambda: AutoModelForAudioClassification.from_pretrained(headless, trust_remote_code=True),
)
for load in loaders:
    try:
        load()
    except Exception as error:
        out["errors"].append(f"{type(error).__name__}: {error}")
"""


@pytest.mark.slow
def test_a_stranger_classifies_with_transformers_alone(hub, folder, tmp_path):
    wave = noise(0.9)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    headless = copytree(folder, tmp_path / "headless")
    drop(headless, "head.classifier.weight")
    publish(folder, "tester/feel", endpoint=hub.endpoint)
    to = {"home": tmp_path, "endpoint": hub.endpoint, "token": TOKEN}
    out = run_consumer(CONSUMER, "tester/feel", tmp_path, headless, **to)
    assert out["id2label"] == {"0": "neutral", "1": "negative"}
    for name in ("array", "stereo", "dict"):
        assert out[name] == out["path"], name
    for batched, single in zip(out["batch"], out["single"], strict=True):
        assert scores(batched) == pytest.approx(scores(single), abs=1e-6)
    assert out["top"] == out["path"][:1] and out["path"][0]["score"] >= out["path"][1]["score"]
    # The same probabilities as in this process, through local classes; the datastore arrived too.
    local = load_classifier(str(folder), device="cpu").pipe
    assert scores(out["path"]) == pytest.approx(scores(local(str(tmp_path / "a.wav"))), abs=1e-6)
    assert scores(out["plain"]) == pytest.approx(scores(local(wave, knn=False)), abs=1e-6)
    assert np.abs(scores(out["plain"])["neutral"] - scores(out["path"])["neutral"]) > 1e-3
    assert len(out["errors"]) == 2 and all("head.classifier.weight" in error for error in out["errors"])


def scores(answer):
    return {entry["label"]: entry["score"] for entry in answer}
