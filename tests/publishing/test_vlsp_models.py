"""The VLSP score of models that are run: one set for both, two sets, and what reaches the submission."""

import csv
import json

import pytest

from scripts.score_vlsp import main
from trainers.classifiers import classify, load_classifier
from trainers.evaluation import EvaluationArguments, load_test_rows
from trainers.metrics.vlsp import vlsp_scores
from trainers.recognisers import load_recogniser, recognise

from .ser_folders import save_corpus, save_ser, save_stock

LEXICON = {"version": "x", "threshold": 0, "kinds": {"k": "any"}, "comment": "Words that the tiny recogniser gives."}
CLASS = {"neutral": "neutral", "calm": "neutral", "angry": "negative", "sad": "negative", "fearful": "negative"}


@pytest.fixture(scope="module")
def emotions(tmp_path_factory):
    return save_corpus(tmp_path_factory.mktemp("emotions"))


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    return save_ser(tmp_path_factory.mktemp("fusion"), knn=False)


@pytest.fixture(scope="module")
def expected(emotions, fusion, tiny_ctc):
    """(rows, normalised texts, probabilities) of the models run one after the other."""
    from data_scripts.sources import SourceArguments
    from data_scripts.text.normalize import normalize_text

    rows, _ = load_test_rows(EvaluationArguments(SourceArguments(str(emotions)), ["x"]))
    texts = recognise(load_recogniser(str(tiny_ctc), device="cpu"), rows, batch_size=3).texts
    classified = classify(load_classifier(str(fusion), device="cpu"), rows, batch_size=3)
    return rows, [normalize_text(text) for text in texts], classified.probabilities_NC


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def _run(*argv):
        output = tmp_path / "report.json"
        output.unlink(missing_ok=True)
        options = ["--bootstrap_samples", "20", "--device", "cpu", "--batch_size", "3", "--output", str(output)]
        status = main([*map(str, argv), *options])
        shown = capsys.readouterr()
        return status, json.loads(output.read_text()) if output.exists() else None, shown.out, shown.err

    return _run


