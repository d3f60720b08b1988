"""VLSP 2023, speech recognition and speech emotion recognition: what participants were given.

The organisers hand it out under an agreement, so there is no Hub form. The layout here is our own choice, since theirs
is not published: bring the folder into it. Emotions of the task are neutral and negative; others of the schema may
stand in the table as well.
"""

from data_scripts.corpora import user_folder
from data_scripts.corpora.facts import CorpusInfo, builder_of

INFO = CorpusInfo(
    name="vlsp2023",
    title="VLSP 2023 ASR-SER",
    hours=None,
    licence="agreement with the organisers",
    citation="""
@misc{vlsp2023,
  author = {{Association for Vietnamese Language and Speech Processing}},
  title = {{VLSP} 2023 shared task: speech recognition and speech emotion recognition},
  year = {2023},
  url = {https://vlsp.org.vn/vlsp2023},
}""",
    homepage="https://vlsp.org.vn/vlsp2023",
    access="ask the organisers of the shared task",
    splits=user_folder.NAMES,
    has_emotion=True,
    layout=user_folder.LAYOUT,
    local_parts=user_folder.PARTS,
)
read = user_folder.read

__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
