"""Evaluation of emotion classifiers end to end, and the arguments of its script."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from models.ser import SERForAudioClassification
from scripts.eval_ser import main as eval_main
from trainers.card import read_card_facts
from trainers.command_line import SEREvaluationArguments, load_arguments
from trainers.metrics.classes import class_scores
from trainers.ser_evaluation import class_of_label, duration_bin, system_name
from trainers.ser_report import report_notes, report_tables

from .ser_folders import save_corpus, save_emotion2vec, save_ser, save_stock

CLASSES = ["neutral", "negative"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return save_corpus(tmp_path_factory.mktemp("emotions") / "corpus")


@pytest.fixture(scope="module")
def ser(tmp_path_factory):
    return save_ser(tmp_path_factory.mktemp("ser") / "model")


@pytest.fixture(scope="module")
def report(corpus, ser, tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    stock = save_stock(root / "stock")
    output = root / "metrics.json"
    argv = ["--model", str(ser), str(stock), "--data.path", str(corpus), "--rules", "true", "--card", "true"]
    argv += ["--model_labels", "{neu: neutral, ang: negative}", "--batch_size", "3", "--bootstrap_samples", "50"]
    assert eval_main([*argv, "--device", "cpu", "--output", str(output)]) == 0
    return output


def test_every_way_of_using_a_model_is_a_row(report):
    result = json.loads(report.read_text())
    ways = [(row["kind"], row["knn"], row["rules"] is not None) for row in result["rows"]]
    assert ways == [
        ("amvi_ser", True, False),
        ("amvi_ser", True, True),
        ("amvi_ser", False, False),
        ("amvi_ser", False, True),
        ("wav2vec2", None, False),
        ("wav2vec2", None, True),
    ]
    assert result["classes"] == CLASSES and result["data"]["utterances"] == 7
    assert result["left_out"]["counts"]["dropped"] == {"emotion_without_class": 1}
    assert sum(result["skipped"]["counts"]["dropped"].values()) == 2
    probabilities = {"ece", "ece_classwise", "nll", "brier"}
    for row in result["rows"]:
        expected = {"uar", "accuracy", "f1_macro"} | (set() if row["rules"] else probabilities)
        assert set(row["metrics"]) == expected and row["rtf"] > 0
        assert row["metrics"]["uar"].keys() == {"value", "low", "high", "speaker_low", "speaker_high"}
        assert np.sum(row["confusion"]) == 7 and row["bootstrap"]["speakers"] == 5
    assert "difference" not in result["rows"][0] and result["rows"][4]["difference"]["to"].endswith("with neighbours")
    # "sad" is one of the emotions of a class: it needs no mapping; "hap" is of no class.
    mapped = {"neu": "neutral", "hap": None, "ang": "negative", "sad": "negative"}
    assert result["rows"][4]["model_labels"] == mapped


def test_predictions_are_those_that_were_scored(report):
    result = json.loads(report.read_text())
    lines = [json.loads(line) for line in report.with_suffix(".predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[:7]] == ["u0", "u1", "u2", "u3", "u4", "u5", "u7"]
    for row in result["rows"]:
        own = [x for x in lines if all(x[key] == row[key] for key in ("model", "knn", "rules"))]
        scores = class_scores([x["reference"] for x in own], [x["label"] for x in own], CLASSES)
        assert {name: row["metrics"][name]["value"] for name in scores} == pytest.approx(scores)
        for line in own:
            assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            if not row["rules"]:
                assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)


def test_the_gain_of_rules_is_counted(report):
    result = json.loads(report.read_text())
    lines = [json.loads(line) for line in report.with_suffix(".predictions.jsonl").read_text().splitlines()]
    for number in (1, 3, 5):
        plain, revised = lines[7 * (number - 1) : 7 * number], lines[7 * number : 7 * (number + 1)]
        changed = [(a, b) for a, b in zip(plain, revised, strict=True) if a["label"] != b["label"]]
        gain = result["rows"][number]["rules_gain"]
        assert gain["changed"] == len(changed) == gain["mended"] + gain["broken"]
        assert gain["mended"] == sum(b["label"] == b["reference"] for _, b in changed)
        before, after = (result["rows"][n]["metrics"]["uar"]["value"] for n in (number - 1, number))
        assert gain["uar"]["value"] == pytest.approx(after - before)


def test_groups_add_up(report):
    row = json.loads(report.read_text())["rows"][0]
    for kind, names in (("corpus", {"one", "two"}), ("emotion", {"neutral", "angry", "calm", "sad", "fearful"})):
        groups = row["groups"][kind]
        assert {each["name"] for each in groups} == names
        assert sum(each["utterances"] for each in groups) == 7
        right = sum(each["utterances"] * each["accuracy"] for each in groups)
        assert right / 7 == pytest.approx(row["metrics"]["accuracy"]["value"])
    assert next(g for g in row["groups"]["emotion"] if g["name"] == "sad")["recall"]["neutral"] is None
    assert {each["name"] for each in row["groups"]["speaker"]} >= {"one s0", "two s2"}


def test_a_page_lies_beside_the_report(report):
    page = report.with_suffix(".html").read_text(encoding="utf-8")
    for row in json.loads(report.read_text())["rows"]:
        assert f"{100 * row['metrics']['uar']['value']:.2f}" in page
    for part in (
        "<audio controls",
        "Confusion matrix: neutral heard as",
        "Reliability: of",
        "By emotion",
        "hap → left",
    ):
        assert part in page, part


def test_figures_reach_the_card(report, ser):
    evaluations = read_card_facts(ser).evaluations
    assert [(each.model, each.variant) for each in evaluations] == [
        (None, "with neighbours"),
        (None, "without neighbours"),
        ("stock", None),
    ]
    text = (ser / "README.md").read_text(encoding="utf-8")
    assert "type: recall" in text and "UAR (%), without neighbours" in text and "| baseline stock | corpus" in text
    assert str(ser) not in text


def test_labels_of_others():
    classes = {"neutral": ["neutral", "calm"], "negative": ["angry", "sad"]}
    found = {
        name: class_of_label(name, classes, {"A": "negative"}) for name in ("Neutral", "SAD", "happy", "A", "calm")
    }
    assert found == {"Neutral": "neutral", "SAD": "negative", "happy": None, "A": "negative", "calm": "neutral"}
    assert duration_bin(2.0) == "2 to 4 s" and duration_bin(20) == "15 s and more" and duration_bin(None) == ""


def test_seven_classes_and_a_label_map(corpus, tmp_path, capsys):
    model = save_emotion2vec(tmp_path / "model")
    argv = ["--model", str(model), "--data.path", str(corpus), "--device", "cpu", "--bootstrap_samples", "0"]
    maps = "{two: {neutral: [fearful, happy], negative: [angry]}}"
    output = tmp_path / "m.json"
    assert eval_main([*argv, "--label_maps", maps, "--output", str(output)]) == 0
    row = json.loads(output.read_text())["rows"][0]
    assert {k: v["utterances"] for k, v in row["classes"].items()} == {"neutral": 5, "negative": 3}
    assert set(row["metrics"]["uar"]) == {"value"} and row["knn"] is None
    assert eval_main([*argv, "--labels", "{neutral: [neutral], angry: [angry]}", "--output", str(output)]) == 2
    assert "no label for the class angry; its labels are neutral, negative" in capsys.readouterr().err


def test_a_misspelt_model_is_told_before_any_is_heard(corpus, ser, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainers.ser_evaluation.classify", lambda *_, **__: pytest.fail("a model was heard"))
    argv = [
        "--model",
        str(ser),
        str(tmp_path / "sre"),
        "--data.path",
        str(corpus),
        "--output",
        str(tmp_path / "m.json"),
    ]
    assert eval_main(argv) == 2 and "cannot load" in capsys.readouterr().err


def test_one_class_in_the_test_set_is_scored_and_said(corpus, ser, tmp_path):
    output = tmp_path / "m.json"
    argv = ["--model", str(ser), "--data.path", str(corpus), "--knn", "without", "--bootstrap_samples", "20"]
    argv += ["--device", "cpu", "--output", str(output), "--labels", "{neutral: [surprised], negative: [angry, sad]}"]
    assert eval_main(argv) == 0
    (row,) = json.loads(output.read_text())["rows"]
    assert row["missing_classes"] == ["neutral"]
    assert row["metrics"]["uar"]["value"] == pytest.approx(row["classes"]["negative"]["recall"] / 2)
    assert "no utterance of class neutral" in output.with_suffix(".html").read_text(encoding="utf-8")


def test_errors_are_one_line(corpus, tmp_path, capsys):
    for model, data, more, message in (
        (tmp_path / "none", corpus, [], "cannot load"),
        (tmp_path, tmp_path / "nothing", [], "nothing"),
        (tmp_path, corpus, ["--labels", "{a: [surprised], b: [positive]}"], "has an emotion of a class"),
        (tmp_path, corpus, ["--labels", "{neutral: [neutral], negative: [cross]}"], "no emotion 'cross'"),
        (tmp_path, corpus, ["--max_duration_s", "0.2"], "can be scored"),
        (tmp_path, corpus, ["--rules", str(tmp_path / "gone.json")], "gone.json"),
    ):
        argv = ["--model", str(model), "--data.path", str(data), "--output", str(tmp_path / "m.json"), *more]
        assert eval_main(argv) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ") and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "a", "--data.path", "x", "--rule", "true"], "did you mean rules"),
        (["--model", "a", "--data.path", "x", "--rules", "lexicon.txt"], "true, false or a .json file"),
        (
            ["--model", "a", "--data.path", "x", "--rules", "true", "--labels", "{a: [sad], b: [calm]}"],
            "need the classes",
        ),
        (["--model", "a", "--data.path", "x", "--model_labels", "{x: cross}"], "cross is no class"),
        (["--model", "a", "--data.path", "x", "--knn", "maybe"], "knn"),
        (["--model", "a", "--data.path", "x", "--output", "m.txt"], ".json"),
        (["--data.path", "x"], "model"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        load_arguments(SEREvaluationArguments, argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_tables_are_as_wide_as_the_terminal(report):
    """No figure is cut in two: systems that do not fit stand in another table."""
    result = json.loads(report.read_text())
    for width, num_tables in ((80, 2), (200, 1)):
        console = Console(width=width, record=True, file=io.StringIO())
        tables = report_tables(result, width)
        for table in tables:
            console.print(table)
        text = console.export_text()
        assert len(tables) == num_tables and max(map(len, text.splitlines())) <= width
        for row in result["rows"]:
            uar = row["metrics"]["uar"]
            assert f" {100 * uar['low']:.2f}–{100 * uar['high']:.2f} " in text
            # Captions may be wrapped, within a long path as well.
            assert "".join(system_name(row).split()) in "".join(text.split())


def test_what_changes_nothing_is_said_and_not_shown_twice(corpus, tmp_path):
    folder = save_ser(tmp_path / "model")
    model = SERForAudioClassification.from_pretrained(folder)
    model.datastore.beta = 1.0
    model.save_pretrained(folder)
    output = tmp_path / "idle.json"
    argv = ["--model", str(folder), "--data.path", str(corpus), "--bootstrap_samples", "0", "--card", "false"]
    assert eval_main([*argv, "--device", "cpu", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert [row.get("knn_beta") for row in result["rows"]] == [1.0, None]
    assert "A: the neighbours have no weight (beta of the datastore is 1" in " ".join(report_notes(result))
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert "Every answer and every probability is that of A." in page and page.count("Confusion matrix: ") == 1


def test_rules_without_transcripts_are_said(corpus, report, ser, tmp_path):
    assert "nothing to read" not in " ".join(report_notes(json.loads(report.read_text())))
    mute, output = shutil.copytree(corpus, tmp_path / "mute"), tmp_path / "mute.json"
    rows = (mute / "metadata.csv").read_text(encoding="utf-8")
    (mute / "metadata.csv").write_text(rows.replace("mày nói gì", "").replace("xin chào", ""), encoding="utf-8")
    argv = ["--model", str(ser), "--data.path", str(mute), "--rules", "true", "--bootstrap_samples", "0"]
    argv += ["--knn", "without", "--device", "cpu", "--output", str(output)]
    assert eval_main(argv) == 0
    assert "the rules had nothing to read" in " ".join(report_notes(json.loads(output.read_text())))
