"""The figures that terminal and page both show, so that they cannot differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_scripts.report.cells import Number
from data_scripts.stats.advice import TONES, VIETNAMESE_SYMBOLS
from data_scripts.stats.collect import GROUPINGS, Group, Stats
from data_scripts.text.phonemes import CODA_SYMBOLS, ENGLISH_SYMBOLS, ONSET_SYMBOLS

Splits = Mapping[str, Stats]
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
NUM_SYLLABLES = 19_988  # of the grammar, see `data_scripts.text.syllables`


def as_splits(stats: Stats | Splits) -> Splits:
    """One collection of rows is a single split called "all"."""
    return {"all": stats} if isinstance(stats, Stats) else stats


def whole(splits: Splits) -> Stats:
    """All splits together."""
    total = Stats()
    for stats in splits.values():
        total.merge(stats)
    return total


def overview(stats: Stats) -> dict[str, Number]:
    """Name → figure, the first lines of every report."""
    about = "" if stats.texts.is_exact else "≈ "
    nothing = None if not stats.num_words else 1.0
    return {
        "rows": Number(stats.num_rows, ",d"),
        "hours": Number(stats.hours, ",.2f"),
        "speakers": Number(stats.speakers.number, ",d"),
        "duration, mean (s)": Number(stats.duration_s.mean),
        "duration, median (s)": Number(stats.duration_s.quantile(0.5)),
        "duration, longest (s)": Number(stats.duration_s.maximum),
        "syllables a second, median": Number(stats.syllables_per_s.quantile(0.5)),
        "words": Number(stats.num_words, ",d"),
        "words a row, mean": Number(stats.words_per_row.mean, ",.1f"),
        "different words": Number(len(stats.syllables) + len(stats.other_words.counts), ",d"),
        "different syllables": Number(len(stats.syllables), ",d"),
        f"{about}different transcripts": Number(stats.texts.number, ",d"),
        "transcripts that repeat one": Number(stats.texts.repeated_share, ".1%"),
        "words not Vietnamese": Number(nothing and stats.english_share, ".2%"),
        "rows with both languages": Number(stats.num_mixed, ",d"),
        "changes of language": Number(stats.num_switches, ",d"),
        "rows with language spans": Number(stats.num_labelled, ",d"),
        "words in no dictionary": Number(nothing and stats.oov_share, ".2%"),
    }


def tone_shares(stats: Stats) -> dict[str, float | None]:
    """Tone → share of the Vietnamese syllables; None where there are none."""
    counts = stats.tones
    total = sum(counts)
    return {name: count / total if total else None for name, count in zip(TONES, counts, strict=True)}


def phoneme_counts(stats: Stats) -> dict[str, int]:
    """Symbol of register `full` → occurrences, tones left out, the most frequent first."""
    symbols = [symbol for symbol in (*VIETNAMESE_SYMBOLS, *ENGLISH_SYMBOLS) if not symbol.startswith("-")]
    return dict(sorted(((s, stats.phonemes[s]) for s in symbols), key=lambda item: (-item[1], item[0])))


def sound_classes() -> dict[str, list[str]]:
    """Onsets, nuclei with the medial w, and codas of Vietnamese, in the order of the inventory."""
    codas = [symbol for symbol in VIETNAMESE_SYMBOLS if symbol in {*CODA_SYMBOLS.values(), "kpz", "ŋmz"}]
    onsets = list(ONSET_SYMBOLS.values())
    others = {*codas, *onsets}
    nuclei = [symbol for symbol in VIETNAMESE_SYMBOLS if symbol not in others and not symbol.startswith("-")]
    return {"onsets": onsets, "nuclei and medial w": nuclei, "codas": codas}


def quantiles(stats: Stats) -> dict[str, list[Number]]:
    """What was measured → its `QUANTILES`."""
    measured = {
        "duration (s)": (stats.duration_s, ",.2f"),
        "syllables a second": (stats.syllables_per_s, ",.2f"),
        "words a row": (stats.words_per_row, ",.0f"),
    }
    return {
        name: [Number(each.quantile(q), format) for q in QUANTILES]
        for name, (each, format) in measured.items()
        if each.count
    }


def groups_of(splits: Splits, grouping: str) -> list[tuple[str, Group, list[Group | None]]]:
    """(name, all splits together, each split) of one of `GROUPINGS`, by name for few, by hours for many."""
    total = whole(splits).groups[grouping]
    names = sorted(total, key=lambda name: (-total[name].milliseconds, -total[name].rows, name))
    return [(name, total[name], [stats.groups[grouping].get(name) for stats in splits.values()]) for name in names]


def summary(splits: Splits, warnings: Sequence[str]) -> dict[str, Any]:
    """The figures by split, for programs: what the page shows, without the counters behind it."""
    return {"warnings": list(warnings), "splits": {name: _summary(stats) for name, stats in splits.items()}}


def _summary(stats: Stats) -> dict[str, Any]:
    return {
        "num_rows": stats.num_rows,
        "hours": round(stats.hours, 5),
        "num_speakers": stats.speakers.number,
        "num_without_text": stats.num_without_text,
        "num_without_duration": stats.num_without_duration,
        "num_words": stats.num_words,
        "num_english_words": stats.num_english_words,
        "num_labelled_rows": stats.num_labelled,
        "num_mixed_rows": stats.num_mixed,
        "num_switches": stats.num_switches,
        "num_different_texts": stats.texts.number,
        "num_different_syllables": len(stats.syllables),
        "words_by_kind": dict(sorted(stats.kinds.items())),
        "quantiles": {
            name: {f"{q:g}": round(value.value or 0.0, 3) for q, value in zip(QUANTILES, values, strict=True)}
            for name, values in quantiles(stats).items()
        },
        "tones": dict(zip(TONES, stats.tones, strict=True)),
        "phonemes": phoneme_counts(stats),
        "frequent_words": dict(frequent_words(stats, 100)),
        "oov": dict(stats.oov.top(100)),
        "hours_by_speaker": {name: round(ms / 3_600_000, 5) for name, ms in stats.speaker_ms.top(100)},
        **{
            grouping: {
                name: {"rows": g.rows, "hours": round(g.hours, 5), "speakers": g.speakers.number, "words": g.words}
                for name, g in sorted(stats.groups[grouping].items())
            }
            for grouping in GROUPINGS
        },
    }


def frequent_words(stats: Stats, count: int) -> list[tuple[str, int]]:
    """The most frequent words of either language, with how often they occur."""
    both = stats.syllables.copy()
    both.update(dict(stats.other_words.top(count)))
    return sorted(both.items(), key=lambda item: (-item[1], item[0]))[:count]
