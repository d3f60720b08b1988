"""EmoV-DB: four English speakers, each reading the sentences of CMU Arctic in up to five styles, 7,000 recordings.

Checked against its repository and code that reads it: the archives of OpenSLR (bea_Amused.tar.gz), the sorted tree,
the names of files (amused_1-15_0001: style, file of annotation, number of the Arctic sentence a0001). From
documentation: hours, terms. Transcripts are not part of it: put `cmuarctic.data` of Festvox beside the folders, or
rows lack text.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from data_scripts.corpora.facts import LEFT_OUT, CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

logger = logging.getLogger(__name__)

INFO = CorpusInfo(
    name="emov_db",
    title="EmoV-DB, the Emotional Voices Database",
    hours=7,
    licence="non-commercial, see LICENSE in the archives",
    citation="""
@article{adigwe2018emotional,
  title = {The emotional voices database: Towards controlling the emotion dimension in voice generation systems},
  author = {Adigwe, Adaeze and Tits, No{\\'e} and Haddad, Kevin El and Ostadabbas, Sarah and Dutoit, Thierry},
  journal = {arXiv preprint arXiv:1806.09514},
  year = {2018},
}""",
    homepage="https://github.com/numediart/EmoV-DB",
    access="https://openslr.org/115/, archives packed or unpacked",
    splits={"train": ("train",)},
    languages=("en",),
    has_emotion=True,
    labels={
        "emotion": {
            "neutral": "neutral",
            "amused": "happy",
            "anger": "angry",
            "angry": "angry",
            "disgust": "disgust",
            "disgusted": "disgust",
            "sleepiness": LEFT_OUT,
            "sleepy": LEFT_OUT,
        }
    },
    layout="""
bea_Amused.tar.gz, or bea_Amused/amused_1-15_0001.wav, or bea/Amused/amused_1-15_0001.wav    also jenie, josh, sam
cmuarctic.data                                   ( arctic_a0001 "Author of the danger trail, Philip Steels, etc." )
""",
    local_parts={"train": tuple(f"{name}[_/]*_*_*.wav" for name in ("bea", "jenie", "josh", "sam"))},
    notes="Amused counts as happy; the sleepy style has no emotion of the schema. Laughter is not transcribed.",
)
SPEAKER = re.compile(r"(?:^|/)(bea|jenie|josh|sam)[_/]", re.IGNORECASE)
FILE = re.compile(r"([A-Za-z]+)_[\d-]+_(\d{4})")
ARCTIC = re.compile(r'arctic_a(\d{4})\s+"(.*)"')


def read(tree: Tree, split: str) -> Iterator[Record]:
    """The speaker is in the name of a folder or archive, the style and the sentence in that of the file."""
    sentences = {m[1]: m[2] for _, line in tree.lines("cmuarctic.data") if (m := ARCTIC.search(line))}
    if not sentences:
        logger.warning("%s: no cmuarctic.data in it, so rows have no text", tree.where)
    for name, audio in tree.recordings("*"):
        path = PurePosixPath(name)
        speakers, style = SPEAKER.findall(name), FILE.fullmatch(path.stem)
        if speakers and style:
            speaker = speakers[-1].lower()
            record = {"speaker": speaker, "emotion": style[1], "text": sentences.get(style[2], "")}
            yield {"id": f"{speaker}_{path.stem}", "audio": audio, **record}


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
