"""Scores, decisions and kept rows of a small corpus, through the commands of `curate.py`."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_curation import TEXTS, save_corpus, save_ctc, save_s2p

from data_scripts.curation.decisions import DecisionSettings, Overview, decide_row, read_verdicts
from data_scripts.sources import SourceArguments, load_source
from scripts.curate import main
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.curation.arguments import CurationConfig
from trainers.curation.scoring import batches
from trainers.curation.shards import list_shards, read_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models and a corpus of three shards with three bad rows, and the scores of it."""
    folder = tmp_path_factory.mktemp("curate")
    for name, seed in (("a", 0), ("b", 1)):
        save_ctc(folder / name, seed)
    save_ctc(folder / "twin", 0)
    save_s2p(folder / "s2p")
    save_corpus(folder / "corpus")
    assert curate("score", folder) == 0
    return folder


def curate(command, folder, *more, models=("a", "twin", "s2p"), out="out"):
    speeds = {"a": "[1.0, 0.9]", "twin": "[1.0, 0.9]"}
    named = [f"{{name: {m}, path: {folder / m}, speeds: {speeds.get(m, '[1.0]')}}}" for m in models]
    words = [command, "--output_dir", str(folder / out), "--source.path", str(folder / "corpus")]
    return main([*words, "--models", f"[{', '.join(named)}]", "--device", "cpu", *more])


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_scores_keep_the_order_and_name_every_problem(place):
    rows = rows_of(place / "out" / "scores.parquet")
    assert [row["id"] for row in rows] == [f"tones/{n:03d}" for n in range(12)]
    assert [row["shard"] for row in rows] == [0] * 5 + [1] * 4 + [2] * 3
    for row in rows:
        assert [(s["model"], s["speed"]) for s in row["scores"]] == [
            ("a", 1.0), ("a", 0.9), ("twin", 1.0), ("twin", 0.9), ("s2p", 1.0),
        ]  # fmt: skip
        assert [s["unit"] for s in row["scores"]] == ["syllable"] * 4 + ["phoneme"]
    problems = {row["id"][-3:]: {s["problem"] for s in row["scores"] if s["speed"] == 1.0} for row in rows}
    bad = {"003": {"audio_not_audio"}, "006": {"empty_transcript"}, "008": {"too_few_frames"}}
    assert problems == {f"{n:03d}": bad.get(f"{n:03d}", {None}) for n in range(12)}
    for row in rows:
        for one in row["scores"]:
            good = not one["problem"]
            assert (one["confidence"] is not None) == (good and one["speed"] == 1.0)
            assert one["confidence"] is None or 0 < one["confidence"] <= one["greedy_confidence"] <= 1
    report = json.loads((place / "out" / "scores.json").read_text())
    assert report["rows"] == 12
    assert report["problems"]["s2p"] == {"audio_not_audio": 1, "empty_transcript": 1, "too_few_frames": 1}


def test_confidence_is_that_of_each_row_alone(place):
    """Batches hold rows of like length; padding must not leak into a score."""
    assert curate("score", place, "--source.max_rows", "12", "--rows_per_shard", "1", models=["s2p"], out="alone") == 0
    together, alone = rows_of(place / "out" / "scores.parquet"), rows_of(place / "alone" / "scores.parquet")
    for one, other in zip(together, alone, strict=True):
        mine, theirs = one["scores"][-1], other["scores"][-1]
        assert mine["hypothesis"] == theirs["hypothesis"] and mine["error_rate"] == theirs["error_rate"]
        assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=1e-4)


