"""Model cards: what they say, what they never say."""

import json

import pytest
from huggingface_hub import ModelCard

from trainers.card import Evaluation, markdown_escape, update_model_card, write_model_card
from trainers.public_names import public_command, public_name

WER = {"wer": {"value": 0.2084, "low": 0.19, "high": 0.23, "errors": 10}, "per_full": 0.0712}
EVALUATION = Evaluation(
    metrics=WER,
    dataset="amvi/cs-test",
    split="test",
    num_beams=4,
    num_utterances=120,
    normalizer_version="3",
    spoken_form_version="2",
    command="python scripts/eval_asr.py --model /home/mai/runs/tspc --data.path amvi/cs-test",
)
BASELINE = Evaluation(metrics={"wer": 0.279}, dataset="amvi/cs-test", split="test", model="vinai/PhoWhisper-base")


def write(folder, **facts):
    given = {"base_model": ["vinai/PhoWhisper-base"], "datasets": ["VLSP/x"], "normalizer_version": "3"} | facts
    given.setdefault("spoken_form_version", "2")
    write_model_card(folder, **{"stage": "tspc"} | given)
    return ModelCard.load(folder / "README.md")


def test_card_of_an_evaluated_model(tmp_path):
    card = write(tmp_path, repo_id="mai/tspc", evaluations=[EVALUATION, BASELINE], hardware="CPU, 2 cores")
    data = card.data
    assert (data.pipeline_tag, data.library_name, data.license) == (
        "automatic-speech-recognition",
        "transformers",
        "apache-2.0",
    )
    assert (
        data.language == ["vi", "en"] and data.base_model == ["vinai/PhoWhisper-base"] and data.datasets == ["VLSP/x"]
    )
    assert data.model_name == "tspc"
    results = {result.metric_name: result for result in data.eval_results}
    assert set(results) == {"WER (%), 4 beams", "PER (full) (%), 4 beams"}  # the baseline is not this model's result
    wer = results["WER (%), 4 beams"]
    assert (wer.metric_type, wer.metric_value, wer.dataset_type, wer.dataset_split) == (
        "wer",
        20.84,
        "amvi/cs-test",
        "test",
    )
    assert wer.metric_args == {"low": 19.0, "high": 23.0, "confidence": 0.95} | {
        "normalizer_version": "3",
        "spoken_form_version": "2",
    }
    assert "Spoken form version" in card.text
    assert "| this model | amvi/cs-test (test) | 4 | 20.84 [19.00, 23.00] | 7.12 | 120 |" in card.text
    assert "| baseline vinai/PhoWhisper-base | amvi/cs-test (test) |  | 27.90 |  |  |" in card.text
    assert 'pipeline("automatic-speech-recognition", model="mai/tspc", trust_remote_code=True)' in card.text
    assert "normaliser version 3" in card.text and "CPU, 2 cores" in card.text


@pytest.mark.parametrize(
    ("stage", "tag"),
    [("joint", "automatic-speech-recognition"), ("s2p", "automatic-speech-recognition"), ("p2t", None)],
)
def test_card_before_any_evaluation_invents_nothing(tmp_path, stage, tag):
    card = write(tmp_path, stage=stage)
    assert card.data.pipeline_tag == tag
    assert card.data.eval_results is None and card.data.metrics is None
    assert "Not evaluated yet" in card.text and "WER" not in card.text
    compile(card.text.split("```python\n")[1].split("```")[0], "snippet", "exec")


