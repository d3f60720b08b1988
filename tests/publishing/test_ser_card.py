"""Cards of emotion classifiers: figures, label map, intended use, metadata of the Hub."""

import pytest
from huggingface_hub import ModelCard

from trainers.card import Evaluation, update_model_card, write_model_card
from trainers.ser_rows import label_facts

LABELS = {"neutral": ["neutral", "calm"], "negative": ["angry", "sad"]}
METRICS = {
    "uar": {"value": 0.912, "low": 0.88, "high": 0.94, "speaker_low": 0.8},
    "accuracy": {"value": 0.93},
    "f1_macro": {"value": 0.9},
    "ece": {"value": 0.04},
}


@pytest.fixture
def card(tmp_path):
    training = {
        "labels": LABELS,
        "encoders": ["emotion2vec", "wav2vec2"],
        "class_weights": [0.8, 1.2],
        "supcon_weight": 0.1,
    }
    write_model_card(tmp_path, stage="ser", repo_id="me/feel", training=training, datasets=["me/calls"])
    evaluations = [
        Evaluation(METRICS, "me/calls", split="test", variant="with neighbours", num_utterances=176),
        Evaluation(METRICS, "me/calls", split="test", variant="without neighbours"),
        Evaluation({"uar": 0.5}, "me/calls", split="test", model="superb/peer"),
    ]
    return update_model_card(tmp_path, evaluations=evaluations)


def test_the_body_says_what_the_model_is_for(card):
    text = card.read_text(encoding="utf-8")
    for part in (
        'pipeline("audio-classification", model="me/feel", trust_remote_code=True)',
        "Not for decisions",
        "acted",
        "- Labels: neutral: neutral, calm; negative: angry, sad",
        "- Encoders: emotion2vec, wav2vec2",
        "- Class weights: 0.8, 1.2",
        "| this model | me/calls (test) | with neighbours | 91.20 [88.00, 94.00] | 93.00 | 90.00 | 4.00 | 176 |",
        "| baseline superb/peer | me/calls (test) |  | 50.00 |",
        "higher is better",
    ):
        assert part in text, part
    for part in ("WER", "beams", "phoneme", "eval_asr"):
        assert part not in text, part


def test_the_metadata_is_the_hubs(card):
    data = ModelCard.load(card).data
    assert data.pipeline_tag == "audio-classification" and data.tags == ["amvi", "ser", "speech-emotion-recognition"]
    assert data.metrics == ["accuracy", "f1", "recall"] and data.language is None
    results = data.eval_results
    assert len(results) == 8  # the peer is not this model
    uar = results[0]
    assert (uar.metric_type, uar.metric_value, uar.metric_name) == ("recall", 91.2, "UAR (%), with neighbours")
    assert (
        uar.metric_args == {"low": 88.0, "high": 94.0, "confidence": 0.95} and uar.task_type == "audio-classification"
    )


def test_a_second_evaluation_replaces_the_first(card):
    again = [Evaluation({"uar": 0.8}, "me/calls", split="test", variant="with neighbours")]
    text = update_model_card(card.parent, evaluations=again).read_text(encoding="utf-8")
    assert "91.20" in text and text.count("with neighbours | 80.00") == 1  # 91.20 is that without neighbours


@pytest.mark.parametrize("stage", ["ser", "emotion2vec", "dfat"])
def test_every_kind_has_a_card(stage, tmp_path):
    text = write_model_card(tmp_path, stage=stage, language=["vi"]).read_text(encoding="utf-8")
    assert "scripts/eval_ser.py --model" in text and "- vietnamese" in text and "Not for decisions" in text
    assert ("knn=False" in text) == (stage == "ser") and ("transcripts" in text) == (stage != "emotion2vec")


def test_numbers_and_names_are_for_readers(tmp_path):
    facts = {"knn_temperature": 0.0005282334610819816, "epochs": 12.0, "learning_rate": 3e-5, "parameters": 4316342}
    path = write_model_card(tmp_path, stage="emotion2vec", base_model=["runs/zipformer/model"], training=facts)
    text = path.read_text(encoding="utf-8")
    for part in ("# Amvi Emotion2vec", "temperature: 0.0005282\n", "Epochs: 12\n", "rate: 3e-05\n", "4316342"):
        assert part in text, part
    assert "Base model: zipformer\n" in text


def test_only_the_label_maps_of_its_corpora_are_told():
    maps = {"emov_db": {"neutral": ["neutral"], "negative": ["angry"]}, "emodb": {"negative": ["sad"]}}
    facts = label_facts(LABELS, maps, ["ravdess", "emov_db", "emov_db"])
    assert facts["labels"] == "neutral: neutral, calm; negative: angry, sad"
    assert facts["label_maps"] == "emov_db (neutral: neutral; negative: angry)"
    assert "label_maps" not in label_facts(LABELS, maps, ["ravdess"])
