"""What ends a run early, and how: a signal, or gradients that are not finite.

Both are decided by all ranks together at the end of a step, so that no rank waits for one that has left.
"""

import logging
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# In a row; one bad recording is survived, a diverged run is not trained on.
MAX_DROPPED_STEPS = 3


class Stop(Exception):
    """A run that ends before its last step, on purpose; `exit_code` is that of the process."""

    exit_code = 1


class Preempted(Stop):
    """A signal asked the run to end; its checkpoint is written."""

    exit_code = 143


class NotFinite(Stop):
    """Too many steps in a row had gradients that are not finite; the weights are those before the first of them."""

    exit_code = 4


class SignalFlag:
    """Remembers SIGTERM and SIGUSR1 instead of dying of them, while it is open.

    A signal to any rank counts for all. It is asked for at the end of each step, so one that comes during loading or
    evaluation is answered after the next step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalFlag":
        self.received = None
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # outside of the main thread, as in a notebook server, the owner handles signals
                logger.debug("signals are not watched outside of the main thread")
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def raised(self, device: torch.device) -> bool:
        """Whether any rank has received a signal: a collective over one number, which every rank must enter."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self.received is not None
        flag = torch.tensor(int(self.received is not None), device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())


class FiniteGuard(TrainerCallback):
    """Drops optimiser steps whose gradients are not finite, and stops the run after `MAX_DROPPED_STEPS` in a row.

    The norm that the Trainer computes for clipping is all it needs: gradients are summed over ranks before, so every
    rank comes to the same answer. An optimiser that finds no gradients changes neither weights nor moments.

    Args:
        trainer (`trainers.reliable.ReliableTrainer`): knows the last gradient norm and the rows of the step.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.dropped = 0
        self.in_a_row = 0

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.trainer.step_is_finite():
            self.in_a_row = 0
            return
        self.dropped += 1
        self.in_a_row += 1
        self.trainer.optimizer.zero_grad(set_to_none=True)
        rows, step = _listing(self.trainer.suspect_rows()), state.global_step + 1
        logger.error("step %d dropped: its gradients are not finite; rows: %s", step, rows)
        if self.in_a_row >= MAX_DROPPED_STEPS:
            raise NotFinite(
                f"{self.in_a_row} steps in a row, up to step {step}, had gradients that are not finite; the last rows "
                f"were {rows}. Nothing of them is in the weights or in a checkpoint. Look at these recordings, or "
                "resume from the last checkpoint with a lower training.learning_rate"
            )


def _listing(rows: Sequence[str], shown: int = 20) -> str:
    more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
    return (", ".join(rows[:shown]) or "unknown (the batches carry no row ids)") + more
