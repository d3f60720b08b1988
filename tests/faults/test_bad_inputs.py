"""Bad recordings and manifests, A1 to A25 and M1 to M21, through `prepare_data.py validate` or a training config.

C, K, H and T are in test_bad_configs.py, test_bad_models.py and test_bad_hub.py; the last test keeps the list whole.
"""

import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import COVERED, NAMES, Checker, covers, encode, validate, voice, write_manifest
from bad_rows import GOOD, TEXT, bad_rows, long_flac, write_bad_corpus

from data_scripts.audio import read_audio
from data_scripts.drop_report import CODES
from trainers.checks import ConfigError
from trainers.config import read_config

ROWS = bad_rows()
AS_ROWS = {name.split("-")[0] for name in ROWS}


@pytest.fixture
def check(faults):
    return Checker(faults)


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """One manifest with all bad rows that are skipped or mended, through the command; PyAV is not installed."""
    folder = tmp_path_factory.mktemp("bad")
    write_bad_corpus(folder / "corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        patch.setenv("COLUMNS", "250")
        return validate(folder / "corpus", folder / "clean")


@covers(*AS_ROWS)
@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row(name, validated, check):
    row = ROWS[name]
    found, kept = validated.codes_of(name), name in validated.rows
    reported = not row.code or validated.names(name, row.code, row.file)
    ends = kept == (row.kept is not None) and (not kept or validated.rows[name]["text"] == row.kept)
    # Nothing that is skipped is also mended, and no row is skipped without its code.
    verdicts = {CODES[code][0] for code in found}
    check(name.split("-")[0], reported and ends and ("dropped" in verdicts) == (not kept), (found, row))


def test_validation_goes_on_and_writes_what_is_good(validated):
    assert validated.status == 0 and not validated.errors
    kept = {name for name, row in ROWS.items() if row.kept is not None}
    assert validated.rows.keys() == kept | {f"good-{number}" for number in range(min(GOOD, len(ROWS)))}
    for row in validated.rows.values():
        samples = read_audio({"path": None, "bytes": row["audio"]["bytes"]})
        assert np.isfinite(samples).all() and abs(len(samples) / 16_000 - row["duration_s"]) < 0.01
    for code in ("empty_file", "truncated", "text_emoji", "page.wav"):
        assert code in validated.printed


def test_samples_are_those_that_were_recorded(validated):
    def samples(name):
        return read_audio({"path": None, "bytes": validated.rows[name]["audio"]["bytes"]})

    np.testing.assert_allclose(samples("A7"), voice(seed=20), atol=2e-5)
    np.testing.assert_allclose(samples("A8"), (voice(seed=5) + voice(seed=6)) / 2, atol=1e-4)
    eight = np.mean([voice(seed=10 + channel) for channel in range(8)], axis=0)
    np.testing.assert_allclose(samples("A10"), eight, atol=1e-4)
    assert abs(samples("A24").mean()) < 1e-3


def test_a_limit_stops_a_corpus_that_rots(tmp_path, check):
    write_bad_corpus(tmp_path / "corpus")
    answer = validate(tmp_path / "corpus", tmp_path / "clean", "--limits.max_drop_fraction", "0.1")
    stopped = answer.status == 2 and "max_drop_fraction is 0.1" in answer.errors and bool(answer.findings)
    check("A1", stopped, answer.errors)


@covers("A13", "A7", "A8")
def test_samples_without_a_file(check):
    """What is given to the processor or the reader as an array."""
    from transformers import WhisperFeatureExtractor

    from models.tspc import S2PProcessor, build_phoneme_tokenizer

    processor = S2PProcessor(WhisperFeatureExtractor(chunk_length=1), build_phoneme_tokenizer(["a"]))
    with pytest.raises(ValueError) as caught:
        processor(audio=voice())
    check("A13", "sampling_rate is not given" in str(caught.value), caught.value)
    with pytest.raises(ValueError) as caught:
        read_audio({"array": voice()})
    check("A13", "an array needs its sampling_rate" in str(caught.value), caught.value)
    integers = np.round(voice() * 32768).astype(np.int16)
    wanted = processor(audio=integers.astype(np.float32) / 32768, sampling_rate=16_000)["input_features"]
    for samples in (integers, np.stack([integers, integers], 1)):
        found = processor(audio=samples, sampling_rate=16_000)["input_features"]
        same = found.shape == wanted.shape and np.abs(found.numpy() - wanted.numpy()).max() < 1e-4
        check("A7" if samples.ndim == 1 else "A8", same, found.shape)


@covers("A21", "A22")
def test_long_recordings(tmp_path, check):
    """Serving refuses by the header; a loader that meets a long row names it."""
    from transformers import WhisperFeatureExtractor

    from trainers.collators import RowError, SpeechInputs
    from trainers.recognisers import Recogniser
    from trainers.transcription import Settings, transcribe_files

    (tmp_path / "long.flac").write_bytes(long_flac(10))
    settings = Settings(model="none")
    # Nothing is recognised, so no model is needed.
    recogniser = Recogniser("none", None, "tspc")
    line = transcribe_files(recogniser, [tmp_path / "long.flac"], tmp_path / "out.jsonl", settings)[0]
    check("A21", "36000.0 s, at most" in line.get("error", ""), line)
    inputs = SpeechInputs(WhisperFeatureExtractor())
    with pytest.raises(RowError) as caught:
        inputs([{"id": "u31", "audio": {"path": None, "bytes": encode(voice(31.0), kind="FLAC")}}])
    check("A22", "row 'u31' lasts 31.0 s" in str(caught.value), caught.value)


def refused(folder, out, check, code, *words, arguments=()):
    """The manifest ends the command with status 2 and one line that holds the words."""
    answer = validate(folder, out, *arguments)
    named = all(word in answer.errors for word in words) and answer.errors.startswith("error: ")
    check(code, answer.status == 2 and named and not answer.rows, answer.errors)


def manifest(folder, name="metadata.csv", **changes):
    """Two good rows, the second with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(2):
        (folder / f"{number}.wav").write_bytes(encode(voice(seed=number)))
        rows.append({"id": f"u{number}", "file_name": f"{number}.wav", "text": TEXT})
    changed = {key: changes.get(key, "") for key in rows[0] | changes}
    rows = [rows[0] | dict.fromkeys(changes.keys() - rows[0].keys()), rows[1] | {k: changed[k] for k in changes}]
    return write_manifest(folder, rows, name)


@covers("M2", "M3", "M4")
def test_paths_that_leave_the_root(tmp_path, check):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encode(voice()))
    paths = {"M2": "../secret.wav", "M3": str(secret), "M4": "https://example.org/a.wav"}
    for code, path in {**paths, "M2 deep": "../../../../etc/passwd"}.items():
        folder = manifest(tmp_path / code, file_name=path)
        refused(folder, tmp_path / f"{code}-out", check, code.split()[0], "metadata.csv:3", path, "allow_outside_root")
    folder = manifest(tmp_path / "link", file_name="linked.wav")
    (folder / "linked.wav").symlink_to(secret)
    refused(folder, tmp_path / "link-out", check, "M2", "metadata.csv:3", "linked.wav", "link that leaves")
    allowed = validate(tmp_path / "M3", tmp_path / "allowed", "--source.allow_outside_root", "true")
    check("M3", allowed.status == 0 and "u1" in allowed.rows, allowed.errors)
    # An address is not fetched even then.
    allowed = validate(tmp_path / "M4", tmp_path / "fetched", "--source.allow_outside_root", "true")
    check("M4", allowed.names("u1", "missing", "https://example.org/a.wav"), allowed.findings)


@covers("M8", "M14", "M16", "M17", "M21")
def test_manifests_that_cannot_be_read(tmp_path, check):
    number = manifest(tmp_path / "number", "metadata.jsonl", text=5)
    refused(number, tmp_path / "o1", check, "M8", "metadata.jsonl:2", "text must be a string", "int 5")
    for encoding in ("cp1258", "latin-1"):
        folder = manifest(tmp_path / encoding)
        (folder / "metadata.csv").write_bytes("file_name,text\n0.wav,ba\n1.wav,à la carte\n".encode(encoding))
        refused(folder, tmp_path / f"o-{encoding}", check, "M14", "metadata.csv:3", "not UTF-8", "Windows-1258")
    folder = manifest(tmp_path / "quote")
    (folder / "metadata.csv").write_text('file_name,text\n0.wav,"xin chào\n1.wav,ba\n', encoding="utf-8")
    refused(folder, tmp_path / "o2", check, "M16", "metadata.csv:2", "quote that is never closed")
    folder = manifest(tmp_path / "json", "metadata.jsonl")
    with (folder / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"file_name": "0.wav", "text": \n')
    refused(folder, tmp_path / "o3", check, "M16", "metadata.jsonl:3", "not JSON")
    folder = manifest(tmp_path / "emotion", emotion="hapy")
    refused(folder, tmp_path / "o4", check, "M17", "metadata.csv:3", "'hapy'", "allowed are neutral", "'happy'")
    folder = manifest(tmp_path / "false", "metadata.jsonl", emotion=False)
    refused(folder, tmp_path / "o5", check, "M17", "metadata.jsonl:2", "emotion must be a string, got bool")
    with pytest.raises(ConfigError) as caught:
        read_config(["--data.train", "[{path: x}]", "--data.dialect", "no"])
    check("M17", "must be one of north, central, south; got 'no'" in str(caught.value), caught.value)
    folder = manifest(tmp_path / "negative", duration="-1")
    refused(folder, tmp_path / "o6", check, "M21", "metadata.csv:3", "duration_s must be at least 0", "'-1'")
    folder = manifest(tmp_path / "word", duration="long")
    refused(folder, tmp_path / "o7", check, "M21", "metadata.csv:3", "number of seconds", "'long'")


@pytest.fixture
def corpora(tmp_path):
    """`corpora("train", files)`: a folder of recordings, by name; texts and ids may be given."""

    def make(name: str, files: dict[str, bytes], texts: dict[str, str] | None = None, ids: dict | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return write_manifest(
            folder,
            [
                {"id": (ids or {}).get(f, f"{name}-{f}"), "file_name": f, "text": (texts or {}).get(f, TEXT)}
                for f in files
            ],
        )

    return make


def rows_of(train, validation, *more):
    """What a training run would read."""
    from trainers.rows import build_datasets

    sources = ["--data.train", f"[{{path: {train}}}]", "--data.validation", f"[{{path: {validation}}}]"]
    return build_datasets(read_config([*sources, "--data.max_dropped", "0.6", *more]))


FILES = {f"{number}.wav": encode(voice(seed=number)) for number in range(4)}


@covers("M5")
def test_repeats(corpora, validated, tmp_path, check, caplog):
    # Validation of one source lists a repeated id as it lists every bad row, and writes it once: stopping there would
    # hide the rows behind it. A training run stops.
    last = [finding for finding in validated.findings if finding["code"] == "duplicate_id"]
    check("M5", [f["row_id"] for f in last] == ["good-0"] and last[0]["file"].endswith("good-0.wav"), last)
    train = corpora("train", FILES, ids={"1.wav": "train-0.wav"})
    clean = corpora("clean", FILES)
    other = corpora("other", {"9.wav": encode(voice(seed=9))})
    shared = corpora("shared", {"9.wav": encode(voice(seed=9)), "copy.wav": FILES["2.wav"]})
    with pytest.raises(ConfigError) as caught:
        rows_of(train, other)
    check("M5", "'train-0.wav'" in str(caught.value) and "1.wav" in str(caught.value), caught.value)
    with pytest.raises(ConfigError) as caught:
        rows_of(clean, shared)
    check("M5", "clean-2.wav and shared-copy.wav" in str(caught.value), caught.value)
    # The same of folders that were prepared, whose recordings are not read again.
    for folder in (clean, shared):
        assert validate(folder, tmp_path / f"{folder.name}-shards").status == 0
    for streaming in ("true", "false"):
        source = f"[{{path: {tmp_path}/clean-shards, streaming: {streaming}}}]"
        with pytest.raises(ConfigError) as caught:
            rows_of(clean, tmp_path / "shared-shards", "--data.train", source, "--training.max_steps", "5")
        check("M5", "clean-2.wav and shared-copy.wav" in str(caught.value), caught.value)
    caplog.set_level(logging.WARNING)
    rows = rows_of(clean, shared, "--data.allow_shared_recordings", "true")
    check("M5", len(rows.train) == 4 and "clean-2.wav and shared-copy.wav" in caplog.text, caplog.text)


@covers("M20")
def test_labels_that_do_not_fit(corpora, tmp_path, check):
    sentence = "một hai ba bốn năm sáu bảy tám chín mười"
    files = {**FILES, "3.wav": encode(voice(1.5, seed=3)), "5.wav": encode(voice(0.3, seed=5))}
    train = corpora("train", files, {"5.wav": sentence, "3.wav": sentence})
    other = corpora("other", {"9.wav": encode(voice(seed=9))})
    short = ["--model.s2p.max_phonemes", "20"]
    assert validate(train, tmp_path / "shards").status == 0
    for source in ("", f"[{{path: {tmp_path}/shards}}]", f"[{{path: {train}, streaming: true}}]"):
        more = ["--data.train", source, "--training.max_steps", "5"] if source else []
        rows = rows_of(train, other, *more)
        kept, report = [row["id"] for row in rows.train], rows.reports["train-0"]
        named = [(f.row_id, f.code) for f in report.findings if f.code == "label_too_long"]
        told = named == [("train-5.wav", "label_too_long")] and "frames" in report.findings[-1].detail
        check("M20", "train-5.wav" not in kept and len(kept) == 4 and told, (kept, report.findings))
    rows = rows_of(train, other, *short)
    found = {f.row_id: f.detail for f in rows.reports["train-0"].findings}
    places = "the decoder has places for 19" in found.get("train-3.wav", "")
    check("M20", len(rows.train) == 3 and places, found)
    from data_scripts.validate import TooManyDropped

    with pytest.raises(TooManyDropped) as caught:
        rows_of(train, other, *short, "--data.max_dropped", "0.1")
    check("M20", "label_too_long 2" in str(caught.value), caught.value)


@covers("M19")
def test_token_ids_beyond_the_embedding(check):
    from trainers.collators import RowError, TextLabels
    from trainers.tokenizers import train_text_tokenizer

    tokenizer = train_text_tokenizer([TEXT, "deadline của project là mai"], 110)
    fits = TextLabels(tokenizer, len(tokenizer))([{"id": "u1", "text": TEXT}])
    with pytest.raises(RowError) as caught:
        TextLabels(tokenizer, int(fits.max()))([{"id": "u0", "text": ""}, {"id": "u1", "text": TEXT}])
    check("M19", "row 'u1'" in str(caught.value) and f"{int(fits.max())} rows" in str(caught.value), caught.value)


@covers("M18")
def test_a_class_without_rows(check, caplog):
    from trainers.metrics.classes import check_classes, class_scores

    classes = ["angry", "happy", "sad"]
    with pytest.raises(ConfigError) as caught:
        check_classes(classes, ["angry", "sad", None])
    check("M18", "no training row of class happy (rows: angry 1, sad 1)" in str(caught.value), caught.value)
    caplog.set_level(logging.WARNING)
    check_classes(classes, classes, ["angry", "sad"])
    check("M18", "no evaluation row of class happy" in caplog.text, caplog.text)
    scores = class_scores(["angry", "sad"], ["angry", "sad"], classes)
    check("M18", scores["uar"] == scores["f1_macro"] == pytest.approx(2 / 3), scores)


@covers("M15")
def test_formulas_in_what_we_write(tmp_path, check):
    from data_scripts.curation.label_noise import SHEET_COLUMNS, _write_sheet
    from data_scripts.report import Page

    bad = '=HYPERLINK("http://example.org","x")'
    row = {name: bad if name in ("id", "transcript", "hypothesis") else None for name in SHEET_COLUMNS}
    sheet = _write_sheet(tmp_path / "sheet.csv", [row]).read_text(encoding="utf-8")
    check("M15", "'=HYPERLINK" in sheet and ',"=HYPERLINK' not in sheet, sheet)
    page = Page("report")
    page.section(bad)
    page.table(["<b>text</b>"], [[bad + "<script>alert(1)</script>"]])
    page.save(tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    check("M15", "<script>alert" not in written and "&lt;script&gt;" in written, "script")


def test_every_bad_input_has_a_test():
    for module in ("test_bad_configs", "test_bad_models", "test_bad_hub"):
        importlib.import_module(module)
    assert len(NAMES) == 69 and set(NAMES) == COVERED, sorted(NAMES.keys() - COVERED)
