"""What a set of decisions costs: rows and hours by reason."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any


class Summary:
    """Rows and hours by decision, counted while they are made."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.alone: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.corpora: defaultdict[str, float] = defaultdict(float)

    def add(self, decision: Mapping[str, Any]) -> None:
        """Count one decision."""
        seconds = decision["duration_s"] or 0.0
        keys = ["all", "kept" if decision["keep"] else "dropped"]
        keys += [f"reason:{reason}" for reason in decision["reasons"]] + [f"note:{note}" for note in decision["notes"]]
        if decision["keep"]:
            keys.append(f"text:{decision['text_source']}")
            self.corpora[decision["corpus"] or ""] += seconds
        if len(decision["reasons"]) == 1:
            self.alone[decision["reasons"][0]] += 1
        for key in keys:
            self.rows[key] += 1
            self.seconds[key] += seconds

    def to_dict(self) -> dict[str, Any]:
        """Counts, and hours, of all rows, kept and dropped ones, and by reason, note, text source and corpus."""

        def counted(key: str) -> dict[str, Any]:
            return {"rows": self.rows[key], "hours": round(self.seconds[key] / 3600, 4)}

        def group(prefix: str) -> dict[str, Any]:
            names = sorted(key for key in self.rows if key.startswith(prefix))
            return {key.removeprefix(prefix): counted(key) for key in names}

        reasons = {name: {**values, "alone": self.alone[name]} for name, values in group("reason:").items()}
        hours = {name: round(seconds / 3600, 4) for name, seconds in sorted(self.corpora.items())}
        return {
            **{key: counted(key) for key in ("all", "kept", "dropped")},
            "reasons": reasons,
            "notes": group("note:"),
            "text": group("text:"),
            "kept_hours_by_corpus": hours,
        }


def summary_table(summary: Mapping[str, Any], name: str) -> Any:
    """For `rich.console.Console().print`."""
    from rich.table import Table

    kept, everything = summary["kept"], summary["all"]
    share = kept["hours"] / everything["hours"] if everything["hours"] else 0.0
    title = f"decisions {name!r}: {kept['rows']} of {everything['rows']} rows kept, {100 * share:.1f} % of the hours"
    table = Table("", "rows", "hours", "for this alone", title=title, title_justify="left")
    for label in ("kept", "dropped"):
        table.add_row(label, str(summary[label]["rows"]), f"{summary[label]['hours']:.2f}", "")
    for reason, values in summary["reasons"].items():
        table.add_row(f"  {reason}", str(values["rows"]), f"{values['hours']:.2f}", str(values["alone"]))
    for kind in ("text", "notes"):
        for label, values in summary[kind].items():
            table.add_row(f"{kind}: {label}", str(values["rows"]), f"{values['hours']:.2f}", "")
    return table
