"""Minimum-edit alignment (unit costs, rapidfuzz) and the error counts of a corpus."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from .bootstrap import DEFAULT_NUM_SAMPLES, bootstrap_interval


class Aligned(NamedTuple):
    """One step of an alignment: positions in the reference and the hypothesis, None where the side has no unit."""

    op: Literal["equal", "replace", "delete", "insert"]
    reference_index: int | None
    hypothesis_index: int | None


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Aligned]:
    """One alignment with the fewest substitutions + deletions + insertions, in reading order.

    Among equally short alignments the choice is rapidfuzz's, and it is the same on every call.

    >>> [step.op for step in align("bật đèn lên".split(), "bật lên".split())]
    ['equal', 'delete', 'equal']
    """
    reference_codes, hypothesis_codes = _encode([reference, hypothesis])
    steps: list[Aligned] = []
    blocks: list[Any] = Levenshtein.opcodes(reference_codes, hypothesis_codes).as_list()
    for op, r0, r1, h0, h1 in blocks:
        if op == "delete":
            steps += [Aligned("delete", r, None) for r in range(r0, r1)]
        elif op == "insert":
            steps += [Aligned("insert", None, h) for h in range(h0, h1)]
        else:
            steps += [Aligned(op, r, h) for r, h in zip(range(r0, r1), range(h0, h1), strict=True)]
    return steps


def _encode(sequences: Sequence[Sequence[str]]) -> list[str]:
    """Map units to single characters: rapidfuzz is several times faster on strings than on lists of strings."""
    texts = [sequence for sequence in sequences if isinstance(sequence, str)]
    if len(texts) == len(sequences):
        return texts
    codes: dict[str, str] = {}
    return ["".join([codes.setdefault(unit, chr(len(codes))) for unit in sequence]) for sequence in sequences]


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Edit errors of a corpus, one entry an utterance, each array of shape (num_utterances,) and dtype int64."""

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    reference_lengths: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, int, int, int]]) -> "ErrorCounts":
        """Build from (substitutions, deletions, insertions, reference length) of each utterance."""
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, 4)
        return cls(*flat.T)

    @property
    def errors(self) -> np.ndarray:
        """Substitutions + deletions + insertions of each utterance, shape (num_utterances,)."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def total_errors(self) -> int:
        return int(self.errors.sum())

    @property
    def total_length(self) -> int:
        return int(self.reference_lengths.sum())

    @property
    def rate(self) -> float:
        """Sum of errors over sum of reference lengths: a corpus rate, not a mean of utterance rates; may exceed 1.

        Raises:
            ValueError: no reference holds any unit.
        """
        if not self.total_length:
            raise ValueError("an error rate needs at least one non-empty reference, and none of them has a unit in it")
        return self.total_errors / self.total_length

    def summary(
        self, *, num_samples: int = DEFAULT_NUM_SAMPLES, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Any]:
        """`{"value", "low", "high", "errors", "length", "substitutions", "deletions", "insertions"}`; with
        `num_samples=0` the interval is left out."""
        out: dict[str, Any] = {"value": self.rate}
        if num_samples:
            out["low"], out["high"] = bootstrap_interval(
                self.errors, self.reference_lengths, num_samples=num_samples, confidence=confidence, seed=seed
            )
        out |= {"errors": self.total_errors, "length": self.total_length}
        return out | {name: int(getattr(self, name).sum()) for name in ("substitutions", "deletions", "insertions")}


def check_pairs(references: Sequence[Any], hypotheses: Sequence[Any]) -> None:
    """Raise ValueError unless there is one hypothesis a reference and neither side is a lone string."""
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ValueError("references and hypotheses must be lists with one entry an utterance, got a single string")
    if len(references) != len(hypotheses):
        raise ValueError(
            f"every reference needs its hypothesis: got {len(references)} references and {len(hypotheses)} hypotheses"
        )


def count_errors(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> ErrorCounts:
    """Align every pair and count. A sequence is a list of units, or a string whose characters are the units.

    An empty reference has length zero; everything its hypothesis says counts as insertions.

    Raises:
        ValueError: different numbers of references and hypotheses.
    """
    check_pairs(references, hypotheses)
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts = {"replace": 0, "delete": 0, "insert": 0}
        edits: list[Any] = Levenshtein.editops(*_encode([reference, hypothesis])).as_list()
        for op, _, _ in edits:
            counts[op] += 1
        rows.append((counts["replace"], counts["delete"], counts["insert"], len(reference)))
    return ErrorCounts.from_rows(rows)
