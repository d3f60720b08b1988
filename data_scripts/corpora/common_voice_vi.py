"""Common Voice, Vietnamese: sentences read by volunteers into their own microphones (Mozilla).

Since 2025 it is given out by Mozilla Data Collective only and may not be put elsewhere, so there is no Hub form: take
the Vietnamese release and set data_dir. From documentation: the tree and its columns, which grew over the releases;
only those named below are needed. Texts hold bare quotation marks: the tables are no CSV.
"""

from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusError, CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="common_voice_vi",
    title="Common Voice, Vietnamese",
    hours=20,
    licence="CC0 1.0",
    citation="""
@inproceedings{commonvoice2020,
  author = {Ardila, R. and Branson, M. and Davis, K. and Henretty, M. and Kohler, M. and Meyer, J. and Morais, R. and
    Saunders, L. and Tyers, F. M. and Weber, G.},
  title = {Common Voice: A Massively-Multilingual Speech Corpus},
  booktitle = {Proceedings of LREC 2020},
  pages = {4211--4215},
  year = {2020},
}""",
    homepage="https://commonvoice.mozilla.org/vi/datasets",
    access="cv-corpus-VERSION-vi.tar.gz from Mozilla Data Collective, packed or unpacked",
    splits={"train": ("train",), "validation": ("dev",), "test": ("test",)},
    layout="""
cv-corpus-VERSION/vi/train.tsv     client_id, path, sentence, ... in a header line; dev.tsv, test.tsv likewise
cv-corpus-VERSION/vi/clips/common_voice_vi_1.mp3
""",
    local_parts={
        "train": ("vi/train.tsv", "train.tsv"),
        "validation": ("vi/dev.tsv", "dev.tsv"),
        "test": ("vi/test.tsv", "test.tsv"),
    },
)


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Tab-separated lines below a header line; the hash of a client is the speaker."""
    entries: dict[str, Record] = {}
    folder = ""
    for file, text in tree.texts(*INFO.local_parts[split]).items():
        folder = file.rpartition("/")[0]
        header, *lines = text.splitlines() or [""]
        names = header.split("\t")
        if missing := {"client_id", "path", "sentence"} - set(names):
            found = ", ".join(names)
            raise CorpusError(f"{file}: no column {', '.join(sorted(missing))}. Columns found: {found}")
        for line in lines:
            row = dict(zip(names, line.split("\t"), strict=False))
            if path := row.get("path"):
                stem = path.rpartition(".")[0] or path
                entries[stem] = {"text": row.get("sentence", ""), "speaker": row["client_id"]}
    yield from tree.join(f"{folder}/clips/*" if folder else "clips/*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
