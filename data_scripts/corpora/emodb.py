"""EMODB: ten German actors, ten everyday sentences, seven emotions, 535 recordings (TU Berlin).

Checked against code that reads it: the codes of file names (03a01Fa: speaker, sentence, emotion, take), the sentences,
the folder, the Hub copy (audio, emotion). From documentation: terms, the words for emotions in the Hub copy, which are
used where its recordings have lost their names, and with them speakers and sentences. The text is German.
"""

import re
from collections.abc import Iterator

from data_scripts.corpora.facts import LEFT_OUT, CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="emodb",
    title="EMODB, Berlin Database of Emotional Speech",
    hours=0.4,
    licence="free to use, with the citation",
    citation="""
@inproceedings{burkhardt2005emodb,
  title = {A database of {G}erman emotional speech},
  author = {Burkhardt, Felix and Paeschke, Astrid and Rolfes, Miriam and Sendlmeier, Walter F. and Weiss, Benjamin},
  booktitle = {Proceedings of Interspeech 2005},
  pages = {1517--1520},
  year = {2005},
}""",
    homepage="http://emodb.bilderbar.info",
    hub_id="renumics/emodb",
    access="download.zip of the homepage, packed or unpacked",
    splits={"train": ("train",)},
    languages=("de",),
    has_emotion=True,
    columns={"audio": "audio", "emotion": "emotion"},
    labels={
        "emotion": {
            "n": "neutral",
            "w": "angry",  # Wut
            "e": "disgust",  # Ekel
            "a": "fearful",  # Angst
            "f": "happy",  # Freude
            "t": "sad",  # Trauer
            "l": LEFT_OUT,  # Langeweile, boredom: the schema has no such emotion
            "neutral": "neutral",
            "anger": "angry",
            "disgust": "disgust",
            "fear": "fearful",
            "happiness": "happy",
            "sadness": "sad",
            "boredom": LEFT_OUT,
        }
    },
    layout="wav/03a01Fa.wav",
    local_parts={"train": ("[01][0-9][ab][01][0-9][A-Z][a-z].wav",)},
)
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


def name_fields(stem: str) -> Record | None:
    """03a01Fa → speaker 03, sentence a01, F (Freude, joy), take a."""
    match = re.fullmatch(r"(\d\d)([ab]\d\d)([NWEAFTL])[a-z]", stem)
    return {"speaker": match[1], "text": SENTENCES.get(match[2], ""), "emotion": match[3]} if match else None


def read(tree: Tree, split: str) -> Iterator[Record]:
    """The names say everything."""
    yield from tree.named("*", name_fields)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
