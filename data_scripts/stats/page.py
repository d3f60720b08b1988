"""The statistics page: what is in the data, for a person to look at before training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_scripts.drop_report import CODES, DropReport
from data_scripts.files import write_json
from data_scripts.report import Number, Page, Text, bars, histogram
from data_scripts.stats import figures
from data_scripts.stats.advice import RARE_SYMBOL, TONES, advice
from data_scripts.stats.collect import Stats
from data_scripts.stats.counting import Histogram
from data_scripts.stats.figures import QUANTILES, Splits
from data_scripts.text.phonemes import ENGLISH_SYMBOLS

SHOWN_WORDS, SHOWN_SPEAKERS, SHOWN_GROUPS, SHOWN_SPLITS = 50, 25, 50, 4


def write_page(
    stats: Stats | Splits,
    path: str | Path,
    title: str = "What is in the data",
    subtitle: str = "",
    drops: Mapping[str, DropReport] | None = None,
) -> Path:
    """Write the page and, beside it, the same figures as JSON (`<name>.json`).

    Args:
        stats: of one collection of rows, or by split, which are then compared.
        drops: split → what preparing dropped (`drop_reports(folder)`).
    """
    path, splits = Path(path), figures.as_splits(stats)
    page = Page(title, subtitle)
    warnings = advice(stats)
    total = figures.whole(splits)
    # Plots of many series cannot be read: beyond a few splits, all of them together.
    drawn: Splits = splits if len(splits) <= SHOWN_SPLITS else {"all": total}
    _overview(page, splits, total, warnings)
    _lengths(page, drawn)
    if total.num_words:
        _sounds(page, drawn, total)
        _words(page, total)
    for grouping in ("emotion", "dialect", "corpus"):
        _groups(page, splits, grouping)
    if total.speakers.number:
        _speakers(page, total)
    if drops:
        _drops(page, drops)
    page.save(path)
    write_json(path.with_suffix(".json"), figures.summary(splits, warnings))
    return path


def _overview(page: Page, splits: Splits, total: Stats, warnings: list[str]) -> None:
    page.section("Overview")
    facts: dict[str, Any] = {
        "rows": Number(total.num_rows, ",d"),
        "hours": Number(total.hours, ",.2f"),
        "speakers": Number(total.speakers.number, ",d"),
        "words": Number(total.num_words, ",d"),
    }
    if total.num_words:
        facts |= {
            "different words": Number(len(total.syllables) + len(total.other_words.counts), ",d"),
            "words not Vietnamese": Number(total.english_share, ".2%"),
        }
    page.facts(facts)
    page.notices(warnings)
    columns = [figures.overview(stats) for stats in splits.values()]
    page.table(
        ["", *splits],
        ([name, *(list(column.values())[n] for column in columns)] for n, name in enumerate(columns[0])),
        caption="Figures by split" if len(splits) > 1 else "Figures",
        row_headers=True,
    )
    page.text(
        "A word is what stands between spaces; an English one lies in an English span or, where no span is given, is "
        "no Vietnamese syllable. Words in no dictionary are said by spelling rules, or cannot be said at all. "
        "Speaking rate counts every syllable over the whole recording, silence included."
    )


def _lengths(page: Page, splits: Splits) -> None:
    if not any(stats.duration_s.count or stats.words_per_row.count for stats in splits.values()):
        return
    page.section("Duration and speaking rate")
    for name, attribute in (
        ("duration (s)", "duration_s"),
        ("syllables a second", "syllables_per_s"),
        ("words a row", "words_per_row"),
    ):
        measured: dict[str, Histogram] = {
            split: histo for split, stats in splits.items() if (histo := getattr(stats, attribute)).count
        }
        if not measured:
            continue
        # The last bin takes in the longest one in two hundred, so that one odd file does not squeeze all others.
        longest = max(max(each.quantile(0.995) for each in measured.values()), next(iter(measured.values())).width)
        edges = next(iter(measured.values())).edges(longest + next(iter(measured.values())).width)
        spread = "; ".join(
            f"{split}: half of the rows from {each.quantile(0.25):.2f} to {each.quantile(0.75):.2f}"
            for split, each in measured.items()
        )
        figure = histogram(
            edges, {s: [100 * share for share in h.shares(edges)] for s, h in measured.items()}, name, "% of rows"
        )
        page.plot(
            figure, f"Histogram of {name}. {spread}", f"{name[0].upper()}{name[1:]}; the last bar holds all above."
        )
    page.table(
        ["split", "", "least", *(f"{100 * q:g} %" for q in QUANTILES[1:-1]), "most"],
        (
            [split, name, *values]
            for split, stats in splits.items()
            for name, values in figures.quantiles(stats).items()
        ),
        caption="Spread: the value below which so many of the rows lie",
    )


def _sounds(page: Page, splits: Splits, total: Stats) -> None:
    page.section(
        "Tones and sounds",
        f"{len(total.syllables):,} different Vietnamese syllables occur, of {figures.NUM_SYLLABLES:,} that can be "
        "spelled and about 6,800 in use.",
    )
    shares = {
        split: [100 * (share or 0) for share in figures.tone_shares(stats).values()] for split, stats in splits.items()
    }
    told = ", ".join(f"{tone} {share or 0:.1%}" for tone, share in figures.tone_shares(total).items())
    page.plot(bars(TONES, shares, "% of syllables"), f"Share of each tone: {told}", "Tones of Vietnamese syllables")
    counts = figures.phoneme_counts(total)
    for name, symbols in figures.sound_classes().items():
        in_class = max(1, sum(counts[symbol] for symbol in symbols))
        part = [symbol for symbol in counts if symbol in symbols]  # the most frequent first
        told = ", ".join(f"{symbol} {counts[symbol]:,}" for symbol in part)
        figure = bars(part, {"all": [100 * counts[symbol] / in_class for symbol in part]}, f"% of {name}", format="")
        page.plot(
            figure,
            f"Share of {name}, with occurrences: {told}",
            f"{name.capitalize()}, in the symbols of register full",
        )
    rare = [
        (s, counts[s], "English" if s in ENGLISH_SYMBOLS else "Vietnamese") for s in counts if counts[s] < RARE_SYMBOL
    ]
    if rare:
        page.table(
            ["sound", "occurrences", "needed for"],
            [[f"/{symbol}/", count, language] for symbol, count, language in reversed(rare)],
            caption=f"{len(rare)} sounds that occur under {RARE_SYMBOL} times",
            folded=len(rare) > 12,
        )


def _words(page: Page, total: Stats) -> None:
    page.section("Words and languages")
    kinds = {
        "syllable": "Vietnamese syllable",
        "vi": "Vietnamese, spelled freely",
        "en": "in the English dictionary",
        "rule": "said by spelling rules",
        "unknown": "cannot be said",
    }
    page.table(
        ["words that are", "words", "share"],
        [
            [name, total.kinds[kind], Number(total.kinds[kind] / total.num_words, ".2%")]
            for kind, name in kinds.items()
        ],
        row_headers=True,
    )
    frequent, other = figures.frequent_words(total, SHOWN_WORDS), total.other_words.top(SHOWN_WORDS)
    for caption, words in (
        (f"The {len(frequent)} most frequent words", frequent),
        (f"The {len(other)} most frequent words that are no Vietnamese syllable", other),
        ("Words in no dictionary: said by rules, or not at all", total.oov.top(SHOWN_WORDS)),
    ):
        if words:
            rows = [[Text(word), count, Number(count / total.num_words, ".2%")] for word, count in words]
            page.table(["word", "times", "of all words"], rows, caption=caption, folded=True)


def _groups(page: Page, splits: Splits, grouping: str) -> None:
    groups = figures.groups_of(splits, grouping)
    if not groups:
        return
    page.section(f"By {grouping}")
    shown = groups[:SHOWN_GROUPS]
    timed = any(total.milliseconds for _, total, _ in shown)
    if len(shown) > 1:
        unit = "hours" if timed else "rows"
        heights = [total.hours if timed else total.rows for _, total, _ in shown]
        names = [name for name, _, _ in shown]
        told = ", ".join(f"{name} {height:.2f}" for name, height in zip(names, heights, strict=True))
        figure = bars(names, {unit: heights}, unit, horizontal=True, format="{:,.2f}" if timed else "{:,.0f}")
        page.plot(figure, f"{unit} by {grouping}: {told}", f"{unit.capitalize()} by {grouping}, all splits")
    header = [grouping, "rows", "hours", "speakers", "words", "not Vietnamese"]
    several = len(splits) > 1
    if several:
        header += [f"{split}: {what}" for split in splits for what in ("rows", "hours")]
    rows = []
    for name, total, parts in shown:
        english = total.english_words / total.words if total.words else None
        row: list[Any] = [name, total.rows, Number(total.hours), total.speakers.number, total.words]
        row.append(Number(english, ".1%"))
        if several:
            row += [cell for part in parts for cell in ((part.rows, Number(part.hours)) if part else (None, None))]
        rows.append(row)
    more = f" (the {len(shown)} largest of {len(groups)})" if len(groups) > len(shown) else ""
    page.table(header, rows, caption=f"{grouping.capitalize()}{more}", row_headers=True)


def _speakers(page: Page, total: Stats) -> None:
    page.section("By speaker")
    top = total.speaker_ms.top(SHOWN_SPEAKERS)
    if total.hours and top:
        hours = [ms / 3_600_000 for _, ms in top]
        share = sum(ms for _, ms in top) / max(1, total.speaker_ms.total)
        figure = bars([name for name, _ in top], {"hours": hours}, "hours", horizontal=True, format="{:.3f}")
        told = f"the {len(top)} speakers heard longest, of {total.speakers.number:,}, have {share:.0%} of the hours"
        page.plot(figure, f"Hours by speaker: {told}", f"{told[0].upper()}{told[1:]}.")


def _drops(page: Page, drops: Mapping[str, DropReport]) -> None:
    page.section("What preparing dropped and mended")
    page.table(
        ["split", "rows read", "kept", "dropped", "share", "hours kept", "hours dropped"],
        [
            [split, r.num_rows, r.num_kept, r.num_dropped, Number(r.drop_fraction, ".2%"),
             Number(r.seconds_kept / 3600), Number(r.seconds_dropped / 3600)]
            for split, r in drops.items()
        ],
        row_headers=True,
    )  # fmt: skip
    counts = {code: [report.counts[code] for report in drops.values()] for code in CODES}
    rows = [[CODES[code][0], code, CODES[code][1], *each] for code, each in counts.items() if any(each)]
    if rows:
        page.table(["", "code", "meaning", *drops], rows, caption="Findings by split, in rows")
