"""Rows of a run: sources validated and mixed by weight, text for p2t, generated sentences that never meet."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile

from data_scripts.prepare import prepare_validated
from data_scripts.shards import ShardRows
from data_scripts.sources import SourceArguments, SourceError
from data_scripts.validate import TooManyDropped
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.rows import audio_hours, build_datasets, synthetic_rows


def voice(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))


@pytest.fixture
def corpus(tmp_path):
    """Six half-second utterances and one empty file, as train; two as validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 2)):
        folder = tmp_path / "speech" / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "id", "text"])
            for number in range(count):
                soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(8000), 16_000)
                table.writerow([f"{number}.wav", f"{split}{number}", "Xin  chào"])
            if split == "train":
                (folder / "empty.wav").write_bytes(b"")
                table.writerow(["empty.wav", "broken", "một hai"])
    (tmp_path / "text.txt").write_text("hôm nay\nngày mai\n", encoding="utf-8")
    return tmp_path


def config_of(corpus, *argv, stage="s2p", weight=1):
    speech = f"path: {corpus}/speech"
    return read_config(
        ["--stage", stage, "--data.train", f"[{{{speech}, weight: {weight}}}]", "--data.max_dropped", "0.2",
         "--data.validation", f"[{{{speech}, split: validation}}]", *argv]
    )  # fmt: skip


def test_speech_is_validated_and_reported(corpus):
    rows = build_datasets(config_of(corpus), corpus / "run")
    assert sorted(rows.train["id"]) == [f"train{number}" for number in range(6)]
    assert set(rows.train["text"]) == {"xin chào"}
    assert len(rows.validation) == 2
    assert audio_hours(rows.train) == pytest.approx(6 * 0.5 / 3600)
    report = json.loads((corpus / "run" / "drop_report-train-0.json").read_text(encoding="utf-8"))
    assert report["num_dropped"] == 1 and "broken" in {finding["row_id"] for finding in report["findings"]}


def test_weights_repeat_rows_after_validation(corpus):
    assert build_datasets(config_of(corpus)).select is None
    rows, again = (build_datasets(config_of(corpus, weight=2.5)) for _ in range(2))
    assert len(rows.train) == 6
    counts = [np.bincount(rows.select(epoch)) for epoch in range(2)]
    assert [sorted(one) for one in counts] == [[2, 2, 2, 3, 3, 3]] * 2 and set(sum(counts)) == {5}
    assert again.select(7).tolist() == rows.select(7).tolist()


def test_mixture_exponent_evens_sources_out(corpus, tmp_path):
    sources = f"[{{path: {corpus}/speech}}, {{path: {corpus}/speech, split: validation}}]"
    # The second source is the validation data.
    argv = ["--data.mixture_exponent", "0", "--data.allow_shared_recordings", "true"]
    rows = build_datasets(config_of(corpus, "--data.train", sources, *argv))
    taken = [rows.select(epoch) for epoch in range(3)]
    # Six and two rows, four of each in an epoch.
    assert [(int((one < 6).sum()), int((one >= 6).sum())) for one in taken] == [(4, 4)] * 3
    assert len(set(np.concatenate(taken).tolist())) == 8


def test_a_share_of_an_epoch_is_replayed(corpus):
    """Two rows of the new domain, and by turns one of the six that an earlier run learned."""
    replay = ["--data.train", f"[{{path: {corpus}/speech, split: validation}}]", "--data.replay_share", "0.3333"]
    replay += ["--data.replay", f"[{{path: {corpus}/speech}}]", "--data.allow_shared_recordings", "true"]
    rows, again = (build_datasets(config_of(corpus, *replay)) for _ in range(2))
    assert rows.train["id"][:2] == ["validation0", "validation1"] and len(rows.train) == 8
    epochs = [rows.select(epoch).tolist() for epoch in range(6)]
    assert all(one[:2] == [0, 1] and len(one) == 3 for one in epochs)
    assert sorted(one[2] for one in epochs) == [2, 3, 4, 5, 6, 7]
    # A resumed run deals the same.
    assert again.select(4).tolist() == epochs[4]


def test_replay_without_rows_or_share(corpus):
    with pytest.raises(ConfigError, match=r"replay_share: .*set both, or neither"):
        config_of(corpus, "--data.replay_share", "0.2")
    sources = ["--data.replay", f"[{{path: {corpus}/speech, split: validation}}]", "--data.replay_share", "0.2"]
    with pytest.raises(ConfigError, match=r"replay: .*stage p2t"):
        config_of(corpus, *sources, stage="p2t")
    for number in range(2):
        (corpus / "speech" / "validation" / f"{number}.wav").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"data\.replay: no usable row is left"):
        build_datasets(config_of(corpus, *sources, "--data.max_dropped", "1", "--training.eval_strategy", "no",
                                 "--training.load_best_model_at_end", "false"))  # fmt: skip


def test_short_and_medium_rows_of_a_mixture(corpus):
    argv = ["--data.short_medium.ratio", "2", "--data.short_medium.boundary_s", "0.4"]
    with pytest.raises(ValueError, match="boundary_s"):
        build_datasets(config_of(corpus, *argv)).select(0)
    for number in range(2):
        soundfile.write(corpus / "speech" / "train" / f"{number}.wav", voice(0.3), 16_000)
    rows = build_datasets(config_of(corpus, *argv, weight=2))
    chosen = rows.select(3)
    short = [rows.train[int(row)]["duration_s"] < 0.4 for row in chosen]
    assert sum(short) == 4 and len(short) == 6


