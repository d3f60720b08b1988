"""FOSD: short sentences given out by FPT for its 30th anniversary: news, travel, commands to assistants.

Checked against code that reads the official zip (`name.mp3|text|start-end`, the mp3 folder) and the Hub copy. From
documentation: hours, licence. The third field, where speech begins and ends in the file, is not used: files are kept
whole. Rows have no speakers. "-N" in a text marks noise and is taken out.
"""

import logging
from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

logger = logging.getLogger(__name__)

INFO = CorpusInfo(
    name="fosd",
    title="FPT Open Speech Dataset (FOSD)",
    hours=30,
    licence="CC BY 4.0 on Mendeley Data, FPT Public Data Licence inside",
    citation="""
@misc{fosd2020,
  author = {Tran, Duc Chung},
  title = {{FPT} Open Speech Dataset ({FOSD}) - {V}ietnamese},
  publisher = {Mendeley Data},
  version = {4},
  year = {2020},
  doi = {10.17632/k9sxg2twv4.4},
}""",
    homepage="https://data.mendeley.com/datasets/k9sxg2twv4/4",
    hub_id="doof-ferb/fpt_fosd",
    access="the zip of the homepage, packed or unpacked",
    splits={"train": ("train",)},
    columns={"audio": "audio", "text": "transcription"},
    layout="""
transcriptAll.txt                                    FPTOpenSpeechData_Set001_V0.1_000001.mp3|cách để đi|0.0-1.2
mp3/FPTOpenSpeechData_Set001_V0.1_000001.mp3
""",
    local_parts={"train": ("transcriptAll.txt",)},
)


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Lines `name.mp3|text|start-end`."""
    entries = {}
    for where, line in tree.lines("transcriptAll.txt"):
        fields = line.split("|")
        if len(fields) < 2:
            logger.warning("%s: passed over, no name.mp3|text|start-end: %.60r", where, line)
            continue
        words = [word for word in fields[1].split() if word != "-N"]
        entries[fields[0].strip().removesuffix(".mp3")] = {"text": " ".join(words)}
    yield from tree.join("mp3/*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
