"""The rows of a run: every source of its config read, validated and mixed.

Speech rows keep their audio encoded (the collators decode it); text rows of p2t are the transcripts of the speech, the
text sources and generated sentences, each with the number of its phonemes. What was dropped is logged as a table and
saved beside the run.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_scripts.sources import SourceArguments, load_source
from trainers.arguments import Config
from trainers.checks import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from data_scripts.drop_report import DropReport

logger = logging.getLogger(__name__)


@dataclass
class Rows:
    """What a run trains and evaluates on."""

    train: "Dataset | IterableDataset"
    """Training rows; a stream if any source streams."""
    validation: "Dataset | None"
    """Evaluation rows; None where the run does not evaluate."""
    reports: "dict[str, DropReport]"
    """What was dropped and mended, by split and source."""


def build_datasets(config: Config, report_folder: str | Path | None = None) -> Rows:
    """Read everything that `config.data` names for `config.stage`.

    In a launch of several processes the first one checks the recordings and tells the others, so it must be called by
    all of them, after they have met.

    Args:
        report_folder: where the drop reports go, as `drop_report-<split>-<number>.json`; None saves none.

    Raises:
        ConfigError: nothing is left to train or evaluate on.
        SourceError, SchemaError, TooManyDropped: see `data_scripts`.
    """
    from data_scripts.validate import Seen

    data, text = config.data, config.stage == "p2t"
    train_sources = [*data.train, *data.text] if text else data.train
    validation_sources = [*data.validation, *data.text_validation] if text else data.validation
    reports: dict[str, Any] = {}
    seen = Seen()
    parts = [
        _clean(config, source, f"train-{number}", seen, reports, text) for number, source in enumerate(train_sources)
    ]
    weights = [source.weight for source in train_sources]
    if text and data.synthetic_sentences:
        parts.append(synthetic_rows(data.synthetic_sentences, config.training.seed, "train"))
        weights.append(1.0)
    train = mix(parts, weights, config.training.seed)
    validation = None
    if config.training.eval_strategy != "no" or config.training.eval_on_start:
        seen = Seen()
        parts = [
            _clean(config, replace(source, streaming=False), f"validation-{number}", seen, reports, text)
            for number, source in enumerate(validation_sources)
        ]
        if text and data.synthetic_validation_sentences:
            count = data.synthetic_validation_sentences
            parts.append(synthetic_rows(count, config.training.seed, "validation"))
        validation = mix(parts, [1.0] * len(parts), config.training.seed)
    _save_reports(reports, report_folder)
    for key, rows in (("data.train", train), ("data.validation", validation)):
        if rows is not None and getattr(rows, "num_rows", 1) == 0:
            raise ConfigError(key, "no usable row is left; see the drop report above")
    return Rows(train, validation, reports)


def mix(parts: "Sequence[Dataset | IterableDataset]", weights: Sequence[float], seed: int) -> Any:
    """Validated sources as one data set.

    Map-style parts are concatenated, each `weight` times (a fraction takes a seeded sample of its rows); shuffling is
    the sampler's. If any part streams, rows are drawn at random by weight until every part has been read once.
    """
    from datasets import Dataset, concatenate_datasets, interleave_datasets

    if all(isinstance(part, Dataset) for part in parts):
        weighted = [
            repeated(part, weight, seed + number)
            for number, (part, weight) in enumerate(zip(parts, weights, strict=True))
        ]
        return concatenate_datasets(weighted) if len(weighted) > 1 else weighted[0]
    streams = [
        part.to_iterable_dataset(num_shards=max(1, min(64, len(part)))) if isinstance(part, Dataset) else part
        for part in parts
    ]
    if len(streams) == 1:
        return streams[0]
    probabilities = [weight / sum(weights) for weight in weights]
    return interleave_datasets(streams, probabilities=probabilities, seed=seed, stopping_strategy="all_exhausted")


def repeated(part: "Dataset", weight: float, seed: int) -> "Dataset":
    """A data set `weight` times over."""
    whole, fraction = divmod(weight, 1)
    order = list(range(len(part))) * int(whole)
    order += sorted(random.Random(seed).sample(range(len(part)), round(fraction * len(part))))
    return part if weight == 1 else part.select(order)


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
    config: Config, source: SourceArguments, name: str, seen: Any, reports: dict[str, Any], text: bool
) -> "Dataset | IterableDataset":
    """One source, validated."""
    from datasets import IterableDataset

    limit = config.data.max_rows
    if limit is not None:
        source = replace(source, max_rows=min(limit, source.max_rows or limit))
    if text:
        source = replace(source, kind="text")
    raw = load_source(source, normalise=False, fill_durations=not text)
    if text or isinstance(raw, IterableDataset) or world_size() == 1:
        return _validated(config, raw, source, name, seen, reports, text)
    clean = _validated(config, raw, source, name, seen, reports, text) if rank() == 0 else None
    return _shared(raw, clean)


def _validated(
    config: Config, raw: Any, source: SourceArguments, name: str, seen: Any, reports: dict[str, Any], text: bool
) -> "Dataset | IterableDataset":
    from data_scripts.validate import validate_rows

    data = config.data
    clean, report = validate_rows(
        raw,
        need_audio=not text,
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


def _shared(raw: "Dataset", clean: "Dataset | None") -> "Dataset":
    """The rows that the first process found fit, on every process.

    Decoding a corpus once is slow enough; the others get texts and durations and keep their own view of the audio.
    """
    from accelerate.utils import broadcast_object_list
    from datasets import concatenate_datasets

    message = [clean.remove_columns("audio").to_dict() if clean is not None else None]
    broadcast_object_list(message, from_process=0)
    if clean is not None:
        return clean
    from data_scripts.schema import FEATURES
    from data_scripts.tables import table_from_rows

    table: dict[str, list[Any]] = message[0]
    # Of rows with the same id validation keeps the first.
    first = {row_id: index for index, row_id in reversed(list(enumerate(raw["id"])))}
    kept = raw.select([first[row_id] for row_id in table["id"]]).flatten_indices().select_columns(["audio"])
    rows = (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
    features = type(FEATURES)({key: value for key, value in FEATURES.items() if key != "audio"})
    joined = concatenate_datasets([kept, table_from_rows(rows, features)], axis=1)
    return joined.select_columns(list(FEATURES))


def _save_reports(reports: dict[str, Any], folder: str | Path | None) -> None:
    if folder is None or rank() != 0:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, report in reports.items():
        report.save(Path(folder) / f"drop_report-{name}.json")


def world_size() -> int:
    """Processes of this launch that have met."""
    import torch

    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    import torch

    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def audio_hours(rows: Sequence[Any] | Any) -> float | None:
    """Hours of audio of a map-style data set with durations; None for text and streams."""
    if "duration_s" not in (rows.column_names or []) or not hasattr(rows, "num_rows"):
        return None
    return sum(rows["duration_s"]) / 3600
