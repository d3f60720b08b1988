"""CREMA-D: 91 actors, twelve sentences, six emotions at up to four intensities, 7,442 recordings.

Checked against its repository and code that reads it: the folder AudioWAV, the codes of file names (1001_DFA_ANG_XX:
actor, sentence, emotion, intensity), the Hub copy (file, transcription, major_emotion). From documentation: the
sentences, hours. The emotion is the one that was acted, by the file name, in both forms; people who only hear a
recording name the same in four of ten.
"""

import re
from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="crema_d",
    title="CREMA-D",
    hours=5.3,
    licence="ODbL 1.0",
    citation="""
@article{cao2014cremad,
  title = {{CREMA-D}: Crowd-sourced emotional multimodal actors dataset},
  author = {Cao, Houwei and Cooper, David G and Keutmann, Michael K and Gur, Ruben C and Nenkova, Ani and
    Verma, Ragini},
  journal = {IEEE Transactions on Affective Computing},
  volume = {5},
  number = {4},
  pages = {377--390},
  year = {2014},
  doi = {10.1109/TAFFC.2014.2336244},
}""",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    hub_id="AbstractTTS/CREMA-D",
    access="a clone of the homepage, with git lfs",
    splits={"train": ("train",)},
    languages=("en",),
    has_emotion=True,
    columns={"audio": "audio", "text": "transcription", "emotion": "major_emotion", "id": "file"},
    labels={
        "emotion": {
            **dict.fromkeys(("neu", "neutral"), "neutral"),
            **dict.fromkeys(("hap", "happy", "happiness"), "happy"),
            **dict.fromkeys(("sad", "sadness"), "sad"),
            **dict.fromkeys(("ang", "angry", "anger"), "angry"),
            **dict.fromkeys(("fea", "fear", "fearful"), "fearful"),
            **dict.fromkeys(("dis", "disgust", "disgusted"), "disgust"),
        }
    },
    layout="AudioWAV/1001_DFA_ANG_XX.wav",
    local_parts={"train": ("AudioWAV/1???_???_???_*.wav", "1???_???_???_*.wav")},
)
SENTENCES = {
    "IEO": "it's eleven o'clock",
    "TIE": "that is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "the airplane is almost full",
    "MTI": "maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}


def name_fields(stem: str) -> Record | None:
    """1001_DFA_ANG_XX → actor 1001, "don't forget a jacket", anger."""
    match = re.fullmatch(r"(1\d{3})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX?)", stem)
    return {"speaker": match[1], "text": SENTENCES.get(match[2], ""), "emotion": match[3]} if match else None


def read(tree: Tree, split: str) -> Iterator[Record]:
    """The names say everything; the repository has the same recordings as MP3 in another folder."""
    yield from tree.named("AudioWAV/*" if tree.holds("AudioWAV/*") else "*", name_fields)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
