"""PhoAudiobook: audiobooks cut into utterances: 940 h longer than 10 s, 554 h of shorter pieces of them.

Checked against code that reads it: Hub id, columns, the train split. From documentation: hours, terms, gating, the
other splits. Text is written text with punctuation.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="phoaudiobook",
    title="PhoAudiobook",
    hours=1494,
    licence="research and education only, no redistribution",
    citation="""
@inproceedings{vu2025phoaudiobook,
  title = {Zero-Shot Text-to-Speech for {V}ietnamese},
  author = {Vu, Thi and Nguyen, Linh The and Nguyen, Dat Quoc},
  booktitle = {Proceedings of ACL 2025},
  year = {2025},
  url = {https://arxiv.org/abs/2506.01322},
}""",
    homepage="https://huggingface.co/datasets/thivux/phoaudiobook",
    hub_id="thivux/phoaudiobook",
    gated=True,
    splits={"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)},
    columns={"audio": "audio", "text": "text", "speaker": "speaker"},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
