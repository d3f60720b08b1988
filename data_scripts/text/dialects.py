"""How the three dialects say a Vietnamese syllable, for the INPUT side only.

A label never depends on the speaker: targets of speech-to-phone training are always `G2P.phonemise(dialect=None)`.
These variants serve phone-to-text training, whose input is what a recogniser hears: a Southern "vàng" (gold) comes in
as `z aː -1 ŋz` or, of "vàn", as `v aː -1 ŋz`, and the text to write is the same. Merged sounds take the symbol of the
partner that the dialect's speakers say, so no symbol is added to the registers.

The habits and their shares follow the majority of Wiktionary's transcriptions for Hà Nội, Huế and Sài Gòn. A habit
with a share of 1 is regular; others are drawn once for a whole utterance, as one speaker is consistent with himself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from data_scripts.text.phonemes import syllable_to_phonemes
from data_scripts.text.syllables import HOI, NGA, Syllable

DIALECTS = ("north", "central", "south")
_FRONT = frozenset({"i", "ê"})


@dataclass(frozen=True, slots=True)
class Habit:
    """One regular difference from the spelling: how often speakers have it, and what it does to a syllable."""

    name: str
    share: float
    change: Callable[[Syllable], Syllable]


def _onsets(merged: dict[str, str]) -> Callable[[Syllable], Syllable]:
    return lambda s: replace(s, onset=merged[s.onset]) if s.onset in merged else s


def _codas(merged: dict[str, str], *, but_after: frozenset[str] = frozenset()) -> Callable[[Syllable], Syllable]:
    return lambda s: replace(s, coda=merged[s.coda]) if s.coda in merged and s.nucleus not in but_after else s


def _rimes(merged: dict[tuple[str, str], tuple[str, str]]) -> Callable[[Syllable], Syllable]:
    def change(s: Syllable) -> Syllable:
        rime = merged.get((s.nucleus, s.coda))
        return s if rime is None else replace(s, nucleus=rime[0], coda=rime[1])

    return change


def _hoi_for_nga(s: Syllable) -> Syllable:
    return replace(s, tone=HOI) if s.tone == NGA else s


def _w_for_hw(s: Syllable) -> Syllable:
    """hoa and qua are both said oa."""
    return replace(s, onset="") if s.medial and s.onset in ("h", "c", "ng", "g") and s.nucleus != "ô" else s


def _no_medial(s: Syllable) -> Syllable:
    return replace(s, medial="") if s.medial and s.onset not in ("", "c", "h", "ng", "g") else s


_NG_FOR_N = _codas({"n": "ng", "t": "c"}, but_after=_FRONT)
_D_FOR_GI = Habit("d for gi", 1.0, _onsets({"gi": "d"}))
_HOI_FOR_NGA = Habit("hỏi for ngã", 1.0, _hoi_for_nga)

HABITS: dict[str, tuple[Habit, ...]] = {
    "north": (
        Habit("d for gi, r", 1.0, _onsets({"gi": "d", "r": "d"})),
        Habit("ch for tr", 1.0, _onsets({"tr": "ch"})),
        Habit("x for s", 1.0, _onsets({"s": "x"})),
        Habit("iu, iêu for ưu, ươu", 0.6, _rimes({("ư", "w"): ("i", "w"), ("ươ", "w"): ("iê", "w")})),
    ),
    "central": (
        _D_FOR_GI,
        _HOI_FOR_NGA,
        Habit("ng, c for n, t", 0.9, _NG_FOR_N),
        Habit("iu, ui, ưi for iêu, uôi, ươi", 0.6,
              _rimes({("iê", "w"): ("i", "w"), ("uô", "j"): ("u", "j"), ("ươ", "j"): ("ư", "j")})),
        Habit("ưn, ưt for inh, ich", 0.4, _rimes({("i", "nh"): ("ư", "n"), ("i", "ch"): ("ư", "t")})),
        Habit("ên, êt for ênh, êch", 0.4, _rimes({("ê", "nh"): ("ê", "n"), ("ê", "ch"): ("ê", "t")})),
    ),
    "south": (
        _D_FOR_GI,
        _HOI_FOR_NGA,
        Habit("d for v", 0.6, _onsets({"v": "d"})),
        Habit("oa for hoa, qua", 0.6, _w_for_hw),
        Habit("no w after other onsets", 0.3, _no_medial),
        Habit("ng, c for n, t", 0.9, _NG_FOR_N),
        Habit("an, at for anh, ach", 0.8, _rimes({("a", "nh"): ("ă", "n"), ("a", "ch"): ("ă", "t")})),
        Habit("ưn, ưt for in, it, inh, ich", 0.6, _rimes({("i", c): ("ư", d) for c, d in zip(
            ("n", "t", "nh", "ch"), "ntnt", strict=True)})),
        Habit("ơn, ơt for ên, êt, ênh, êch", 0.6, _rimes({("ê", c): ("ơ", d) for c, d in zip(
            ("n", "t", "nh", "ch"), "ntnt", strict=True)})),
        Habit("im, ip, iu, ui, ưi for iêm, iêp, iêu, uôi, ươi", 0.7, _rimes({
            ("iê", "m"): ("i", "m"), ("iê", "p"): ("i", "p"), ("iê", "w"): ("i", "w"), ("uô", "j"): ("u", "j"),
            ("ươ", "j"): ("ư", "j")})),
        Habit("ai, ao for ay, au", 0.6, _rimes({("ă", "j"): ("a", "j"), ("ă", "w"): ("a", "w")})),
    ),
}  # fmt: skip


def check_dialect(dialect: str) -> str:
    if dialect not in HABITS:
        raise ValueError(f"dialect={dialect!r}: choose one of {', '.join(DIALECTS)}, or None for the label's phonemes")
    return dialect


def draw_habits(dialect: str, rng: random.Random | None = None) -> frozenset[str]:
    """Names of a speaker's habits: each with its share if a generator is given, else those more likely than not."""
    habits = HABITS[check_dialect(dialect)]
    if rng is None:
        return frozenset(habit.name for habit in habits if habit.share >= 0.5)
    return frozenset(habit.name for habit in habits if rng.random() < habit.share)


def pronounce_in_dialect(
    syllable: Syllable, dialect: str, habits: frozenset[str] | None = None, register: str = "full"
) -> tuple[str, ...]:
    """Phonemes of the syllable as said in the dialect. `habits`: from `draw_habits`; None for the likeliest ones.

    The result may lie outside of the grammar (`ơng`): it is a pronunciation, not a spelling.
    """
    chosen = draw_habits(dialect) if habits is None else habits
    said = syllable
    for habit in HABITS[check_dialect(dialect)]:
        if habit.name in chosen:
            said = habit.change(said)
    return syllable_to_phonemes(said, register)
