"""The errors that S2P makes, for P2T to learn from: phonemes replaced by phonetic neighbours, dropped or added.

Neighbours are in `resources/confusions.tsv`: tones that dialects merge (ngã/hỏi), ch/tr, s/x, d/gi/r, codas of one
manner, neighbouring vowels; their weights come from the phonetics, not from counts.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from random import Random

from data_scripts.synthesis.grammar import read_resource
from data_scripts.text.phonemes import (
    A_BEFORE_PALATAL,
    CODA_SYMBOLS,
    NUCLEUS_SYMBOLS,
    SEPARATOR,
    TONE_SYMBOLS,
    phoneme_symbols,
)

# Of the symbols an error touches: what becomes of them. S2P substitutes far more often than it drops or adds.
_SUBSTITUTE, _DELETE = 0.7, 0.2
# Share of substitutions that ignore similarity: any symbol of the same kind.
_ANY_OF_KIND = 0.1


class PhonemeNoise:
    """Errors inside a set of symbols.

    Args:
        symbols: what phonemes may become; `$` and symbols outside of the set are left as they are.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        symbols = [symbol for symbol in symbols if symbol != SEPARATOR]
        nuclei = {*NUCLEUS_SYMBOLS.values(), A_BEFORE_PALATAL}
        tones = set(TONE_SYMBOLS)
        codas = {symbol for symbol in symbols if symbol.endswith("z") and symbol != "z"} | set(CODA_SYMBOLS.values())
        self._kinds: dict[str, tuple[str, ...]] = {}
        for members in (nuclei, tones, codas, set(symbols) - nuclei - tones - codas):
            kind = tuple(symbol for symbol in symbols if symbol in members)
            self._kinds.update(dict.fromkeys(kind, kind))
        weighted: dict[str, dict[str, float]] = {}
        for row in read_resource("confusions.tsv"):
            first, second, weight = row["first"], row["second"], float(row["weight"])
            if first in self._kinds and second in self._kinds:
                weighted.setdefault(first, {})[second] = weight
                weighted.setdefault(second, {})[first] = weight
        self._neighbours = {symbol: (tuple(near), tuple(near.values())) for symbol, near in weighted.items()}

    def corrupt(self, phonemes: Sequence[str], rng: Random, rate: float) -> list[str]:
        """Phonemes with errors: each is, with probability `rate`, replaced, dropped, or followed by another.

        Returns:
            A new list, never empty unless `phonemes` is.

        Raises:
            ValueError: a rate outside 0…1.
        """
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate must be between 0 and 1, got {rate}")
        corrupted: list[str] = []
        for symbol in phonemes:
            kind = self._kinds.get(symbol)
            if kind is None or rng.random() >= rate:
                corrupted.append(symbol)
                continue
            draw = rng.random()
            if draw < _SUBSTITUTE:
                options, weights = self._neighbours.get(symbol, ((), ()))
                if options and rng.random() >= _ANY_OF_KIND:
                    corrupted.append(rng.choices(options, weights)[0])
                else:
                    # A symbol that is alone of its kind has nothing to become.
                    corrupted.append(rng.choice([other for other in kind if other != symbol] or kind))
            elif draw >= _SUBSTITUTE + _DELETE:
                corrupted += [symbol, rng.choice(kind)]
        return corrupted or list(phonemes[:1])

    def corrupt_sentence(self, phonemes: Sequence[str], rng: Random, mean_rate: float) -> list[str]:
        """As `corrupt`, at a rate of the sentence's own, uniform on 0…2·`mean_rate`: some stay clean."""
        return self.corrupt(phonemes, rng, min(1.0, rng.uniform(0.0, 2.0 * mean_rate)))


@cache
def phoneme_noise(register: str) -> PhonemeNoise:
    """The errors inside a register ("full" or "vmd").

    Raises:
        ValueError: an unknown register.
    """
    return PhonemeNoise(phoneme_symbols(register))
