"""28kVigBigData: 28,000 utterances of VinBigdata's data with noise and other changes added; ready-made augmentation.

Checked against code that reads it: Hub id, the columns, the splits train_1 to train_5 (one split here) and test.
Neither hours nor licence are stated anywhere. Rows have neither speakers nor ids. By its name it is made of the data
of `vlsp2020`: no fair test after training on that, nor the other way round.
"""

from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="vigbigdata28k",
    title="28kVigBigData",
    hours=None,
    licence="none stated",
    citation="""
@misc{vigbigdata28k,
  author = {natmin322},
  title = {28k {V}ietnamese voice augmented of {VigBigData}},
  url = {https://huggingface.co/datasets/natmin322/28k_vietnamese_voice_augmented_of_VigBigData},
}""",
    homepage="https://huggingface.co/datasets/natmin322/28k_vietnamese_voice_augmented_of_VigBigData",
    hub_id="natmin322/28k_vietnamese_voice_augmented_of_VigBigData",
    splits={"train": ("train_1", "train_2", "train_3", "train_4", "train_5"), "test": ("test",)},
    columns={"audio": "audio", "text": "sentence"},
)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
