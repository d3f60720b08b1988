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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_scripts.curation.confidence import MEASURES, ConfidenceSettings, judge, judging_score, quantile_floor
from data_scripts.curation.decisions_summary import Summary
from data_scripts.curation.repeats import HeldOutTexts, RepeatIndex, RepeatSettings
from data_scripts.curation.rules import RuleSettings, SpeakingRates, rule_reasons
from data_scripts.curation.voting import VotingSettings, vote
from data_scripts.drop_report import write_json
from data_scripts.readers import SourceError, read_records
from data_scripts.sources import SourceArguments, load_source
from data_scripts.text.normalize import normalize_text

METHODS = ("voting", "confidence", "rules", "repeats")
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
    """Any of voting, confidence, rules, repeats; a row must satisfy all that are named."""
    voting: VotingSettings = field(default_factory=VotingSettings)
    """Recognisers agree with each other."""
    confidence: ConfidenceSettings = field(default_factory=ConfidenceSettings)
    """A model finds the transcript neither too hard nor too easy."""
    rules: RuleSettings = field(default_factory=RuleSettings)
    """Text, duration and speaking rate are plausible."""
    repeats: RepeatSettings = field(default_factory=RepeatSettings)
    """No recording twice, no sentence too often."""
    held_out: list[SourceArguments] = field(default_factory=list)
    """Test and validation sets: rows with their sentences, or nearly so, are dropped."""
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
    first. floor: see `quantile_floor`. repeats: row number -> reasons. rates: of each corpus, for `max_rate_z`.
    """

    model: str | None
    floor: float = float("-inf")
    repeats: Mapping[int, list[str]] = field(default_factory=dict)
    rates: Mapping[str, tuple[float, float]] | None = None
    held_out: HeldOutTexts | None = None


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
    number: int = 0,
) -> dict[str, Any]:
    """The decision about one row of scores, the `number`th: a row of `decisions.parquet`."""
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
    looked_at = judging_score(row, overview.model, settings.confidence.folds)
    if "confidence" in settings.methods:
        judged = judge(row["id"], looked_at, settings.confidence, overview.floor)
        reasons += judged.reasons
        notes += judged.notes
    if "rules" in settings.methods:
        reasons += rule_reasons({**row, "text": text}, settings.rules, overview.rates)
    if "repeats" in settings.methods:
        reasons += overview.repeats.get(number, [])
    if overview.held_out and overview.held_out.find(text):
        reasons.append("text_held_out")
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
    from data_scripts.curation.label_noise import plain_cell

    if not Path(path).is_file():
        raise DecisionError(f"decide.verdicts: no such file: {path}")
    found: dict[str, dict[str, str]] = {}
    try:
        for where, record in read_records(Path(path)):
            row_id, verdict = plain_cell(str(record.get("id") or "")), str(record.get("verdict") or "").strip().lower()
            text = normalize_text(str(record.get("text") or ""))
            if not verdict and not text:
                continue  # not looked at yet
            verdict = verdict or "keep"  # a corrected transcript says so
            if not row_id or verdict not in ("keep", "drop"):
                raise DecisionError(f"{where}: needs an id and a verdict, keep or drop; got {row_id!r}, {verdict!r}")
            if found.get(row_id, {"verdict": verdict})["verdict"] != verdict:
                raise DecisionError(f"{where}: {row_id!r} has another verdict above; leave one of them")
            found[row_id] = {"verdict": verdict, "text": text}
    except SourceError as error:
        raise DecisionError(f"decide.verdicts: {error}") from error
    return found


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
    """The model and the floor of the confidence filter, repeats, and speaking rates."""
    wanted, folds = settings.confidence.model, settings.confidence.folds
    measure = MEASURES[settings.confidence.measure]
    first: str | None = None
    aligned: dict[str, None] = {}
    repeats, rates = RepeatIndex(settings.repeats), SpeakingRates()
    for row in read_rows(scores, ["scores", "text", "duration_s", "corpus", "speaker", "audio_digest"]):
        # A digest stands for the recording it was made of.
        digest = row["audio_digest"]
        repeats.add({**row, "audio": {"bytes": digest.to_bytes(8, "big")} if digest else None})
        rates.add(row)
        for score in row["scores"]:
            first = first or score["model"]
            if score["confidence"] is not None:
                aligned[score["model"]] = None
    model = wanted or next(iter(aligned), first)
    names = [model] if folds == 1 else [f"{model}{fold}" for fold in range(folds)]
    if "confidence" in settings.methods and (missing := [name for name in names if name not in aligned]):
        raise DecisionError(
            f"decide.methods: no transcript was aligned by model {missing[0]!r}, so there is no confidence; models "
            f"with alignments: {', '.join(aligned) or 'none'}. Score with a CTC model or an S2P with a CTC "
            "head, or leave the method out"
        )
    quantile = settings.confidence.drop_quantile
    floor = float("-inf")
    if quantile:
        judging = (judging_score(row, model, folds) for row in read_rows(scores, ["id", "scores"]))
        floor = quantile_floor((score[measure] for score in judging if score), quantile)
    return Overview(
        model,
        floor,
        {number: [found.code for found in findings] for number, findings in repeats.find().items()},
        rates.z_scores() if settings.rules.max_rate_z is not None else None,
        _held_out(settings.held_out),
    )


def _held_out(sources: list[SourceArguments]) -> HeldOutTexts | None:
    # Rows of a data set are mappings, whatever its stubs say.
    rows: Any = (row for source in sources for row in load_source(replace(source, kind="text")))
    texts = [row["text"] for row in rows]
    return HeldOutTexts(texts) if texts else None


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
        for number, row in enumerate(read_rows(scores)):
            decision = decide_row(row, settings, overview, verdicts, number)
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
