"""RAVDESS, speech: 24 actors, two sentences, eight emotions, 1,440 recordings (Ryerson University).

Checked against its documentation and code that reads it: the codes of file names (03-01-06-01-02-01-12: audio, speech,
fearful, normal intensity, second sentence, first take, actor 12), the folders, the Hub copy (file, transcription,
emotion). From documentation: licence. Songs (second code 02) and videos are passed over. For validation and test,
split by actor.
"""

import re
from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="ravdess",
    title="RAVDESS (speech)",
    hours=1.5,
    licence="CC BY-NC-SA 4.0",
    citation="""
@article{livingstone2018ravdess,
  title = {The {R}yerson Audio-Visual Database of Emotional Speech and Song ({RAVDESS})},
  author = {Livingstone, Steven R. and Russo, Frank A.},
  journal = {PLoS ONE},
  volume = {13},
  number = {5},
  pages = {e0196391},
  year = {2018},
  doi = {10.1371/journal.pone.0196391},
}""",
    homepage="https://doi.org/10.5281/zenodo.1188976",
    hub_id="AbstractTTS/RAVDESS",
    access="Audio_Speech_Actors_01-24.zip of the homepage, packed or unpacked",
    splits={"train": ("train",)},
    languages=("en",),
    has_emotion=True,
    columns={"audio": "audio", "text": "transcription", "emotion": "emotion", "id": "file"},
    labels={
        "emotion": {
            "neutral": "neutral",
            "calm": "calm",
            **dict.fromkeys(("happy", "happiness"), "happy"),
            **dict.fromkeys(("sad", "sadness"), "sad"),
            **dict.fromkeys(("angry", "anger"), "angry"),
            **dict.fromkeys(("fearful", "fear"), "fearful"),
            **dict.fromkeys(("disgust", "disgusted"), "disgust"),
            **dict.fromkeys(("surprised", "surprise"), "surprised"),
        }
    },
    layout="Actor_01/03-01-01-01-01-01-01.wav",
    local_parts={"train": ("03-01-0?-0?-0?-0?-??.*",)},
)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SENTENCES = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}


def name_fields(stem: str) -> Record | None:
    """03-01-06-01-02-01-12 → actor12, fearful, dogs."""
    match = re.fullmatch(r"03-01-0([1-8])-0[12]-(0[12])-0[12]-(\d\d)", stem)
    if not match:
        return None
    return {"speaker": f"actor{match[3]}", "text": SENTENCES[match[2]], "emotion": EMOTIONS[int(match[1]) - 1]}


def read(tree: Tree, split: str) -> Iterator[Record]:
    """The names say everything."""
    yield from tree.named("*", name_fields)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
