"""The corpora that Amvi knows by name: what they are, how to get them, and their rows.

    load_corpus("vivos", "test")                              # from the Hub
    load_corpus("iemocap", data_dir="IEMOCAP_full_release")   # from an official tree, or its archive
    python -m data_scripts.corpora.vivos --output_dir out     # to parquet

One module a corpus, each with its facts and the reading of its official tree. Importing this package loads neither
them nor `datasets`.
"""

import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from data_scripts.corpora.facts import CorpusError, CorpusInfo
from data_scripts.readers import closest

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from rich.table import Table

__all__ = ["CORPORA", "CorpusError", "CorpusInfo", "catalogue_table", "describe", "fingerprint", "load_corpus"]

NAMES = (
    # Vietnamese speech with transcripts
    "vivos",
    "bud500",
    "vivoice",
    "phoaudiobook",
    "lsvsc",
    "vietspeech",
    "common_voice_vi",
    "fosd",
    "vlsp2020",
    "vlsp2023",
    "vlsp2025",
    "vimd",
    "vigbigdata28k",
    "fleurs_vi",
    # emotional speech
    "visec",
    "iemocap",
    "emodb",
    "ravdess",
    "crema_d",
    "emov_db",
)


class _Catalogue(Mapping[str, CorpusInfo]):
    def __getitem__(self, name: str) -> CorpusInfo:
        if name not in NAMES:
            raise KeyError(name)
        return importlib.import_module(f"{__name__}.{name}").INFO

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)

    def __contains__(self, name: object) -> bool:
        return name in NAMES


CORPORA: Mapping[str, CorpusInfo] = _Catalogue()
"""Name → facts; a module is imported when its facts are asked for."""


def corpus_module(name: str) -> ModuleType:
    """The module of a corpus.

    Raises:
        CorpusError: no corpus of this name; names the nearest.
    """
    if name not in NAMES:
        raise CorpusError(f"no corpus {name!r}.{closest(name, NAMES)} Known: {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}")


def load_corpus(
    name: str,
    split: str = "train",
    data_dir: str | None = None,
    *,
    streaming: bool = False,
    max_rows: int | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    normalise: bool = True,
    fill_durations: bool = True,
    corpus: str | None = None,
    id_prefix: str = "",
) -> "Dataset | IterableDataset":
    """One split in the columns of `data_scripts.schema.FEATURES`, audio still encoded.

    Args:
        name: a key of `CORPORA`.
        split: "train", "validation" or "test", as far as the corpus has them.
        data_dir: a local copy: the official tree, its archives, or the parquet files of the Hub; else the Hub itself.
        streaming: rows are read while they are used; nothing is downloaded or unpacked as a whole.
        max_rows: the first rows only; of the Hub, only as much is read as they need.
        revision: branch, tag or commit of the Hub form.
        columns: schema name → column, where a copy of the Hub form has other names.
        normalise: text and spans by `normalize_with_spans`.
        fill_durations: durations from the headers of the recordings.
        corpus: name in the `corpus` column and in ids, if not `name`.
        id_prefix: put before every id.

    Raises:
        CorpusError: unknown name or split, gated, unreachable, another layout; says what to do.
        SourceError: a missing column; names those found.
    """
    module = corpus_module(name)
    from data_scripts.corpora.base import load

    builder = module.Builder(
        data_dir=data_dir,
        split=split,
        revision=revision,
        columns=dict(columns) if columns else None,
        max_rows=max_rows,
        normalise=normalise,
        fill_durations=fill_durations,
        corpus=corpus,
        id_prefix=id_prefix,
    )
    return load(builder, split, streaming=streaming)


def fingerprint(name: str, data_dir: str | None = None, revision: str | None = None) -> str:
    """Changes when the content of a source does: with the files of a local copy, or the commit on the Hub."""
    module = corpus_module(name)
    if data_dir:
        from data_scripts.corpora.tree import Tree

        return Tree.of(data_dir).fingerprint()
    from data_scripts.corpora.hub import hub_files

    return hub_files(module.INFO, revision)[1]


def catalogue_table() -> "Table":
    """All corpora, a line each."""
    from data_scripts.corpora.catalogue import table

    return table(CORPORA)


def describe(name: str) -> str:
    """Everything about a corpus: facts, how to get it, layout, columns, labels, citation.

    Raises:
        CorpusError: no corpus of this name; names the nearest.
    """
    from data_scripts.corpora.catalogue import description

    return description(corpus_module(name))
