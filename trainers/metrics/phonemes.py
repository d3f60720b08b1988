"""Phoneme error rate in both registers of the phoneme inventory.

`full` is reversible and `vmd` (the paper's set) is a pure function of it, so a model trained in `full` is always
scored in both. The map has no inverse: a model trained in `vmd` is scored in `vmd` alone.
"""

from collections.abc import Sequence
from typing import Literal

from data_scripts.text.phonemes import full_to_vmd

from .alignment import ErrorCounts, check_pairs, count_errors

Register = Literal["full", "vmd"]
REGISTERS: tuple[Register, ...] = ("full", "vmd")
# Not sounds: a missing end mark or word boundary is not a phoneme error.
_SILENT = frozenset({"<pad>", "</s>", "<s>", "$"})


def phoneme_list(phonemes: str | Sequence[str]) -> list[str]:
    """Symbols of a sequence given as a list or space-joined, without `<s>`, `</s>`, `<pad>` and the separator `$`.

    `<unk>` stays: a reference that the inventory cannot write must not become shorter by it.
    """
    symbols = phonemes.split() if isinstance(phonemes, str) else phonemes
    return [symbol for symbol in symbols if symbol not in _SILENT]


def phoneme_error_counts(
    references: Sequence[str | Sequence[str]], hypotheses: Sequence[str | Sequence[str]], register: Register = "full"
) -> dict[str, ErrorCounts]:
    """`{"per_full", "per_vmd"}` counts for register `full`, `{"per_vmd"}` alone for `vmd`."""
    if register not in REGISTERS:
        raise ValueError(f"register must be one of {', '.join(REGISTERS)}, got {register!r}")
    check_pairs(references, hypotheses)
    sides = [[phoneme_list(sequence) for sequence in side] for side in (references, hypotheses)]
    if register == "vmd":
        return {"per_vmd": count_errors(*sides)}
    return {
        "per_full": count_errors(*sides),
        "per_vmd": count_errors(*[[full_to_vmd(sequence) for sequence in side] for side in sides]),
    }


def phoneme_error_rate(
    references: Sequence[str | Sequence[str]], hypotheses: Sequence[str | Sequence[str]], register: Register = "full"
) -> dict[str, float]:
    """Corpus phoneme error rate (tones count as phonemes, as in the paper).

    Args:
        references: canonical pronunciations, one sequence an utterance: a list of symbols or `"t i -0"`.
        hypotheses: recognised phonemes in the same register and order.
        register: the register both sides are written in.

    Returns:
        `{"per_full", "per_vmd"}` as fractions, or `{"per_vmd"}` when `register="vmd"`.

    Raises:
        ValueError: the lists differ in length, no reference has a phoneme, or the register is unknown.
    """
    return {name: counts.rate for name, counts in phoneme_error_counts(references, hypotheses, register).items()}
