"""VLSP 2020, the 100 hours that VinBigdata gave out: spontaneous and read speech, transcribed by hand.

Checked against the script that made the Hub copy: the tree (a text file beside each recording; some texts have none),
the columns, the marker <unk> in texts, which is taken out. From documentation: hours. The licence is the one named by
the Hub copy, which is not the publisher's. Rows have no speakers. 56,427 rows.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="vlsp2020",
    title="VLSP 2020 (VinBigdata, 100 h)",
    hours=100,
    licence="CC BY 4.0 by the Hub copy; see the homepage",
    citation="""
@misc{vlsp2020vinbigdata,
  author = {{VinBigdata}},
  title = {{VinBigdata-VLSP2020-100h}: speech for the {V}ietnamese community},
  year = {2022},
  url = {https://institute.vinbigdata.org/events/vinbigdata-chia-se-100-gio-du-lieu-tieng-noi-cho-cong-dong/},
}""",
    homepage="https://institute.vinbigdata.org/events/vinbigdata-chia-se-100-gio-du-lieu-tieng-noi-cho-cong-dong/",
    hub_id="doof-ferb/vlsp2020_vinai_100h",
    access="the archive of the homepage, unpacked (it is a tar in spite of its name .rar)",
    splits={"train": ("train",)},
    columns={"audio": "audio", "text": "transcription"},
    layout="""
vlsp2020_train_set_02/NAME.wav
vlsp2020_train_set_02/NAME.txt     one line of text
""",
    local_parts={"train": ("vlsp2020_train_set_02/*.txt", "*.txt")},
)


def read(tree: Tree, split: str) -> Iterator[Record]:
    """A text beside each recording."""
    entries = {}
    for name, text in tree.texts(*INFO.local_parts[split]).items():
        words = [word for word in text.split() if word != "<unk>"]
        entries[PurePosixPath(name).stem] = {"text": " ".join(words)}
    yield from tree.join("*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
