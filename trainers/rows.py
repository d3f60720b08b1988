"""The rows of a run: every source of its config read, validated and mixed.

Speech rows keep their audio encoded (the collators decode it); text rows of p2t are the transcripts of the speech, the
text sources and generated sentences, each with the number of its phonemes. What was dropped is logged as a table and
saved beside the run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_scripts.mixtures import mix, replay_weights, temperature_weights
from data_scripts.sources import SourceArguments, SourceError, load_source
from trainers.arguments import RunConfig
from trainers.checks import ConfigError
from trainers.label_limits import LabelLimits, drop, drop_long_labels
from trainers.processes import rank, world_size
from trainers.row_classes import first_of_each, label_parts, with_labels
from trainers.row_selection import Select, selection

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from data_scripts.drop_report import DropReport
    from data_scripts.shards import ShardRows

logger = logging.getLogger(__name__)


@dataclass
class Rows:
    """What a run trains and evaluates on."""

    train: "Dataset | ShardRows | IterableDataset | Any"
    """Training rows, each once; a stream if any source streams that is not a prepared folder. Of emotion runs with
    `label`, as those of `validation` (`trainers.ser_rows.LabelledRows`)."""
    validation: "Dataset | Any | None"
    """Evaluation rows; None where the run does not evaluate."""
    reports: "dict[str, DropReport]"
    """What was dropped and mended, by split and source."""
    select: Select | None = None
    """Numbers of the training rows of an epoch: weights of the sources, short and medium utterances; None: all."""


def build_datasets(config: RunConfig, report_folder: str | Path | None = None) -> Rows:
    """Read everything that the run needs of what `config.data` names.

    In a launch of several processes the first one checks the recordings and tells the others, so it must be called by
    all of them, after they have met.

    Args:
        report_folder: where the drop reports go, as `drop_report-<split>-<number>.json`; None saves none.

    Raises:
        ConfigError: nothing is left to train or evaluate on, two rows have one id, or a recording is in both.
        SourceError, SchemaError, TooManyDropped: see `data_scripts`.
    """
    from data_scripts.validate import Seen

    # Of text runs alone: sentences to generate.
    data: Any = config.data
    text, train_sources, validation_sources = config.is_text, config.train_sources(), config.validation_sources()
    reports: dict[str, Any] = {}
    seen = Seen()
    parts = [
        _clean(config, source, f"train-{number}", seen, reports, text) for number, source in enumerate(train_sources)
    ]
    weights, names = [source.weight for source in train_sources], [source.path for source in train_sources]
    if text and data.synthetic_sentences:
        parts.append(synthetic_rows(data.synthetic_sentences, config.training.seed, "train"))
        weights.append(1.0)
        names.append("generated sentences")
    parts, train_labels = label_parts(config, parts, names, "train", reports)
    train, passes = mix(parts, _weights(config, parts, weights), config.training.seed, names)
    validation, heard = None, seen
    validation_labels: Any = None
    if config.training.eval_strategy != "no" or config.training.eval_on_start:
        seen = Seen()
        parts = [
            _clean(config, replace(source, streaming=False), f"validation-{number}", seen, reports, text)
            for number, source in enumerate(validation_sources)
        ]
        if text and data.synthetic_validation_sentences:
            count = data.synthetic_validation_sentences
            parts.append(synthetic_rows(count, config.training.seed, "validation"))
        names = [source.path for source in validation_sources]
        parts, validation_labels = label_parts(config, parts, names, "validation", reports)
        validation = mix(parts, [1.0] * len(parts), config.training.seed).rows
    _save_reports(reports, report_folder)
    _on_every_rank(lambda: _refuse_repeats(config, reports, heard, seen))
    if config.caches and not hasattr(train, "num_rows"):
        raise ConfigError("data.train", "a cache needs rows that can be read in any order: set streaming to false")
    for key, rows in (("data.train", train), ("data.validation", validation)):
        if rows is not None and hasattr(rows, "__len__") and not len(rows):
            raise ConfigError(key, "no usable row is left; see the drop report above")
    if train_labels is not None:
        train, validation = with_labels(config, train, train_labels, validation, validation_labels)
    return Rows(train, validation, reports, selection(config, train, passes))


def _weights(config: RunConfig, parts: list[Any], weights: list[float]) -> list[float]:
    """Weights of the sources, times those of `data.mixture_exponent`; those that are replayed get their share."""
    exponent, num_replayed = config.data.mixture_exponent, len(config.data.replay)
    known = all(hasattr(part, "__len__") for part in parts)
    amounts = [audio_hours(part) or len(part) for part in parts] if known else [1.0] * len(parts)
    if exponent != 1 and len(parts) > 1:
        if not known:
            raise ConfigError("data.mixture_exponent", "needs sources of known length: prepare them, or set weights")
        first = len(parts) - num_replayed
        shares = temperature_weights(amounts[:first], exponent) + temperature_weights(amounts[first:], exponent)
        weights = [one * two for one, two in zip(weights, shares, strict=True)]
    if not num_replayed:
        return weights
    for key, group in (("data.train", amounts[:-num_replayed]), ("data.replay", amounts[-num_replayed:])):
        if not any(group):
            raise ConfigError(key, "no usable row is left; see the drop report above")
    return replay_weights(amounts, weights, num_replayed, config.data.replay_share)


def synthetic_rows(count: int, seed: int, split: str) -> "Dataset":
    """Generated code-switched sentences as text rows; no sentence is in two splits."""
    from data_scripts.schema import TEXT_FEATURES
    from data_scripts.synthesis.sentences import generate_sentences
    from data_scripts.tables import table_from_rows

    sentences = generate_sentences(count, seed=seed, split=split)
    rows = (
        {"speaker": None, "dialect": None, "emotion": None, **{k: v for k, v in row.items() if k != "split"}}
        for row in sentences
    )
    return table_from_rows(rows, TEXT_FEATURES)


def _clean(
    config: RunConfig, source: SourceArguments, name: str, seen: Any, reports: dict[str, Any], text: bool
) -> "Dataset | IterableDataset":
    """One source, validated."""
    from datasets import IterableDataset

    limit = config.data.max_rows
    by_emotion = limit is not None and hasattr(config, "labels")
    if limit is not None and not by_emotion:
        source = replace(source, max_rows=min(limit, source.max_rows or limit))
    if text:
        source = replace(source, kind="text")
    elif not by_emotion and (trusted := _trusted(config, source, name, seen, reports)) is not None:
        return trusted
    raw = load_source(source, need_text=config.needs_text, normalise=False, fill_durations=not text)
    if by_emotion:
        raw = raw.select(first_of_each(raw["emotion"], config.data.max_rows))  # type: ignore[union-attr,arg-type]

    def validate() -> "Dataset | IterableDataset":
        clean = _validated(config, raw, source, name, seen, reports, text)
        limits = LabelLimits.of(config)
        if limits is None:
            return clean
        fitting = drop_long_labels(clean, limits, reports[name])
        if not isinstance(clean, IterableDataset):
            _stop_if_too_many(config, reports[name])
        return fitting

    if text or isinstance(raw, IterableDataset) or world_size() == 1:
        return validate()
    return _shared(raw, validate)


def _stop_if_too_many(config: RunConfig, report: "DropReport") -> None:
    from data_scripts.validate import TooManyDropped

    if report.exceeds(config.data.max_dropped):
        raise TooManyDropped(report, config.data.max_dropped)


def _refuse_repeats(config: RunConfig, reports: dict[str, Any], heard: Any, held_out: Any) -> None:
    """Ids that occur twice, and recordings that are trained on and evaluated on."""
    for report in reports.values():
        twice = next((finding for finding in report.findings if finding.code == "duplicate_id"), None)
        if twice:
            raise ConfigError(
                "data",
                f"{report.counts['duplicate_id']} row(s) of {report.source} have an id that an earlier row has, the "
                f"first {twice.row_id!r} ({twice.file}): give every row its own id, or set id_prefix of the source",
            )
    shared = [] if heard is held_out else [digest for digest in held_out.audio if digest in heard.audio]
    if not shared:
        return
    pairs = "; ".join(f"{heard.audio[digest]} and {held_out.audio[digest]}" for digest in shared[:3])
    message = f"{len(shared)} recording(s) are trained on and evaluated on, by the bytes of their files: {pairs}"
    if not config.data.allow_shared_recordings:
        advice = "take them out of one of the two, or set data.allow_shared_recordings to true if that is meant"
        raise ConfigError("data.validation", f"{message}; {advice}")
    logger.warning(message)


def _trusted(config: RunConfig, source: SourceArguments, name: str, seen: Any, reports: dict[str, Any]) -> Any:
    """The rows of a folder that `scripts/prepare_data.py` wrote, without decoding them again; None for other sources.

    Limits of the duration are applied by the durations that it measured.
    """
    folder = Path(source.path).expanduser()
    renamed = source.columns or source.id_prefix or source.corpus or source.max_rows
    if source.kind not in ("auto", "parquet") or renamed or not (folder / ".prepared").is_dir():
        return None
    from data_scripts.drop_report import DropReport
    from data_scripts.preparing.duplicates import recordings
    from data_scripts.shards import ShardRows, durations, open_mapped, read_column, trusted_files
    from data_scripts.validate import Limits

    shortest, longest = config.data.min_duration_s, config.data.max_duration_s
    files, problem = trusted_files(folder, source.split, Limits(shortest, longest, **_text_limits(config)))
    if problem:
        logger.info("%s, split %s: every row is checked, because %s", source.path, source.split, problem)
        return None
    seconds = durations(files)
    fits = (seconds >= shortest) & (seconds <= longest)
    keep = np.flatnonzero(fits)
    report = reports[name] = DropReport(source.path, num_rows=len(seconds), seconds_kept=float(seconds[fits].sum()))
    if len(keep) < len(seconds):
        ids = read_column(files, "id")
        for row in np.flatnonzero(~fits).tolist():
            code = "too_short" if seconds[row] < shortest else "too_long"
            report.add(code, ids[row], detail=f"{seconds[row]:.2f} s by the prepared folder")
        report.seconds_dropped = float(seconds[~fits].sum())
    keep = keep[_fitting(config, files, keep, report)]
    if rank() == 0:
        logger.info("%s; checked when it was prepared", report.summary())
        for digest, row_id in recordings(folder, source.split):
            seen.first_with(digest, row_id)
    _stop_if_too_many(config, report)
    if source.streaming:
        return ShardRows(files, keep)
    rows = open_mapped(files)
    return rows if len(keep) == len(rows) else rows.select(keep)


def _fitting(config: RunConfig, files: list[str], keep: np.ndarray, report: "DropReport") -> np.ndarray:
    """Which of the kept rows of some shards have labels that fit."""
    from data_scripts.shards import durations, read_column

    fits = np.ones(len(keep), dtype=bool)
    limits = LabelLimits.of(config)
    if limits is None:
        return fits
    texts, seconds = read_column(files, "text"), durations(files)
    spans: list[Any] = []

    def row_at(place: int) -> dict[str, Any]:
        spans[:] = spans or read_column(files, "spans")
        row = int(keep[place])
        return {"text": texts[row], "duration_s": float(seconds[row]), "spans": spans[row]}

    found = list(limits.find([texts[row] for row in keep], seconds[keep].tolist(), row_at))
    ids = read_column(files, "id") if found else []
    for place, problem in found:
        fits[place] = False
        drop(report, {**row_at(place), "id": ids[int(keep[place])]}, problem)
    return fits


def _text_limits(config: RunConfig) -> dict[str, Any]:
    """What text a row must have; where text is no target, any will do."""
    from data_scripts.text.normalize import PROBLEM_CODES

    if config.needs_text:
        return {}
    return {"need_text": False, "keep_text_problems": tuple(code for code in PROBLEM_CODES if code != "empty")}


class AllNew:
    """Finds no repeats: a stream is read many times over, and its ids are more than can be remembered."""

    def is_new(self, row_id: str) -> bool:
        return True

    def first_with(self, digest: str, row_id: str) -> str:
        return row_id


def _validated(
    config: RunConfig, raw: Any, source: SourceArguments, name: str, seen: Any, reports: dict[str, Any], text: bool
) -> "Dataset | IterableDataset":
    from datasets import IterableDataset

    from data_scripts.validate import validate_rows

    data = config.data
    if isinstance(raw, IterableDataset):
        seen = AllNew()
    clean, report = validate_rows(
        raw,
        need_audio=not text,
        **_text_limits(config),
        min_duration_s=data.min_duration_s,
        max_duration_s=data.max_duration_s,
        max_drop_fraction=data.max_dropped,
        num_workers=config.training.dataloader_num_workers,
        source=source.path,
        seen=seen,
    )
    reports[name] = report
    if rank() == 0:
        logger.info(report.summary())
    return clean


def _shared(raw: "Dataset", validate: Callable[[], Any]) -> "Dataset":
    """The rows that the first process finds fit, on every process.

    Decoding a corpus once is slow enough; the others get texts and durations and keep their own view of the audio.
    """
    from accelerate.utils import broadcast_object_list
    from datasets import Features, concatenate_datasets

    from data_scripts.schema import FEATURES
    from data_scripts.tables import table_from_rows

    clean: Any = None
    failure: Exception | None = None
    message: list[Any] = [None, None]
    if rank() == 0:
        try:
            clean = validate()
            message = [clean.remove_columns("audio").to_dict(), None]
        except Exception as error:
            # The others wait for this message, whatever it is.
            failure, message = error, [None, str(error)]
    broadcast_object_list(message, from_process=0)
    if failure is not None:
        raise failure
    if message[1] is not None:
        raise SourceError(message[1])
    if clean is not None:
        return clean
    table: dict[str, list[Any]] = message[0]
    # Of rows with the same id validation keeps the first.
    first = {row_id: index for index, row_id in reversed(list(enumerate(raw["id"])))}
    kept = raw.select([first[row_id] for row_id in table["id"]]).flatten_indices().select_columns(["audio"])
    rows = (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
    features = Features({key: value for key, value in FEATURES.items() if key != "audio"})
    joined = concatenate_datasets([kept, table_from_rows(rows, features)], axis=1)
    return joined.select_columns(list(FEATURES))


def _on_every_rank(check: Callable[[], None]) -> None:
    """A check that the first process alone can make, raised on all of them."""
    failure: list[Any] = [None]
    if rank() == 0:
        try:
            check()
        except ConfigError as error:
            failure = [(error.key, error.message)]
    if world_size() > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(failure, from_process=0)
    if failure[0] is not None:
        raise ConfigError(*failure[0])


def _save_reports(reports: dict[str, Any], folder: str | Path | None) -> None:
    if folder is None or rank() != 0:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, report in reports.items():
        report.save(Path(folder) / f"drop_report-{name}.json")


def audio_hours(rows: Any) -> float | None:
    """Hours of audio of a map-style data set with durations; None for text and streams."""
    if "duration_s" not in (rows.column_names or []) or not hasattr(rows, "__len__"):
        return None
    return sum(rows["duration_s"]) / 3600
