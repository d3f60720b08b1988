"""Where audio and transcript disagree most: a page to listen to, and a sheet for a person's verdicts.

    path = write_report(read_rows(decisions), "noise.html", find_audio=lambda row: clips[row["id"]])

writes `noise.html`, one self-contained file, and `noise.csv` with the same rows in the same order. The person fills in
`verdict` (keep or drop) and, to correct a transcript, `text`; blank rows are undecided. `curate.py` reads it back.
"""

import csv
import heapq
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from data_scripts.report import AudioClip, Number, Page, Text, Word, Words, histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_COLUMNS = (
    "id",
    "verdict",
    "text",
    "transcript",
    "hypothesis",
    "error_rate",
    "confidence",
    "agreement",
    "lm_score",
    "duration_s",
    "corpus",
    "speaker",
    "reasons",
)
_NUM_BINS = 40
# What spreadsheets take for the beginning of a formula, and the apostrophe that says "text".
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_Kind = Literal["equal", "wrong", "missing", "extra"]
_KINDS: dict[str, tuple[_Kind, _Kind]] = {
    "equal": ("equal", "equal"),
    "replace": ("wrong", "wrong"),
    "delete": ("missing", "missing"),
    "insert": ("extra", "extra"),
}
_Row = Mapping[str, Any]


class ErrorRateLabel(NamedTuple):
    """How the unit of a recogniser's errors is called."""

    short: str
    long: str


_UNITS = {
    "syllable": ErrorRateLabel("WER", "word error rate"),
    "phoneme": ErrorRateLabel("PER", "phoneme error rate"),
}


def suspicion(row: _Row) -> float | None:
    """From 0 (nothing speaks against the transcript) to 1; None for a row that no recogniser was compared on.

    The product of what is known: the error rate of the hypothesis (at most 1), 1 − confidence that the transcript is
    said in the audio (1 where it could not even be aligned), and 1 − error rate between recognisers: where two of them
    agree with each other and not with the transcript, the transcript is to blame.
    """
    error_rate, confidence, agreement = row.get("error_rate"), row.get("confidence"), row.get("agreement")
    if error_rate is None:
        return None
    doubt = 1.0 if confidence is None else 1.0 - confidence
    return min(error_rate, 1.0) * doubt * (1.0 if agreement is None else 1.0 - min(agreement, 1.0))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[list[Word], list[Word]]:
    """Both sides word by word: equal, wrong (one in place of another), missing from or extra in the hypothesis."""
    said: list[Word] = []
    heard: list[Word] = []
    for step in Levenshtein.opcodes(reference, hypothesis):
        said_kind, heard_kind = _KINDS[step.tag]
        said += [Word(word, said_kind) for word in reference[step.src_start : step.src_end]]
        heard += [Word(word, heard_kind) for word in hypothesis[step.dest_start : step.dest_end]]
    return said, heard


def write_report(
    rows: Iterable[_Row],
    path: str | os.PathLike[str],
    *,
    title: str = "Label noise",
    num_rows: int = 200,
    find_audio: Callable[[_Row], Any] | None = None,
    confidence_bounds: tuple[float, float] = (0.3, 0.95),
    error_rate_bounds: tuple[float, float] = (0.05, 0.40),
    register: str = "full",
) -> Path:
    """Write the page and, beside it, the sheet (`.csv`); returns the path of the page.

    Args:
        rows: decisions with `id`, `transcript`, `hypothesis`, `unit`, `error_rate`, and as far as known `confidence`,
            `agreement`, `lm_score`, `duration_s`, `corpus`, `speaker`, `keep`, `reasons`, `scores`. Read once; only
            the listed ones are held.
        path: of the page.
        num_rows: how many rows are listed.
        find_audio: gives the recording (as `row["audio"]`) of a listed row; None reads `row["audio"]`.
        confidence_bounds, error_rate_bounds: drawn into the histograms: what a filter keeps lies between them.
        register: phonemes of hypotheses whose `unit` is "phoneme".

    Raises:
        FileExistsError: a sheet of that name is there with another content, perhaps a person's work.
        ValueError: num_rows below 1.
    """
    if num_rows < 1:
        raise ValueError(f"num_rows must be at least 1, got {num_rows}")
    path = Path(path)
    gathered = _Gathered(num_rows)
    for row in rows:
        gathered.add(row)
    worst = gathered.worst()
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = _write_sheet(path.with_suffix(".csv"), worst)
    page = Page(title, f"{gathered.num_rows:,} rows, {gathered.seconds / 3600:,.2f} hours")
    _add_overview(page, gathered, confidence_bounds, error_rate_bounds)
    _add_rows(page, worst, sheet.name, find_audio, register)
    return page.save(path)


