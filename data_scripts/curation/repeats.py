"""Rows that come twice: the same recording, the same sentence too often, sentences of the test set in training data.

Recordings and sentences are compared by 64-bit digests, 16 bytes a row: a chance of 3 in a million that any two of ten
million rows are confused. The first of several rows, in the order in which they were added, is the one that stays.
"""

import hashlib
import math
import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from data_scripts.curation.rules import Finding

REPEAT_CODES = {
    "same_audio": "the same recording as an earlier row",
    "text_repeated": "the same sentence as often before as is allowed",
    "text_held_out": "a sentence of a held-out set, or nearly so: training on it would flatter the test",
}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RepeatSettings:
    """What counts as too much."""

    same_audio: bool = True
    """Drop a recording that an earlier row has, byte for byte."""
    max_same_text: int | None = None
    """How many rows may have the same sentence; None is any number."""
    same_text_within: Literal["speaker", "corpus", "all"] = "speaker"
    """Count a sentence for each speaker of each corpus, for each corpus, or over everything."""

    def __post_init__(self) -> None:
        if self.max_same_text is not None and self.max_same_text < 1:
            raise ValueError(f"max_same_text must be at least 1, got {self.max_same_text}")
        if self.same_text_within not in ("speaker", "corpus", "all"):
            raise ValueError(f"same_text_within is one of speaker, corpus, all, got {self.same_text_within!r}")


class RepeatIndex:
    """Digests of the rows seen so far; add every row once, in order, then ask.

    >>> index = RepeatIndex(RepeatSettings(max_same_text=1, same_text_within="all"))
    >>> for text in ("xin chào", "cảm ơn", "xin chào"):
    ...     index.add({"text": text})
    >>> index.find()
    {2: [Finding(code='text_repeated', detail='as row 0')]}
    """

    def __init__(self, settings: RepeatSettings) -> None:
        self.settings = settings
        self._audio, self._texts = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._audio)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row with any of `audio`, `text`, `speaker`, `corpus`. Unreadable files have no repeats."""
        self._audio.append(audio_digest(row.get("audio")) if self.settings.same_audio else 0)
        text, within = row.get("text") or "", self.settings.same_text_within
        if not text or self.settings.max_same_text is None:
            self._texts.append(0)
            return
        scope = [] if within == "all" else [row.get("corpus") or ""]
        if within == "speaker":
            scope.append(row.get("speaker") or "")
        self._texts.append(_digest("\0".join([*scope, text]).encode("utf-8", "surrogatepass")))

    def extend(self, later: "RepeatIndex") -> None:
        """Append what another index has seen, as if its rows had been added here now."""
        self._audio.extend(later._audio)
        self._texts.extend(later._texts)

    def find(self) -> dict[int, list[Finding]]:
        """Row number (from 0) → why it should go; rows that may stay are not in it."""
        found: dict[int, list[Finding]] = {}
        for code, digests, allowed in (
            ("same_audio", self._audio, 1),
            ("text_repeated", self._texts, self.settings.max_same_text or 1),
        ):
            for number, first in zip(*_beyond(np.frombuffer(digests, np.uint64), allowed), strict=True):
                found.setdefault(number, []).append(Finding(code, f"as row {first}"))
        return dict(sorted(found.items()))


def _beyond(digests: np.ndarray, allowed: int) -> tuple[list[int], list[int]]:
    """(places that have the digest of at least `allowed` earlier ones, the first place of each); 0 is no digest."""
    places = np.flatnonzero(digests)
    places = places[np.argsort(digests[places], kind="stable")]
    starts = np.flatnonzero(np.diff(digests[places], prepend=np.uint64(0)))
    group = np.repeat(starts, np.diff(starts, append=len(places)))
    late = np.arange(len(places)) - group >= allowed
    return places[late].tolist(), places[group[late]].tolist()


def audio_digest(audio: Mapping[str, Any] | None) -> int:
    """64 bits that tell encoded recordings apart; 0 where there is none or the file cannot be read."""
    if not audio:
        return 0
    if audio.get("bytes") is not None:
        return _digest(audio["bytes"])
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(os.fspath(audio["path"]), "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, KeyError, TypeError):
        return 0
    return int.from_bytes(digest.digest(), "big") or 1


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") or 1


class Match(NamedTuple):
    """A held-out text and how like it another one is: 1 − word edits / words of the longer one."""

    text: str
    similarity: float


class HeldOutTexts:
    """Sentences of test and validation sets, asked whether a sentence to train on is one of them or nearly so.

    Exact, and yet few texts are compared: k edits leave one of k + 1 pieces of a sentence whole, so every one that is
    near enough holds such a piece, and pieces are found in a table. 40,000 questions a second on one core.

    Args:
        texts: normalised.
        min_similarity: from which similarity on two texts are the same; 1 finds equal ones only.
    """

    def __init__(self, texts: Iterable[str], min_similarity: float = 0.9) -> None:
        if not 0.5 <= min_similarity <= 1:
            raise ValueError(f"min_similarity must be from 0.5 to 1, got {min_similarity}")
        self.min_similarity = min_similarity
        self.texts = sorted({" ".join(words) for text in texts if (words := text.split())})
        self._words = [text.split() for text in self.texts]
        self._owners: dict[str, list[int]] = {}  # piece → texts that have it
        self._sizes: dict[int, set[int]] = {}  # words of a text → words of its pieces
        for number, words in enumerate(self._words):
            for piece in _pieces(words, self._max_edits(len(words)) + 1):
                self._owners.setdefault(" ".join(piece), []).append(number)
                self._sizes.setdefault(len(words), set()).add(len(piece))

    def find(self, text: str) -> Match | None:
        """The most similar held-out text, the alphabetically first of several; None if none is near enough."""
        words, best = text.split(), None
        for number in self._candidates(words):
            longest = max(len(words), len(self._words[number]))
            edits = Levenshtein.distance(words, self._words[number], score_cutoff=self._allowed(longest))
            if edits <= self._allowed(longest) and (best is None or edits / longest < best[0]):
                best = edits / longest, number
        return Match(self.texts[best[1]], 1 - best[0]) if best else None

    def finding(self, text: str) -> Finding | None:
        """`find` as a reason to drop a row."""
        match = self.find(text)
        return Finding("text_held_out", f"{match.similarity:.0%} as {match.text[:80]!r}") if match else None

    def _candidates(self, words: list[str]) -> list[int]:
        """Texts of a fitting length that share a piece."""
        most = self._max_edits(len(words))
        lengths = range(len(words) - most, len(words) + most + 1)
        sizes = set().union(*(self._sizes.get(length, ()) for length in lengths))
        found: set[int] = set()
        for size in sizes:
            for start in range(len(words) - size + 1):
                found.update(self._owners.get(" ".join(words[start : start + size]), ()))
        return sorted(found)

    def _allowed(self, num_words: int) -> int:
        """Edits that leave texts similar of which the longer has so many words."""
        return math.floor((1 - self.min_similarity) * num_words + 1e-9)

    def _max_edits(self, num_words: int) -> int:
        """Most edits between a text of so many words and any similar one, which may be longer."""
        return self._allowed(math.floor(num_words / self.min_similarity + 1e-9))


def _pieces(words: list[str], number: int) -> list[list[str]]:
    """The words in so many runs of nearly equal length."""
    edges = [len(words) * i // number for i in range(number + 1)]
    return [words[start:end] for start, end in pairwise(edges) if end > start]
