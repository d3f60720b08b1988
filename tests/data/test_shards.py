"""Prepared shards read in place: the rows that were written, in any process, and trusted only when they may be."""

import json
import multiprocessing
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_scripts.audio import read_audio
from data_scripts.prepare import prepare_validated
from data_scripts.shards import CACHED_ROWS, ShardRows, durations, open_mapped, trusted_files
from data_scripts.sources import SourceArguments, SourceError, load_source
from data_scripts.validate import Limits

from .conftest import encode, voice


@pytest.fixture
def prepared(make_folder, tmp_path):
    """Ten rows of 0.2 to 1.1 s in shards of four; returns the folder."""
    clips = {f"{i}.flac": encode(voice(0.2 + 0.1 * i), "flac") for i in range(10)}
    folder = make_folder(clips, {name: f"câu số {('một', 'hai', 'ba')[i % 3]}" for i, name in enumerate(clips)})
    prepare_validated(SourceArguments(str(folder)), str(tmp_path / "out"), rows_per_shard=4)
    return tmp_path / "out"


def test_rows_are_those_of_the_source(prepared):
    files, problem = trusted_files(prepared, "train", Limits())
    assert problem == "" and len(files) == 3
    rows, loaded = ShardRows(files), load_source(SourceArguments(str(prepared)))
    assert len(rows) == 10 and rows.column_names == loaded.column_names
    for index in (9, 0, 4, 3, 5, 9):
        row, other = rows[index], loaded[index]
        assert {k: v for k, v in row.items() if k != "audio"} == {k: v for k, v in other.items() if k != "audio"}
        np.testing.assert_array_equal(read_audio(row["audio"]), read_audio(other["audio"]))
    assert rows["id"] == loaded["id"][:] and rows["duration_s"] == list(durations(files))
    assert [row["id"] for row in rows.to_stream()] == rows["id"]
    mapped = open_mapped(files)
    assert mapped.features == loaded.features and mapped["id"][:] == rows["id"]
    with pytest.raises(IndexError):
        rows[10]


def test_only_some_rows_count(prepared):
    files, _ = trusted_files(prepared, "train", Limits())
    seconds = durations(files)
    keep = np.flatnonzero((seconds > 0.45) & (seconds < 0.95))
    rows = ShardRows(files, keep)
    assert rows["duration_s"] == seconds[keep].tolist() == [rows[i]["duration_s"] for i in range(len(keep))]
    assert rows.blocks.tolist() == [0, 1] and [row["duration_s"] for row in rows.to_stream()] == rows["duration_s"]
    both = ShardRows.joined([rows, ShardRows(files)])
    assert len(both) == len(rows) + 10 and both[len(rows)]["id"] == ShardRows(files)[0]["id"]
    assert both["id"] == rows["id"] + ShardRows(files)["id"]


def _ids(rows):
    return [rows[index]["id"] for index in range(len(rows))]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_for_themselves(prepared, method):
    rows = ShardRows(trusted_files(prepared, "train", Limits())[0])
    ids = _ids(rows)
    assert len(pickle.dumps(rows)) < 5000
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_ids, [rows, rows]) == [ids, ids]


def test_memory_is_bounded(tmp_path):
    import pyarrow as pa

    from data_scripts.schema import FEATURES

    schema = FEATURES.arrow_schema
    columns = {name: [None] * 3000 for name in schema.names} | {"id": [str(i) for i in range(3000)]}
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), tmp_path / "train-0.parquet", row_group_size=500)
    rows = ShardRows([str(tmp_path / "train-0.parquet")])
    for index in range(0, 3000, 100):
        assert rows[index]["id"] == str(index)
        assert sum(len(table) for table in rows._cached.values()) <= CACHED_ROWS


def test_damage_is_named(prepared):
    path = prepared / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"train-00001\.parquet: not a readable"):
        ShardRows([str(path)])


def test_bit_rot_is_named(prepared):
    path = prepared / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    rows = ShardRows([str(path)])
    content[content.find(b"fLaC") + 2000] ^= 16
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"train-00001\.parquet: row group 0 cannot be read .*prepare it again"):
        rows[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda run: run["versions"].update(normalizer_version="0"), "text rules 0"),
        (lambda run: run["limits"].update(keep_text_problems=["digits"]), "digits"),
        (lambda run: run["limits"].update(need_text=False), "need_text"),
        (lambda run: run["limits"].update(duration_tolerance_s=9.0), "duration_tolerance_s"),
        (lambda run: run.clear(), "to the end"),
    ],
)
def test_not_trusted(prepared, change, problem):
    path = prepared / ".prepared" / "train" / "run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    change(run)
    path.write_text(json.dumps(run), encoding="utf-8")
    files, found = trusted_files(prepared, "train", Limits())
    assert files == [] and problem in found


def test_not_trusted_when_unfinished_or_tampered_with(prepared):
    assert trusted_files(prepared, "test", Limits())[0] == []
    (prepared / "train-00001.parquet").unlink()
    assert "hold 6 rows, but its report says 10" in trusted_files(prepared, "train", Limits())[1]
    (prepared / "drop_report.json").unlink()
    assert trusted_files(prepared, "train", Limits()) == ([], "it was not prepared to the end")
