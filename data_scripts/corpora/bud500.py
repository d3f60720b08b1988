"""Bud500: short clips of YouTube podcasts, travel, books and food, in all three accents (VietAI).

Checked against code that reads it: Hub id, columns, splits. From documentation: hours, licence, gating. Rows have
neither speakers nor ids; ids here are made of file and row number. 634,158 / 7,500 / 7,500 rows.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="bud500",
    title="Viet_Bud500",
    hours=500,
    licence="CC BY-NC-SA 4.0",
    citation="""
@misc{bud500,
  author = {Pham, Anh and Tran, Khanh Linh and Nguyen, Linh and Cao, Thanh Duy and Phan, Phuc and Nguyen, Duong A.},
  title = {Bud500: A Comprehensive {V}ietnamese {ASR} Dataset},
  year = {2024},
  url = {https://github.com/quocanh34/Bud500},
}""",
    homepage="https://github.com/quocanh34/Bud500",
    hub_id="linhtran92/viet_bud500",
    gated=True,
    splits={"train": ("train",), "validation": ("validation",), "test": ("test",)},
    columns={"audio": "audio", "text": "transcription"},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
