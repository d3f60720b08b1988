"""What is kept and why: a pure function of the scores and the settings, so that a filter is changed in seconds.

    <output>/scores.parquet                       one row an input row, in its order; written by `curate.py score`
    <output>/decisions/<name>/settings.json       what decided, and over which scores: a name is used once
    <output>/decisions/<name>/decisions.parquet   one row an input row, in order: keep, text, every reason, all scores
    <output>/decisions/<name>/summary.json        rows and hours by reason; written last

A row is dropped for any reason of any method; `reasons` lists them all, so that one can see what each method costs.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.curation.confidence import MEASURES, ConfidenceSettings, judge, quantile_floor
from data_scripts.curation.voting import VotingSettings, vote
from data_scripts.drop_report import write_json
from data_scripts.readers import SourceError, read_records
from data_scripts.text.normalize import normalize_text

METHODS = ("voting", "confidence")
SCORES_FILE, DECISIONS_FILE, SETTINGS_FILE, SUMMARY_FILE = (
    "scores.parquet",
    "decisions.parquet",
    "settings.json",
    "summary.json",
)
BATCH_ROWS = 2048


class DecisionError(ValueError):
    """Scores that are missing or of other models, a name that is taken, or a verdict that cannot be read."""


@dataclass
class DecisionSettings:
    """What is kept."""

    name: str = "default"
    """Name of this set of decisions; another set of settings needs another name."""
    methods: list[str] = field(default_factory=list)
    """Any of voting, confidence; a row must satisfy all that are named."""
    voting: VotingSettings = field(default_factory=VotingSettings)
    """Recognisers agree with each other."""
    confidence: ConfidenceSettings = field(default_factory=ConfidenceSettings)
    """A model finds the transcript neither too hard nor too easy."""
    verdicts: str | None = None
    """Verdicts of a person, from the label-noise page; they win over every method."""

    def __post_init__(self) -> None:
        plain = bool(self.name) and not set(self.name) & set("/\\{}") and self.name not in (".", "..")
        if not plain:
            raise ValueError(f"name must be a plain folder name, got {self.name!r}")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise ValueError(f"methods has {unknown[0]!r}, which is none of {', '.join(METHODS)}")


@dataclass(frozen=True, slots=True)
class Overview:
    """What one look at all scores found.

    model: whose scores the confidence filter reads: the first with alignments where the settings name none, else the
    first. floor: see `quantile_floor`.
    """

    model: str | None
    floor: float


def decide(
    scores: str | os.PathLike[str], output: str | os.PathLike[str], settings: DecisionSettings
) -> dict[str, Any]:
    """Decide about every row, and write decisions and summary.

    Args:
        scores: `scores.parquet`.
        output: folder that holds the sets of decisions; this one goes into `<output>/<settings.name>`.

    Returns:
        The summary. The same settings over the same scores give the same bytes, and are not decided twice.

    Raises:
        DecisionError: no scores, a name that belongs to other settings or scores, unreadable verdicts, scores without
            what a method needs.
    """
    scores, folder = Path(scores), Path(output) / settings.name
    if not scores.is_file():
        raise DecisionError(f"{scores}: no scores; run `curate.py score` with the same config first")
    described = {"settings": _described(settings), "scores": _digest(scores)}
    _check_name(folder, described)
    if (folder / SUMMARY_FILE).is_file() and (folder / DECISIONS_FILE).is_file():
        return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    verdicts = read_verdicts(settings.verdicts) if settings.verdicts else {}
    overview = _look(scores, settings)
    summary = Summary()
    folder.mkdir(parents=True, exist_ok=True)
    partial = _write(scores, folder, settings, overview, verdicts, summary)
    # The name is taken only now: settings that cannot be applied leave it free.
    write_json(folder / SETTINGS_FILE, described)
    os.replace(partial, folder / DECISIONS_FILE)
    write_json(folder / SUMMARY_FILE, summary.to_dict())
    return summary.to_dict()


def decide_row(
    row: Mapping[str, Any],
    settings: DecisionSettings,
    overview: Overview,
    verdicts: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """The decision about one row of scores: a row of `decisions.parquet`."""
    reasons: list[str] = []
    notes: list[str] = []
    scores = row["scores"]
    text, text_source = row["text"], "transcript" if row["text"] else ""
    lm_score = row["lm_score"]
    voted = vote(scores, settings.voting)
    if "voting" in settings.methods:
        if voted.reason:
            reasons.append(voted.reason)
        elif settings.voting.replace == "all" or not text:
            text, text_source, lm_score = voted.text, "voted", voted.lm_score
    looked_at = next((score for score in scores if score["model"] == overview.model), None)
    if "confidence" in settings.methods:
        judged = judge(row["id"], looked_at, settings.confidence, overview.floor)
        reasons += judged.reasons
        notes += judged.notes
    if not text and not reasons:
        reasons.append("no_text")
    verdict = (verdicts or {}).get(row["id"])
    if verdict is not None:
        reasons, notes = (["person"], notes) if verdict["verdict"] == "drop" else ([], [*notes, "person"])
        if verdict["text"]:
            text, text_source, lm_score = verdict["text"], "person", None
    return {
        "id": row["id"],
        "keep": not reasons,
        "text": text,
        "text_source": text_source,
        "reasons": reasons,
        "notes": notes,
        "transcript": row["text"],
        "hypothesis": looked_at["hypothesis"] if looked_at else None,
        "unit": looked_at["unit"] if looked_at else None,
        "error_rate": looked_at["error_rate"] if looked_at else None,
        "confidence": looked_at[MEASURES[settings.confidence.measure]] if looked_at else None,
        "agreement": voted.agreement,
        "lm_score": lm_score,
        "duration_s": row["duration_s"],
        "corpus": row["corpus"],
        "speaker": row["speaker"],
        "shard": row["shard"],
        "scores": scores,
    }


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """A person's verdicts by row id: a CSV, TSV or JSONL file with columns id, verdict (keep or drop) and, if a
    transcript was corrected, text.

    Raises:
        DecisionError: no such file, a missing column, another verdict, an id with two verdicts; names the line.
    """
    if not Path(path).is_file():
        raise DecisionError(f"decide.verdicts: no such file: {path}")
    found: dict[str, dict[str, str]] = {}
    try:
        for where, record in read_records(Path(path)):
            row_id, verdict = record.get("id"), str(record.get("verdict") or "").strip().lower()
            if not row_id or verdict not in ("keep", "drop"):
                raise DecisionError(f"{where}: needs an id and a verdict, keep or drop; got {row_id!r}, {verdict!r}")
            if found.get(str(row_id), {"verdict": verdict})["verdict"] != verdict:
                raise DecisionError(f"{where}: {row_id!r} has another verdict above; leave one of them")
            found[str(row_id)] = {"verdict": verdict, "text": normalize_text(str(record.get("text") or ""))}
    except SourceError as error:
        raise DecisionError(f"decide.verdicts: {error}") from error
    return found


class Summary:
    """Rows and hours by decision, counted while they are made."""

    def __init__(self) -> None:
        self.rows, self.seconds = Counter(), Counter()
        self.alone: Counter[str] = Counter()
        self.corpora: Counter[str] = Counter()

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


def _described(settings: DecisionSettings) -> dict[str, Any]:
    """Settings without those of methods that are off; the content of the verdicts, not their path."""
    described = asdict(settings)
    for method in METHODS:
        if method not in settings.methods and method != "confidence":
            described.pop(method)
    if settings.verdicts and Path(settings.verdicts).is_file():
        described["verdicts"] = _digest(Path(settings.verdicts))
    return described


def _check_name(folder: Path, described: dict[str, Any]) -> None:
    path = folder / SETTINGS_FILE
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if there != described:
            what = "scores" if there.get("settings") == described["settings"] else "settings"
            raise DecisionError(f"{folder} holds decisions of other {what}; choose another --decide.name")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def read_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a scores or decisions table, a batch in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def _look(scores: Path, settings: DecisionSettings) -> Overview:
    """The model and the floor of the confidence filter."""
    wanted, measure = settings.confidence.model, MEASURES[settings.confidence.measure]
    first: str | None = None
    confidences: dict[str, list[float | None]] = {}
    for row in read_rows(scores, ["scores"]):
        seen: set[str] = set()
        for score in row["scores"]:
            first = first or score["model"]
            if score["model"] not in seen and score["confidence"] is not None:
                confidences.setdefault(score["model"], []).append(score[measure])
            seen.add(score["model"])
    model = wanted or next(iter(confidences), first)
    if "confidence" in settings.methods and model not in confidences:
        there = ", ".join(confidences) or "none"
        raise DecisionError(
            f"decide.methods: no transcript was aligned by model {model!r}, so there is no confidence; models with "
            f"alignments: {there}. Score with a CTC model or an S2P with a CTC head, or leave the method out"
        )
    quantile = settings.confidence.drop_quantile
    return Overview(model, quantile_floor(confidences.get(str(model), []), quantile))


def _write(
    scores: Path,
    folder: Path,
    settings: DecisionSettings,
    overview: Overview,
    verdicts: Mapping[str, Mapping[str, str]],
    summary: Summary,
) -> Path:
    """Decide row by row into a partial file; returns its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    score_type = pq.read_schema(scores).field("scores").type
    text, number = pa.string(), pa.float64()
    schema = pa.schema(
        {
            "id": text, "keep": pa.bool_(), "text": text, "text_source": text, "reasons": pa.list_(text),
            "notes": pa.list_(text), "transcript": text, "hypothesis": text, "unit": text, "error_rate": number,
            "confidence": number, "agreement": number, "lm_score": number, "duration_s": number, "corpus": text,
            "speaker": text, "shard": pa.int32(), "scores": score_type,
        }
    )  # fmt: skip
    unseen = set(verdicts)
    partial = folder / f".{DECISIONS_FILE}.partial"
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in read_rows(scores):
            decision = decide_row(row, settings, overview, verdicts)
            summary.add(decision)
            unseen.discard(row["id"])
            batch.append(decision)
            if len(batch) == BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    if unseen:
        raise DecisionError(f"decide.verdicts: {len(unseen)} ids are no rows of these scores, such as {min(unseen)!r}")
    return partial
