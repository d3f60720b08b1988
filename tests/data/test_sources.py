"""Every layout of a source gives the same rows; every mistake in it is named."""

import json
import lzma
import os
import pickle
import subprocess
import sys

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_scripts.audio import SoundfileAudio, embed_audio, read_audio
from data_scripts.readers import read_records
from data_scripts.schema import FEATURES, TEXT_FEATURES, SchemaError
from data_scripts.sources import SourceArguments, SourceError, load_source

from .conftest import encode, voice, write_csv

TEXTS = ["xin chào", "tôi đi làm", "nan", "NA", "hẹn gặp lại"]


@pytest.fixture
def corpus(tmp_path):
    """The same five rows as folder, manifests and parquet; returns the folder that holds them."""
    rows = []
    for index, text in enumerate(TEXTS):
        (tmp_path / f"a{index}.flac").write_bytes(encode(voice(0.5 + 0.1 * index), "flac"))
        rows.append({"id": f"u{index}", "file_name": f"a{index}.flac", "text": text, "speaker": f"s{index % 2}"})
    write_csv(tmp_path / "metadata.csv", rows)
    write_csv(tmp_path / "other.csv", [{"clip": r["file_name"], "key": r["id"], "sentence": r["text"]} for r in rows])
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"audio": row.pop("file_name"), **row}, ensure_ascii=False) + "\n")
    loaded = load_source(SourceArguments(str(tmp_path / "rows.jsonl")))
    (tmp_path / "parquet").mkdir()
    for shard in range(2):
        part = loaded.select(range(3 * shard, min(3 * shard + 3, 5)))
        embed_audio(part).to_parquet(tmp_path / "parquet" / f"train-{shard:05d}.parquet")
    return tmp_path


