"""ViSEC: acted and natural emotional speech in Vietnamese, about 5,300 utterances of four emotions; no transcripts.

Checked against code that reads it: Hub id, the one split, the columns (the audio stands in `path`) and the emotions.
From documentation: the accents, the licence. For validation and test, split by speaker yourself.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="visec",
    title="ViSEC, Vietnamese Speech Emotion Corpus",
    hours=None,
    licence="CC BY 4.0",
    citation="""
@inproceedings{visec2024,
  title = {A Robust Pitch-Fusion Model for Speech Emotion Recognition in Tonal Languages},
  author = {Thanh, Pham Viet and Huyen, Ngo Thi Thu and Quan, Pham Ngoc and Trang, Nguyen Thi Thu},
  booktitle = {Proceedings of ICASSP 2024},
  year = {2024},
}""",
    homepage="https://huggingface.co/datasets/hustep-lab/ViSEC",
    hub_id="hustep-lab/ViSEC",
    splits={"train": ("train",)},
    has_text=False,
    has_emotion=True,
    columns={"audio": "path", "speaker": "speaker_id", "dialect": "accent", "emotion": "emotion"},
    labels={
        "dialect": {"north": "north", "mid": "central", "middle": "central", "central": "central", "south": "south"},
        "emotion": {"neutral": "neutral", "happy": "happy", "sad": "sad", "angry": "angry"},
    },
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
