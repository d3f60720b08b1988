"""Endless sentences: row i depends on (seed, i) alone, no sentence comes twice, splits never share one.

Row i is found directly, so a stream of millions needs no memory and any slice of it can be made on any machine.
Distinctness needs no record of what was written either: Vietnamese and code-switched rows interleave at the asked
share, templates take turns, the k-th turn of a template writes sentence π(k) with π a seeded permutation of its
sentences, and the grammar is checked to write every sentence in one way only. A template whose sentences are used up
drops out of the turns.

Span convention, everywhere in this package: `spans` lists every maximal run of English; all else is Vietnamese. An
empty list therefore means that the sentence holds no English.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypedDict

from data_scripts.spans import Span
from data_scripts.synthesis.grammar import Grammar, Template, demo_grammar

SPLITS: dict[str, float] = {"train": 0.9, "validation": 0.05, "test": 0.05}
"""Share of all sentences in each split; a sentence keeps its split for ever, whatever the seed."""


class SentenceRow(TypedDict):
    """One labelled sentence."""

    id: str
    text: str
    spans: list[Span]
    split: str
    corpus: str


def split_of(text: str) -> str:
    """The split a sentence belongs to, from a hash of its text: the same on every machine and for every seed."""
    position = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    edge = 0.0
    for name, share in SPLITS.items():
        edge += share
        if position < edge:
            return name
    return next(reversed(SPLITS))


class SentenceStream:
    """All sentences of a grammar in a seeded order, by index.

    Args:
        seed: order of the sentences.
        code_switched_share: share of rows with English words, from 0 to 1.
        grammar: templates and slots; the embedded demo domain by default.
        corpus: name written into the rows and their ids.

    Raises:
        ValueError: a share outside 0…1, or one the grammar has no templates for.
    """

    def __init__(
        self, seed: int = 0, code_switched_share: float = 0.5, grammar: Grammar | None = None, corpus: str = "demo"
    ) -> None:
        if not 0.0 <= code_switched_share <= 1.0:
            raise ValueError(f"code_switched_share must be between 0 and 1, got {code_switched_share}")
        grammar = grammar or demo_grammar()
        self.seed, self.code_switched_share, self.corpus = seed, code_switched_share, corpus
        self._turns = [
            _Turns([t for t in grammar.templates if t.code_switched == switched], seed) for switched in (False, True)
        ]
        for share, turns, kind in (
            (1 - code_switched_share, self._turns[False], "Vietnamese"),
            (code_switched_share, self._turns[True], "code-switched"),
        ):
            if share > 0 and not turns.capacity:
                raise ValueError(f"code_switched_share={code_switched_share}: the grammar has no {kind} templates")
        self._length = self._count_rows()

    def __len__(self) -> int:
        """Number of rows until one of the two kinds has no sentence left."""
        return self._length

    def _count_rows(self) -> int:
        vietnamese, switched = (turns.capacity for turns in self._turns)
        low, high = 0, vietnamese + switched
        while low < high:
            middle = (low + high + 1) // 2
            count = self._switched_before(middle)
            fits = count <= switched and middle - count <= vietnamese
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def __getitem__(self, index: int) -> SentenceRow:
        """Row `index`, from (seed, index) alone.

        Raises:
            IndexError: the grammar has no such many distinct sentences at this share.
        """
        if not 0 <= index < self._length:
            raise IndexError(
                f"sentence {index}: this grammar has {self._length} distinct sentences at code_switched_share="
                f"{self.code_switched_share}; ask for fewer, or add templates"
            )
        return self._row(index)

    def rows(self, start: int = 0, split: str | None = None) -> Iterator[SentenceRow]:
        """Rows from `start` to the end, all of them or those of one split."""
        if split is not None and split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        for index in range(start, self._length):
            row = self._row(index)
            if split is None or row["split"] == split:
                yield row

    def _switched_before(self, index: int) -> int:
        return int(index * self.code_switched_share)

    def _row(self, index: int) -> SentenceRow:
        before = self._switched_before(index)
        switched = self._switched_before(index + 1) > before
        text, spans = self._turns[switched].sentence(before if switched else index - before)
        row_id = f"{self.corpus}-{self.seed}-{index:08d}"
        return SentenceRow(id=row_id, text=text, spans=spans, split=split_of(text), corpus=self.corpus)


def generate_sentences(
    n: int,
    seed: int = 0,
    *,
    split: str | None = None,
    code_switched_share: float = 0.5,
    start: int = 0,
    grammar: Grammar | None = None,
) -> Iterator[SentenceRow]:
    """The first `n` distinct sentences of the seeded stream, streamed; with `split`, the first `n` of that split.

    Args:
        n: number of rows.
        seed: order of the sentences.
        split: "train", "validation" or "test" (never sharing a sentence), or None for all.
        code_switched_share: share of rows with English words.
        start: index in the unsplit stream to begin at, for work in slices.
        grammar: the embedded demo domain by default.

    Raises:
        ValueError: fewer than `n` distinct sentences exist, or an argument is out of range.
    """
    stream = SentenceStream(seed, code_switched_share, grammar)
    count = 0
    if n > 0:
        for row in stream.rows(start, split):
            yield row
            count += 1
            if count == n:
                return
    if count < n:
        raise ValueError(f"asked for {n} sentences from {start} on (split={split}); only {count} distinct ones exist")


def write_sentences(rows: Iterable[SentenceRow], path: str | Path) -> int:
    """Rows as JSON lines; the file appears when it is complete. Returns their number."""
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(part, path)
    return count


def read_sentences(path: str | Path) -> Iterator[SentenceRow]:
    """Rows of a JSON lines file, streamed; all but `text` may be missing (no spans: all Vietnamese).

    Raises:
        ValueError: a line that is no JSON object with a `text` string; the message names file and line.
    """
    path = Path(path)
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                text = row["text"]
                if not isinstance(text, str):
                    raise TypeError(f"text is {text!r}")
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: expected a JSON object with a text, got {line[:80]!r}") from error
            yield SentenceRow(
                id=str(row.get("id") or f"{path.stem}-{number:08d}"),
                text=text,
                spans=row.get("spans") or [],
                split=row.get("split") or split_of(text),
                corpus=row.get("corpus") or path.stem,
            )


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of turns with the same templates."""

    start: int
    turns_before: int
    templates: tuple[Template, ...]


