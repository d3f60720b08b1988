"""What validation found: every dropped row with its reason, and how often each repair was made."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from data_scripts.files import write_json
from data_scripts.text.normalize import PROBLEM_CODES, REPAIR_CODES

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["dropped", "repaired", "noted"]

# code → (what happens to the row, what was found)
CODES: dict[str, tuple[Verdict, str]] = {
    "missing": ("dropped", "no such audio file, or no audio in the row"),
    "is_directory": ("dropped", "the audio path is a folder"),
    "unreadable": ("dropped", "the audio file may not be read"),
    "empty_file": ("dropped", "audio file of 0 bytes"),
    "not_audio": ("dropped", "the content is no known audio format"),
    "unsupported_format": ("dropped", "needs PyAV (m4a, aac, webm)"),
    "no_sampling_rate": ("dropped", "samples without a sampling rate"),
    "no_samples": ("dropped", "a header without samples"),
    "too_short": ("dropped", "shorter than the minimum"),
    "too_long": ("dropped", "longer than the maximum"),
    "non_finite": ("dropped", "NaN or infinite samples"),
    "wrong_scale": ("dropped", "samples far outside of [-1, 1]"),
    "silent": ("dropped", "nothing but silence"),
    "cancelled_stereo": ("dropped", "channels of opposite phase: their mean is silent"),
    "truncated": ("dropped", "cut off, or shorter than stated"),
    "duration_mismatch": ("dropped", "longer than stated"),
    "no_text": ("dropped", "no transcript"),
    "label_too_long": ("dropped", "more phonemes than the decoder has places, or the recording frames"),
    "no_emotion": ("dropped", "no emotion is given"),
    "emotion_without_class": ("dropped", "an emotion that no class of the task stands for"),
    "duplicate_id": ("dropped", "an earlier row has the same id"),
    **{f"text_{code}": ("dropped", meaning) for code, meaning in PROBLEM_CODES.items() if code != "empty"},
    "resampled": ("repaired", "not at 16 kHz: resampled when read"),
    "downmixed": ("repaired", "several channels: their mean is read"),
    "rescaled": ("repaired", "integer samples stored as floats: divided by 32768 when read"),
    "dc_offset": ("repaired", "constant offset: removed when read"),
    "wrong_extension": ("repaired", "the file name says another format: read by content"),
    **{f"text_{code}": ("repaired", f"text: {meaning}") for code, meaning in REPAIR_CODES.items()},
    "text_normalised": ("repaired", "text: case, punctuation or spelling"),
    "spoken_form": ("repaired", "text: numbers, dates, units and abbreviations written as they are read"),
    "clipped": ("noted", "more than 1 % of samples at full scale"),
    "duplicate_audio": ("noted", "the same recording as an earlier row"),
}
EXAMPLES_KEPT = 20  # of each repair
FINDINGS_KEPT = 10_000  # dropped rows of each code in a merged report, which must not grow with the corpus


def _limit(code: str) -> int:
    return FINDINGS_KEPT if CODES[code][0] == "dropped" else EXAMPLES_KEPT


class Finding(NamedTuple):
    """One line of the report."""

    code: str
    row_id: str
    file: str
    detail: str


@dataclass
class DropReport:
    """Findings of one pass over a source.

    `findings` lists every dropped row (a merged report the first `FINDINGS_KEPT` of each code) and the first
    `EXAMPLES_KEPT` rows of each repair; `counts` counts all.
    """

    source: str = ""
    num_rows: int = 0
    seconds_kept: float = 0.0
    seconds_dropped: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, row_id: str, file: str = "", detail: str = "") -> None:
        """Count a finding with one of `CODES`; a row is dropped at most once but may be repaired in many ways."""
        if code not in CODES:
            raise ValueError(f"unknown code {code!r}; known are {', '.join(CODES)}")
        self.counts[code] += 1
        if CODES[code][0] == "dropped" or self.counts[code] <= EXAMPLES_KEPT:
            self.findings.append(Finding(code, row_id, file, detail))

    @property
    def num_dropped(self) -> int:
        return sum(count for code, count in self.counts.items() if CODES[code][0] == "dropped")

    @property
    def num_kept(self) -> int:
        return self.num_rows - self.num_dropped

    @property
    def drop_fraction(self) -> float:
        """Dropped rows of all rows, 0 to 1."""
        return self.num_dropped / self.num_rows if self.num_rows else 0.0

    def exceeds(self, max_drop_fraction: float | None) -> bool:
        """Whether more was dropped than allowed; None allows everything."""
        return max_drop_fraction is not None and self.drop_fraction > max_drop_fraction

    def merge(self, other: "DropReport") -> None:
        """Take in the report of a later part of the same source."""
        shown = Counter({code: min(count, _limit(code)) for code, count in self.counts.items()})
        for finding in other.findings:
            shown[finding.code] += 1
            if shown[finding.code] <= _limit(finding.code):
                self.findings.append(finding)
        self.counts.update(other.counts)
        self.num_rows += other.num_rows
        self.seconds_kept += other.seconds_kept
        self.seconds_dropped += other.seconds_dropped

    def summary(self) -> str:
        """One line: rows and hours kept and dropped."""
        return (
            f"{self.source or 'rows'}: kept {self.num_kept} of {self.num_rows} rows "
            f"({self.seconds_kept / 3600:.2f} h), dropped {self.num_dropped} ({100 * self.drop_fraction:.1f} %, "
            f"{self.seconds_dropped / 3600:.2f} h where it is known)"
        )

    def table(self) -> "Table":
        """For `rich.console.Console().print`: codes with counts and an example, dropped ones first."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.summary()), title_justify="left", title_style="bold")
        for name, justify in (("", "left"), ("code", "left"), ("rows", "right"), ("meaning", "left")):
            table.add_column(name, justify=justify, no_wrap=name != "meaning")  # type: ignore[arg-type]
        table.add_column("first", overflow="fold")
        first: dict[str, Finding] = {}
        for finding in self.findings:
            first.setdefault(finding.code, finding)
        order = list(CODES)
        for code in sorted(self.counts, key=order.index):
            verdict, meaning = CODES[code]
            example = first.get(code)
            shown = (
                ": ".join(part for part in (example.file or example.row_id, example.detail) if part) if example else ""
            )
            style = {"dropped": "red", "repaired": "yellow", "noted": "cyan"}[verdict]
            # Text, not markup: file names may hold brackets.
            table.add_row(Text(verdict, style=style), code, str(self.counts[code]), meaning, Text(shown))
        return table

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "num_rows": self.num_rows,
            "num_kept": self.num_kept,
            "num_dropped": self.num_dropped,
            "seconds_kept": round(self.seconds_kept, 3),
            "seconds_dropped": round(self.seconds_dropped, 3),
            "counts": {
                verdict: {code: self.counts[code] for code in CODES if self.counts[code] and CODES[code][0] == verdict}
                for verdict in ("dropped", "repaired", "noted")
            },
            "findings": [finding._asdict() for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "DropReport":
        """The inverse of `to_dict`."""
        return cls(
            source=data["source"],
            num_rows=data["num_rows"],
            seconds_kept=data["seconds_kept"],
            seconds_dropped=data["seconds_dropped"],
            findings=[Finding(**finding) for finding in data["findings"]],
            counts=Counter({code: count for counts in data["counts"].values() for code, count in counts.items()}),
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_dict())
