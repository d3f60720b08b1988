"""Words that give an emotion away: the linguistic correction of the VLSP 2025 paper, section 3.3.

A classifier that hears "tao với mày hết nghĩa" (you and I are through, said with the rudest pronouns) in a calm voice
calls it neutral; the words know better. `EmotionRules` reads cues from an editable lexicon
(`resources/emotion_lexicon.json`) and turns neutral into negative where a cue is heard and the model itself gave
negative some probability. It never turns anything else, so it can follow any system.

Texts are compared syllable by syllable in the one written form of `data_scripts.text.normalize`: Unicode form, letter
case, punctuation and the place of the tone mark do not matter, the tone does ("mày", rude you, is not "may", luck).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .normalize import normalize_text

NEUTRAL, NEGATIVE = "neutral", "negative"
LEXICON = Path(__file__).parent / "resources" / "emotion_lexicon.json"
_FILE_KEYS = {"version": str, "comment": list, "threshold": float, "kinds": dict, "entries": list}
_ENTRY_KEYS = {"cue": str, "kind": str, "weight": float, "exceptions": list, "comment": str}
_TYPE_NAMES = {str: "text", list: "a list of texts", float: "a number", dict: "a mapping of texts"}


class EmotionRulesError(ValueError):
    """A lexicon that cannot be used; the message names the file, the entry and what is allowed."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One cue as it was heard: the syllables [start, end) of the normalised text; alone it suffices from weight 1."""

    text: str
    kind: str
    weight: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Revision:
    """The label after the rules, whether they changed it, and every cue that was heard."""

    label: str
    changed: bool
    cues: tuple[Cue, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the lexicon, normalised: `cue` and each of `exceptions` is a tuple of syllables."""

    cue: tuple[str, ...]
    kind: str
    weight: float
    exceptions: tuple[tuple[str, ...], ...] = ()


class TunedThreshold(NamedTuple):
    """The best threshold on some texts. Unweighted average recalls are fractions, without and with the rules."""

    threshold: float
    uar_before: float
    uar_after: float
    num_heard: int
    num_changed: int


@dataclass(frozen=True)
class EmotionRules:
    """Cues and a threshold; make one with `load`.

    threshold: a neutral utterance with cues becomes negative where the model's probability of negative is at least
    this, 0 to 1. With two classes, above 0.5 nothing changes.
    """

    entries: tuple[Entry, ...]
    threshold: float
    version: str
    _starts: dict[str, list[Entry]] = field(init=False, repr=False, compare=False)
    _exceptions: dict[str, list[tuple[str, ...]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise EmotionRulesError(f"threshold must be from 0 to 1, got {self.threshold}")
        # Longest first: where several cues start at one syllable, the longest is the one that was meant.
        longest = sorted(self.entries, key=lambda entry: -len(entry.cue))
        starts: dict[str, list[Entry]] = {}
        for entry in longest:
            starts.setdefault(entry.cue[0], []).append(entry)
        exceptions: dict[str, list[tuple[str, ...]]] = {}
        for phrase in {phrase for entry in self.entries for phrase in entry.exceptions}:
            exceptions.setdefault(phrase[0], []).append(phrase)
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_exceptions", exceptions)

    @classmethod
    def load(cls, path: str | Path | None = None, *, threshold: float | None = None) -> "EmotionRules":
        """Read a lexicon.

        Args:
            path: a JSON file shaped as the shipped one; None is the shipped one.
            threshold: instead of that of the file.

        Raises:
            EmotionRulesError: no such file, no JSON, or an entry that is not allowed; the message says which.
        """
        file = LEXICON if path is None else Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise EmotionRulesError(f"{file}: cannot be read as UTF-8 text: {error}") from error
        except json.JSONDecodeError as error:
            raise EmotionRulesError(f"{file}:{error.lineno}: no JSON: {error.msg}") from error
        rules = _read_lexicon(data, str(file))
        return rules if threshold is None else rules.with_threshold(threshold)

    def with_threshold(self, threshold: float) -> "EmotionRules":
        """The same cues with another threshold."""
        return replace(self, threshold=threshold)

    def cues(self, text: str) -> list[Cue]:
        """Every cue in reading order, without those that reach into an exception ("lông mày", eyebrow)."""
        syllables = normalize_text(text).split()
        covered = [
            (start, start + len(phrase))
            for start, first in enumerate(syllables)
            for phrase in self._exceptions.get(first, ())
            if tuple(syllables[start : start + len(phrase)]) == phrase
        ]
        found: list[Cue] = []
        start = 0
        while start < len(syllables):
            for entry in self._starts.get(syllables[start], ()):
                end = start + len(entry.cue)
                same = tuple(syllables[start:end]) == entry.cue
                # Overlapping, and not a part of the cue itself.
                excepted = any(low < end and start < high and (low < start or end < high) for low, high in covered)
                if same and not excepted:
                    found.append(Cue(" ".join(entry.cue), entry.kind, entry.weight, start, end))
                    start = end
                    break
            else:
                start += 1
        return found

    def suffices(self, cues: Sequence[Cue]) -> bool:
        """Whether the cues of one utterance are enough: the weights of different ones add up to 1 or more."""
        return math.fsum({cue.text: cue.weight for cue in cues}.values()) >= 1 - 1e-9

    def revise(self, text: str, scores: Mapping[str, float]) -> Revision:
        """The label of one utterance after the rules.

        Args:
            text: what was said or recognised.
            scores: probability of each class, `neutral` and `negative` among them; the label before is the most
                probable one, the first of them in a tie.

        Raises:
            ValueError: a class is missing, or a score is no probability.
        """
        if missing := [name for name in (NEUTRAL, NEGATIVE) if name not in scores]:
            raise ValueError(
                f"the rules need the probabilities of {NEUTRAL} and {NEGATIVE}; {', '.join(missing)} is not among "
                f"the classes {', '.join(scores)}"
            )
        if wrong := {name: value for name, value in scores.items() if not -1e-6 <= value <= 1 + 1e-6}:
            raise ValueError(f"probabilities are from 0 to 1, got {wrong}")
        label = max(scores, key=lambda name: scores[name])
        cues = tuple(self.cues(text))
        changed = label == NEUTRAL and scores[NEGATIVE] >= self.threshold and self.suffices(cues)
        return Revision(NEGATIVE if changed else label, changed, cues)

    def tune_threshold(
        self, texts: Sequence[str], negative_probabilities: Sequence[float] | np.ndarray, references: Sequence[str]
    ) -> TunedThreshold:
        """The threshold with the highest unweighted average recall, of two classes, on validation data.

        Among equally good ones the highest, which changes least. 1 means that the rules only do harm here. Without a
        cue in any neutral-labelled text nothing can be learnt and the threshold stays as it is.

        Args:
            negative_probabilities: shape (num_utterances,); the label before is negative above 0.5.
            references: `neutral` or `negative`, both occurring.

        Raises:
            ValueError: lists of different lengths, another class, only one class, or a number that is no probability.
        """
        negative_N = np.asarray(negative_probabilities, dtype=np.float64)
        if not len(texts) == len(references) == len(negative_N) or negative_N.ndim != 1:
            raise ValueError(
                f"one text, one probability and one reference an utterance: got {len(texts)} texts, probabilities "
                f"of shape {negative_N.shape} and {len(references)} references"
            )
        if set(references) != {NEUTRAL, NEGATIVE}:
            raise ValueError(f"references must hold {NEUTRAL} and {NEGATIVE}, got {sorted(set(references)) or 'none'}")
        if not np.all((negative_N >= 0) & (negative_N <= 1)):
            raise ValueError("negative_probabilities must be from 0 to 1")
        truth_N = np.array([label == NEGATIVE for label in references])
        # A turned utterance adds to the recall of negative or takes from that of neutral.
        gain_N = np.where(truth_N, 0.5 / truth_N.sum(), -0.5 / (~truth_N).sum())
        said_N = negative_N > 0.5
        before = float(0.5 * (said_N[truth_N].mean() + (~said_N)[~truth_N].mean()))
        heard_N = np.array([self.suffices(self.cues(text)) for text in texts]) & ~said_N
        if not heard_N.any():
            return TunedThreshold(self.threshold, before, before, 0, 0)
        candidates = np.unique(negative_N[heard_N])[::-1]
        gains = np.array([gain_N[heard_N & (negative_N >= candidate)].sum() for candidate in candidates])
        # The first of those that are equal but for rounding.
        best = int(np.flatnonzero(gains >= gains.max() - 1e-12)[0])
        if gains[best] <= 1e-12:
            return TunedThreshold(1.0, before, before, int(heard_N.sum()), 0)
        threshold = float(candidates[best])
        changed = int((heard_N & (negative_N >= threshold)).sum())
        return TunedThreshold(threshold, before, before + float(gains[best]), int(heard_N.sum()), changed)


def _read_lexicon(data: Any, file: str) -> EmotionRules:
    if not isinstance(data, dict):
        raise EmotionRulesError(f"{file}: must hold one mapping with keys {', '.join(_FILE_KEYS)}")
    _check_keys(data, _FILE_KEYS, ("version", "threshold", "kinds", "entries"), file)
    if not data["entries"]:
        raise EmotionRulesError(f"{file}: entries is empty: list at least one {{cue, kind, weight}}")
    entries: dict[tuple[str, ...], Entry] = {}
    for number, raw in enumerate(data["entries"], start=1):
        where = f"{file}: entry {number}"
        if not isinstance(raw, dict):
            raise EmotionRulesError(f"{where}: must be a mapping with keys {', '.join(_ENTRY_KEYS)}, got {raw!r}")
        _check_keys(raw, _ENTRY_KEYS, ("cue", "kind", "weight"), f"{where} ({raw.get('cue', 'no cue')})")
        entry = _read_entry(raw, data["kinds"], f"{where} ({raw['cue']})")
        if entry.cue in entries:
            raise EmotionRulesError(f"{where} ({raw['cue']}): this cue was listed before; keep one of them")
        entries[entry.cue] = entry
    try:
        return EmotionRules(tuple(entries.values()), float(data["threshold"]), data["version"])
    except EmotionRulesError as error:
        raise EmotionRulesError(f"{file}: {error}") from None


def _check_keys(data: dict[str, Any], kinds: dict[str, type], required: Sequence[str], where: str) -> None:
    for key, value in data.items():
        if key not in kinds:
            raise EmotionRulesError(f"{where}: unknown key {key!r}; allowed are {', '.join(kinds)}")
        kind = kinds[key]
        right = isinstance(value, kind) if kind is not float else type(value) in (int, float)
        # A long comment may be a list of lines; entries are checked one by one.
        if kind is list and key != "entries":
            right = right and all(isinstance(item, str) for item in value)
        if not (right or (key == "comment" and isinstance(value, str))):
            raise EmotionRulesError(f"{where}: {key} must be {_TYPE_NAMES[kind]}, got {value!r}")
    if missing := [key for key in required if key not in data]:
        raise EmotionRulesError(f"{where}: {', '.join(missing)} is missing; required are {', '.join(required)}")


def _read_entry(raw: dict[str, Any], kinds: dict[str, str], where: str) -> Entry:
    if raw["kind"] not in kinds:
        raise EmotionRulesError(f"{where}: unknown kind {raw['kind']!r}; kinds of this file are {', '.join(kinds)}")
    if not 0 < raw["weight"] <= 1:
        raise EmotionRulesError(f"{where}: weight must be above 0 and at most 1 (enough alone), got {raw['weight']}")
    cue = tuple(normalize_text(raw["cue"]).split())
    if not cue:
        raise EmotionRulesError(f"{where}: the cue has no syllable left after normalisation")
    exceptions = []
    for phrase in raw.get("exceptions", ()):
        syllables = tuple(normalize_text(phrase).split())
        places = range(len(syllables) - len(cue) + 1)
        if len(syllables) <= len(cue) or not any(syllables[i : i + len(cue)] == cue for i in places):
            raise EmotionRulesError(f"{where}: exception {phrase!r} must be a longer phrase with the cue in it")
        exceptions.append(syllables)
    return Entry(cue, raw["kind"], float(raw["weight"]), tuple(exceptions))
