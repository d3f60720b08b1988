"""What every trainer of this project promises about its runs: `class MyTrainer(ReliableTrainer, Trainer)`.

- Checkpoints are sealed and only sealed ones are rotated; a save that fails is removed, counted and survived
  (`trainers.saving`).
- SIGTERM or SIGUSR1 to any rank: all ranks save the same step, then `Preempted`.
- A step whose gradients are not finite is dropped and its rows are named; three in a row end the run (`NotFinite`).
- Weights that are not finite are never saved.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType, gather_object
from transformers import Trainer

from trainers.guards import FiniteGuard, NotFinite, Preempted, SignalFlag
from trainers.saving import SealedSaves

logger = logging.getLogger(__name__)

ROW_IDS = "row_ids"

# The mixin calls what it stands in front of.
_Base = Trainer if TYPE_CHECKING else object


class NamedBatches:
    """A collator whose batches also say which rows are in them."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        batch = self.collator(rows)
        named = isinstance(rows[0], Mapping) and "id" in rows[0]
        return {**batch, ROW_IDS: [str(row["id"]) for row in rows]} if named else batch


class ReliableTrainer(SealedSaves, _Base):
    """Mixin in front of `transformers.Trainer` or a subclass of it.

    Takes the arguments of `SealedSaves`. Rows with an `id` are named when a step goes wrong: batches carry `row_ids`
    up to the model, which never sees them.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.data_collator = NamedBatches(self.data_collator)
        self.signals = SignalFlag()
        self.finite_guard = FiniteGuard(self)
        self.add_callback(self.finite_guard)
        self._grad_norm: Any = None
        self._step_batches: list[tuple[dict[str, Any], list[str], torch.Tensor | None]] = []
        self._step_of_batches = -1

    # A run

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`, with signals watched.

        Raises:
            Preempted, NotFinite: the run ended before its last step; see their `exit_code`.
        """
        with self.signals, self.sealing_to_the_end():
            return super().train(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args: Any, **kwargs: Any) -> None:
        # The end of a step: random states and data position are those that a resumed run starts from. Evaluation, if
        # it is due here, would take longer than a scheduler waits.
        if self.signals.raised(self.args.device):
            failed = len(self.failed_saves)
            self._save_checkpoint(model, trial)
            self.finish_sealing()
            saved = "its checkpoint is saved" if len(self.failed_saves) == failed else "it could not be saved"
            raise Preempted(f"asked to stop: every process ended after step {self.state.global_step}, and {saved}")
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)

    # Steps that are not finite

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = inputs.get(ROW_IDS)
        prepared = super()._prepare_inputs({name: value for name, value in inputs.items() if name != ROW_IDS})
        if self.model.training:
            if self._step_of_batches != self.state.global_step:
                self._step_batches, self._step_of_batches = [], self.state.global_step
            self._step_batches.append((prepared, list(rows or []), None))
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`Trainer.training_step`; in the log a loss that is not finite is zero, and `dropped_steps` counts it."""
        try:
            loss = super().training_step(*args, **kwargs)
        except _DroppedBatch:
            loss = torch.full((), float("nan"), device=self.args.device)
        inputs, rows, _ = self._step_batches[-1]
        self._step_batches[-1] = (inputs, rows, loss)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def compute_loss(self, model, inputs, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.compute_loss`; DeepSpeed steps inside of `backward`, so there the loss is looked at before it."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training and self._steps_in_backward:
            loss = result[0] if isinstance(result, tuple) else result
            finite = torch.isfinite(loss.detach()).all().to(torch.int32)
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
            if not finite.item():
                raise _DroppedBatch
        return result

    @property
    def _steps_in_backward(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _get_grad_norm(self, model, grad_norm=None):
        self._grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._grad_norm

    def step_is_finite(self) -> bool:
        """Whether the gradients of the step at hand are finite; the same on every rank.

        Raises:
            NotFinite: DeepSpeed has already applied them.
        """
        losses = [loss for _, _, loss in self._step_batches if loss is not None]
        if self._steps_in_backward:
            dropped = any(not torch.isfinite(loss).all() for loss in losses)
            if not dropped and not _is_finite(self._grad_norm):
                raise NotFinite("DeepSpeed applied gradients that are not finite; resume from the last checkpoint")
            return not dropped
        if getattr(self.accelerator, "scaler", None) is not None:
            # Too large gradients are the way in which the loss scale is found; the scaler skips those steps itself.
            return True
        return _is_finite(self._grad_norm)

    def suspect_rows(self) -> list[str]:
        """Ids of the rows behind a step that is not finite, of all ranks; every rank must ask.

        Rows with inputs that are not finite; else those of batches with such a loss; else all of the step.
        """
        losses_ok = [loss is None or bool(torch.isfinite(loss).all()) for _, _, loss in self._step_batches]
        found: list[str] = []
        for (inputs, rows, _), ok in zip(self._step_batches, losses_ok, strict=True):
            if not ok:
                found += [row for row, bad in zip(rows, _bad_rows(inputs, len(rows)), strict=True) if bad] or rows
        every = [row for _, rows, _ in self._step_batches for row in rows]
        # Tagged, so that ranks that found something speak for the others.
        answers = gather_object([(bool(found), found or every)])
        sure = [rows for certain, rows in answers if certain]
        return [row for rows in (sure or [rows for _, rows in answers]) for row in rows]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds `dropped_steps`, the number so far, once there is one."""
        if "loss" in logs and self.finite_guard.dropped:
            logs["dropped_steps"] = self.finite_guard.dropped
        super().log(logs, *args, **kwargs)


class _DroppedBatch(Exception):
    """A batch that is left out because its loss is not finite on some rank."""


def _is_finite(norm: Any) -> bool:
    return norm is None or bool(torch.isfinite(torch.as_tensor(norm)).all())


def _bad_rows(inputs: Mapping[str, Any], num_rows: int) -> list[bool]:
    """For each row, whether one of its inputs is not finite."""
    bad = torch.zeros(num_rows, dtype=torch.bool)
    for value in inputs.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and len(value) == num_rows:
            bad |= (
                ~torch.isfinite(value).flatten(1).all(dim=1).cpu() if value.ndim > 1 else ~torch.isfinite(value).cpu()
            )
    return bad.tolist()
