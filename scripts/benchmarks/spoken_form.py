"""Sentences per second of reading written Vietnamese out, against the normaliser of sea-g2p (compiled Rust).

    python scripts/benchmarks/spoken_form.py

Sentences are made from this package's own word lists: 12 to 20 frequent-first syllables, of which three in ten
sentences have one to three things to read (date, price, range, unit, acronym, address ...), as encyclopaedia and news
text has; a second set has something in every sentence. Both sides get the same list in one thread; rounds alternate
and the ratio is the median of the rounds' ratios. Time is CPU time with garbage collection off, as in `timeit`. The
peer is optional: without it our own speed is given against the target of 5,000 sentences a second.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from data_scripts.text.spoken import spoken_form
from data_scripts.text.syllables import all_syllables

TARGET_PER_S = 5_000
_WRITTEN = (
    "ngày 02/09/1945", "tháng 4/2020", "lúc 14h30", "năm 2015", "1.250.000 đồng", "15,5%", "10-15 người", "tỉ số 2-1",
    "60km/h", "75 m²", "-5°C", "GDP", "UBND", "TP.HCM", "thế kỷ XXI", "quý II", "1,5 tỷ USD", "3/4", "Covid-19", "Q.1",
    "0912.345.678", "lan@gmail.com", "số 12/2024/QĐ-UBND", "5.778 chiếc", "21 tuổi", "HLV", "4G", "thứ 2",
)  # fmt: skip


def make_sentences(num_sentences: int, share: float, seed: int = 0) -> list[str]:
    """Sentences of syllables drawn with probability 1/rank; `share` of them have something to read."""
    rng = random.Random(seed)
    vocabulary = [syllable.spell() for syllable in all_syllables()]
    rng.shuffle(vocabulary)
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(vocabulary))))
    sentences = []
    for _ in range(num_sentences):
        words = rng.choices(vocabulary, cum_weights=weights, k=rng.randint(12, 20))
        if rng.random() < share:
            for written in rng.sample(_WRITTEN, rng.randint(1, 3)):
                words.insert(rng.randrange(len(words) + 1), written)
        sentences.append(" ".join(words).capitalize() + ".")
    return sentences


def peer() -> Callable[[str], Any] | None:
    """The other normaliser's function, or None where it is not installed."""
    try:
        from sea_g2p import Normalizer  # pyright: ignore[reportMissingImports] - an option
    except ImportError:
        return None
    return Normalizer().normalize


def _rate(read: Callable[[str], Any], sentences: list[str]) -> float:
    gc.collect()
    gc.disable()
    start = time.process_time()
    for sentence in sentences:
        read(sentence)
    seconds = time.process_time() - start
    gc.enable()
    return len(sentences) / seconds


def compare(name: str, sentences: list[str], rounds: int) -> dict[str, Any]:
    theirs_read = peer()
    ours, theirs = [], []
    for round_ in range(rounds + 1):
        mine = _rate(spoken_form, sentences)
        other = _rate(theirs_read, sentences) if theirs_read else float(TARGET_PER_S)
        if round_:
            ours.append(mine)
            theirs.append(other)
    return {
        "name": f"spoken form, {name}",
        "peer": "sea-g2p Normalizer" if theirs_read else "target",
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": "sentences/s/core",
        "ratio": statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
    }


def run(num_sentences: int = 5_000, rounds: int = 5) -> list[dict[str, Any]]:
    """One dict per comparison: name, peer, ours, theirs, unit, ratio (above 1 is faster than the peer)."""
    mixes = {"three sentences in ten have something to read": 0.3, "all sentences have": 1.0}
    return [compare(name, make_sentences(num_sentences, share), rounds) for name, share in mixes.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--num_sentences", type=int, default=5_000, help="sentences a round")
    parser.add_argument("--rounds", type=int, default=5)
    for row in run(**vars(parser.parse_args())):
        print(f"{row['name']:<62} {row['ours']:>9,.0f} vs {row['theirs']:>8,.0f} {row['unit']}  {row['ratio']:.1f}x")
