"""Sentences for a language model: normalised texts of files and prepared folders, one at a time."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from data_scripts.readers import SENTENCE_SUFFIXES, SourceError, read_records, read_sentences, suffix_of
from data_scripts.text.normalize import normalize_text


def read_texts(path: str | Path, split: str = "train") -> Iterator[str]:
    """Normalised, non-empty texts.

    Args:
        path: a prepared folder (`<split>-*.parquet`, texts normalised already), of which only the texts are read; a
            file of sentences (.txt) or of rows with a `text` (.jsonl, .csv, .tsv), which may be compressed.
        split: of a folder.

    Raises:
        SourceError: no such file, no shards of the split, no text in them.
    """
    path = Path(path)
    if path.is_dir():
        yield from _folder_texts(path, split)
        return
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    records = read_sentences(path) if suffix_of(path) in SENTENCE_SUFFIXES else read_records(path)
    for where, record in records:
        if "text" not in record:
            raise SourceError(f"{where}: no 'text' here, only {', '.join(map(str, record)) or 'nothing'}")
        if text := normalize_text(str(record["text"] or "")):
            yield text


def _folder_texts(folder: Path, split: str) -> Iterator[str]:
    import pyarrow.parquet as pq

    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if not shards:
        there = sorted({file.name.split("-")[0] for file in folder.glob("*.parquet")})
        raise SourceError(f"{folder}: no {split}-*.parquet; splits found: {', '.join(there) or 'none'}")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            if "text" not in file.schema_arrow.names:
                raise SourceError(f"{shard}: no column 'text'; columns are {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text)


def read_all_texts(sources: Iterable[str]) -> Iterator[str]:
    """Texts of several paths in turn; `FOLDER:SPLIT` names a split other than train."""
    for source in sources:
        folder, _, split = source.rpartition(":")
        yield from read_texts(folder, split) if folder and not Path(source).exists() else read_texts(source)


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is in the held-out share: by its hash, so repeats of it are all on one side on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") < share * 2**64
