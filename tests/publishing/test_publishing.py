"""Checking a folder and pushing it: completeness, the allow-list, and what is said when the Hub says no."""

import json
import logging
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download

from trainers.checkpoint_folder import check_folder, files_to_publish, safetensors_tensors, stage_of
from trainers.publishing import IncompleteFolder, PublishError, publish

from .conftest import tokenizer_json
from .loopback_hub import TOKEN, Fault

COMPLETE = {
    "README.md", "card.json", "config.json", "configuration_x.py", "generation_config.json", "helper_x.py",
    "model.safetensors", "modeling_x.py", "pipeline_x.py", "phoneme_tokenizer/tokenizer.json",
    "phoneme_tokenizer/tokenizer_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def test_a_complete_folder(model_folder):
    assert check_folder(model_folder) == []
    assert stage_of(model_folder) == "tspc"
    assert set(files_to_publish(model_folder)) == COMPLETE


def test_training_leftovers_stay_at_home(model_folder, tmp_path):
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "rng_state.pth",
        ".env",
        "notes.py",
        "calls.wav",
        "trainer_state.json",
    ):
        (model_folder / name).write_text("private")
    (model_folder / "checkpoint-1").mkdir()
    (model_folder / "checkpoint-1" / "model.safetensors").write_text("x")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (model_folder / "vocab.json").symlink_to(secret)
    assert set(files_to_publish(model_folder)) == COMPLETE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "model.safetensors: missing"),
        ("config.json", "config.json: missing"),
        ("helper_x.py", "helper_x.py: missing, though the loader needs it"),
        ("pipeline_x.py", "pipeline_x.py: missing"),
        ("generation_config.json", "generation_config.json: missing"),
        ("phoneme_tokenizer/tokenizer.json", "phoneme_tokenizer/tokenizer.json: missing"),
        ("README.md", "README.md: missing; write it with trainers.card"),
    ],
)
def test_missing_files_are_named(model_folder, name, message):
    (model_folder / name).unlink()
    problems = check_folder(model_folder)
    assert len(problems) == 1 and str(problems[0]).startswith(message)


def test_broken_files_are_named(model_folder):
    weights = (model_folder / "model.safetensors").read_bytes()
    (model_folder / "model.safetensors").write_bytes(weights[:-100])
    (model_folder / "processor_config.json").write_text("{,")
    (model_folder / "tokenizer.json").write_text(tokenizer_json(13))
    text = "\n".join(map(str, check_folder(model_folder)))
    assert f"promises {len(weights)} bytes, {len(weights) - 100} are there" in text
    assert "processor_config.json: not valid JSON" in text
    assert "tokenizer.json: has token id 12, the model's embedding has 12 rows" in text
    for rubbish in (b"", b"\x00" * 8, b"short", b"\xff" * 64):
        (model_folder / "model.safetensors").write_bytes(rubbish)
        with pytest.raises(ValueError, match="not a safetensors file"):
            safetensors_tensors(model_folder / "model.safetensors")


