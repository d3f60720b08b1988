"""Averaged weights, and the schedules inside of a model that depend on how long it has been trained.

The mean of the weights along the later part of a run is better than the last ones, by several per cent of the errors
of a Zipformer; it costs one copy of the weights on the CPU and one addition every `period` steps.
"""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from trainers.saving import CheckpointPart

logger = logging.getLogger(__name__)

AVERAGE_FILE = "average.safetensors"
REFERENCE_S = 600.0


class WeightMean:
    """The mean of a model's weights over the times it was added, in double precision on the CPU.

    Of all tensors that training changes: trainable parameters and, as statistics of batch norms, floating buffers.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first_step = 0
        self.tensors: dict[str, Tensor] = {}

    def add(self, model: torch.nn.Module, step: int) -> None:
        """Count the weights after `step` in."""
        if self.count == 0:
            self.first_step = step
            self.tensors = {name: value.double().cpu() for name, value in _changing(model)}
        else:
            for name, value in _changing(model):
                mean = self.tensors[name]
                mean += (value.double().cpu() - mean) / (self.count + 1)
        self.count += 1

    def save(self, path: Path | None) -> None:
        """In float32. What is kept is rounded too, so that a resumed run and ranks that do not write have the same."""
        if self.count:
            single = {name: value.float().contiguous() for name, value in self.tensors.items()}
            self.tensors = {name: value.double() for name, value in single.items()}
            if path is not None:
                save_file(single, path, metadata={"mean": json.dumps([self.count, self.first_step])})

    def load(self, path: Path) -> None:
        """What `save` wrote.

        Raises:
            ValueError: not such a file.
        """
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get("mean")
        if facts is None:
            raise ValueError(f"{path} is not a mean of weights that this trainer saved")
        self.count, self.first_step = json.loads(facts)
        self.tensors = {name: value.double() for name, value in load_file(path).items()}

    @torch.no_grad()
    def swap(self, model: torch.nn.Module) -> dict[str, Tensor]:
        """Put the mean into the model; returns what was there, for `put`."""
        before = {name: value.clone() for name, value in _changing(model)}
        put(model, self.tensors)
        return before


@torch.no_grad()
def put(model: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a model, in place: whatever wraps or shares them sees them.

    Raises:
        ValueError: they belong to another model, or to other trainable parts of it.
    """
    own = dict(_changing(model))
    wrong = own.keys() ^ tensors.keys() | {name for name in own if tensors[name].shape != own[name].shape}
    if wrong:
        raise ValueError(f"averaged weights of another model: {min(wrong)} is missing, too much or misshapen")
    for name, value in own.items():
        value.copy_(tensors[name])


class AverageCallback(CheckpointPart, TrainerCallback):
    """Averages the weights along the later part of a run and ends with the mean, or with the better of both.

    All ranks of a distributed run have the same weights, so each keeps the same mean; checkpoints carry it in
    `average.safetensors`, and a resumed run goes on exactly. Not for weights that are sharded (ZeRO-3, FSDP).

    Args:
        trainer (`transformers.Trainer`): evaluates both at the end.
        period: steps between two additions.
        start: share of the run after which averaging begins.
        keep: at the end, the `average`, or the `better` by `metric_for_best_model` (by the loss without one). Where
            there is no validation data it is the average.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        period: int = 100,
        start: float = 0.5,
        keep: Literal["better", "average"] = "better",
    ):
        if period < 1 or not 0 <= start < 1:
            raise ValueError(f"period must be at least 1 and start in [0, 1), got {period} and {start}")
        self.trainer = trainer
        self.period = period
        self.start = start
        self.keep = keep
        self.mean = WeightMean()

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.is_fsdp_enabled or _is_zero3(self.trainer):
            raise ValueError("weights cannot be averaged where they are sharded: no averaging with ZeRO-3 and FSDP")
        self.mean = WeightMean()
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / AVERAGE_FILE
        if state.global_step and path.is_file():
            self.mean.load(path)
        elif state.global_step > self._first(state):
            logger.warning("%s is missing: weights are averaged from step %d on", path, state.global_step)

    def _first(self, state: Any) -> int:
        return max(1, math.ceil(self.start * state.max_steps))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        first = self.mean.first_step or self._first(state)
        if state.global_step >= first and state.global_step % self.period == 0:
            assert model is not None
            self.mean.add(model, state.global_step)

    def save_part(self, folder: Path | None) -> None:
        self.mean.save(folder and folder / AVERAGE_FILE)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Put the mean in place of the last, or best, weights, if it is to be kept."""
        if not self.mean.count:
            return
        assert model is not None
        compare = self.keep == "better" and self.trainer.eval_dataset is not None
        if compare and args.load_best_model_at_end and state.best_metric is not None:
            theirs = state.best_metric  # of the weights that have just been loaded
        else:
            theirs = self._score("eval") if compare else math.nan
        before = self.mean.swap(model)
        if compare:
            ours = self._score("eval_average")
            verdict = [_is_better(ours, theirs, greater=bool(args.greater_is_better))]
            broadcast_object_list(verdict, from_process=0)
            logger.info("averaged weights: %s; without averaging: %s", ours, theirs)
            if not verdict[0]:
                put(model, before)
                return
        logger.info(
            "the finished model is the mean of %d weights, from step %d on", self.mean.count, self.mean.first_step
        )

    def _score(self, prefix: str) -> float:
        metrics = self.trainer.evaluate(metric_key_prefix=prefix)
        name = (self.trainer.args.metric_for_best_model or "loss").removeprefix("eval_")
        return metrics[f"{prefix}_{name}"]


class BatchCountCallback(TrainerCallback):
    """Tells the model before each step how long it has been trained: its `set_batch_count` drives its schedules.

    A schedule of `n` batches means n batches of ten minutes of audio, whatever the batches of this run are; the count
    depends on the step alone, so a resumed run goes on with the same.

    Args:
        seconds_per_step: audio of one optimiser step, of all ranks; None counts steps as they are.
    """

    def __init__(self, seconds_per_step: float | None = None):
        if seconds_per_step is not None and seconds_per_step <= 0:
            raise ValueError(f"seconds_per_step must be above 0, got {seconds_per_step}")
        self.scale = 1.0 if seconds_per_step is None else seconds_per_step / REFERENCE_S

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not hasattr(model, "set_batch_count"):
            raise TypeError(f"{type(model).__name__} has no set_batch_count, so it has no schedules to drive")
        self.on_step_begin(args, state, control, model=model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model.set_batch_count(state.global_step * self.scale)  # type: ignore[union-attr]


def _changing(model: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
    """What training changes, each tensor once, in the order of the model."""
    kept = model.state_dict(keep_vars=True)
    seen: set[int] = set()
    for name, value in kept.items():
        trained = value.requires_grad or not isinstance(value, torch.nn.Parameter)
        if value.is_floating_point() and trained and value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            yield name, value.detach()


def _is_better(ours: float, theirs: float, *, greater: bool) -> bool:
    if not math.isfinite(theirs):
        return math.isfinite(ours)
    return ours >= theirs if greater else ours <= theirs


def _is_zero3(trainer: Any) -> bool:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return trainer.is_deepspeed_enabled and plugin is not None and plugin.zero_stage == 3
