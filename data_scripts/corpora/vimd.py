"""ViMD: news and talks of the stations of all 63 provinces, about 300 utterances a province (UIT).

Checked against its card and code that reads it: Hub id, columns, splits, the regions North, Central and South, audio
of 44.1 kHz. From documentation: hours. The card states no licence; others report CC BY-NC-ND 4.0. Splits share no
speaker. 15,023 / 1,900 / 2,026 rows; utterances are long (19 s on average).
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="vimd",
    title="ViMD, Vietnamese Multi-Dialect",
    hours=102.6,
    licence="none stated (CC BY-NC-ND 4.0 as reported)",
    citation="""
@inproceedings{dinh-etal-2024-multi,
  title = {Multi-Dialect {V}ietnamese: Task, Dataset, Baseline Models and Challenges},
  author = {Dinh, Nguyen and Dang, Thanh and Thanh Nguyen, Luan and Nguyen, Kiet},
  booktitle = {Proceedings of EMNLP 2024},
  pages = {7476--7498},
  year = {2024},
  url = {https://aclanthology.org/2024.emnlp-main.426},
}""",
    homepage="https://github.com/nguyen-dv/ViMD_Dataset",
    hub_id="nguyendv02/ViMD_Dataset",
    splits={"train": ("train",), "validation": ("valid", "validation"), "test": ("test",)},
    columns={"audio": "audio", "text": "text", "speaker": "speakerID", "dialect": "region", "id": "filename"},
    labels={"dialect": {"north": "north", "central": "central", "south": "south"}},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
