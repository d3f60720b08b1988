"""What a person should look at, in words. Limits are rules of thumb for read and spontaneous Vietnamese."""

from collections.abc import Mapping
from itertools import combinations

from data_scripts.stats.collect import GROUPINGS, Stats
from data_scripts.text.phonemes import ENGLISH_SYMBOLS, SEPARATOR, TONE_SYMBOLS, phoneme_symbols

TONES = ("ngang", "huyền", "ngã", "hỏi", "sắc", "nặng")
# Sounds that Vietnamese needs, tones included.
VIETNAMESE_SYMBOLS = tuple(s for s in phoneme_symbols("full") if s not in (*ENGLISH_SYMBOLS, SEPARATOR))
MIN_TONE_SHARE = 0.01  # ngã, the rarest, has 4.7 % of running text
MAX_LEVEL_SHARE = 0.6  # ngang has 26 %; more means that tone marks were lost
RARE_SYMBOL = 20  # occurrences
MIN_SYLLABLES = 1000  # below this, coverage says nothing
MIN_SPEAKERS, MAX_SPEAKER_SHARE, MAX_CLASS_RATIO = 5, 0.2, 10
MAX_OOV, MAX_REPEATED, MIN_ENGLISH = 0.02, 0.3, 0.005
SLOW, FAST, MAX_ODD_RATE = 0.8, 9.0, 0.01  # syllables a second
LONG_S = 30.0


def advice(stats: Stats | Mapping[str, Stats]) -> list[str]:
    """Warnings about one collection of rows, or about several splits and what they share; [] if nothing is odd."""
    if isinstance(stats, Stats):
        return [*_rows(stats), *_sounds(stats), *_words(stats), *_classes(stats)]
    where: dict[str, list[str]] = {}  # the same line of several splits is said once
    for name, each in stats.items():
        for line in advice(each):
            where.setdefault(line, []).append(name)
    lines = [f"{', '.join(names)}: {line}" if len(stats) > 1 else line for line, names in where.items()]
    for (name, first), (other, second) in combinations(stats.items(), 2):
        lines += _overlap(name, first, other, second)
    return lines


def _rows(stats: Stats) -> list[str]:
    if not stats.num_rows:
        return ["there are no rows"]
    lines = []
    if 0 < stats.num_without_text < stats.num_rows:
        lines.append(f"{_rows_of(stats.num_without_text)} without a transcript")
    if 0 < stats.num_without_duration < stats.num_rows:
        lines.append(f"{_rows_of(stats.num_without_duration)} without a duration: unreadable or missing audio")
    if long := round(stats.duration_s.share_above(LONG_S) * stats.duration_s.count):
        lines.append(f"{_rows_of(long)} of {LONG_S:g} s or more: Whisper encoders hear 30 s, others need the memory")
    if not stats.speakers.number and stats.duration_s.count:
        lines.append("no row names its speaker: nobody can tell whether splits share speakers")
    elif 0 < stats.speakers.number < MIN_SPEAKERS:
        lines.append(f"only {_count(stats.speakers.number, 'speaker')}")
    elif stats.hours and len(stats.speaker_ms.counts) > 1:
        name, most = stats.speaker_ms.top(1)[0]
        share = most / stats.speaker_ms.total if stats.speaker_ms.total else 0
        if share > max(MAX_SPEAKER_SHARE, 2 / stats.speakers.number):
            lines.append(f"speaker {name} has {share:.0%} of the hours: one voice decides much of the outcome")
    if (share := stats.texts.repeated_share) > MAX_REPEATED:
        lines.append(
            f"{share:.0%} of the transcripts repeat an earlier one (one of them {stats.texts.most_repeated:,} times)"
        )
    rates = stats.syllables_per_s
    if (share := rates.share_above(FAST)) > MAX_ODD_RATE:
        lines.append(f"{share:.1%} of the rows have over {FAST:g} syllables a second: text that was not said?")
    if rates.count and (share := 1 - rates.share_above(SLOW)) > MAX_ODD_RATE:
        lines.append(
            f"{share:.1%} of the rows have under {SLOW:g} syllables a second: long silence, or words missing?"
        )
    return lines


