"""The metrics as `evaluate` loads them: by folder path, offline."""

import evaluate
import pytest

from trainers.metrics import codeswitch_error_rates, error_rates, phoneme_error_rate


@pytest.fixture
def load(repo_root, tmp_path):
    def _load(name):
        folder = repo_root / "trainers" / "metrics" / "modules" / name
        return evaluate.load(str(folder), cache_dir=str(tmp_path))

    return _load


def test_syer(load):
    references, predictions = ["hòa bình", "mở email"], ["hoà binh", "mở"]
    assert load("syer").compute(predictions=predictions, references=references) == error_rates(references, predictions)


def test_per(load):
    metric = load("per")
    for reference, prediction in (("t i -0", "t i -4"), ("z u -0", "z u -0")):
        metric.add(predictions=prediction, references=reference)
    assert metric.compute() == phoneme_error_rate(["t i -0", "z u -0"], ["t i -4", "z u -0"])
    assert set(metric.compute(predictions=["t"], references=["t"], register="vmd")) == {"per_vmd"}


def test_codeswitch_wer(load):
    reference = {"text": "mở email đi", "spans": [{"start": 3, "end": 8, "lang": "en"}]}
    unlabelled = {"text": "xin chào", "spans": []}
    result = load("codeswitch_wer").compute(predictions=["mở i meo đi", "x"], references=[reference, unlabelled])
    expected = codeswitch_error_rates(["mở email đi", ""], ["mở i meo đi", ""], [reference["spans"], []])
    assert result == expected | {"unlabelled_utterances": 1}
