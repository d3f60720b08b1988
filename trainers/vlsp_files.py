"""Reference, hypothesis and submission files of the VLSP score, joined by id.

A file is CSV, TSV or JSONL (as `data_scripts.readers` reads them: UTF-8 with or without byte order mark, any line
ends, .gz and .xz too). What does not fit is named with file and line: two rows of one id, an id that the reference
lacks, an emotion that is of no class, a reference without hypothesis.
"""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.files import whole_file
from data_scripts.readers import ALIASES, SourceError, closest, read_records
from data_scripts.text.normalize import normalize_text

from .vlsp_arguments import CLASSES, VLSPArguments

logger = logging.getLogger(__name__)
_IDS = (*ALIASES["id"], *ALIASES["audio"])
_REFERENCE_NAMES = {"id": _IDS, "text": ALIASES["text"], "emotion": ("emotion", "label")}
_HYPOTHESIS_NAMES = {"id": _IDS, "text": ("hypothesis", *ALIASES["text"]), "emotion": ("emotion", "label")}
SUBMISSION_COLUMNS = ("id", "text", "emotion")
# Said once beside an error, however many rows have it.
_MOST_NAMED = 3


@dataclass
class VLSPRow:
    """One utterance: what was said and how, what the systems made of it; None where a side has nothing.

    emotions are classes (neutral, negative); "" is a prediction that is missing and counts as wrong. `scores` are the
    probabilities of the classes.
    """

    id: str
    place: str
    reference_text: str | None = None
    reference_emotion: str | None = None
    text: str | None = None
    emotion: str | None = None
    scores: dict[str, float] | None = None


@dataclass
class _Value:
    value: Any
    place: str


@dataclass
class _Hypotheses:
    """Of all files, by id. columns: which of id, text and emotion there are in any of them."""

    texts: dict[str, _Value] = field(default_factory=dict)
    emotions: dict[str, _Value] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)


def class_of(labels: Mapping[str, Sequence[str]], model_labels: Mapping[str, str] | None = None) -> dict[str, str]:
    """Emotion → class; a class stands for itself whatever its emotions are. `model_labels` come on top."""
    classes = {emotion: name for name, emotions in labels.items() for emotion in emotions}
    return classes | {name: name for name in labels} | dict(model_labels or {})


def pool_scores(scores: Mapping[str, float], classes: Mapping[str, str], where: str) -> dict[str, float]:
    """Probabilities of a classifier's labels to those of the classes: summed, those of no class left out.

    Args:
        classes: label → class, of `class_of`. where: for messages.

    Raises:
        ValueError: a class has no emotion among the scores, or the numbers are no probabilities.
    """
    pooled: dict[str, float] = dict.fromkeys(CLASSES, 0.0)
    named = set()
    for emotion, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not -1e-6 <= score <= 1 + 1e-6:
            raise ValueError(f"{where}: the probability of {emotion} must be from 0 to 1, got {score!r}")
        if name := classes.get(str(emotion), classes.get(str(emotion).lower())):
            pooled[name] += score
            named.add(name)
    if missing := [name for name in CLASSES if name not in named]:
        raise ValueError(
            f"{where}: none of the labels {', '.join(map(str, scores)) or '(none)'} is {' or '.join(missing)}; say "
            "which are, as --model_labels '{neu: neutral, ang: negative}'"
        )
    total = sum(pooled.values())
    return {name: score / total if total else 1 / len(pooled) for name, score in pooled.items()}


def read_rows(args: VLSPArguments) -> tuple[list[VLSPRow], dict[str, Any]]:
    """References with their hypotheses, in the order of the reference files, and what was left out or missing.

    Raises:
        ValueError: see above; one line that names file, line and what to do.
    """
    rows, left_out = _references(args)
    found = _hypotheses(args, {row.id for row in rows})
    _check_halves(args, rows, found.columns)
    texts, emotions, scores = found.texts, found.emotions, found.scores
    missing: dict[str, list[VLSPRow]] = {"text": [], "emotion": []}
    for row in rows:
        if row.id in texts:
            row.text = texts[row.id].value
        elif row.reference_text is not None:
            missing["text"].append(row)
            row.text = ""
        if row.id in emotions:
            row.emotion, row.scores = emotions[row.id].value, scores.get(row.id)
        elif row.reference_emotion is not None:
            missing["emotion"].append(row)
            row.emotion = ""
    for what, those in missing.items():
        if those and not args.allow_missing:
            total = sum(getattr(row, f"reference_{what}") is not None for row in rows)
            raise ValueError(
                f"{len(those)} of {total} references have no {what} among the hypotheses: "
                f"{_named([(row.id, row.place) for row in those])}; --allow_missing counts them as wrong"
            )
    facts = {
        "left_out": left_out,
        "missing": {what: [row.id for row in those] for what, those in missing.items() if those},
    }
    return rows, facts