class _Gathered:
    """Everything the page says of all rows, in constant memory, and the most suspicious ones."""

    def __init__(self, num_listed: int) -> None:
        self.num_listed, self.num_rows, self.num_compared, self.seconds = num_listed, 0, 0, 0.0
        self.histograms: dict[str, dict[bool, np.ndarray]] = {"error_rate": {}, "confidence": {}}
        self.reasons: Counter[str] = Counter()
        self.reason_seconds: defaultdict[str, float] = defaultdict(float)
        self.units: Counter[str] = Counter()
        self._heap: list[tuple[float, int, _Row]] = []

    def add(self, row: _Row) -> None:
        self.num_rows += 1
        seconds = row.get("duration_s") or 0.0
        self.seconds += seconds
        for reason in row.get("reasons") or ():
            self.reasons[reason] += 1
            self.reason_seconds[reason] += seconds
        for name, by_decision in self.histograms.items():
            if (value := row.get(name)) is not None:
                counts = by_decision.setdefault(bool(row.get("keep", True)), np.zeros(_NUM_BINS, np.int64))
                counts[max(0, min(int(value * _NUM_BINS), _NUM_BINS - 1))] += 1
        score = suspicion(row)
        if score is None:
            return
        self.num_compared += 1
        self.units[row.get("unit") or "syllable"] += 1
        # The earlier of two equally suspicious rows wins; no two entries compare their rows.
        entry = (score, -self.num_rows, row)
        if len(self._heap) < self.num_listed:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def worst(self) -> list[_Row]:
        """Rows with any suspicion, the most suspicious first."""
        return [row for score, _, row in sorted(self._heap, reverse=True) if score > 0]


def _add_overview(
    page: Page, gathered: _Gathered, confidence_bounds: tuple[float, float], error_rate_bounds: tuple[float, float]
) -> None:
    label = _UNITS[gathered.units.most_common(1)[0][0] if gathered.units else "syllable"]
    page.section("All rows")
    facts: dict[str, Any] = {"rows": gathered.num_rows, "compared with a recogniser": gathered.num_compared}
    for name, bounds, what in (
        ("error_rate", error_rate_bounds, f"{label.short} within {bounds_text(error_rate_bounds)}"),
        ("confidence", confidence_bounds, f"confidence within {bounds_text(confidence_bounds)}"),
    ):
        counts = sum(gathered.histograms[name].values(), np.zeros(_NUM_BINS, np.int64))
        if counts.sum():
            inside = counts[round(bounds[0] * _NUM_BINS) : round(bounds[1] * _NUM_BINS)].sum()
            facts[what] = Number(float(inside / counts.sum()), ".0%")
    page.facts(facts)
    for name, bounds, x_label in (
        ("error_rate", error_rate_bounds, f"{label.long} of the hypothesis (the last bar: 1 and more)"),
        ("confidence", confidence_bounds, "confidence that the transcript is said in the audio"),
    ):
        if gathered.histograms[name]:
            alt = f"How many rows have which {x_label}; lines at {bounds[0]:g} and {bounds[1]:g}."
            page.plot(_histogram(gathered.histograms[name], bounds, x_label), alt)
    page.table(
        ["reason", "rows", "hours"],
        [
            [reason, count, Number(gathered.reason_seconds[reason] / 3600, ",.2f")]
            for reason, count in sorted(gathered.reasons.items(), key=lambda item: (-item[1], item[0]))
        ],
        caption="Why rows are dropped; a row may have several reasons",
    )


def bounds_text(bounds: tuple[float, float]) -> str:
    """`"0.3–0.95"`."""
    return f"{bounds[0]:g}–{bounds[1]:g}"


