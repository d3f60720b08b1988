"""The VLSP score from the command line: files in every form, bad files, rules, submission, leaderboard, models."""

import csv
import json

import jiwer
import pytest
from sklearn.metrics import balanced_accuracy_score

from scripts.score_vlsp import main
from trainers.metrics.vlsp import composite_score
from trainers.vlsp import TABLE_1

REFERENCE = """id,text,emotion
u1,Hòa bình muôn năm,neutral
u2,"tao với mày, hết nghĩa",angry
u3,đi học về,calm
u4,mở cửa ra,sad
u5,vui quá,happy
"""
HYPOTHESIS = """id,text,emotion
u4,mở cửa,negative
u1,hoà bình muôn năm,neutral
u2,tao với mày hết nghĩa,neutral
u3,đi học về nhà,neutral
u5,vui,neutral
"""


@pytest.fixture
def write(tmp_path):
    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return _write


@pytest.fixture
def files(write):
    return ["--reference", write("ref.csv", REFERENCE), "--hypothesis", write("hyp.csv", HYPOTHESIS)]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """(exit status, report, stdout, stderr) of a command line; 50 resamples unless it says otherwise."""
    monkeypatch.setenv("COLUMNS", "200")

    def _run(argv):
        output = tmp_path / "report.json"
        output.unlink(missing_ok=True)
        status = main(["--bootstrap_samples", "50", "--output", str(output), *map(str, argv)])
        shown = capsys.readouterr()
        report = json.loads(output.read_text(encoding="utf-8")) if output.exists() else None
        return status, report, shown.out, shown.err

    return _run


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_files(files, run):
    status, report, shown, _ = run(files)
    said = ["hoà bình muôn năm", "tao với mày hết nghĩa", "đi học về", "mở cửa ra", "vui quá"]
    heard = ["hoà bình muôn năm", "tao với mày hết nghĩa", "đi học về nhà", "mở cửa", "vui"]
    syer = 100 * jiwer.wer(said, heard)
    truth, guess = ["neutral", "negative", "neutral", "negative"], ["neutral", "neutral", "neutral", "negative"]
    accuracy = 100 * balanced_accuracy_score(truth, guess)
    assert status == 0 and report["row"] == pytest.approx(
        {"syer": syer, "accuracy": accuracy, "score": composite_score(syer, accuracy)}
    )
    assert report["metrics"]["accuracy"]["value"] == 75 and report["recalls"]["negative"]["value"] == 50
    assert report["left_out"] == {"happy": 1} and report["counts"]["transcripts"] == 5
    for figure in (syer, accuracy, composite_score(syer, accuracy)):
        assert f"{figure:.2f}" in shown
    assert "happy 1" in shown
    for metric in report["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]


def test_the_same_command_gives_the_same_intervals(files, run):
    first, second, other = run(files)[1], run(files)[1], run([*files, "--seed", "9"])[1]
    assert first["metrics"] == second["metrics"] != other["metrics"]
    without = run([*files, "--bootstrap_samples", "0"])[1]
    assert "low" not in without["metrics"]["score"]


def table(text):
    return list(csv.DictReader(text.splitlines()))


FORMS = {
    "bom.csv": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "crlf.csv": lambda text: text.replace("\n", "\r\n").encode(),
    "tabs.tsv": lambda text: "\n".join("\t".join(row) for row in csv.reader(text.splitlines())).encode(),
    "lines.jsonl": lambda text: lines(table(text)).encode(),
    "shuffled.csv": lambda text: "\n".join(["id,emotion,text", *(
        f'{row["id"]},{row["emotion"].upper()},"{row["text"]}"' for row in reversed(table(text))
    )]).encode(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form, files, run, write):
    expected = run(files)[1]
    made = FORMS[form]
    argv = ["--reference", write("r-" + form, made(REFERENCE)), "--hypothesis", write("h-" + form, made(HYPOTHESIS))]
    assert run(argv)[1]["row"] == pytest.approx(expected["row"])


def evaluated(hypothesis=HYPOTHESIS):
    """What eval_asr.py and eval_ser.py write of the rows of a table."""
    rows = table(hypothesis)
    asr = [
        {"model": model, "num_beams": beams, "id": row["id"], "reference": "x", "hypothesis": row["text"] + worse}
        for model, beams, worse in (("a", 1, ""), ("a", 4, " thừa"))
        for row in rows
    ]
    negative = {"neutral": 0.3, "negative": 0.9}
    ser = [
        {
            "model": "b", "rules": None, "id": row["id"], "reference": "neutral", "label": row["emotion"],
            "probabilities": {"neutral": 1 - negative[row["emotion"]], "negative": negative[row["emotion"]]},
        }
        for row in rows
    ]  # fmt: skip
    return asr, ser


def test_what_the_evaluation_scripts_write(files, run, write):
    asr, ser = evaluated()
    argv = [*files[:2], "--hypothesis", write("m.hypotheses.jsonl", lines(asr))]
    argv.append(write("m.predictions.jsonl", lines(ser)))
    status, _, _, error = run(argv)
    assert status == 2 and "m.hypotheses.jsonl:6: text of id 'u4' was given before" in error and "--select" in error
    assert run([*argv, "--select", "{num_beams: 1}"])[1]["row"] == pytest.approx(run(files)[1]["row"])
    assert run([*argv, "--select.num_beams", "4"])[1]["row"]["syer"] > run(files)[1]["row"]["syer"]
    status, _, _, error = run([*argv, "--select", "{num_beams: 2}"])
    assert status == 2 and "no row with num_beams 2; there are 1, 4" in error


def test_rules(files, run, write):
    asr, ser = evaluated()
    argv = [*files[:2], "--hypothesis", write("asr.jsonl", lines(asr[:5])), write("ser.jsonl", lines(ser))]
    both = [*argv[:-1], write("both.jsonl", lines([*ser, *(row | {"rules": {"version": "1"}} for row in ser)]))]
    assert run(both)[0] == 2
    assert run([*both, "--select", "{rules: null}"])[1]["row"] == run(argv)[1]["row"]
    status, report, shown, _ = run([*argv, "--rules", "true", "--rules_threshold", "0.3"])
    gain = report["rules"]["gain"]
    assert status == 0 and (gain["changed"], gain["mended"], gain["broken"]) == (1, 1, 0)
    assert gain["balanced_accuracy"]["value"] == pytest.approx(25)
    assert report["metrics"]["balanced_accuracy"]["value"] == 100
    assert report["without_rules"]["balanced_accuracy"]["value"] == 75
    assert report["rules"]["best"] == {"threshold": pytest.approx(0.3), "balanced_accuracy": 100.0, "changed": 1}
    assert "1 of 4 emotions changed, 1 mended, 0 broken" in shown and "+25.00" in shown
    assert run([*argv, "--rules", "true", "--rules_threshold", "0.31"])[1]["rules"]["gain"]["changed"] == 0
    mine = {"version": "x", "threshold": 0, "kinds": {"k": "k"}, "entries": [{"cue": "về", "kind": "k", "weight": 1}]}
    gain = run([*argv, "--rules", write("mine.json", json.dumps(mine))])[1]["rules"]["gain"]
    assert (gain["changed"], gain["mended"], gain["broken"]) == (1, 0, 1)


def test_labels_that_rules_changed_before_stay(run, write):
    """eval_ser.py writes the revised label beside the model's own probabilities."""
    reference = write("r.csv", "id,text,emotion\n1,đi học,sad\n2,đi,calm\n")
    calm = {"neutral": 0.7, "negative": 0.3}
    rows = [{"id": name, "text": "đi", "label": label, "probabilities": calm} for name, label in
            (("1", "negative"), ("2", "neutral"))]  # fmt: skip
    report = run(["--reference", reference, "--hypothesis", write("h.jsonl", lines(rows)), "--rules", "true"])[1]
    assert report["rules"]["changed"] == 0 and report["metrics"]["accuracy"]["value"] == 100


def test_rules_without_probabilities(files, run):
    status, _, _, error = run([*files, "--rules", "true"])
    assert status == 2 and "has no probabilities" in error and "--rules_threshold 0" in error
    report = run([*files, "--rules", "true", "--rules_threshold", "0"])[1]
    assert report["rules"]["gain"]["mended"] == 1


def test_separate_sets(run, write):
    reference = write("asr.csv", "id,text\na1,xin chào\na2,tạm biệt\n")
    emotions = write("ser.csv", "file_name,label,emotion\ne1,x,angry\ne2,x,neutral\ne3,x,sad\n")
    hypothesis = write("hyp.tsv", "id\ttext\na1\txin chào\na2\ttạm\n")
    predictions = write("pred.jsonl", lines([{"id": f"e{i}", "label": "negative"} for i in (1, 2, 3)]))
    argv = ["--reference", reference, emotions, "--hypothesis", hypothesis, predictions]
    status, report, _, _ = run(argv)
    assert status == 0 and report["row"] == pytest.approx({"syer": 25, "accuracy": 50, "score": 67.5})
    assert report["counts"]["transcripts"] == 2 and report["counts"]["emotions"] == 3
    status, report, shown, _ = run(["--reference", reference, "--hypothesis", hypothesis])
    assert status == 0 and report["row"] == {"syer": 25.0, "accuracy": None, "score": None} and "Score –" in shown


def test_column_options(run, write):
    reference = write("r.csv", "key,said,felt\n1,xin chào,neutral\n2,đi,sad\n")
    hypothesis = write("h.csv", "key,heard,mood\n1,xin chào,neutral\n2,đi,negative\n")
    argv = ["--reference", reference, "--hypothesis", hypothesis]
    status, _, _, error = run(argv)
    assert status == 2 and "r.csv: no id column; columns found: key, said, felt" in error
    argv += ["--reference_columns", "{id: key, text: said, emotion: felt}"]
    argv += ["--hypothesis_columns", "{id: key, text: heard, emotion: mood}"]
    assert run(argv)[1]["row"]["score"] == pytest.approx(100)
    status, _, _, error = run([*argv, "--hypothesis_columns.emotion", "modo"])
    assert status == 2 and "no column 'modo' (hypothesis_columns.emotion). Did you mean 'mood'?" in error


def test_only_one_half(files, run, write):
    hypothesis = write("asr.csv", "\n".join(",".join(line.split(",")[:2]) for line in HYPOTHESIS.splitlines()))
    argv = [*files[:2], "--hypothesis", hypothesis]
    status, _, _, error = run(argv)
    assert status == 2 and "no emotion column" in error and "--only asr" in error
    status, report, _, _ = run([*argv, "--only", "asr"])
    assert status == 0 and set(report["metrics"]) == {"syer"} and report["left_out"] == {}
    assert set(run([*files, "--only", "ser"])[1]["metrics"]) == {"balanced_accuracy", "accuracy"}


def test_missing_hypotheses(files, run, write):
    kept = "\n".join(line for line in HYPOTHESIS.splitlines() if not line.startswith(("u2", "u4")))
    argv = [*files[:2], "--hypothesis", write("few.csv", kept)]
    status, _, _, error = run(argv)
    assert status == 2 and error.count("\n") == 1
    assert "2 of 5 references have no text" in error and "'u2'" in error and "ref.csv:3" in error
    status, report, shown, _ = run([*argv, "--allow_missing"])
    assert status == 0 and report["missing"] == {"text": ["u2", "u4"], "emotion": ["u2", "u4"]}
    assert report["metrics"]["balanced_accuracy"]["value"] == 50 and report["recalls"]["negative"]["value"] == 0
    assert report["metrics"]["syer"]["deletions"] == 5 + 3 + 1
    assert "2 missing hypotheses count as wrong (emotion)" in shown


def changed(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ("", HYPOTHESIS, "ref.csv: empty"),
        ("id,text\n", HYPOTHESIS, "ref.csv: has no rows"),
        ("id;text\nu1;xin\n", HYPOTHESIS, "no ',' in the header"),
        ("name,text\nu1,xin\n", HYPOTHESIS, "no id column; columns found: name, text"),
        ("id,txt\nu1,xin\n", HYPOTHESIS, "no text or emotion column"),
        ("id,text\nu1,!\n", HYPOTHESIS, "none of 1 rows has a text or emotion"),
        ("id,text\n ,xin\n", HYPOTHESIS, "ref.csv:2: the id (id) must be text"),
        (changed(REFERENCE, "u4,", "u1,"), HYPOTHESIS, "ref.csv:5: id 'u1' was given before, at "),
        (changed(REFERENCE, ",calm", ",clam"), HYPOTHESIS, "ref.csv:4: unknown emotion 'clam'; known are neutral"),
        (REFERENCE, "", "hyp.csv: empty"),
        (REFERENCE, HYPOTHESIS + "u1,lại,neutral\n", "hyp.csv:7: text of id 'u1' was given before, at "),
        (REFERENCE, HYPOTHESIS + "u9,lạ,neutral\n", "1 ids of the hypotheses are not in the reference: 'u9' ("),
        (
            REFERENCE,
            changed(HYPOTHESIS, "\nu1,", "\ntest/u1,"),
            "'u1' is: test is the name of the test set",
        ),
        (REFERENCE, changed(HYPOTHESIS, "mở cửa,negative", "mở cửa,bad"), "hyp.csv:2: emotion 'bad' is of no class"),
        (REFERENCE, changed(HYPOTHESIS, "mở cửa,negative", "mở cửa"), "hyp.csv:2: 2 fields, the header has 3"),
        (REFERENCE, b"id,text\nu1,\xff\n", "hyp.csv:2: byte 0xff"),
        (REFERENCE, HYPOTHESIS.encode("utf-16"), "is UTF-16"),
    ],
)
def test_bad_files(reference, hypothesis, message, run, write):
    argv = ["--reference", write("ref.csv", reference), "--hypothesis", write("hyp.csv", hypothesis)]
    status, report, shown, error = run(argv)
    assert (status, report, shown) == (2, None, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "u1", "text": 3}, "h.jsonl:1: text must be text, got 3"),
        ({"id": ["u1"], "text": "a"}, "h.jsonl:1: the id"),
        (
            {"id": "u1", "text": "a", "emotion": "neutral", "probabilities": {"neutral": 2}},
            "h.jsonl:1: the probability",
        ),
        (
            {"id": "u1", "text": "a", "emotion": "neutral", "probabilities": {"neu": 1.0}},
            "none of the labels neu is neutral or negative; say which are",
        ),
    ],
)
def test_bad_json_rows(row, message, run, write):
    argv = ["--reference", write("ref.csv", REFERENCE), "--hypothesis", write("h.jsonl", lines([row]))]
    status, _, _, error = run(argv)
    assert status == 2 and message in error