def sent(path):
    with open(path, encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_one_set_for_both(emotions, fusion, tiny_ctc, expected, run, tmp_path):
    rows, texts, probabilities_NC = expected
    path = tmp_path / "out.csv"
    status, report, shown, _ = run(
        "--asr", tiny_ctc, "--ser", fusion, "--data.path", emotions, "--submission", path, "--leaderboard"
    )
    said = [CLASS.get(row["emotion"]) for row in rows]
    guessed = [("neutral", "negative")[index] for index in probabilities_NC.argmax(axis=1)]
    scores = vlsp_scores([row["text"] for row in rows], texts, said, guessed, num_samples=20)
    assert status == 0 and report["metrics"] == scores["metrics"] and report["recalls"] == scores["recalls"]
    assert report["left_out"] == {"happy": 1} and report["counts"]["emotions"] == 7
    assert report["skipped"][str(emotions)]["num_dropped"] == 2
    assert list(sent(path)) == [row["id"] for row in rows]  # the row of no class too
    for row, text, label in zip(rows, texts, guessed, strict=True):
        assert sent(path)[row["id"]] == {"id": row["id"], "text": text, "emotion": label}
    assert "hynguyenthien" in shown and "2 rows were skipped" in shown
    assert report["systems"] == {"asr": str(tiny_ctc), "ser": str(fusion)}


def test_rules_read_what_was_recognised(emotions, fusion, tiny_ctc, expected, run, tmp_path):
    rows, texts, probabilities_NC = expected
    word = next(word for text in texts for word in text.split())
    lexicon = tmp_path / "lexicon.json"
    lexicon.write_text(json.dumps(LEXICON | {"entries": [{"cue": word, "kind": "k", "weight": 1}]}))
    heard = {row["id"] for row, text in zip(rows, texts, strict=True) if word in text.split()}
    neutral = {row["id"] for row, scores_C in zip(rows, probabilities_NC, strict=True) if scores_C[0] >= scores_C[1]}
    for data in (["--data.path", emotions], ["--asr_data.path", emotions, "--ser_data.path", emotions]):
        if data[0] == "--asr_data.path":
            data += ["--asr_data.id_prefix", "asr/"]
        path = tmp_path / f"{len(data)}.csv"
        status, report, _, _ = run("--asr", tiny_ctc, "--ser", fusion, *data, "--rules", lexicon, "--submission", path)
        assert status == 0 and report["rules"]["changed"] == len(heard & neutral)
        turned = {row_id for row_id, row in sent(path).items() if row_id in neutral and row["emotion"] == "negative"}
        assert turned == heard & neutral
        assert report["rules"]["gain"]["utterances"] == 7


def test_equal_to_the_evaluation_scripts(emotions, fusion, tiny_ctc, run, tmp_path):
    """Their files, joined by id with the reference, give what running the models gives."""
    from scripts.eval_asr import main as eval_asr
    from scripts.eval_ser import main as eval_ser

    common = ["--data.path", str(emotions), "--device", "cpu", "--batch_size", "3", "--bootstrap_samples", "0"]
    assert eval_asr(["--model", str(tiny_ctc), *common, "--output", str(tmp_path / "asr.json")]) == 0
    assert eval_ser(["--model", str(fusion), *common, "--output", str(tmp_path / "ser.json")]) == 0
    rows = (emotions / "metadata.csv").read_text(encoding="utf-8").splitlines()
    reference = tmp_path / "reference.csv"
    reference.write_text("\n".join(row for row in rows if "broken" not in row and "gone" not in row), encoding="utf-8")
    files = [tmp_path / "asr.hypotheses.jsonl", tmp_path / "ser.predictions.jsonl"]
    rules = ["--rules", "true", "--rules_threshold", "0"]
    status, report, _, error = run("--reference", reference, "--hypothesis", *files, *rules)
    assert status == 0, error
    direct = run("--asr", tiny_ctc, "--ser", fusion, "--data.path", emotions, *rules)[1]
    assert report["metrics"] == direct["metrics"] and report["left_out"] == direct["left_out"]


def test_two_sets(corpus, emotions, fusion, tiny_ctc, run, tmp_path):
    argv = ["--asr", tiny_ctc, "--ser", fusion, "--asr_data.path", corpus, "--ser_data.path", emotions]
    path = tmp_path / "two.csv"
    status, _, _, error = run(*argv, "--submission", path)
    assert status == 2 and "id 'u0' occurs twice" in error and "id_prefix" in error
    status, report, _, _ = run(*argv, "--ser_data.id_prefix", "e/", "--submission", path)
    assert status == 0 and report["counts"]["transcripts"] == 4 and report["counts"]["emotions"] == 7
    assert sent(path)["e/u0"]["text"] == "" and sent(path)["u0"]["emotion"] == ""
    joint = run(*argv)[1]
    assert joint["metrics"] == report["metrics"]
    assert run("--asr", tiny_ctc, "--data.path", corpus)[1]["metrics"].keys() == {"syer"}
    alone = run("--ser", fusion, "--data.path", emotions)[1]["metrics"]
    assert alone["balanced_accuracy"]["value"] == joint["metrics"]["balanced_accuracy"]["value"]


def test_a_private_test_set_has_no_references(emotions, fusion, tiny_ctc, run, tmp_path):
    lines = (emotions / "metadata.csv").read_text(encoding="utf-8").splitlines()
    bare = emotions / "bare.csv"
    bare.write_text("\n".join(",".join(line.split(",")[:2]) for line in lines[:4]) + "\n", encoding="utf-8")
    argv = ["--asr", tiny_ctc, "--ser", fusion, "--data.path", bare]
    status, _, _, error = run(*argv)
    assert status == 2 and "no row has a text or an emotion" in error and "--submission" in error
    path = tmp_path / "bare_out.csv"
    status, report, shown, _ = run(*argv, "--submission", path, "--rules", "true")
    assert status == 0 and report["metrics"] == {} and "nothing was scored" in shown
    assert [row["emotion"] in CLASS.values() for row in sent(path).values()] == [True] * 3


def test_labels_of_others(emotions, tmp_path, run):
    stock = save_stock(tmp_path / "stock")
    status, _, _, error = run("--ser", stock, "--data.path", emotions)
    assert status == 2 and "none of the labels neu, hap, ang, sad is neutral" in error
    status, report, _, error = run(
        "--ser", stock, "--data.path", emotions, "--model_labels", "{neu: neutral, ang: negative}"
    )
    assert status == 0, error
    assert report["counts"]["emotions"] == 7


def test_models_that_cannot_be_used(emotions, fusion, tiny_models, tmp_path, run):
    for argv, message in (
        (["--asr", tmp_path / "none", "--data.path", emotions], "cannot load"),
        (["--ser", tmp_path / "none", "--data.path", emotions], "cannot load"),
        (["--asr", tiny_models["s2p"], "--data.path", emotions], "gives phonemes, not text"),
        (["--ser", fusion, "--data.path", tmp_path / "nothing"], "nothing"),
    ):
        status, report, _, error = run(*argv)
        assert status == 2 and report is None and message in error
        assert error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
