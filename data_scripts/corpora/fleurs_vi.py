"""FLEURS, Vietnamese: sentences of Wikipedia, each read by up to three speakers (Google).

Checked against code that reads it: the files of the Hub (a table and an archive a split, no parquet), their columns.
From documentation: hours, licence. Tables have no header: sentence id (several recordings share one), file name, text
as written, text in lower case without punctuation, its characters, samples, gender. The fourth is taken. No speakers
are given. 857 rows of test.
"""

from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusError, CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="fleurs_vi",
    title="FLEURS, Vietnamese",
    hours=13,
    licence="CC BY 4.0",
    citation="""
@article{fleurs2022arxiv,
  title = {{FLEURS}: Few-shot Learning Evaluation of Universal Representations of Speech},
  author = {Conneau, Alexis and Ma, Min and Khanuja, Simran and Zhang, Yu and Axelrod, Vera and Dalmia, Siddharth and
    Riesa, Jason and Rivera, Clara and Bapna, Ankur},
  journal = {arXiv preprint arXiv:2205.12446},
  year = {2022},
}""",
    homepage="https://huggingface.co/datasets/google/fleurs",
    hub_id="google/fleurs",
    access="the folder data/vi_vn of the Hub, its archives packed or unpacked",
    splits={"train": ("train",), "validation": ("dev",), "test": ("test",)},
    layout="""
vi_vn/train.tsv                   1\\t123.wav\\tXin chào.\\txin chào\\tx i n | c h à o\\t48000\\tFEMALE
vi_vn/audio/train.tar.gz          with train/123.wav; or vi_vn/audio/train/123.wav
vi_vn/dev..., vi_vn/test...       likewise
""",
    local_parts={
        s: (f"vi_vn/{name}.tsv", f"{name}.tsv")
        for s, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
    },
    hub_archives={
        s: (f"data/vi_vn/{name}.tsv", f"data/vi_vn/audio/{name}.tar.gz")
        for s, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
    },
)


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Tables without header; recordings in the folder or archive of the split."""
    entries = {}
    for where, line in tree.lines(*INFO.local_parts[split]):
        fields = line.split("\t")
        if len(fields) < 4:
            raise CorpusError(f"{tree.where}/{where}: {len(fields)} fields, at least 4 are wanted\n{INFO.layout}")
        entries[fields[1].rpartition(".")[0]] = {"text": fields[3]}
    yield from tree.join(f"{INFO.splits[split][0]}/*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
