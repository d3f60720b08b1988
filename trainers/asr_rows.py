"""The training rows of a recogniser that it can learn: their text fits its frames, its losses and its decoder."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.drop_report import DropReport
from data_scripts.validate import TooManyDropped
from trainers.asr_arguments import ASRConfig
from trainers.building import Stage
from trainers.checks import ConfigError
from trainers.label_limits import TextLimits, drop, drop_long_labels
from trainers.rows import Rows, rank

logger = logging.getLogger(__name__)

LABEL_REPORT = "drop_report-labels.json"


def prepare_rows(config: ASRConfig, stage: Stage, rows: Rows, collator: Any) -> None:
    """Drops training rows whose text the model cannot learn; rows that are evaluated on all count.

    Raises:
        TooManyDropped: more than `data.max_dropped` of them.
    """
    train: Any = rows.train
    report, limits = DropReport("labels of the training rows"), limits_of(config, stage)
    if not hasattr(train, "__len__"):
        rows.train = drop_long_labels(train, limits, report)
        return
    texts, seconds = train["text"], train["duration_s"]
    dropped = dict(limits.find(texts, seconds, train.__getitem__))
    if not dropped:
        return
    report.num_rows, report.seconds_kept = len(texts), sum(seconds)
    for index, problem in dropped.items():
        drop(report, train[index], problem)
    if rank() == 0:
        logger.info(report.summary())
        folder = Path(config.training.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report.save(folder / LABEL_REPORT)
    if report.exceeds(config.data.max_dropped):
        raise TooManyDropped(report, config.data.max_dropped)
    kept = np.delete(np.arange(len(texts)), list(dropped))
    if not len(kept):
        raise ConfigError("data.train", f"no usable row is left; the first: {next(iter(dropped.values()))}")
    rows.train = train.select(kept)
    if rows.select is not None:
        rows.select = _Renumbered(rows.select, kept, len(texts))


class _Renumbered:
    """The rows of an epoch, chosen before some were dropped, by the numbers of those that are left."""

    def __init__(self, select: Callable[[int], np.ndarray], kept: np.ndarray, num_rows: int) -> None:
        self.select = select
        self.numbers = np.full(num_rows, -1)
        self.numbers[kept] = np.arange(len(kept))

    def __call__(self, epoch: int) -> np.ndarray:
        chosen = self.numbers[self.select(epoch)]
        return chosen[chosen >= 0]


def limits_of(config: ASRConfig, stage: Stage) -> TextLimits:
    """What texts a model can learn, by its own frames, losses and places."""
    model, tokenizer = stage.model, stage.processor.tokenizer
    if config.system == "whisper":
        return TextLimits(tokenizer, max_tokens=model.config.max_target_positions)
    if config.system == "zipformer":
        return TextLimits(tokenizer, num_frames=zipformer_frames, repeats_need_frames=model.config.has_ctc)
    # An RNN-T takes several tokens from a frame.
    only_ctc = model.config.head == "ctc"
    frames = partial(fastconformer_frames, factor=model.config.subsampling_factor) if only_ctc else None
    return TextLimits(tokenizer, num_frames=frames, repeats_need_frames=True)


def zipformer_frames(seconds: float) -> int:
    """Output frames of a Zipformer: 100 features a second, at least 9 of them; 7 are context, then two halvings."""
    return ((max(round(seconds * 100), 9) - 7) // 2 + 1) // 2


def fastconformer_frames(seconds: float, factor: int) -> int:
    """Output frames of a FastConformer; its convolutions round up."""
    return max(1, -(-int(seconds * 100) // factor))