def test_local_paths_and_tokens_stay_at_home(tmp_path):
    token = "hf_" + "a1B2" * 8
    card = write(
        tmp_path,
        base_model=["/home/mai/models/whisper", "vinai/PhoWhisper-base"],
        datasets=["/data/secret-project/calls", "~/corpus"],
        command=f"T={token} python /home/mai/amvi/scripts/train_tspc.py --config=configs/tspc/s2p.yaml --x ../y/z",
        evaluations=[EVALUATION, Evaluation(metrics={"wer": 0.1}, dataset="/data/secret-project/test")],
    )
    for text in (card.content, (tmp_path / "card.json").read_text()):
        for private in ("/home", "mai/amvi", "secret-project", "~", token, "../"):
            assert private not in text, private
    assert card.data.base_model == ["vinai/PhoWhisper-base"] and card.data.datasets is None
    assert "scripts/train_tspc.py --config=configs/tspc/s2p.yaml --x z" in card.text


def test_markdown_and_html_are_escaped(tmp_path):
    card = write(
        tmp_path,
        hardware="<script>alert(1)</script> | [x](javascript:y)\n# title",
        command="python train.py `rm` | tee",
        limitations=["**loud** <b>"],
    )
    assert "<script>" not in card.text and "\n# title" not in card.text
    assert r"\[x\]" in card.text and r"\*\*loud\*\* &lt;b&gt;" in card.text
    assert "`python train.py 'rm' ¦ tee`" in card.text
    assert markdown_escape("a|b") == r"a\|b"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"stage": "asr"}, "s2p, p2t, tspc"),
        ({"hub_token": "x"}, "no field hub_token"),
        ({"training": {"output_dir": "x"}}, "output_dir; allowed: audio_hours"),
        ({"evaluations": [{"metrics": {"bleu": 1.0}, "dataset": "x"}]}, "bleu; known metrics: wer"),
        ({"evaluations": [{"metrics": {"wer": float("nan")}, "dataset": "x"}]}, "wer must be a fraction"),
        ({"evaluations": [{"metrics": {"wer": "low"}, "dataset": "x"}]}, "wer must be a fraction"),
    ],
)
def test_only_named_fields_are_taken(tmp_path, facts, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **facts)
    assert not (tmp_path / "README.md").exists()


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="save the model there"):
        write_model_card(tmp_path / "none", stage="s2p")


def test_evaluations_are_added_later(tmp_path):
    write(tmp_path, command="python scripts/train_tspc.py", training={"steps": 100, "learning_rate": 1e-4})
    update_model_card(tmp_path, evaluations=[EVALUATION], repo_id="mai/tspc")
    again = Evaluation(metrics={"wer": 0.1}, dataset="amvi/cs-test", split="test", num_beams=4)
    update_model_card(tmp_path, evaluations=[again, BASELINE])
    card = ModelCard.load(tmp_path / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [10.0]  # replaced, not doubled
    assert "27.90" in card.text and "python scripts/train\\_tspc" not in card.text
    assert "`python scripts/train_tspc.py`" in card.text and "Learning rate: 0.0001" in card.text
    json.loads((tmp_path / "card.json").read_text())
    with pytest.raises(FileNotFoundError, match="write_model_card"):
        update_model_card(tmp_path / "..", evaluations=[])


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("vinai/PhoWhisper-base", "vinai/PhoWhisper-base"),
        ("/home/mai/x/", "x"),
        ("../runs/demo/model", "model"),
        ("C:\\Users\\mai\\model", "model"),
        ("/home/mai/runs/calls/fusion/model", "fusion"),
        ("data/a/b.csv", "b.csv"),
        ("./", "local folder"),
    ],
)
def test_public_name(name, public):
    assert public_name(name) == public
    assert public_name(public) == public


def test_existing_folders_are_not_taken_for_hub_ids(tmp_path, monkeypatch):
    (tmp_path / "data" / "calls").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("data/calls") == "calls"


def test_public_command_keeps_relative_paths_and_ids():
    command = "accelerate launch scripts/train_tspc.py --config configs/tspc/s2p.yaml --data.path amvi/cs"
    assert public_command(command) == command
    assert (
        public_command(["a", "--x=/p/q,/r/s", "--y", "https://huggingface.co/a/b"])
        == "a --x=q,s --y https://huggingface.co/a/b"
    )