def test_decisions_are_pure_named_and_never_written_over(place, capsys):
    common = ["--decide.methods", "[voting, confidence]", "--decide.confidence.min_confidence", "0"]
    common += ["--decide.confidence.max_error_rate", "99", "--decide.confidence.min_error_rate", "-1"]
    assert curate("decide", place, *common) == 0
    path = place / "out" / "decisions" / "default" / "decisions.parquet"
    first, written = path.read_bytes(), path.stat().st_mtime_ns
    rows = rows_of(path)
    assert [row["id"] for row in rows] == [f"tones/{n:03d}" for n in range(12)]
    dropped = {row["id"][-3:]: row["reasons"] for row in rows if not row["keep"]}
    assert dropped == {
        "003": ["vote_missing", "not_scored:audio_not_audio"],
        "006": ["not_scored:empty_transcript"],
        "008": ["not_scored:too_few_frames"],
    }
    assert rows[6]["text_source"] == "voted" and rows[6]["text"] == rows[6]["scores"][0]["hypothesis"]
    assert rows[0]["text"] == TEXTS[0] and rows[0]["agreement"] == 0.0
    assert curate("decide", place, *common) == 0
    assert path.stat().st_mtime_ns == written and path.read_bytes() == first
    assert curate("decide", place, "--decide.methods", "[voting]") == 2
    assert "holds decisions of other settings; choose another --decide.name" in capsys.readouterr().err
    assert curate("decide", place, "--decide.methods", "[voting]", "--decide.name", "votes") == 0
    summary = json.loads((place / "out" / "decisions" / "votes" / "summary.json").read_text())
    assert summary["kept"]["rows"] == 11 and summary["reasons"]["vote_missing"]["alone"] == 1
    assert path.read_bytes() == first


def test_kept_rows_are_a_source(place):
    assert curate("decide", place, "--decide.name", "everything") == 0
    assert curate("export", place, "--decide.name", "everything") == 0
    kept = load_source(SourceArguments(path=str(place / "out" / "kept" / "everything")))
    original = {row["id"]: row for row in load_source(SourceArguments(path=str(place / "corpus")), need_text=False)}
    assert kept["id"] == [f"tones/{n:03d}" for n in range(12) if n != 6]  # the row without text
    assert all(row["audio"]["bytes"] == original[row["id"]]["audio"]["bytes"] for row in kept)
    assert curate("export", place, "--decide.name", "missing") == 2


def test_other_models_and_data_are_refused_by_name(place, capsys):
    changed = f"[{{name: a, path: {place / 'b'}, speeds: [1.0, 0.9]}}]"
    words = ["score", "--output_dir", str(place / "out"), "--device", "cpu", "--models", changed]
    assert main([*words, "--source.path", str(place / "corpus")]) == 2
    assert "a-00000.parquet was made of something else: model was" in capsys.readouterr().err
    save_corpus(place / "other", rows_in_shards=(4,))
    same = f"[{{name: a, path: {place / 'a'}, speeds: [1.0, 0.9]}}]"
    assert main([*words[:-1], same, "--source.path", str(place / "other")]) == 2
    assert "rows was" in capsys.readouterr().err


def test_models_that_cannot_score(place, capsys, tmp_path):
    save_ctc(place / "cyrillic", letters=list("абвгдежз"))
    assert curate("score", place, models=["cyrillic"], out="wrong") == 2
    error = capsys.readouterr().err
    assert "cannot write 5 of the first 5 transcripts; missing: " in error and "Traceback" not in error
    assert curate("score", place, models=["nowhere"], out="wrong") == 2
    assert "cannot load" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert curate("score", place, "--source.path", str(tmp_path / "empty"), out="wrong") == 2


def test_confidence_needs_alignments(place, capsys):
    save_s2p(place / "generates", ctc_weight=0.0)
    assert curate("score", place, models=["generates"], out="generated") == 0
    rows = rows_of(place / "generated" / "scores.parquet")
    assert rows[0]["scores"][0]["unit"] == "phoneme" and rows[0]["scores"][0]["hypothesis"]
    options = ["--decide.methods", "[confidence]"]
    assert curate("decide", place, *options, models=["generates"], out="generated") == 2
    assert "with alignments: none" in capsys.readouterr().err
    # The name was not taken by settings that could not be applied.
    assert curate("decide", place, models=["generates"], out="generated") == 0


