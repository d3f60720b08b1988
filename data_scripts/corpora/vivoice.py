"""viVoice: sentences cut from YouTube channels, made for speech synthesis; written text with punctuation.

Checked against code that reads it: Hub id, columns. From documentation: hours, licence, gating. 887,772 rows of 24 kHz
audio, which is resampled when it is read. The channel stands for the speaker; channels may have several.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="vivoice",
    title="viVoice",
    hours=1017,
    licence="CC BY-NC-SA 4.0",
    citation="""
@misc{vivoice,
  author = {Le Phuoc Gia, Thinh and Pham Minh, Tuan and Nguyen Quoc, Hung and Nguyen Quoc, Trung and
    Truong Hoang, Vinh},
  title = {{viVoice}: Enabling {V}ietnamese Multi-Speaker Speech Synthesis},
  year = {2024},
  url = {https://github.com/thinhlpg/viVoice},
}""",
    homepage="https://github.com/thinhlpg/viVoice",
    hub_id="capleaf/viVoice",
    gated=True,
    splits={"train": ("train",)},
    columns={"audio": "audio", "text": "text", "speaker": "channel"},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
