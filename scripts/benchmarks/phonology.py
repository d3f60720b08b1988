"""Words per second of grapheme-to-phoneme conversion, against espeak-ng through the `phonemizer` package.

    python scripts/benchmarks/phonology.py

Words come from this package alone: Vietnamese from the grammar's 19,988 syllables, English (three words in ten of the
mixed text, labelled for us) from the bundled lexicon; each is drawn with probability 1/rank in a seeded order, as
words of running text are. Both sides get the same list in one call of their batch interface (`phonemise_batch`,
`EspeakBackend.phonemize`) in one thread; rounds alternate, and the ratio is the median of the rounds' ratios. This
converter remembers words and espeak-ng does not: `steady` is after one round that does not count, `first sight` starts
each round with an empty memory, the worst a corpus can do. Start-up counts for neither, and garbage collection is off
while either is timed, as in `timeit`. Time is the process's CPU time (both run in it), so other load matters little.
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

from data_scripts.text.english import lexicon
from data_scripts.text.g2p import G2P
from data_scripts.text.syllables import all_syllables

Line = tuple[str, list[tuple[int, int, str]]]


def make_lines(num_words: int, english_share: float, words_per_line: int, seed: int = 0) -> list[Line]:
    """Lines of (text, English spans) drawn from the package's own word lists."""
    rng = random.Random(seed)
    vocabularies = [[syllable.spell() for syllable in all_syllables()], sorted(filter(str.isalpha, lexicon()))]
    draws = []
    for words in vocabularies:
        rng.shuffle(words)
        weights = list(accumulate(1 / (rank + 1) for rank in range(len(words))))
        draws.append(rng.choices(words, cum_weights=weights, k=num_words))
    lines: list[Line] = []
    for first in range(0, num_words, words_per_line):
        text, spans = "", []
        for i in range(first, first + words_per_line):
            is_english = rng.random() < english_share
            start = len(text) + bool(text)
            text = f"{text} {draws[is_english][i]}".lstrip()
            spans += [(start, len(text), "en")] if is_english else []
        lines.append((text, spans))
    return lines


def espeak() -> Callable[[list[str]], Any]:
    """The peer's batch interface, Vietnamese voice."""
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    backend = EspeakBackend("vi", language_switch="remove-flags", words_mismatch="ignore")
    return lambda texts: backend.phonemize(texts, njobs=1)


def compare(
    name: str, lines: list[Line], peer: Callable[[list[str]], Any], rounds: int, fresh: bool
) -> dict[str, Any]:
    texts = [text for text, _ in lines]
    spans = [spans for _, spans in lines] if any(spans for _, spans in lines) else None
    num_words = sum(len(text.split()) for text in texts)
    converter = G2P()
    ours, theirs = [], []
    for round_ in range(rounds + 1):
        converter = G2P() if fresh else converter
        gc.collect()
        gc.disable()
        start = time.process_time()
        converter.phonemise_batch(texts, spans)
        middle = time.process_time()
        peer(texts)
        end = time.process_time()
        gc.enable()
        if round_:
            ours.append(num_words / (middle - start))
            theirs.append(num_words / (end - middle))
    return {
        "name": f"G2P, {name}, {'first sight' if fresh else 'steady'}",
        "peer": "espeak-ng (phonemizer)",
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": "words/s/core",
        "ratio": statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)),
    }


def run(num_words: int = 20_000, rounds: int = 7) -> list[dict[str, Any]]:
    """One dict per comparison: name, peer, ours, theirs, unit, ratio (above 1 is faster than the peer)."""
    peer = espeak()
    texts = {
        "Vietnamese words, one a line": make_lines(num_words, 0.0, 1),
        "Vietnamese words, 20 a line": make_lines(num_words, 0.0, 20),
        "mixed text, 20 words a line": make_lines(num_words, 0.3, 20),
    }
    return [compare(name, lines, peer, rounds, fresh) for name, lines in texts.items() for fresh in (False, True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--num_words", type=int, default=20_000, help="words a round")
    parser.add_argument("--rounds", type=int, default=7)
    for row in run(**vars(parser.parse_args())):
        print(f"{row['name']:<46} {row['ours']:>12,.0f} vs {row['theirs']:>8,.0f} {row['unit']}  {row['ratio']:.1f}x")