def test_verdicts_of_a_person_win(place, tmp_path, capsys):
    path = tmp_path / "verdicts.csv"
    path.write_text("id,verdict,text\ntones/000,drop,\ntones/003,keep,Không!\ntones/001,keep,\n", encoding="utf-8")
    assert read_verdicts(path)["tones/003"] == {"verdict": "keep", "text": "không"}
    assert curate("decide", place, "--decide.name", "heard", "--decide.methods", "[voting]",
                  "--decide.verdicts", str(path)) == 0  # fmt: skip
    rows = {row["id"][-3:]: row for row in rows_of(place / "out" / "decisions" / "heard" / "decisions.parquet")}
    assert not rows["000"]["keep"] and rows["000"]["reasons"] == ["person"]
    assert rows["003"]["keep"] and rows["003"]["text"] == "không" and rows["003"]["notes"] == ["person"]
    for text, message in (
        ("id,verdict\ntones/000,maybe\n", "needs an id and a verdict"),
        ("id,verdict\ntones/000,keep\ntones/000,drop\n", "another verdict above"),
        ("id,verdict\nother/000,keep\n", "1 ids are no rows of these scores"),
    ):
        path.write_text(text, encoding="utf-8")
        assert curate("decide", place, "--decide.name", "wrong", "--decide.verdicts", str(path)) == 2
        assert message in capsys.readouterr().err


def test_a_source_that_is_no_prepared_folder(place):
    source = SourceArguments(path=str(place / "corpus" / "train-00000.parquet"))
    shards = list_shards(source, 2)
    assert [len(shard) for shard in shards] == [2, 2, 1] and [shard.number for shard in shards] == [0, 1, 2]
    ids = [row["id"] for shard in shards for row in read_rows(source, shard, audio=False)]
    assert ids == [f"tones/{n:03d}" for n in range(5)]
    assert next(read_rows(source, shards[1]))["audio"]["bytes"]


def test_batches_fill_the_budget_with_like_lengths():
    durations = [1.0, 9.0, 2.0, 1.0, 8.0, 30.0]
    found = batches(durations, 20.0)
    assert found == [[5], [1, 4], [2, 0, 3]]
    assert sorted(index for batch in found for index in batch) == list(range(6))
    assert batches([], 20.0) == []


def test_a_row_without_scores_of_the_model():
    row = {"id": "x", "text": "a", "scores": [], "lm_score": None, "duration_s": 1.0, "corpus": "", "speaker": None,
           "shard": 0}  # fmt: skip
    settings = DecisionSettings(methods=["confidence", "voting"])
    assert decide_row(row, settings, Overview("m", 0.0))["reasons"] == ["vote_missing", "not_scored"]
    assert decide_row({**row, "text": ""}, DecisionSettings(), Overview(None, 0.0))["reasons"] == ["no_text"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "curation").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs(path):
    config = read_config(["--config", str(path)], CurationConfig)
    assert config.decide.name == path.stem and config.decide.methods
    assert config.output_dir == f"runs/curation/{path.stem}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "[{path: x, name: lm}]"], "models[0].name"),
        (["--models", "[{path: x, name: x, speeds: [3]}]"], "speeds must be a list of numbers between"),
        (["--models", "[{path: x, name: x}, {path: y, name: x}]"], "two models are called x"),
        (["--decide.methods", "[votes]"], "none of voting"),
        (["--decide.confidence.model", "y", "--models", "[{path: x, name: x}]"], "there are: x"),
        (["--decide.methods", "[voting]", "--models", "[{path: x, name: x}]"], "voting needs two models"),
        (["--decide.voting.max_wer", "-1"], "max_wer must be at least 0"),
        (["--source.streaming", "true"], "source.streaming"),
        (["--rows_per_shard", "0"], "rows_per_shard"),
        (["--decide.nme", "x"], "did you mean decide.name?"),
    ],
)
def test_mistakes_in_a_config_are_named(words, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("?", r"\?")):
        read_config(["--output_dir", "out", "--source.path", "data", *words], CurationConfig)


