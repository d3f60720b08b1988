"""Evaluation of baselines end to end, and the arguments of the scripts."""

import json

import pytest

from scripts.eval_asr import main as eval_main
from trainers.card import write_model_card
from trainers.command_line import EvaluationArguments, PublishingArguments, gather_lists, load_arguments
from trainers.evaluation import card_evaluations, evaluate, load_test_rows
from trainers.metrics import error_rates


@pytest.fixture(scope="module")
def report(corpus, tiny_whisper, tiny_ctc, tmp_path_factory):
    output = tmp_path_factory.mktemp("eval") / "metrics.json"
    argv = ["--model", str(tiny_whisper), str(tiny_ctc), "--num_beams", "1", "2", "--data.path", str(corpus)]
    argv += ["--batch_size", "3", "--bootstrap_samples", "50", "--device", "cpu", "--output", str(output)]
    argv += ["--generate_kwargs", "{language: vi}"]
    assert eval_main(argv) == 0
    return output


def test_report(report, corpus, tiny_whisper, tiny_ctc):
    result = json.loads(report.read_text())
    systems = [(row["model"], row["kind"], row["num_beams"]) for row in result["rows"]]
    assert systems == [
        (str(tiny_whisper), "seq2seq", 1),
        (str(tiny_whisper), "seq2seq", 2),
        (str(tiny_ctc), "ctc", 1),  # a CTC model has no beams: one row
    ]
    assert result["skipped"]["counts"]["dropped"] == {"silent": 1, "missing": 1}
    assert {finding["row_id"] for finding in result["skipped"]["findings"]} >= {"silence", "gone"}
    for row in result["rows"]:
        assert set(row["metrics"]) == {"wer", "syer", "cer", "wer_vi", "wer_en", "wer_switch"}
        assert row["counts"]["utterances"] == 4 and row["counts"]["en_words"] == 3
        assert row["rtf"] > 0 and row["audio_s"] == pytest.approx(0.3 + 0.5 + 0.7 + 0.9, abs=0.01)
    assert "wer_difference" not in result["rows"][0]
    assert result["rows"][2]["wer_difference"]["to"].endswith("1 beams")


def test_a_page_lies_beside_the_report(report):
    page = report.with_suffix(".html").read_text(encoding="utf-8")
    for row in json.loads(report.read_text())["rows"]:
        assert f"{100 * row['metrics']['wer']['value']:.2f}" in page
    assert "<audio controls" in page and "silent 1" in page


def test_hypotheses_are_those_that_were_scored(report):
    result = json.loads(report.read_text())
    lines = [json.loads(line) for line in report.with_suffix(".hypotheses.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[:4]] == ["u0", "u1", "u2", "u3"]  # the order of the data, not of the batches
    for row in result["rows"]:
        own = [x for x in lines if (x["model"], x["num_beams"]) == (row["model"], row["num_beams"])]
        again = error_rates([x["reference"] for x in own], [x["raw_hypothesis"] for x in own])
        assert row["metrics"]["wer"]["value"] == pytest.approx(again["wer"])
        assert row["metrics"]["cer"]["value"] == pytest.approx(again["cer"])


def test_batches_do_not_change_hypotheses(report, corpus, tiny_whisper, tmp_path):
    from data_scripts.sources import SourceArguments

    args = EvaluationArguments(
        SourceArguments(str(corpus)), [str(tiny_whisper)], batch_size=1, device="cpu", bootstrap_samples=0,
        generate_kwargs={"language": "vi"}, output=str(tmp_path / "m.json"),
    )  # fmt: skip
    single = evaluate(args)
    batched = json.loads(report.read_text())["rows"][0]["metrics"]
    for name, metric in single["rows"][0]["metrics"].items():
        assert metric["errors"] == batched[name]["errors"]


def test_figures_reach_the_card(report, tiny_whisper, tmp_path):
    result = json.loads(report.read_text())
    evaluations = card_evaluations(result, str(tiny_whisper))
    assert [evaluation.model for evaluation in evaluations] == [None, None, "ctc"]
    write_model_card(tmp_path, stage="tspc", evaluations=evaluations)
    text = (tmp_path / "README.md").read_text()
    assert "| baseline ctc | corpus" in text and str(tiny_whisper) not in text
    with pytest.raises(ValueError, match="no row of elsewhere"):
        card_evaluations(result, "elsewhere")


def test_errors_are_one_line(corpus, tmp_path, capsys):
    for model, data, message in (
        (tmp_path / "none", corpus, "cannot load"),
        (corpus, corpus, "cannot load"),
        (corpus, tmp_path / "nothing", "nothing"),
    ):
        argv = ["--model", str(model), "--data.path", str(data), "--output", str(tmp_path / "m.json")]
        assert eval_main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_test_set_without_usable_rows_is_refused(corpus):
    from data_scripts.sources import SourceArguments

    with pytest.raises(ValueError, match="can be scored"):
        load_test_rows(EvaluationArguments(SourceArguments(str(corpus)), ["x"], max_duration_s=0.15))


def test_lists_on_the_command_line():
    assert gather_lists(["a b", "--model", "x", "y: z", "--n", "1"], {"model", "input"}, ["input"]) == [
        "--input", '["a b"]', "--model", '["x", "y: z"]', "--n", "1",
    ]  # fmt: skip
    assert gather_lists(["--zero", "[a, b]"], {"zero"}) == ["--zero", "[a, b]"]
    args = load_arguments(PublishingArguments, ["runs/x", "me/y", "--dry_run"], positional=["folder", "repo_id"])
    assert (args.folder, args.repo_id, args.dry_run, args.private) == ("runs/x", "me/y", True, True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "a", "--data.path", "x", "--num_beam", "3"], "did you mean num_beams"),
        (["--data.path", "x"], "nothing to evaluate"),
        (["--zero", "a", "--data.path", "x"], "takes two models"),
        (["--model", "a", "--data.path", "x", "--num_beams", "0"], "num_beams"),
        (["--model", "a"], "data"),
        (["--model", "a", "--data.path", "x", "--output", "m.txt"], ".json"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        load_arguments(EvaluationArguments, argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err