def test_probabilities_of_other_labels(run, write):
    """Of seven classes: summed over the emotions of each class, those of no class left out."""
    reference = write("r.csv", "id,text,emotion\n1,tao đi,angry\n2,xin chào,calm\n")
    scores = {"neutral": 0.25, "calm": 0.05, "angry": 0.1, "sad": 0.1, "happy": 0.5}
    rows = [{"id": row_id, "text": text, "label": "Calm", "probabilities": scores} for row_id, text in
            (("1", "tao đi"), ("2", "xin chào"))]  # fmt: skip
    argv = ["--reference", reference, "--hypothesis", write("h.jsonl", lines(rows)), "--rules", "true"]
    for threshold, changed_labels in ((0.4, 1), (0.41, 0)):
        report = run([*argv, "--rules_threshold", str(threshold)])[1]
        assert report["rules"]["changed"] == changed_labels
        assert report["metrics"]["accuracy"]["value"] == 50 + 50 * changed_labels
    named = [row | {"label": "neu", "probabilities": {"neu": 0.6, "ang": 0.4}} for row in rows]
    argv = ["--reference", reference, "--hypothesis", write("n.jsonl", lines(named))]
    assert "emotion 'neu' is of no class" in run(argv)[3]
    assert run([*argv, "--model_labels", "{neu: neutral, ang: negative}"])[1]["metrics"]["accuracy"]["value"] == 50


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give either files"),
        (["--reference", "r.csv"], "hypothesis"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--asr", "m"], "give either files"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--data.path", "d"], "is for models"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--reference_columns", "{txt: a}"], "id, text, emotion"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--submission", "s.txt"], "must end in .csv"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--rules", "maybe"], "must be true, false or a .json"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--rules_threshold", "0.2"], "is of --rules"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--labels", "{neutral: [calm]}"], "labels"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--model_labels", "{a: happy}"], "happy is no class"),
        (["--reference", "r.csv", "--hypothesis", "h.csv", "--leaderbord", "true"], "did you mean leaderboard"),
        (["--asr", "m"], "a test set for --asr is wanted"),
        (["--asr", "m", "--ser", "n", "--asr_data.path", "d"], "a test set for --ser is wanted"),
        (["--asr", "m", "--data.path", "d", "--asr_data.path", "e"], "exclude each other"),
        (["--asr", "m", "--data.path", "d", "--rules", "true"], "need the words of --asr and the emotions of --ser"),
    ],
)
def test_wrong_options(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_submission(files, run, tmp_path):
    path = tmp_path / "sent" / "out.csv"
    assert run([*files, "--submission", path])[0] == 0
    assert path.read_bytes().decode("utf-8").split("\n") == [
        "id,text,emotion",
        "u1,hoà bình muôn năm,neutral",
        "u2,tao với mày hết nghĩa,neutral",
        "u3,đi học về nhà,neutral",
        "u4,mở cửa,negative",
        "u5,vui,neutral",
        "",
    ]
    before = path.read_bytes()
    status, report, _, error = run([*files, "--submission", path])
    assert status == 2 and report is None and "is not written over" in error and path.read_bytes() == before


def test_a_submission_has_rows_of_no_class_too(run, write, tmp_path):
    reference = write("r.csv", "id,emotion\n1,sad\n2,happy\n3,\n")
    hypothesis = write("h.csv", "id,emotion\n1,negative\n2,neutral\n")
    status, report, _, _ = run(
        ["--reference", reference, "--hypothesis", hypothesis, "--submission", tmp_path / "s.csv"]
    )
    assert status == 0 and report["left_out"] == {"happy": 1} and report["counts"]["emotions"] == 1
    assert (tmp_path / "s.csv").read_text() == "id,text,emotion\n1,,negative\n2,,neutral\n3,,\n"


def test_leaderboard(files, run):
    status, report, shown, _ = run([*files, "--leaderboard"])
    rows = [line for line in shown.splitlines() if any(team.team in line for team in TABLE_1) or "this system" in line]
    scores = [float(line.split("│")[-2] if "│" in line else line.split()[-1]) for line in rows]
    assert len(rows) == 8 and scores == sorted(scores, reverse=True)
    assert f"{report['row']['score']:.2f}" in next(line for line in rows if "this system" in line)
    assert "published ones, on the private test set" in " ".join(shown.split())
    for team in TABLE_1:
        assert round(composite_score(team.syer, team.accuracy), 2) == team.score
    status, _, shown, _ = run([*files, "--only", "asr", "--leaderboard"])
    assert status == 0 and "no leaderboard: it ranks by Score" in shown and "hynguyenthien" not in shown