SOURCES = {
    "folder": {"path": "."},
    "jsonl": {"path": "rows.jsonl"},
    "csv_with_column_map": {"path": "other.csv", "columns": {"audio": "clip", "id": "key", "text": "sentence"}},
    "parquet_folder": {"path": "parquet"},
    "parquet_file": {"path": "parquet/train-00000.parquet"},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_rows(name, streaming, corpus):
    options = {**SOURCES[name], "path": str(corpus / SOURCES[name]["path"])}
    rows = load_source(SourceArguments(**options, streaming=streaming, corpus="c"))
    assert isinstance(rows, IterableDataset if streaming else Dataset)
    assert set(rows.features) == set(FEATURES)
    rows = list(rows)
    number = 3 if name == "parquet_file" else 5
    assert [row["id"] for row in rows] == [f"u{index}" for index in range(number)]
    assert [row["text"] for row in rows] == ["xin chào", "tôi đi làm", "nan", "na", "hẹn gặp lại"][:number]
    for index, row in enumerate(rows):
        assert row["duration_s"] == pytest.approx(0.5 + 0.1 * index)
        assert len(read_audio(row["audio"])) == round(16_000 * (0.5 + 0.1 * index))
        assert row["corpus"] == ("c" if "parquet" not in name else row["corpus"])
        assert row["spans"] == [] and row["dialect"] is None and row["emotion"] is None
        assert set(row["audio"]) == {"path", "bytes"}


def test_max_rows_and_pickling(corpus):
    for streaming in (False, True):
        for path in ("metadata.csv", "parquet"):
            rows = load_source(SourceArguments(str(corpus / path), max_rows=2, streaming=streaming))
            assert [row["id"] for row in pickle.loads(pickle.dumps(rows))] == ["u0", "u1"]


def test_loading_does_not_copy_embedded_audio(corpus):
    rows = load_source(SourceArguments(str(corpus / "parquet")))
    # Bytes stay in the memory-mapped file of the cache: the first of its columns is not an in-memory table.
    blocks = {type(block).__name__ for group in rows.data.blocks for block in group}
    assert "MemoryMappedTable" in blocks
    assert rows._indices is None


def test_splits_of_a_folder(make_folder, tmp_path):
    make_folder({"a.wav": encode(voice())}, name="c/train")
    make_folder({"b.wav": encode(voice())}, name="c/test")
    root = str(tmp_path / "c")
    assert load_source(SourceArguments(root))["id"][:] == ["c/a.wav"]
    assert load_source(SourceArguments(root, split="test"))["id"][:] == ["c/b.wav"]
    with pytest.raises(SourceError, match=r"no split 'dev'.*test, train"):
        load_source(SourceArguments(root, split="dev"))
    rows = [{"file_name": "train/a.wav", "text": "a"}, {"file_name": "test/b.wav", "text": "b"}]
    for split in ("train", "test"):
        os.remove(tmp_path / "c" / split / "metadata.csv")
    write_csv(tmp_path / "c" / "metadata.csv", rows)
    assert load_source(SourceArguments(root, split="test"))["text"][:] == ["b"]


def test_splits_of_parquet(corpus, tmp_path):
    with pytest.raises(SourceError, match=r"no split 'test'.*train"):
        load_source(SourceArguments(str(corpus / "parquet"), split="test"))
    (corpus / "parquet" / "test-0.parquet").write_bytes((corpus / "parquet" / "train-00001.parquet").read_bytes())
    assert load_source(SourceArguments(str(corpus / "parquet"), split="test"))["id"][:] == ["u3", "u4"]
    content = (corpus / "parquet" / "train-00000.parquet").read_bytes()
    (corpus / "parquet" / "train-00000.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"train-00000\.parquet.*not a readable parquet"):
        load_source(SourceArguments(str(corpus / "parquet")))


def test_class_labels_and_paths_of_parquet(corpus):
    features = Features(
        {"clip": Value("string"), "text": Value("string"), "emotion": ClassLabel(names=["negative", "neutral"])}
    )
    rows = Dataset.from_dict(
        {"clip": ["a0.flac", "a1.flac"], "text": ["a", "b"], "emotion": [1, 0]}, features=features
    )
    rows.to_parquet(corpus / "paths.parquet")
    for streaming in (False, True):
        source = SourceArguments(str(corpus / "paths.parquet"), columns={"audio": "clip"}, streaming=streaming)
        loaded = list(load_source(source))
        assert [row["emotion"] for row in loaded] == ["neutral", "negative"]
        assert read_audio(loaded[1]["audio"]).size == 9600
        assert len({row["id"] for row in loaded}) == 2
    Dataset.from_dict({"clip": ["../x.flac"], "text": ["a"]}).to_parquet(corpus / "paths.parquet")
    for streaming in (False, True):
        with pytest.raises(SourceError, match="leaves"):
            list(load_source(SourceArguments(source.path, columns={"audio": "clip"}, streaming=streaming)))


def test_hub_data_set(corpus, monkeypatch):
    calls = []

    def load_dataset(path, name=None, *, split, revision, streaming):
        calls.append((path, name, split, revision, streaming))
        return real("parquet", data_files=str(corpus / "parquet" / "*.parquet"), split="train", streaming=streaming)

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for streaming in (False, True):
        source = SourceArguments("org/speech", name="vi", revision="v1", split="test", streaming=streaming)
        assert [row["id"] for row in load_source(source)] == [f"u{index}" for index in range(5)]
        assert calls[-1] == ("org/speech", "vi", "test", "v1", streaming)
    first = load_source(SourceArguments("org/speech", max_rows=2))
    assert isinstance(first, Dataset) and len(first) == 2
    assert calls[-1][-1], "two rows are streamed, not cut from a whole download"


def test_hub_path_outside_of_the_cache(tmp_path, monkeypatch):
    (tmp_path / "secret.wav").write_bytes(encode(voice()))
    table = Dataset.from_dict(
        {"audio": [str(tmp_path / "secret.wav")], "text": ["a"]},
        features=Features({"audio": SoundfileAudio(), "text": Value("string")}),
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, streaming, **__: table.to_iterable_dataset() if streaming else table
    )
    for streaming in (False, True):
        with pytest.raises(SourceError, match="outside of the cache"):
            list(load_source(SourceArguments("org/evil", streaming=streaming)))


def test_hub_failure_is_one_message():
    with pytest.raises(SourceError, match=r"org/none.*split train"):
        load_source(SourceArguments("org/none"))


@pytest.mark.parametrize("name", ["lines.txt", "lines.txt.xz", "lines.jsonl", "lines.csv"])
@pytest.mark.parametrize("streaming", [False, True])
def test_sentences(name, streaming, tmp_path):
    lines = ["Xin chào!", "", "Tôi đi làm."]
    content = {
        ".jsonl": "\n".join(json.dumps({"text": line}) for line in lines if line),
        ".csv": "text\n" + "\n".join(line for line in lines if line),
    }.get(os.path.splitext(name)[1], "\n".join(lines))
    path = tmp_path / name
    path.write_bytes(lzma.compress(content.encode()) if name.endswith(".xz") else content.encode())
    rows = load_source(SourceArguments(str(path), streaming=streaming))
    assert set(rows.features) == set(TEXT_FEATURES)
    assert [row["text"] for row in rows] == ["xin chào", "tôi đi làm"]
    assert len({row["id"] for row in rows}) == 2


def test_text_of_a_speech_corpus(corpus):
    for path in (".", "rows.jsonl", "parquet"):
        rows = load_source(SourceArguments(str(corpus / path), kind="text"))
        assert "audio" not in rows.column_names and rows["text"][0] == "xin chào"


def test_spans_from_csv(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(voice()))
    marked = [{"audio": "a.wav", "script": "Mai có [en]Meeting[/en], nhé!"}]
    write_csv(tmp_path / "marked.csv", marked)
    row = load_source(SourceArguments(str(tmp_path / "marked.csv"), columns={"marked_text": "script"}))[0]
    assert row["text"] == "mai có meeting nhé"
    assert row["spans"] == [{"start": 7, "end": 14, "lang": "en"}]
    spans = json.dumps([{"start": 7, "end": 14, "lang": "en"}])
    write_csv(tmp_path / "json.csv", [{"audio": "a.wav", "text": "Mai có Meeting", "spans": spans}])
    assert load_source(SourceArguments(str(tmp_path / "json.csv")))[0]["spans"] == row["spans"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.csv", "file_name,text\na.wav,xin\nb.wav,ch\xe0o\n".encode("latin-1"), ["m.csv:3", "0xe0", "UTF-8"]),
        ("m.csv", "file_name,text\n".encode("utf-16"), ["m.csv", "UTF-16"]),
        ("m.csv", b'file_name,text\na.wav,"xin\nb.wav,x\n', ["m.csv:2", "never closed"]),
        ("m.csv", b"file_name,text\na.wav,xin,chao\n", ["m.csv:2", "3 fields", "header has 2"]),
        ("m.csv", b"file_name;text\na.wav;xin\n", ["m.csv:1", "','"]),
        ("m.csv", b"text,text,file_name\na,b,c\n", ["m.csv:1", "twice"]),
        ("m.csv", b"", ["m.csv", "empty"]),
        ("m.csv", b"file_name,text\n", ["m.csv", "there are no rows"]),
        ("m.jsonl", b'{"audio": "a", "text": "x"}\n{"audio": \n', ["m.jsonl:2", "not JSON"]),
        ("m.jsonl", b'[{"audio": "a"}]\n', ["m.jsonl:1", "object"]),
        ("m.jsonl", b'{"audio": "a", "text": 5}\n', ["m.jsonl:1", "text", "int 5"]),
        ("m.jsonl", b'{"audio": 5, "text": "a"}\n', ["m.jsonl:1", "audio", "5"]),
        ("m.jsonl", b'{"audio": "a", "text": "a", "dialect": "west"}\n', ["m.jsonl:1", "dialect", "north"]),
        ("m.csv", b"file_name,txet\na.wav,xin\n", ["m.csv", "no text column", "'txet'", "file_name, txet"]),
        ("m.csv", b"wav_file,text\na.wav,xin\n", ["m.csv", "no audio column", "wav_file, text"]),
        ("m.txt.xz", b"not xz", ["m.txt.xz"]),
        ("m.doc", b"x", ["m.doc", ".csv"]),
    ],
)
def test_broken_files_are_named_with_their_line(name, content, expected, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    kind = "manifest" if name.endswith(("csv", "jsonl")) else "auto"
    with pytest.raises((SourceError, SchemaError)) as caught:
        list(load_source(SourceArguments(str(path), kind=kind)))
    for part in expected:
        assert part in str(caught.value)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufefftext,speaker\r\nxin chào,an\r\n".encode())
    rows = load_source(SourceArguments(str(tmp_path / "m.csv"), kind="text"))
    assert [(row["text"], row["speaker"]) for row in rows] == [("xin chào", "an")]


@pytest.mark.parametrize("value", ["../a.wav", "/etc/hostname", "https://example.org/a.wav", "link.wav", "dir/a.wav"])
def test_paths_do_not_leave_the_root(value, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.wav").write_bytes(encode(voice()))
    (tmp_path / "a.wav").write_bytes(encode(voice()))
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.wav").symlink_to(outside / "a.wav")
    (root / "dir").symlink_to(outside)
    write_csv(root / "metadata.csv", [{"file_name": value, "text": "xin"}])
    with pytest.raises(SourceError, match=r"metadata\.csv:2.*allow_outside_root"):
        load_source(SourceArguments(str(root)))
    assert len(load_source(SourceArguments(str(root), allow_outside_root=True))) == 1


def test_unknown_places(tmp_path):
    for path, message in [
        (str(tmp_path / "none"), "no such file"),
        ("./none.csv", "no such file"),
        (str(tmp_path), "neither metadata.csv"),
    ]:
        with pytest.raises(SourceError, match=message):
            load_source(SourceArguments(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "empty"),
        ({"path": "a", "weight": 0}, "weight"),
        ({"path": "a", "weight": float("nan")}, "weight"),
        ({"path": "a", "max_rows": 0}, "max_rows"),
        ({"path": "a", "kind": "zip"}, "folder, manifest"),
        ({"path": "a", "columns": {"txt": "x"}}, "Did you mean 'text'"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SourceArguments(**options)


def test_importing_arguments_is_cheap():
    code = (
        "import sys, data_scripts.sources; assert not {'datasets', 'torch', 'soundfile', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


TEXT_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(TEXT_CELL, TEXT_CELL), min_size=1, max_size=4))
def test_csv_gives_back_what_was_written(cells, tmp_path):
    path = write_csv(tmp_path / "any.csv", [{"a": a, "b": b} for a, b in cells])
    assert [tuple(record.values()) for _, record in read_records(path)] == cells


def test_real_recordings(shared_data):
    rows = load_source(SourceArguments(str(shared_data / "vi_asr"), split="validation"))
    assert len(rows) == 270
    assert sum(rows["duration_s"]) / 3600 == pytest.approx(0.235, abs=0.01)
    row = rows[0]
    assert read_audio(row["audio"]).size == pytest.approx(16_000 * row["duration_s"], abs=160)
    assert row["text"] and row["speaker"].startswith("auto")
