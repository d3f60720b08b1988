"""Makes the tables in `resources/` from the files they come from (see resources/LICENSES.md).

    python -m data_scripts.text.build_resources --cmudict cmudict.dict --loanwords non-vietnamese-words.csv

CMUdict loses comments, entries with characters other than a-z and apostrophes or without a vowel, pronunciations
beyond the second, and regular inflections whose only pronunciation follows from the stem. The loanword list loses
entries that are not spelled in Vietnamese syllables (bare consonants before them allowed).
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
from pathlib import Path

from data_scripts.text.english import inflect, loan_phonemes

logger = logging.getLogger(__name__)
RESOURCES = Path(__file__).parent / "resources"
_WORD = re.compile(r"[a-z][a-z']*")
_HEADER = "# {title}. Licence and changes: LICENSES.md. Made by data_scripts/text/build_resources.py\n"


def build_cmudict(source: Path) -> dict[str, str]:
    """Word -> "PHONES|PHONES", without what `inflect` gives back."""
    entries: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        word, _, phones = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", word.lower())
        if _WORD.fullmatch(word) and any(char.isdigit() for char in phones):
            entries.setdefault(word, []).append(phones)
    kept: dict[str, str] = {}
    for word in sorted(entries, key=lambda word: (len(word), word)):
        pronunciations = list(dict.fromkeys(entries[word]))[:2]
        if pronunciations != [" ".join(inflect(word, kept) or ())]:
            kept[word] = "|".join(pronunciations)
    logger.info("cmudict: %d words of %d kept", len(kept), len(entries))
    return kept


def build_loanwords(source: Path) -> dict[str, str]:
    """English word -> hyphenated Vietnamese syllables."""
    kept: dict[str, str] = {}
    total = 0
    with source.open(encoding="utf-8", newline="") as file:
        for row in [row for row in csv.reader(file) if len(row) > 1][1:]:
            total += 1
            word, spelled = row[0].strip().lower(), "-".join(",".join(row[1:]).lower().split())
            if _WORD.fullmatch(word) and loan_phonemes(spelled):
                kept.setdefault(word, spelled)
    logger.info("loanwords: %d words of %d kept", len(kept), total)
    return kept


def write_tsv(path: Path, title: str, table: dict[str, str]) -> None:
    lines = [f"{word}\t{value}\n" for word, value in sorted(table.items())]
    path.write_text(_HEADER.format(title=title) + "".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cmudict", type=Path, required=True, help="cmudict.dict of github.com/cmusphinx/cmudict")
    parser.add_argument("--loanwords", type=Path, required=True, help="non-vietnamese-words.csv of vietnormalizer")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_tsv(RESOURCES / "cmudict.tsv", "CMUdict, reduced", build_cmudict(args.cmudict))
    write_tsv(
        RESOURCES / "english_vietnamese.tsv", "English words in Vietnamese spelling", build_loanwords(args.loanwords)
    )


if __name__ == "__main__":
    main()
