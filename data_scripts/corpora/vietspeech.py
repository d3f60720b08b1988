"""VietSpeech (VSV-1100): over a million utterances of social media, transcribed automatically (UIT).

Checked against its card: Hub id, columns, the one split, row count. From documentation: licence, gating. Rows have
neither speakers nor ids; ids here are made of file and row number.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="vietspeech",
    title="VietSpeech (VSV-1100)",
    hours=1100,
    licence="Apache 2.0",
    citation="""
@misc{vsv1100,
  author = {Pham Quang Nhut and Duong Pham Hoang Anh and Nguyen Vinh Tiep},
  title = {{VSV-1100}: {V}ietnamese social voice dataset},
  year = {2024},
  url = {https://github.com/NhutP/VSV-1100},
}""",
    homepage="https://github.com/NhutP/VSV-1100",
    hub_id="NhutP/VSV-1100",
    gated=True,
    splits={"train": ("train",)},
    columns={"audio": "audio", "text": "transcription"},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