def test_shards_and_pickles(model_folder):
    weights = model_folder / "model.safetensors"
    weights.rename(model_folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [p.file for p in check_folder(model_folder)] == ["model-00002-of-00002.safetensors"]
    assert "model-00001-of-00002.safetensors" in files_to_publish(model_folder)
    (model_folder / "model.safetensors.index.json").unlink()
    (model_folder / "pytorch_model.bin").write_bytes(b"x")
    assert "found only pytorch_model.bin" in str(check_folder(model_folder)[0])
    (model_folder / "adapter_config.json").write_text("{}")
    assert "merge them first" in str(check_folder(model_folder)[0])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        check_folder(model_folder / "nowhere")


def test_push_and_read_back(hub, model_folder, tmp_path):
    (model_folder / "training_args.bin").write_text("private")
    url = publish(model_folder, "mine", endpoint=hub.endpoint)
    assert url == f"{hub.endpoint}/tester/mine"
    assert hub.repos["tester/mine"].private
    stored = hub.files("tester/mine")
    assert set(stored) - {".gitattributes"} == COMPLETE
    assert all(stored[name] == (model_folder / name).read_bytes() for name in COMPLETE)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    info = api.model_info("tester/mine")
    assert (info.pipeline_tag, info.library_name) == ("automatic-speech-recognition", "transformers")
    assert 'model="tester/mine"' in ModelCard(stored["README.md"].decode()).text
    options = {"endpoint": hub.endpoint, "token": TOKEN, "cache_dir": tmp_path / "cache"}
    copy = snapshot_download("tester/mine", **options)
    assert check_folder(copy) == []
    one = hf_hub_download("tester/mine", "phoneme_tokenizer/tokenizer.json", **options)
    assert Path(one).read_bytes() == stored["phoneme_tokenizer/tokenizer.json"]
    paths = {entry.path for entry in api.list_repo_tree("tester/mine", "phoneme_tokenizer")}
    assert paths == {name for name in COMPLETE if name.startswith("phoneme_tokenizer/")}


def test_a_second_push_replaces_and_removes(hub, model_folder):
    publish(model_folder, "tester/mine", private=False, endpoint=hub.endpoint)
    config = json.loads((model_folder / "config.json").read_text())
    del config["custom_pipelines"]
    (model_folder / "config.json").write_text(json.dumps(config))
    publish(model_folder, "tester/mine", endpoint=hub.endpoint)
    assert "pipeline_x.py" not in hub.files("tester/mine")
    assert not hub.repos["tester/mine"].private  # an existing repository keeps its visibility
    head = hub.repos["tester/mine"].head
    publish(model_folder, "tester/mine", endpoint=hub.endpoint)  # nothing changed: still a success
    assert hub.files("tester/mine").keys() == {*COMPLETE, ".gitattributes"} - {"pipeline_x.py"}
    assert hub.repos["tester/mine"].head == head


def test_an_incomplete_folder_never_reaches_the_hub(hub, model_folder):
    (model_folder / "helper_x.py").unlink()
    with pytest.raises(IncompleteFolder, match=r"nothing was uploaded:\n  - helper_x.py: missing"):
        publish(model_folder, "mine", endpoint=hub.endpoint)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("whoami", 401, 99), "hf auth login"),
        (Fault("repos/create", 403, 99), "may not write to tester/mine"),
        (Fault("/commit/", 413, 99), "too large"),
        (Fault("/commit/", 422, 99), "HTTP 422"),
    ],
)
def test_refusals_are_explained(hub, model_folder, fault, message):
    hub.faults.append(fault)
    with pytest.raises(PublishError, match=message):
        publish(model_folder, "tester/mine", endpoint=hub.endpoint)


def test_wrong_owner_token_and_name(hub, model_folder, monkeypatch):
    with pytest.raises(PublishError, match="may not write to someone/mine"):
        publish(model_folder, "someone/mine", endpoint=hub.endpoint)
    with pytest.raises(PublishError, match="no valid repository name"):
        publish(model_folder, "a/b/c", endpoint=hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongWrongWrong")
    with pytest.raises(PublishError, match="does not accept the token"):
        publish(model_folder, "tester/mine", endpoint=hub.endpoint)
    monkeypatch.setattr("trainers.publishing.get_token", lambda: None)
    with pytest.raises(PublishError, match="no Hugging Face token"):
        publish(model_folder, "tester/mine", endpoint=hub.endpoint)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("/commit/", 503, 2)],  # the client itself does not retry commits
        [Fault("/commit/", 429, 1, {"Retry-After": "1"}), Fault("/preupload/", 500, 1)],
        [Fault("PUT /lfs/", 0, 1)],
    ],
    ids=["503", "429", "dropped"],
)
def test_passing_troubles_are_ridden_out(hub, model_folder, faults):
    hub.faults += faults
    publish(model_folder, "tester/mine", endpoint=hub.endpoint)
    assert set(hub.files("tester/mine")) == {*COMPLETE, ".gitattributes"}
    assert not any(fault.times for fault in hub.faults)


def test_lasting_trouble_ends_at_the_deadline(hub, model_folder):
    hub.faults.append(Fault("/commit/", 503, 10_000))
    with pytest.raises(PublishError, match="publish again later"):
        publish(model_folder, "tester/mine", endpoint=hub.endpoint, deadline_s=0.5)


def test_offline_is_explained(hub, model_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE"):
        publish(model_folder, "tester/mine", endpoint=hub.endpoint)


def test_the_token_is_never_said(hub, model_folder, caplog):
    caplog.set_level(logging.DEBUG)
    hub.faults += [Fault("/commit/", 503, 1), Fault("/commit/", 403, 99)]
    with pytest.raises(PublishError) as error:
        publish(model_folder, "tester/mine", endpoint=hub.endpoint)
    assert "trying again" in caplog.text
    assert TOKEN not in caplog.text and TOKEN not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__