def _references(args: VLSPArguments) -> tuple[list[VLSPRow], dict[str, int]]:
    """Every row, and how often an emotion of no class occurs."""
    found: dict[str, VLSPRow] = {}
    left_out: dict[str, int] = {}
    classes = class_of(args.labels)
    columns: set[str] = set()
    for path in args.reference:
        records, names, found_here = _read(path, args.reference_columns, _REFERENCE_NAMES, "reference")
        columns |= found_here
        for place, record in records:
            row = VLSPRow(_id(record, names, place), place)
            if row.id in found:
                raise ValueError(f"{place}: id {row.id!r} was given before, at {found[row.id].place}")
            text = _text(record, names, "text", place) if args.only != "ser" else None
            emotion = _text(record, names, "emotion", place) if args.only != "asr" else None
            row.reference_text = text if text and normalize_text(text) else None
            if emotion and emotion.strip():
                row.reference_emotion = _reference_class(emotion.strip(), classes, place)
                if row.reference_emotion is None:
                    name = emotion.strip().lower()
                    left_out[name] = left_out.get(name, 0) + 1
            found[row.id] = row
    rows = list(found.values())
    _check_wanted(args.reference, args.reference_columns, columns, "reference")
    if not any(row.reference_text is not None or row.reference_emotion is not None for row in rows):
        wanted = {"asr": "text", "ser": "emotion"}.get(args.only or "", "text or emotion")
        raise ValueError(
            f"{', '.join(args.reference)}: none of {len(found)} rows has a {wanted} to score; columns found: "
            f"{', '.join(sorted(columns))}"
        )
    return rows, left_out


def _reference_class(emotion: str, classes: Mapping[str, str], place: str) -> str | None:
    from data_scripts.schema import EMOTIONS

    name = emotion.lower()
    if name not in classes and name not in EMOTIONS:
        raise ValueError(f"{place}: unknown emotion {emotion!r}; known are {', '.join(EMOTIONS)}")
    return classes.get(name)


def _hypotheses(args: VLSPArguments, known: set[str]) -> _Hypotheses:
    found = _Hypotheses()
    unknown: list[tuple[str, str]] = []
    columns: set[str] = set()
    classes = class_of(args.labels, args.model_labels)
    for path in args.hypothesis:
        records, names, found_here = _read(path, args.hypothesis_columns, _HYPOTHESIS_NAMES, "hypothesis", args.select)
        columns |= found_here
        found.columns |= set(names)
        for place, record in records:
            row_id = _id(record, names, place)
            if row_id not in known:
                unknown.append((row_id, place))
                continue
            if args.only != "ser" and (text := _text(record, names, "text", place)) is not None:
                _put(found.texts, row_id, _Value(text, place), "text")
            if args.only == "asr" or not (emotion := (_text(record, names, "emotion", place) or "").strip()):
                continue
            name = classes.get(emotion, classes.get(emotion.lower()))
            if name is None:
                allowed = ", ".join(classes)
                raise ValueError(f"{place}: emotion {emotion!r} is of no class; allowed are {allowed} (see --labels)")
            _put(found.emotions, row_id, _Value(name, place), "emotion")
            if isinstance(given := record.get("probabilities"), Mapping):
                found.scores[row_id] = pool_scores(given, classes, place)
    _check_wanted(args.hypothesis, args.hypothesis_columns, columns, "hypothesis")
    if unknown:
        raise ValueError(
            f"{len(unknown)} ids of the hypotheses are not in the reference: {_named(unknown)}; "
            f"{_why_unknown(unknown, known)}"
        )
    return found


def _why_unknown(unknown: Sequence[tuple[str, str]], known: set[str]) -> str:
    """Rows of folders without ids of their own are called by corpus and file."""
    for row_id, _ in unknown:
        corpus, _, rest = row_id.partition("/")
        if corpus and rest in known:
            return (
                f"{rest!r} is: {corpus} is the name of the test set, put before file names; where models are run, "
                "--data.columns '{id: file_name, audio: file_name}' makes these the ids"
            )
    return "check that the files belong to one test set"


