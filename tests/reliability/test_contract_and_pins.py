"""A resume is the same run or is refused; a Hub id may name its version, and must where its code is run."""

from types import SimpleNamespace

import pytest
from datasets import Dataset

from trainers import contract
from trainers.checkpoints import KEY_VARIABLE, seal
from trainers.config import read_config
from trainers.contract import check_resume, code_version, data_fingerprint, resume_facts
from trainers.pins import require_pin, split_pin
from trainers.recognisers import RecogniserError, load_recogniser
from trainers.runs import RunError

SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus}]"]


@pytest.fixture
def facts():
    config = read_config([*SPEECH, "--data.batch_duration_s", "40"])
    return resume_facts(config, 2, "abc")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, facts):
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    seal(folder, {**facts, "step": 5, "world_size": 2})
    return folder


def test_the_same_run_goes_on(checkpoint, facts):
    check_resume(checkpoint, facts)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data", "other", "the training rows"),
        ("batch_budget", 20.0, "was 40.0, now 20.0"),
        ("world_size", 4, r"the number of processes\): was 2, now 4"),
        ("seed", 7, "the seed"),
        ("code", "0", "the code of this package"),
        ("normalizer_version", "0", "normalise"),
        ("gradient_accumulation_steps", 2, "batches per optimiser step"),
    ],
)
def test_another_run_is_refused_unless_allowed(checkpoint, facts, name, value, words, caplog):
    with pytest.raises(RunError, match=words) as caught:
        check_resume(checkpoint, {**facts, name: value})
    assert "--training.allow_resume_mismatch true" in str(caught.value)
    check_resume(checkpoint, {**facts, name: value}, allow_mismatch=True)
    assert "would not repeat" in caplog.text


def test_workers_count_where_they_divide_a_stream():
    streams = ["--data.train", "[{path: corpus, streaming: true}]", "--training.max_steps", "5"]

    def workers(argv, count):
        config = read_config([*SPEECH, *argv, "--training.dataloader_num_workers", str(count)])
        return resume_facts(config, 1, "abc")["stream_workers"]

    assert [workers(streams, count) for count in (0, 1, 2)] == [1, 1, 2]
    assert workers([], 2) is None


def test_the_fingerprint_sees_rows_order_and_sources():
    rows = {"id": ["a", "b"], "text": ["x", "y"], "duration_s": [1.0, 2.0]}
    source = read_config(SPEECH).data.train

    def of(changes=None, sources=source):
        return data_fingerprint(Dataset.from_dict({**rows, **(changes or {})}), sources)

    assert of() == of()
    different = [of({"id": ["b", "a"]}), of({"text": ["x", "z"]}), of({"duration_s": [1.0, 2.5]}), of(sources=[])]
    assert len({of(), *different}) == 5
    stream = SimpleNamespace()
    assert data_fingerprint(stream, source) != data_fingerprint(stream, [])


def test_the_code_version_changes_with_a_line(tmp_path, monkeypatch):
    for package in contract.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "models" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(contract, "__file__", str(tmp_path / "trainers" / "contract.py"))
    before = code_version()
    assert before == code_version()
    (tmp_path / "models" / "a.py").write_text("x = 2\n")
    assert code_version() != before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vinai/PhoWhisper-base", ("vinai/PhoWhisper-base", {})),
        ("vinai/PhoWhisper-base@main", ("vinai/PhoWhisper-base", {"revision": "main"})),
        ("./runs/a@b", ("./runs/a@b", {})),
        ("/data/a@b", ("/data/a@b", {})),
        ("runs/demo/s2p/model@x", ("runs/demo/s2p/model@x", {})),
        ("org/name@", ("org/name@", {})),
        ("gpt2", ("gpt2", {})),
    ],
)
def test_pins(name, expected):
    assert split_pin(name) == expected


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name@x").mkdir()
    assert split_pin("org/name@x") == ("org/name@x", {})


@pytest.mark.parametrize("name", ["org/name", "org/name@main", "org/name@abc123"])
def test_code_of_a_repository_is_run_at_a_commit_only(name):
    with pytest.raises(ValueError, match="name the commit"):
        require_pin(name)
    with pytest.raises(RecogniserError, match="name the commit"):
        load_recogniser(name, trust_remote_code=True)
    require_pin(f"org/name@{'0a' * 20}")
