"""Emotions to classes: what is kept, what is reported, what is refused; rows are read where they lie."""

import pickle

import pytest
from datasets import Dataset

from trainers.checks import ConfigError
from trainers.ser_rows import DEFAULT_LABELS, LabelledRows, apply_labels, check_labels

EMOTIONS = ["neutral", "happy", "angry", None, "calm", "surprised", "sad", "happy"]


def make_rows(emotions=EMOTIONS, corpora=None):
    corpora = corpora or ["ravdess"] * len(emotions)
    columns = {
        "id": [f"u{i}" for i in range(len(emotions))],
        "audio": [{"path": f"{i}.wav", "bytes": None} for i in range(len(emotions))],
        "duration_s": [1.0 + i for i in range(len(emotions))],
        "emotion": emotions,
        "corpus": corpora,
    }
    return Dataset.from_dict(columns)


def test_the_task_of_the_challenge(caplog):
    with caplog.at_level("INFO", logger="trainers.ser_rows"):
        rows, report = apply_labels(make_rows(), DEFAULT_LABELS, {}, "train")
    assert rows["id"][:] == ["u0", "u2", "u4", "u6"] and rows["label"] == [0, 1, 0, 1]
    assert rows[1]["label"] == 1 and rows[1]["emotion"] == "angry" and len(rows) == 4
    assert report.counts == {"emotion_without_class": 3, "no_emotion": 1} and report.source == "train"
    assert (report.num_rows, report.num_kept) == (8, 4)
    assert report.seconds_kept == 1 + 3 + 5 + 7 and report.seconds_dropped == 2 + 4 + 6 + 8
    details = [(finding.row_id, finding.detail) for finding in report.findings]
    assert details == [
        ("u1", "happy in ravdess"),
        ("u3", ""),
        ("u5", "surprised in ravdess"),
        ("u7", "happy in ravdess"),
    ]
    told = "train: rows of each class: neutral 2, negative 2; left out: happy 2, (none) 1, surprised 1"
    assert told in caplog.text


def test_a_corpus_has_its_own_map(caplog):
    rows = make_rows(["negative", "neutral", "happy"], ["visec", "visec", "ravdess"])
    maps = {"visec": {"neutral": ["neutral"], "negative": ["positive"]}, "emodb": {"neutral": ["calm"]}}
    labelled, report = apply_labels(rows, DEFAULT_LABELS, maps)
    assert labelled["id"][:] == ["u1"] and report.findings[0].detail == "negative in visec"
    assert "label_maps names ['emodb'], of which there is no row; corpora: ravdess, visec" in caplog.text


def test_selected_again_and_without_audio():
    labels = {"low": ["sad", "neutral"], "high": ["angry"], "other": ["happy", "surprised"]}
    rows, _ = apply_labels(make_rows().select(range(7)), labels)
    some = pickle.loads(pickle.dumps(rows.select([2, 0]).remove_columns("audio")))
    assert isinstance(some, LabelledRows) and some["label"] == [1, 0] and some[0]["emotion"] == "angry"
    assert "audio" not in some.column_names and some.column_names[-1] == "label" and some.blocks is None
    assert rows["label"] == [0, 2, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "maps", "says"),
    [
        ({"neutral": ["neutral"]}, {}, "labels: must hold at least two classes, got neutral"),
        ({"a": ["neutral"], "b": ["anger"]}, {}, r"labels\.b: no emotion 'anger'; allowed are: neutral, negative"),
        ({"a": ["sad"], "b": ["angry", "sad"]}, {}, r"labels\.b: 'sad' is of class 'a' already"),
        ({"a": ["sad"], "b": []}, {}, r"labels\.b: must name the emotions"),
        ({"a": "sad", "b": ["angry"]}, {}, r"labels\.a: must be a list of emotions, got 'sad'"),
        (DEFAULT_LABELS, {"x": {"bad": ["sad"]}}, r"label_maps\.x\.bad: is no class; the classes of `labels` are"),
        (DEFAULT_LABELS, {"x": {"neutral": ["joy"]}}, r"label_maps\.x\.neutral: no emotion 'joy'"),
    ],
)
def test_maps_that_cannot_be(labels, maps, says):
    with pytest.raises(ConfigError, match=says):
        check_labels(labels, maps)


def test_streams_are_refused():
    with pytest.raises(ConfigError, match="set streaming to false"):
        apply_labels(make_rows().to_iterable_dataset(), DEFAULT_LABELS)
