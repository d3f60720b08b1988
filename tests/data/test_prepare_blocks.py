"""How sources are cut: parquet by ranges, streams by their shards or through one reader, each with the same rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset

import data_scripts.prepare
from data_scripts.drop_report import FINDINGS_KEPT, DropReport
from data_scripts.prepare import OutputError, prepare_validated
from data_scripts.preparing import blocks
from data_scripts.preparing.blocks import FileBlock, RowBlock, StreamBlock, plan_blocks, read_range
from data_scripts.preparing.index import on_disk_index
from data_scripts.readers import SourceError
from data_scripts.schema import FEATURES
from data_scripts.sources import SourceArguments, load_source
from data_scripts.validate import Limits, Seen

from .conftest import contents, encode, voice, write_csv

LENGTHS = (5, 1, 6)


@pytest.fixture(scope="module")
def parquet_folder(tmp_path_factory):
    """12 rows in three files, in the columns of a corpus on the Hub; small row groups; no ids."""
    folder, first = tmp_path_factory.mktemp("parquet"), 0
    for number, length in enumerate(LENGTHS):
        rows = [
            {
                "audio": {"bytes": encode(voice(0.2 + 0.01 * index), "flac"), "path": f"{index}.flac"},
                "transcription": f"Câu số {'a' * index}",
            }
            for index in range(first, first + length)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"train-0000{number}.parquet", row_group_size=2)
        first += length
    return folder


def plan(source, rows_per_block=4, done=lambda number: False, spool=None):
    return plan_blocks(source, True, rows_per_block, done, spool or (lambda number: pytest.fail("spooled")))


def with_columns(folder, **options):
    return SourceArguments(str(folder), columns={"text": "transcription"}, **options)


def test_parquet_is_cut_by_ranges_and_read_by_the_workers(parquet_folder):
    source = with_columns(parquet_folder)
    planned = plan(source)
    cut = list(planned.blocks)
    assert [(block.start, block.stop) for block in cut] == [(0, 4), (4, 5), (0, 1), (0, 4), (4, 6)]
    assert all(isinstance(block, FileBlock) for block in cut) and planned.num_rows == 12
    loaded = load_source(source, normalise=False, fill_durations=False)
    assert [row for block in cut for row in block.rows()] == [dict(row) for row in loaded]
    sizes = [block.num_bytes() for block in cut]
    assert sum(sizes[:2]) == pytest.approx((parquet_folder / "train-00000.parquet").stat().st_size, abs=2)
    few = plan(with_columns(parquet_folder, max_rows=7))
    assert few.num_rows == 7 and sum(len(list(block.rows())) for block in few.blocks) == 7


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (1, 2), (3, 6), (5, 6), (2, 5), (4, 4)])
def test_any_range_of_a_file(start, stop, parquet_folder, monkeypatch):
    monkeypatch.setattr(blocks, "READ_ROWS", 3)
    file = str(parquet_folder / "train-00002.parquet")
    texts = [row["transcription"] for row in pq.read_table(file).to_pylist()]
    assert [row["transcription"] for row in read_range(file, ["transcription"], start, stop)] == texts[start:stop]


def test_damaged_parquet_is_named(parquet_folder, tmp_path):
    content = bytearray((parquet_folder / "train-00002.parquet").read_bytes())
    content[4:40] = bytes(36)
    (tmp_path / "train-00000.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=r"train-00000\.parquet: cannot be read as parquet"):
        prepare_validated(with_columns(tmp_path), str(tmp_path / "out"))


def test_a_missing_column_is_told_before_anything_is_written(parquet_folder, tmp_path):
    source = SourceArguments(str(parquet_folder), columns={"text": "transcript"})
    with pytest.raises(SourceError, match=r"no column 'transcript'.*mean 'transcription'.*Columns found: audio, "):
        prepare_validated(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_manifest_rows_point_at_their_recordings(make_folder):
    files = {f"{index}.flac": encode(voice(0.2), "flac") for index in range(5)}
    folder = make_folder(files)
    planned = plan(SourceArguments(str(folder)), done=lambda number: number == 0)
    first, second = planned.blocks
    assert isinstance(second, RowBlock) and (first.number, second.name) == (0, "the shard from row 4")
    assert second.items[0]["audio"]["bytes"] is None and second.num_bytes() == len(files["4.flac"])


@pytest.fixture
def corpus(parquet_folder):
    """The same files as a local copy of a corpus: a stream of three shards with audio inside."""
    return SourceArguments("bud500", data_dir=str(parquet_folder))


def test_shards_of_a_stream_are_tasks(corpus, tmp_path):
    planned = list(plan(corpus).blocks)
    assert all(isinstance(block, StreamBlock) for block in planned) and len(planned) == 3
    report = prepare_validated(corpus, str(tmp_path / "out"), rows_per_shard=4)
    assert report.num_kept == 12
    # A long shard of the stream becomes several of ours; numbers go on.
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))] == [
        4,
        1,
        1,
        4,
        2,
    ]
    texts = load_source(SourceArguments(str(tmp_path / "out")))["text"][:]
    assert texts == [f"câu số {'a' * index}".strip() for index in range(12)]
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "train-00004.parquet").unlink()
    prepare_validated(corpus, str(tmp_path / "out"), rows_per_shard=4)
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_workers_read_shards_of_a_stream(corpus, tmp_path):
    for num_workers in (0, 2):
        prepare_validated(corpus, str(tmp_path / str(num_workers)), rows_per_shard=4, num_workers=num_workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_a_flipped_bit_in_a_shard_is_noticed(corpus, tmp_path):
    """Shards carry checksums of their pages; audio that was changed on disk would decode to something."""
    prepare_validated(corpus, str(tmp_path / "out"), rows_per_shard=4)
    shard = tmp_path / "out" / "train-00003.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SourceError, match=r"train-00003\.parquet: cannot be read as parquet \(damaged\?\)"):
        prepare_validated(SourceArguments(str(tmp_path / "out")), str(tmp_path / "again"))


def test_a_stream_of_one_reader_is_spooled(corpus, tmp_path, monkeypatch):
    whole = prepare_validated(corpus, str(tmp_path / "whole"), rows_per_shard=4)
    monkeypatch.setattr(IterableDataset, "num_shards", 1)
    blocks._streams.clear()
    spooled = []

    def note(job, block):
        spooled.append(block.file if isinstance(block, FileBlock) else None)
        if block.number == 2:
            raise KeyboardInterrupt
        return check_block(job, block)

    check_block = data_scripts.prepare.check_block
    monkeypatch.setattr(data_scripts.prepare, "check_block", note)
    with pytest.raises(KeyboardInterrupt):
        prepare_validated(corpus, str(tmp_path / "out"), rows_per_shard=4)
    assert [name and name.rpartition("/")[2] for name in spooled] == [
        f"spool-0000{number}.parquet" for number in range(3)
    ]
    monkeypatch.setattr(data_scripts.prepare, "check_block", check_block)
    report = prepare_validated(corpus, str(tmp_path / "out"), rows_per_shard=4)
    assert report.to_dict() == whole.to_dict()
    assert not list((tmp_path / "out").rglob("spool*"))
    one, several = (load_source(SourceArguments(str(tmp_path / name))) for name in ("out", "whole"))
    assert one[:] == several[:]


def test_ids_that_are_counted_go_through_one_reader(parquet_folder, tmp_path, monkeypatch):
    """A Hub data set without ids: counted in each shard, they would collide."""
    rows = load_source(with_columns(parquet_folder, streaming=True), normalise=False, fill_durations=False)
    assert rows.num_shards == 3
    monkeypatch.setattr(blocks, "load_source", lambda source, **options: rows)
    blocks._streams.clear()
    monkeypatch.setattr("data_scripts.prepare._commit", lambda source: "abc")
    source = SourceArguments("org/corpus", kind="hub")
    report = prepare_validated(source, str(tmp_path / "out"), rows_per_shard=5)
    assert report.num_kept == 12
    blocks._streams.clear()
    run = json.loads((tmp_path / "out" / ".prepared" / "train" / "run.json").read_text(encoding="utf-8"))
    assert run["source"]["revision"] == run["source"]["content"] == "abc"
    monkeypatch.setattr("data_scripts.prepare._commit", lambda source: "def")
    with pytest.raises(OutputError, match=r"source\.content \('abc' there, 'def' now\)"):
        prepare_validated(source, str(tmp_path / "out"), rows_per_shard=5)


def test_text_alone(tmp_path):
    (tmp_path / "lines.txt").write_text("Xin chào\ncó 5 người\nxin chào\n", encoding="utf-8")
    report = prepare_validated(SourceArguments(str(tmp_path / "lines.txt")), str(tmp_path / "out"), rows_per_shard=2)
    assert report.counts["text_digits"] == 1
    table = pq.read_table(tmp_path / "out" / "train-00000.parquet")
    assert table.column_names == [name for name in FEATURES if name not in ("audio", "duration_s")]
    report = prepare_validated(
        SourceArguments(str(tmp_path / "lines.txt")), str(tmp_path / "spoken"), limits=Limits(spoken_form=True)
    )
    assert report.counts["spoken_form"] == 1 and report.num_dropped == 0
    assert pq.read_table(tmp_path / "spoken" / "train-00000.parquet")["text"].to_pylist()[1] == "có năm người"


def test_versions_are_in_the_shards(make_folder, tmp_path):
    folder = make_folder({"a.flac": encode(voice(), "flac")}, {"a.flac": "Có 25 người"})
    source = SourceArguments(str(folder))
    report = prepare_validated(source, str(tmp_path / "out"), limits=Limits(spoken_form=True))
    assert [finding.code for finding in report.findings] == ["spoken_form"]
    schema = pq.read_schema(tmp_path / "out" / "train-00000.parquet")
    notes = json.loads(schema.metadata[b"amvi"])
    assert notes == {"corpus": "corpus", "split": "train"} | notes and str(tmp_path) not in str(schema.metadata)
    assert {"normalizer_version", "spoken_form_version"} <= notes.keys()
    assert load_source(SourceArguments(str(tmp_path / "out")))["text"][:] == ["có hai mươi lăm người"]


def test_the_index_on_disk_is_the_one_in_memory():
    ids = ["a", "b", "a", "c", "b", "a\0", "ă"]
    with on_disk_index() as index:
        memory = Seen()
        assert [index.is_new(row_id) for row_id in ids] == [memory.is_new(row_id) for row_id in ids]
        pairs = [("1", "a"), ("2", "b"), ("1", "c"), ("3", "d"), ("2", "e")]
        assert [index.first_with(*pair) for pair in pairs] == [memory.first_with(*pair) for pair in pairs]


def test_a_merged_report_does_not_grow_without_end():
    total = DropReport()
    for _ in range(3):
        part = DropReport(num_rows=FINDINGS_KEPT)
        for number in range(FINDINGS_KEPT // 2):
            part.add("silent", str(number))
            part.add("clipped", str(number))
        total.merge(part)
    assert total.counts["silent"] == total.counts["clipped"] == 3 * FINDINGS_KEPT // 2
    assert len(total.findings) == FINDINGS_KEPT + 20


def test_rows_without_audio_in_the_manifest(tmp_path):
    write_csv(
        tmp_path / "metadata.csv", [{"file_name": "", "text": "xin chào"}, {"file_name": "b.wav", "text": "xin"}]
    )
    report = prepare_validated(SourceArguments(str(tmp_path)), str(tmp_path / "out"))
    assert report.counts["missing"] == 2 and not list((tmp_path / "out").glob("*.parquet"))
    assert prepare_validated(SourceArguments(str(tmp_path)), str(tmp_path / "out")).counts["missing"] == 2
