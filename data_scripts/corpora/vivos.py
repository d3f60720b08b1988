"""VIVOS: sentences read by 65 speakers in a quiet room, for speech recognition (AILAB, VNU-HCM).

Checked against the loading scripts that read it: the tree, the prompts, the files on the Hub (an archive and prompts
beside it, no parquet). From documentation: hours, licence. Prompts are in capitals; normalising lowers them.
"""

from collections.abc import Iterator

from data_scripts.corpora.facts import CorpusInfo, Record, builder_of
from data_scripts.corpora.tree import Tree

INFO = CorpusInfo(
    name="vivos",
    title="VIVOS",
    hours=15.7,
    licence="CC BY-NC-SA 4.0",
    citation="""
@inproceedings{luong-vu-2016-non,
  title = {A non-expert {K}aldi recipe for {V}ietnamese Speech Recognition System},
  author = {Luong, Hieu-Thi and Vu, Hai-Quan},
  booktitle = {Proceedings of WLSI/OIAF4HLT 2016},
  pages = {51--55},
  year = {2016},
  url = {https://aclanthology.org/W16-5207},
}""",
    homepage="https://doi.org/10.5281/zenodo.7068130",
    hub_id="AILAB-VNUHCM/vivos",
    access="vivos.tar.gz of the homepage, packed or unpacked",
    splits={"train": ("train",), "test": ("test",)},
    layout="""
vivos/train/prompts.txt                              VIVOSSPK01_R001 KHÁCH SẠN
vivos/train/waves/VIVOSSPK01/VIVOSSPK01_R001.wav     16 kHz
vivos/test/...                                       likewise
""",
    local_parts={split: (f"{split}/prompts.txt", f"prompts-{split}.txt") for split in ("train", "test")},
    hub_archives={split: (f"data/prompts-{split}.txt.gz", "data/vivos.tar.gz") for split in ("train", "test")},
)


def read(tree: Tree, split: str) -> Iterator[Record]:
    """Prompts `ID TEXT`; the start of an id names the speaker."""
    entries = {}
    for _, line in tree.lines(f"{split}/prompts.txt", f"prompts-{split}.txt"):
        name, _, text = line.strip().partition(" ")
        entries[name] = {"text": text, "speaker": name.partition("_")[0]}
    yield from tree.join(f"{split}/waves/*", entries)


__getattr__ = builder_of(f"{__package__}.{INFO.name}")

if __name__ == "__main__":
    from data_scripts.corpora.base import run_module

    run_module(INFO.name)