def test_limits_of_the_config_hold(corpus):
    assert len(build_datasets(config_of(corpus, "--data.max_rows", "3")).train) == 3
    with pytest.raises(TooManyDropped):
        build_datasets(config_of(corpus, "--data.max_dropped", "0.1"))
    with pytest.raises(SourceError, match="nowhere"):
        build_datasets(config_of(corpus, "--data.validation", "[{path: nowhere}]"))
    silent = ["--training.eval_strategy", "no", "--training.load_best_model_at_end", "false"]
    assert build_datasets(config_of(corpus, *silent)).validation is None


def test_p2t_reads_transcripts_text_and_generated_sentences(corpus):
    argv = ["--data.text", f"[{{path: {corpus}/text.txt}}]", "--data.synthetic_sentences", "20"]
    argv += ["--data.synthetic_validation_sentences", "5"]
    rows = build_datasets(config_of(corpus, *argv, stage="p2t"))
    assert "audio" not in rows.train.column_names
    # The broken recording has a transcript all the same.
    assert len(rows.train) == 7 + 2 + 20 and len(rows.validation) == 2 + 5
    assert {"hôm nay", "một hai"} <= set(rows.train["text"])
    assert len(set(rows.train["id"])) == 29
    assert audio_hours(rows.train) is None


def test_generated_sentences_never_meet():
    train = set(synthetic_rows(300, 1, "train")["text"])
    validation = set(synthetic_rows(300, 2, "validation")["text"])
    assert len(train) == len(validation) == 300 and not train & validation
    assert list(synthetic_rows(5, 1, "train")["text"]) == list(synthetic_rows(300, 1, "train")["text"])[:5]


def test_a_stream_stays_a_stream(corpus):
    source = f"[{{path: {corpus}/speech, streaming: true}}]"
    rows = build_datasets(config_of(corpus, "--data.train", source, "--training.max_steps", "3"))
    assert not hasattr(rows.train, "num_rows")
    for _ in range(2):
        assert {row["id"] for row in rows.train} == {f"train{number}" for number in range(6)}


@pytest.fixture
def prepared(corpus):
    """The same corpus as prepared shards of two rows."""
    for split in ("train", "validation"):
        source = SourceArguments(str(corpus / "speech"), split=split)
        prepare_validated(source, str(corpus / "clean"), rows_per_shard=2)
    return corpus


def of_prepared(corpus, *argv, streaming="false"):
    train = f"[{{path: {corpus}/clean, streaming: {streaming}}}]"
    validation = f"[{{path: {corpus}/clean, split: validation}}]"
    return config_of(corpus, "--data.train", train, "--data.validation", validation, *argv)


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_prepared_rows_are_not_decoded_again(prepared, monkeypatch, streaming):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr("data_scripts.row_checks.decode_audio", refuse)
    rows = build_datasets(of_prepared(prepared, "--training.max_steps", "3", streaming=streaming))
    assert sorted(rows.train["id"]) == [f"train{number}" for number in range(6)] and len(rows.validation) == 2
    assert isinstance(rows.train, ShardRows) == (streaming == "true")
    assert rows.reports["train-0"].num_kept == 6 and audio_hours(rows.train) == pytest.approx(6 * 0.5 / 3600)
    monkeypatch.undo()
    state = prepared / "clean" / ".prepared" / "train" / "run.json"
    state.write_text(state.read_text(encoding="utf-8").replace("normalizer_version", "other"), encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr("data_scripts.row_checks.decode_audio", refuse)
        with pytest.raises(AssertionError, match="decoded again"):
            rows = build_datasets(of_prepared(prepared, "--training.max_steps", "3", streaming=streaming))
            next(iter(rows.train))


def test_narrower_durations_need_no_decoding(prepared):
    with pytest.raises(TooManyDropped, match="too_short 6"):
        build_datasets(of_prepared(prepared, "--data.min_duration_s", "0.6"))
    argv = ["--data.min_duration_s", "0.6", "--data.max_dropped", "1", "--training.eval_strategy", "no"]
    with pytest.raises(ConfigError, match="no usable row"):
        build_datasets(of_prepared(prepared, *argv, "--training.load_best_model_at_end", "false"))


def test_recordings_that_are_trained_on_and_evaluated_on(prepared, caplog):
    shutil.copyfile(prepared / "speech" / "train" / "3.wav", prepared / "speech" / "validation" / "1.wav")
    for argv in ([], ["--data.train", f"[{{path: {prepared}/clean}}]"]):
        with pytest.raises(
            ConfigError, match=r"1 recording\(s\) are trained on and evaluated on.*train3 and validation1"
        ):
            build_datasets(config_of(prepared, *argv))
    build_datasets(config_of(prepared, "--data.allow_shared_recordings", "true"))
    assert "train3 and validation1" in caplog.text


def test_an_id_that_occurs_twice(corpus):
    with (corpus / "speech" / "train" / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("5.wav,train0,ba\n")
    with pytest.raises(ConfigError, match=r"an id that an earlier row has, the first 'train0' \(.*5\.wav\)"):
        build_datasets(config_of(corpus, "--data.max_dropped", "1"))
