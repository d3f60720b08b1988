"""LSVSC: broadcast and web audio transcribed by hand, with topic, dialect, emotion and age (PTIT and NAVER).

Checked against the script that made the Hub copy: columns, labels and the official files, whose `class` "(0M0NY)" is
topic, gender, dialect, emotion and age, a character each. From documentation: hours, licence.
"""

from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="lsvsc",
    title="LSVSC",
    hours=100.5,
    licence="CC BY 4.0",
    citation="""
@article{lsvsc2024,
  title = {Automatic Speech Recognition of {V}ietnamese for a New Large-Scale Corpus},
  journal = {Electronics},
  volume = {13},
  number = {5},
  pages = {977},
  year = {2024},
  doi = {10.3390/electronics13050977},
}""",
    homepage="https://doi.org/10.3390/electronics13050977",
    hub_id="doof-ferb/LSVSC",
    access="LSVSC_100.rar and the three lists, linked from the paper; unpack the .rar with unrar",
    splits={"train": ("train",), "validation": ("validation",), "test": ("test",)},
    has_emotion=True,
    columns={"audio": "audio", "text": "transcription", "dialect": "dialect", "emotion": "emotion"},
    labels={
        "dialect": {
            "northern dialect": "north",
            "central dialect": "central",
            "highland central dialect": "central",
            "southern dialect": "south",
            "minority ethnic group dialect": None,
        },
        "emotion": {
            "neutral": "neutral",
            "joyful": "happy",
            "happy": "happy",
            "angry": "angry",
            "sad": "sad",
            "disgust": "disgust",
            "fear": "fearful",
            "tired": None,
        },
    },
    layout="""
LSVSC_train.json        {"0": {"wav": "00001.wav", "text": "..."}, ...}; LSVSC_valid.json, LSVSC_test.json likewise
helck_finale.json       [{"wav": "00001.wav", "text": "...", "class": "(0M0NY)", ...}, ...]   (may be left out)
data/00001.wav
""",
    local_parts={"train": ("LSVSC_train.json",), "validation": ("LSVSC_valid.json",), "test": ("LSVSC_test.json",)},
)
DIALECTS = dict(zip("01234", INFO.labels["dialect"], strict=True))
EMOTIONS = dict(zip("NJHASDFT", INFO.labels["emotion"], strict=True))


def read(tree: Tree, split: str) -> Iterator[Record]:
    """The list of the split, with dialect and emotion of the list of all where it is at hand."""
    classes = {row.get("wav"): row.get("class") for row in tree.json("helck_finale.json") or []}
    entries = {}
    for row in (tree.json(*INFO.local_parts[split]) or {}).values():
        code = str(classes.get(row["wav"]) or "").ljust(6)
        entries[row["wav"].rpartition(".")[0]] = {
            "text": " ".join(str(row.get("text") or "").replace("\\", "").replace("\ufeff", "").split()),
            "dialect": DIALECTS.get(code[3]),
            "emotion": EMOTIONS.get(code[4]),
        }
    yield from tree.join("*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