def _sounds(stats: Stats) -> list[str]:
    tones = stats.tones
    total = sum(tones)
    if total < MIN_SYLLABLES:
        return (
            [f"only {total:,} Vietnamese syllables: too few to judge tones and sounds by"] if stats.num_words else []
        )
    if total < stats.num_words / 2:
        return [f"{1 - total / stats.num_words:.0%} of the words are no Vietnamese syllables: tones are not judged"]
    lines = []
    if tones[0] / total > MAX_LEVEL_SHARE:
        lines.append(f"{tones[0] / total:.0%} of the syllables bear no tone mark: were the diacritics lost?")
    for name, count in zip(TONES, tones, strict=True):
        if count / total < MIN_TONE_SHARE:
            lines.append(f"tone {name} has {count / total:.1%} of the syllables: it will hardly be learnt")
    sounds = [symbol for symbol in VIETNAMESE_SYMBOLS if symbol not in TONE_SYMBOLS]
    never = [symbol for symbol in sounds if not stats.phonemes[symbol]]
    rare = [symbol for symbol in sounds if 0 < stats.phonemes[symbol] < RARE_SYMBOL]
    if never:
        lines.append(f"sounds that never occur: {' '.join(never)}")
    if rare:
        lines.append(f"sounds that occur under {RARE_SYMBOL} times: {' '.join(rare)}")
    return lines


def _words(stats: Stats) -> list[str]:
    lines = []
    unknown = stats.kinds["unknown"]
    if unknown:
        lines.append(
            f"{_count(unknown, 'word')} cannot be pronounced (digits, other scripts): prepare with the spoken form, "
            "or drop these rows"
        )
    if stats.oov_share > MAX_OOV:
        first = ", ".join(word for word, _ in stats.oov.top(5))
        lines.append(f"{stats.oov_share:.1%} of the words are in no dictionary ({first}, …)")
    if stats.english_share > MIN_ENGLISH and not stats.num_labelled:
        lines.append(
            f"{stats.english_share:.1%} of the words are not Vietnamese, but no row labels its languages: error rates "
            "at switch points need labels"
        )
    return lines


def _classes(stats: Stats) -> list[str]:
    lines = []
    for grouping in GROUPINGS[1:]:  # corpora may be as uneven as they like
        groups = stats.groups[grouping]
        rows = sum(group.rows for group in groups.values())
        if not rows:
            continue
        if rows < stats.num_rows:
            lines.append(f"{_rows_of(stats.num_rows - rows)} without {grouping}")
        if stats.speakers.number >= MIN_SPEAKERS:
            for name, group in sorted(groups.items()):
                if 0 < group.speakers.number < MIN_SPEAKERS:
                    lines.append(f"{grouping} {name} has {_count(group.speakers.number, 'speaker')}")
        ordered = sorted(groups, key=lambda name: (groups[name].rows, name))
        least, most = ordered[0], ordered[-1]
        if groups[most].rows > MAX_CLASS_RATIO * groups[least].rows:
            times = groups[most].rows / groups[least].rows
            lines.append(f"{grouping} {most} has {times:.0f} times the rows of {least}: weigh the classes")
    return lines


def _overlap(name: str, first: Stats, other: str, second: Stats) -> list[str]:
    lines = []
    pairs = {"speaker": (first.speakers, second.speakers), "sentence": (first.texts, second.texts)}
    for what, (mine, theirs) in pairs.items():
        if shared := mine.shared_with(theirs):
            about = "" if mine.is_exact and theirs.is_exact else "about "
            lines.append(f"{other} shares {about}{_count(shared, what)} with {name} (of its {theirs.number:,})")
    for grouping in GROUPINGS[1:]:
        missing = sorted(first.groups[grouping].keys() - second.groups[grouping].keys())
        if missing and second.groups[grouping]:
            lines.append(f"{other} has no {grouping} {', '.join(missing)}, {name} has")
    return lines


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _rows_of(count: int) -> str:
    return f"{_count(count, 'row')} {'are' if count != 1 else 'is'}"