class _Turns:
    """Templates taking turns until each has written all its sentences, random access."""

    def __init__(self, templates: list[Template], seed: int) -> None:
        capacities = {t.id: t.capacity for t in templates}
        self.capacity = sum(capacities.values())
        self._permutations = {t.id: (capacities[t.id], _mix(_key(t.id), seed ^ 0x9E3779B9)) for t in templates}
        order = sorted(templates, key=lambda t: _mix(_key(t.id), seed))
        self._phases: list[_Phase] = []
        start = turns = 0
        for limit in sorted(set(capacities.values())):
            alive = tuple(t for t in order if capacities[t.id] >= limit)
            self._phases.append(_Phase(start, turns, alive))
            start += (limit - turns) * len(alive)
            turns = limit
        self._starts = [phase.start for phase in self._phases]

    def sentence(self, index: int) -> tuple[str, list[Span]]:
        phase = self._phases[bisect_right(self._starts, index) - 1]
        turn, place = divmod(index - phase.start, len(phase.templates))
        template = phase.templates[place]
        return template.sentence(permute(phase.turns_before + turn, *self._permutations[template.id]))


def permute(index: int, size: int, key: int) -> int:
    """Image of `index` under a keyed pseudo-random permutation of range(size), without listing it.

    A four-round Feistel network permutes the next even power of two; walking its cycle until the value falls inside
    keeps it a permutation of range(size).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for stage in range(4):
            left, right = right, left ^ (_mix(right + (stage << 32), key) & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _mix(value: int, key: int) -> int:
    """splitmix64 finaliser: 64 well-mixed bits of (value, key)."""
    z = (value * 0x9E3779B97F4A7C15 + key * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
