"""One loader for every place that rows come from.

    load_source(SourceArguments("corpora/vivos"))                          # a folder with metadata.csv and audio files
    load_source(SourceArguments("train.jsonl", columns={"text": "sentence"}))
    load_source(SourceArguments("org/corpus", split="test", streaming=True))   # a Hub data set
    load_source(SourceArguments("vivos", split="test"))                    # a corpus of data_scripts.corpora

Rows come back in the columns of `data_scripts.schema`, audio still encoded, text normalised. Importing this module is
cheap: `datasets` and the audio libraries are loaded with the first source.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from data_scripts.readers import COLUMN_KEYS, SourceError, closest, detect_kind

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["SourceArguments", "SourceError", "load_source"]

logger = logging.getLogger(__name__)


@dataclass
class SourceArguments:
    """One source of rows.

    Args:
        path: a folder with metadata.csv or metadata.jsonl, a CSV, TSV or JSONL manifest, a folder or file of parquet
            shards, a file of sentences (.txt, .txt.xz, .jsonl), the name of a corpus of `data_scripts.corpora` or a
            Hub data set id.
        kind: what `path` is; "auto" looks, and takes a file or folder of that name before a corpus. "text" gives rows
            of text alone, whatever the file also holds.
        split: the split to read: of a Hub data set, a sub-folder (`path/train/metadata.csv`), or the first part of
            parquet file names (`train-00000.parquet`).
        name: configuration of a Hub data set.
        revision: branch, tag or commit of a Hub data set.
        data_dir: of a named corpus: a local copy, packed or unpacked; its Hub form is fetched if not given.
        columns: schema name → name in the source, where they differ: `{text: sentence, audio: clip}`. `marked_text`
            stands for a column with `[en]…[/en]` inside, which gives both text and spans.
        weight: in a mixture (`data_scripts.mixtures`), passes over this source per epoch (0.5: one half of its rows,
            then another; 2: all of them twice); of streams, how often the next row is drawn from here, relative to
            the others.
        streaming: rows are read while they are used, never held or cached as a whole.
        max_rows: the first rows only.
        corpus: name in the `corpus` column and in generated ids; the folder, file or Hub name by default.
        id_prefix: put before every id, for corpora that number their rows alike.
        allow_outside_root: let a manifest point outside of its own folder (absolute paths, `..`, links).

    Raises:
        ValueError: a value out of range or an unknown column.
    """

    path: str
    kind: Literal["auto", "folder", "manifest", "parquet", "corpus", "hub", "text"] = "auto"
    split: str = "train"
    name: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0
    streaming: bool = False
    max_rows: int | None = None
    corpus: str | None = None
    id_prefix: str = ""
    allow_outside_root: bool = False

    def __post_init__(self) -> None:
        kinds = ("auto", "folder", "manifest", "parquet", "corpus", "hub", "text")
        if not self.path:
            raise ValueError("path of a source is empty")
        if self.kind not in kinds:
            raise ValueError(f"kind of source {self.path}: {self.kind!r} is none of {', '.join(kinds)}")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight of source {self.path} must be above 0, got {self.weight}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows of source {self.path} must be at least 1 or null, got {self.max_rows}")
        for key in self.columns:
            if key not in COLUMN_KEYS:
                raise ValueError(
                    f"columns of source {self.path}: {key!r} is no column of the schema; allowed are "
                    f"{', '.join(COLUMN_KEYS)} (schema name: name in the source).{closest(key, COLUMN_KEYS)}"
                )


def load_source(
    source: SourceArguments,
    *,
    need_text: bool = True,
    normalise: bool = True,
    fill_durations: bool = True,
) -> "Dataset | IterableDataset":
    """Rows of one source in the columns of `data_scripts.schema.FEATURES` (`TEXT_FEATURES` for kind "text").

    Audio is not decoded: `row["audio"]` is `{"path", "bytes"}` for `data_scripts.audio.read_audio`. Rows without text
    or with an unreadable file are still there: `data_scripts.validate.validate_rows` drops and lists them.

    Args:
        need_text: the source must have a text column (emotion corpora may lack one).
        normalise: apply `normalize_with_spans` to text and spans; validation does it itself, to count repairs.
        fill_durations: where the source states no durations, take them from the audio headers (0.1 ms a file).

    Raises:
        SourceError: no such source, missing columns (with those found), a broken line, an encoding other than UTF-8,
            a path that leaves its root; names the file and the line.
        SchemaError: a value of the wrong type or outside of the allowed ones; names the row and the key.
    """
    from data_scripts import tables

    kind = detect_kind(source.path, source.columns) if source.kind == "auto" else source.kind
    options = tables.RowOptions(need_text=need_text, normalise=normalise, fill_durations=fill_durations)
    if kind == "text":
        return tables.load_text(source, options)
    if kind == "corpus":
        return tables.load_named(source, options)
    if source.data_dir:
        raise SourceError(f"data_dir of source {source.path} is for named corpora; {source.path} is read as a {kind}")
    if kind in ("folder", "manifest"):
        return tables.load_manifest(source, kind, options)
    return tables.load_columnar(source, kind, options)
