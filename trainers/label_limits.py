"""Utterances whose labels cannot fit: more than the decoder has places, or than the recording has frames.

The first would stop a run in the middle, the second teaches a model to invent: no alignment exists, and nobody speaks
that fast. Both are dropped with the code `label_too_long` before training.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from trainers.arguments import Config, RunConfig
from trainers.checks import ConfigError
from trainers.pins import split_pin

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from data_scripts.drop_report import DropReport

CODE = "label_too_long"
FRAMES_PER_S = 50  # of every encoder here
# Ordinary text has about one phoneme for each character, so only texts half as long as the limit are looked up. A
# text of nothing but spelled letters has more; the collator names it.
MAX_PHONEMES_PER_CHARACTER = 2
# Texts that a tokenizer is given at once.
BATCH = 1000


class LabelLimits:
    """Which rows of stage s2p have a label that fits. Picklable, for streams read in worker processes.

    Args:
        register: of the phonemes.
        max_phonemes: places of the decoder, `</s>` included.
    """

    def __init__(self, register: str, max_phonemes: int) -> None:
        self.register, self.max_phonemes = register, max_phonemes
        self._g2p: Any = None

    @classmethod
    def of(cls, config: RunConfig) -> "LabelLimits | None":
        """Those of a run, where phonemes are its labels; else None: text has no such limit, or one that its own
        tokenizer sets (`TextLimits`).

        Raises:
            ConfigError: the model to start from has no readable config.
        """
        if not isinstance(config, Config) or config.stage != "s2p":
            return None
        model = config.model.s2p
        if model.path is None:
            return cls(config.model.register, model.max_phonemes)
        from transformers import PreTrainedConfig

        repo, pin = split_pin(model.path)
        try:
            found = PreTrainedConfig.get_config_dict(repo, **pin)[0]
        except (OSError, ValueError) as error:
            raise ConfigError("model.s2p.path", f"cannot load {model.path}: {error}") from error
        return cls(config.model.register, int(found.get("max_target_positions", model.max_phonemes)))

    def problem(self, row: Mapping[str, Any]) -> str:
        """Why the label of a row does not fit; empty if it does."""
        text, seconds = row["text"], row.get("duration_s")
        frames = self.max_phonemes if seconds is None else int(seconds * FRAMES_PER_S)
        if len(text) * MAX_PHONEMES_PER_CHARACTER < min(frames, self.max_phonemes):
            return ""
        if self._g2p is None:
            from data_scripts.text.g2p import G2P

            self._g2p = G2P(cast(Any, self.register))
        spans = [(span["start"], span["end"], span["lang"]) for span in row.get("spans") or ()]
        count = len(self._g2p.phonemise(text, spans).phonemes)
        if count >= self.max_phonemes:
            return f"{count} phonemes, the decoder has places for {self.max_phonemes - 1}"
        if seconds is not None and count > frames:
            return f"{count} phonemes in {seconds:.2f} s, which are {frames} frames"
        return ""

    def find(
        self, texts: Sequence[str], seconds: Sequence[float | None], row_at: Callable[[int], Mapping[str, Any]]
    ) -> Iterator[tuple[int, str]]:
        """Numbers of the rows that do not fit, and why.

        Args:
            row_at: one row by number; asked for rows with long texts alone.
        """
        for index, (text, one) in enumerate(zip(texts, seconds, strict=True)):
            lower = self.max_phonemes if one is None else min(one * FRAMES_PER_S, self.max_phonemes)
            if len(text) * MAX_PHONEMES_PER_CHARACTER >= int(lower) and (problem := self.problem(row_at(index))):
                yield index, problem


class TextLimits:
    """Which rows have a text that a recogniser of word pieces can learn. Picklable, for streams.

    Args:
        tokenizer: of the text; its ids are counted as it gives them by default, prompt and end included.
        num_frames: seconds -> output frames of a model that aligns; None where nothing is aligned.
        repeats_need_frames: whether the loss needs a frame between two equal tokens, as CTC does.
        max_tokens: places of a decoder; None where there is no such limit.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        num_frames: Callable[[float], int] | None = None,
        repeats_need_frames: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        self.tokenizer, self.num_frames = tokenizer, num_frames
        self.repeats_need_frames, self.max_tokens = repeats_need_frames, max_tokens

    def problem(self, row: Mapping[str, Any]) -> str:
        """Why the text of a row does not fit; empty if it does."""
        return self._problem(self.tokenizer(row["text"])["input_ids"], row.get("duration_s"))

    def find(
        self, texts: Sequence[str], seconds: Sequence[float | None], row_at: Callable[[int], Mapping[str, Any]]
    ) -> Iterator[tuple[int, str]]:
        """Numbers of the rows that do not fit, and why."""
        for first in range(0, len(texts), BATCH):
            many = self.tokenizer(list(texts[first : first + BATCH]))["input_ids"]
            for index, ids in enumerate(many, start=first):
                if problem := self._problem(ids, seconds[index]):
                    yield index, problem

    def _problem(self, ids: Sequence[int], seconds: float | None) -> str:
        if not ids:
            return "no word piece: the text is empty"
        if self.max_tokens is not None and len(ids) > self.max_tokens:
            return f"{len(ids)} tokens, the decoder has places for {self.max_tokens}"
        if self.num_frames is None or seconds is None:
            return ""
        needed, frames = len(ids), self.num_frames(seconds)
        if self.repeats_need_frames:
            needed += sum(one == two for one, two in itertools.pairwise(ids))
        if needed > frames:
            return f"{len(ids)} word pieces that need {needed} frames in {seconds:.2f} s, which are {frames}"
        return ""


class _Fits:
    """`IterableDataset.filter` that enters what it drops into a report."""

    def __init__(self, limits: LabelLimits | TextLimits, report: "DropReport") -> None:
        self.limits, self.report = limits, report

    def __call__(self, row: Mapping[str, Any]) -> bool:
        problem = self.limits.problem(row)
        if problem:
            drop(self.report, row, problem)
        return not problem


def drop(report: "DropReport", row: Mapping[str, Any], problem: str) -> None:
    """Enter a row that had been counted as kept."""
    seconds = row.get("duration_s") or 0.0
    audio = row.get("audio") or {}
    report.add(CODE, row["id"], str(audio.get("path") or ""), problem)
    report.seconds_kept -= seconds
    report.seconds_dropped += seconds


def drop_long_labels(
    rows: "Dataset | IterableDataset", limits: LabelLimits | TextLimits, report: "DropReport"
) -> "Dataset | IterableDataset":
    """The validated rows whose labels fit; the others are entered into the report of their source."""
    from datasets import IterableDataset

    if isinstance(rows, IterableDataset):
        return rows.filter(_Fits(limits, report))
    dropped = dict(limits.find(rows["text"], rows["duration_s"], rows.__getitem__))
    for index, problem in dropped.items():
        drop(report, rows[index], problem)
    return rows.select([index for index in range(len(rows)) if index not in dropped]) if dropped else rows