def _histogram(by_decision: Mapping[bool, np.ndarray], bounds: tuple[float, float], x_label: str) -> "Figure":
    from data_scripts.report.plots import MUTED

    names = {True: "kept", False: "dropped"}
    counts = {names[keep]: by_decision[keep].tolist() for keep in (True, False) if keep in by_decision}
    figure = histogram(np.linspace(0, 1, _NUM_BINS + 1).tolist(), counts, x_label, "rows")
    for bound in bounds:
        figure.axes[0].axvline(bound, color=MUTED, linestyle=":", linewidth=1.2)
    return figure


_LEGEND = (
    "Marked: one word in place of another; crossed out: not heard; underlined: only heard. Others differ: the lowest "
    "error rate between two recognisers"
)


def _add_rows(
    page: Page, worst: Sequence[_Row], sheet: str, find_audio: Callable[[_Row], Any] | None, register: str
) -> None:
    page.section(
        "Rows to listen to",
        "The most suspicious first: what the recogniser heard differs from the transcript, the transcript does not "
        "fit the audio, and recognisers, where there are several, agree with each other.\n\n"
        f"Write verdicts into {sheet}: keep or drop, and the corrected text if the transcript is wrong; blank rows "
        "stay undecided. Then give that file to curate.py as --decide.verdicts.",
    )
    if not worst:
        page.text("No row is suspicious: every hypothesis equals its transcript, or nothing was compared.")
        return
    units = {row.get("unit") or "syllable" for row in worst}
    rate = " / ".join(_UNITS[unit].short for unit in sorted(units, reverse=True))
    header = ["#", "recording", "transcript", "heard", rate, "confidence", "others differ", "reasons", "id"]
    has_others = any(_others(row) for row in worst)
    if has_others:
        header.insert(4, "others heard")
    lines = []
    for number, row in enumerate(worst, 1):
        said, heard = align(*_both_sides(row, register))
        audio = find_audio(row) if find_audio else row.get("audio")
        line = [number, AudioClip(audio, label=f"row {number}, {row['id']}"), Words(said), Words(heard)]
        line += [Text(_others(row))] if has_others else []
        line += [Number(row["error_rate"], ".0%"), Number(row.get("confidence")), Number(row.get("agreement"), ".0%")]
        line += [", ".join(row.get("reasons") or ()), row["id"]]
        lines.append(line)
    page.table(header, lines, caption=_LEGEND)


def _both_sides(row: _Row, register: str) -> tuple[list[str], list[str]]:
    """Transcript and hypothesis in the units that were compared."""
    transcript, hypothesis = str(row.get("transcript") or ""), str(row.get("hypothesis") or "").split()
    if row.get("unit") != "phoneme":
        return transcript.split(), hypothesis
    from data_scripts.text.g2p import G2P

    return G2P(register).phonemise(transcript).phonemes, [symbol for symbol in hypothesis if symbol != "$"]


def _others(row: _Row) -> str:
    """Hypotheses that differ from the one looked at, with who heard them."""
    scores = row.get("scores") or ()
    others = [score for score in scores if score["hypothesis"] and score["hypothesis"] != row.get("hypothesis")]
    return "; ".join(f"{os.path.basename(s['model'])} ×{s['speed']:g}: {s['hypothesis']}" for s in others)


def _write_sheet(path: Path, worst: Iterable[_Row]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SHEET_COLUMNS)
    for row in worst:
        cells = {**row, "verdict": "", "text": "", "reasons": " ".join(row.get("reasons") or ())}
        writer.writerow([_cell(cells.get(name)) for name in SHEET_COLUMNS])
    content = text.getvalue().encode()
    if path.exists():
        if path.read_bytes() != content:
            raise FileExistsError(
                f"{path} is there and differs from the sheet to be written: verdicts may be in it. Move it away, or "
                "write the report under another name"
            )
        return path
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"'{value}" if _FORMULA.match(str(value)) else str(value)


def plain_cell(cell: str) -> str:
    """What a cell of the sheet stands for: an apostrophe that kept a spreadsheet from computing it is taken off."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
