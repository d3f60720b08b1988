"""IEMOCAP: ten actors in pairs, playing and improvising scenes, judged by several listeners (USC SAIL).

Checked against code that reads the official tree (the lines of EmoEvaluation and of the transcriptions; the speaker is
in the last part of an id, not in the name of the dialogue) and the Hub copy (file, transcription, major_emotion). From
documentation: hours, terms. For validation and test, split by session: Session5 holds two speakers that no other does.
"""

import re
from collections.abc import Iterator

from data_scripts.corpora.facts import LEFT_OUT, CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="iemocap",
    title="IEMOCAP",
    hours=12,
    licence="on request, for research",
    citation="""
@article{busso2008iemocap,
  title = {{IEMOCAP}: Interactive emotional dyadic motion capture database},
  author = {Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and Kazemzadeh, Abe and Mower, Emily and Kim, Samuel and
    Chang, Jeannette N and Lee, Sungbok and Narayanan, Shrikanth S},
  journal = {Language Resources and Evaluation},
  volume = {42},
  number = {4},
  pages = {335--359},
  year = {2008},
}""",
    homepage="https://sail.usc.edu/iemocap/",
    hub_id="AbstractTTS/IEMOCAP",
    access="fill in the form of the homepage",
    splits={"train": ("train",)},
    languages=("en",),
    has_emotion=True,
    columns={"audio": "audio", "text": "transcription", "emotion": "major_emotion", "id": "file"},
    labels={
        "emotion": {
            **dict.fromkeys(("neu", "neutral"), "neutral"),
            **dict.fromkeys(("hap", "happy", "exc", "excited"), "happy"),
            **dict.fromkeys(("sad",), "sad"),
            **dict.fromkeys(("ang", "angry"), "angry"),
            **dict.fromkeys(("fru", "frustrated"), "negative"),
            **dict.fromkeys(("fea", "fear"), "fearful"),
            **dict.fromkeys(("sur", "surprise", "surprised"), "surprised"),
            **dict.fromkeys(("dis", "disgust", "disgusted"), "disgust"),
            **dict.fromkeys(("oth", "other", "xxx", "tie_prediction"), LEFT_OUT),
        }
    },
    layout="""
Session1/dialog/EmoEvaluation/Ses01F_impro01.txt           [6.2901 - 8.2357]\\tSes01F_impro01_F000\\tneu\\t[2.5, ...]
Session1/dialog/transcriptions/Ses01F_impro01.txt          Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
Session2 to Session5 likewise
""",
    local_parts={"train": ("Session?/dialog/EmoEvaluation/Ses*.txt",)},
    notes="Excitement counts as happy and frustration as negative; xxx means that the listeners did not agree.\n"
    "The Hub copy is not the publisher's and states no licence: sign the form before you use it.",
)
LABEL_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\w+)\t(\w+)\t")
TEXT_LINE = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")


def name_fields(stem: str) -> Record | None:
    """Ses01F_impro01_M012 → the man of the first session."""
    match = re.fullmatch(r"(Ses\d\d)[FM]_\w+_([FM])\w*\d+", stem)
    return {"speaker": match[1] + match[2]} if match else None


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Utterances with a label, with their text; EmoEvaluation has other lines and folders beside them."""
    said = {}
    for _, line in tree.lines("dialog/transcriptions/Ses*.txt"):
        if match := TEXT_LINE.match(line):
            said[match[1]] = match[2].strip()
    entries = {}
    for where, line in tree.lines(*INFO.local_parts[split]):
        if where.rpartition("/")[0].endswith("EmoEvaluation") and (match := LABEL_LINE.match(line)):
            fields = name_fields(match[1]) or {}
            entries[match[1]] = {"emotion": match[2], "text": said.get(match[1], ""), **fields}
    yield from tree.join("sentences/wav/*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