def test_rules_repeats_and_held_out_sentences(place, tmp_path):
    (tmp_path / "test.txt").write_text("Xin chào!\nkhông có ở đây\n", encoding="utf-8")
    options = [
        "--decide.methods",
        "[rules, repeats]",
        "--decide.name",
        "rules",
        "--decide.rules.max_duration_s",
        "1.5",
    ]
    options += ["--decide.repeats.max_same_text", "1", "--decide.repeats.same_text_within", "all"]
    options += ["--decide.held_out", f"[{{path: {tmp_path / 'test.txt'}}}]", "--decide.rules.max_words_per_s", "1e9"]
    assert curate("decide", place, *options, "--decide.rules.max_letters_per_s", "1e9") == 0
    rows = {row["id"][-3:]: row for row in rows_of(place / "out" / "decisions" / "rules" / "decisions.parquet")}
    assert rows["002"]["reasons"] == ["text_held_out"]  # xin chào
    assert rows["010"]["reasons"] == ["text_repeated", "text_held_out"]
    assert rows["009"]["reasons"] == ["too_long", "text_repeated"] and rows["001"]["keep"]
    assert rows["006"]["reasons"] == ["no_text"]
    long = {key for key, row in rows.items() if row["duration_s"] >= 1.5 and row["transcript"]}
    assert long and long == {key for key, row in rows.items() if "too_long" in row["reasons"]}


def test_the_same_recording_twice(tmp_path):
    save_ctc(tmp_path / "a")
    save_corpus(tmp_path / "corpus", rows_in_shards=(2, 1), bad=False)
    file = tmp_path / "corpus" / "train-00001.parquet"
    first = pq.read_table(tmp_path / "corpus" / "train-00000.parquet")
    second = pq.read_table(file)
    pq.write_table(second.set_column(1, second.schema.field(1), first.slice(1, 1)["audio"]), file)
    assert curate("score", tmp_path, models=["a"]) == 0
    assert curate("decide", tmp_path, "--decide.methods", "[repeats]", models=["a"]) == 0
    rows = rows_of(tmp_path / "out" / "decisions" / "default" / "decisions.parquet")
    assert [row["reasons"] for row in rows] == [[], [], ["same_audio"]]


def test_language_model_scores(place, tmp_path):
    from data_scripts.curation.ngram import train_ngram

    model = train_ngram(TEXTS * 3, order=3)
    model.save(tmp_path / "lm.arpa.gz")
    options = ["--lm.path", str(tmp_path / "lm.arpa.gz")]
    assert curate("score", place, *options, models=["a", "s2p"], out="with_lm") == 0
    rows = rows_of(place / "with_lm" / "scores.parquet")
    assert rows[0]["lm_score"] == pytest.approx(model.score(TEXTS[0]) / 4, abs=1e-6)
    assert rows[6]["lm_score"] is None  # no transcript
    heard = rows[0]["scores"][0]
    words = len(heard["hypothesis"].split()) + 1
    assert heard["lm_score"] == pytest.approx(model.score(heard["hypothesis"]) / words, abs=1e-6)
    assert rows[0]["scores"][-1]["lm_score"] is None  # phonemes
    assert curate("score", place, "--lm.path", "nowhere.arpa", models=["a"], out="no_lm") == 2


def test_the_page_of_label_noise_and_its_verdicts(place, capsys):
    assert curate("decide", place, "--decide.name", "noise") == 0
    assert curate("report", place, "--decide.name", "noise", "--report_rows", "4") == 0
    folder = place / "out" / "decisions" / "noise"
    page = (folder / "label_noise.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 4 and "đèn" in page
    sheet = folder / "label_noise.csv"
    lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    assert read_verdicts(sheet) == {}  # nothing filled in
    row_id = lines[1].split(",")[0]
    header = lines[0].split(",")
    cells = lines[1].split(",")
    cells[header.index("verdict")] = "drop"
    lines[1] = ",".join(cells)
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert curate("decide", place, "--decide.name", "after", "--decide.verdicts", str(sheet)) == 0
    rows = rows_of(place / "out" / "decisions" / "after" / "decisions.parquet")
    assert [row["id"] for row in rows if row["reasons"] == ["person"]] == [row_id]
    # The sheet holds a person's work now.
    assert curate("report", place, "--decide.name", "noise", "--report_rows", "4") == 2
    assert "label_noise.csv" in capsys.readouterr().err
    assert curate("report", place, "--decide.name", "missing") == 2
