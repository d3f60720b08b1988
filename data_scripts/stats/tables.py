"""Statistics for a terminal of 100 columns."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data_scripts.report.cells import Number, printable
from data_scripts.stats import figures
from data_scripts.stats.advice import RARE_SYMBOL, advice
from data_scripts.stats.collect import GROUPINGS, Stats
from data_scripts.stats.figures import QUANTILES, Splits

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_GROUPS, SHOWN_WORDS, MAX_COLUMNS = 12, 12, 5


def tables(stats: Stats | Splits) -> "list[Table]":
    """What `prepare_data.py stats` prints: figures by split, quantiles, tones, groups, words, warnings."""
    splits = figures.as_splits(stats)
    warnings = advice(stats)
    shown: Splits = splits
    if len(splits) > MAX_COLUMNS:  # the page shows them all
        shown = {"all": figures.whole(splits)}
    made = [_overview(shown), _quantiles(shown)]
    if any(each.num_words for each in shown.values()):
        made += [_tones(shown), _words(shown)]
    made += [table for grouping in GROUPINGS if (table := _groups(shown, grouping))]
    if warnings:
        made.append(_table("Worth a look", ["warning"], [[f"• {line}"] for line in warnings]))
    return made


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [list(row) for row in rows]
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_header=len(header) > 1,
    )
    for index, name in enumerate(header):
        numeric = bool(lines) and all(line[index] is None or isinstance(line[index], Number) for line in lines)
        # Text, not markup: names may hold brackets.
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text("–" if cell is None else printable(cell)) for cell in line))
    return table


def _overview(splits: Splits) -> "Table":
    columns = [figures.overview(stats) for stats in splits.values()]
    rows = [
        [name.removeprefix("≈ "), *(list(column.values())[n] for column in columns)]
        for n, name in enumerate(columns[0])
    ]
    return _table("Rows", ["", *splits], rows)


def _quantiles(splits: Splits) -> "Table":
    header = ["split", "", "least", *(f"{100 * q:g} %" for q in QUANTILES[1:-1]), "most"]
    return _table(
        "Spread",
        header,
        (
            [split, name, *values]
            for split, stats in splits.items()
            for name, values in figures.quantiles(stats).items()
        ),
    )


def _tones(splits: Splits) -> "Table":
    shares = {split: figures.tone_shares(stats) for split, stats in splits.items()}
    names = list(next(iter(shares.values())))
    rows: list[list[Any]] = [
        [split, *(Number(share[name], ".1%") for name in names)] for split, share in shares.items()
    ]
    for row, stats in zip(rows, splits.values(), strict=True):
        counts = figures.phoneme_counts(stats)
        row.append(Number(sum(count >= RARE_SYMBOL for count in counts.values()), ",d", f" of {len(counts)}"))
    return _table("Tones of Vietnamese syllables", ["split", *names, f"sounds ≥ {RARE_SYMBOL} ×"], rows)


def _words(splits: Splits) -> "Table":
    rows = []
    for split, stats in splits.items():
        for what, words in (
            ("most frequent", figures.frequent_words(stats, SHOWN_WORDS)),
            ("not Vietnamese syllables", stats.other_words.top(SHOWN_WORDS)),
            ("in no dictionary", stats.oov.top(SHOWN_WORDS)),
        ):
            rows.append([split, what, ", ".join(f"{word} {count:,}" for word, count in words) or "–"])
    return _table("Words", ["split", "", "words"], rows)


def _groups(splits: Splits, grouping: str) -> "Table | None":
    groups = figures.groups_of(splits, grouping)
    if not groups or (grouping == "corpus" and len(groups) == 1):
        return None
    header = [grouping, "rows", "hours", "speakers", "not Vietnamese"]
    if len(splits) > 1:
        header += [f"{split} h" for split in splits]
    rows = []
    for name, total, parts in groups[:SHOWN_GROUPS]:
        english = total.english_words / total.words if total.words else None
        row: list[Any] = [name, Number(total.rows, ",d"), Number(total.hours), Number(total.speakers.number, ",d")]
        row.append(Number(english, ".1%"))
        if len(splits) > 1:
            row += [Number(part.hours if part else None) for part in parts]
        rows.append(row)
    more = f", the {SHOWN_GROUPS} largest of {len(groups)}" if len(groups) > SHOWN_GROUPS else ""
    return _table(f"By {grouping}{more}", header, rows)