def _check_halves(args: VLSPArguments, rows: Sequence[VLSPRow], columns: set[str]) -> None:
    """Refuse hypotheses that lack one half of what the reference has, unless `--only` says so."""
    for column, other in (("text", "ser"), ("emotion", "asr")):
        if column not in columns and any(getattr(row, f"reference_{column}") is not None for row in rows):
            raise ValueError(
                f"{', '.join(args.hypothesis)}: no {column} column (looked for "
                f"{', '.join(_HYPOTHESIS_NAMES[column])}); name it with --hypothesis_columns '{{{column}: THEIRS}}', "
                f"or score the other half alone with --only {other}"
            )


def _check_wanted(paths: Sequence[str], wanted: Mapping[str, str], found: set[str], option: str) -> None:
    for key, theirs in wanted.items():
        if theirs not in found:
            raise SourceError(
                f"{', '.join(paths)}: no column {theirs!r} ({option}_columns.{key}).{closest(theirs, sorted(found))} "
                f"Columns found: {', '.join(sorted(found))}"
            )


def _put(values: dict[str, _Value], row_id: str, value: _Value, what: str) -> None:
    if row_id in values:
        raise ValueError(
            f"{value.place}: {what} of id {row_id!r} was given before, at {values[row_id].place}; of a file with "
            "several systems choose one, as --select '{model: M, num_beams: 1}'"
        )
    values[row_id] = value


def _read(
    path: str,
    wanted: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]],
    option: str,
    select: Mapping[str, Any] | None = None,
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, str], set[str]]:
    """The records of a file, id, text, emotion → its columns, and all of its columns.

    Raises:
        SourceError: no such file, nothing in it, no id column, or neither text nor emotion.
    """
    if not Path(path).is_file():
        raise SourceError(f"{path}: no such file")
    records = list(read_records(Path(path)))
    found = list(dict.fromkeys(name for _, record in records for name in record))
    if not records:
        raise SourceError(f"{path}: has no rows")
    names = {key: theirs for key, theirs in wanted.items() if theirs in found}
    for key, choices in aliases.items():
        theirs = next((name for name in choices if name in found), None)
        if key not in names and theirs:
            names[key] = theirs
    if "id" not in names or not {"text", "emotion"} & names.keys():
        lacking = "id" if "id" not in names else "text or emotion"
        raise SourceError(
            f"{path}: no {lacking} column; columns found: {', '.join(found)}. Name it with --{option}_columns "
            "'{id: THEIRS, text: THEIRS, emotion: THEIRS}'"
        )
    for column, value in (select or {}).items():
        if column in found:
            values = dict.fromkeys(_plain(record.get(column)) for _, record in records)
            records = [(place, record) for place, record in records if _plain(record.get(column)) == _plain(value)]
            if not records:
                raise SourceError(f"{path}: no row with {column} {_plain(value)}; there are {', '.join(values)}")
    return records, names, set(found)


def _plain(value: Any) -> str:
    """A value as it is compared: CSV has text alone, JSON also numbers, true and null."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _id(record: Mapping[str, Any], names: Mapping[str, str], place: str) -> str:
    value = record.get(names["id"])
    if value is None or isinstance(value, dict | list | bool) or not str(value).strip():
        raise ValueError(f"{place}: the id ({names['id']}) must be text, got {value!r}")
    return str(value)


def _text(record: Mapping[str, Any], names: Mapping[str, str], key: str, place: str) -> str | None:
    value = record.get(names[key]) if key in names else None
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: {names[key]} must be text, got {value!r}")
    return value


def _named(rows: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{row_id!r} ({place})" for row_id, place in rows[:_MOST_NAMED])
    return shown + (f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else "")


def check_new(path: str | Path) -> None:
    """Raises ValueError where a submission exists already: it may have been sent."""
    if Path(path).exists():
        raise ValueError(f"{path}: exists already and is not written over; choose another --submission")


def check_ids(path: str | Path, rows: Sequence[VLSPRow]) -> None:
    """Raises ValueError where two rows of a submission have one id."""
    seen: dict[str, str] = {}
    for row in rows:
        if row.id in seen:
            raise ValueError(
                f"{path}: id {row.id!r} occurs twice, in {seen[row.id]} and {row.place}; give one set an id_prefix"
            )
        seen[row.id] = row.place


def write_submission(path: str | Path, rows: Sequence[VLSPRow]) -> None:
    """Write `id,text,emotion` with one line a row, in their order.

    UTF-8 without byte order mark, lines end in LF, a field is quoted where it holds a comma, a quote or a line end.
    The text is the normalised hypothesis; either field is empty where there is no hypothesis for it.

    Raises:
        ValueError: the file exists, or two rows have one id.
    """
    check_new(path)
    check_ids(path, rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SUBMISSION_COLUMNS)
    writer.writerows((row.id, normalize_text(row.text or ""), row.emotion or "") for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.getvalue().encode("utf-8"))
