"""The form of corpora that organisers hand to participants, each year in another one: a table a split, or text files.

Not a corpus: `vlsp2023` and `vlsp2025` read with it.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_scripts import readers
from data_scripts.corpora.facts import CorpusError, Record
from data_scripts.corpora.tree import Tree

NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
LAYOUT = """
train.csv            file_name, text, and if known speaker, emotion, dialect; also .tsv, .jsonl, or train/metadata.csv
wav/0001.wav         named by the table, relative to it
or, without tables:
train/0001.wav
train/0001.txt       one line of text
dev or valid or validation, and test likewise
"""
SUFFIXES = (".csv", ".tsv", ".jsonl")
PARTS = {
    split: (
        *(f"{name}{suffix}" for name in names for suffix in SUFFIXES),
        *(f"{name}/metadata{suffix}" for name in names for suffix in SUFFIXES),
        *(f"{name}/*.txt" for name in names),
    )
    for split, names in NAMES.items()
}


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Rows of the split's table, or of the text files in its folder.

    Raises:
        CorpusError: a table without the needed columns, or in an archive.
        SourceError: a broken line.
    """
    for pattern in PARTS[split]:
        tables = list(tree.texts(pattern))
        if tables and not pattern.endswith(".txt"):
            yield from _table(tree, tables[0])
            return
        if tables:
            texts = tree.texts(pattern).items()
            entries = {
                str(PurePosixPath(name).with_suffix("")): {"text": " ".join(text.split())} for name, text in texts
            }
            yield from tree.join("*", entries, key=lambda name: str(PurePosixPath(name).with_suffix("")))
            return


def _table(tree: Tree, table: str) -> Iterator[Record]:
    if table not in tree.files:
        raise CorpusError(f"{tree.where}/{table}: stands in an archive; unpack it, or name the files in {LAYOUT}")
    found, records = readers.peek(readers.read_records(Path(tree.files[table])))
    matched = readers.match_columns(found, {}, f"{tree.where}/{table}", need_audio=True, need_text=False)
    folder = PurePosixPath(table).parent
    entries = {}
    for _, record in records:
        row = {key: record.get(theirs) for key, theirs in matched.items()}
        path = str(PurePosixPath(folder, str(row.pop("audio"))))
        entries[path] = {"id": str(PurePosixPath(path).with_suffix("")), **{k: v for k, v in row.items() if v}}
    yield from tree.join("*", entries, key=lambda name: name)
