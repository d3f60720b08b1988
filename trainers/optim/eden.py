"""Eden: a learning rate that falls with the steps and, apart from them, with the epochs (Yao et al., 2024)."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Eden(LRScheduler):
    """`lr * ((s² + S²) / S²)^-¼ * ((e² + E²) / E²)^-¼ * warm-up`, after s steps and e whole epochs.

    Both terms are 1 at the start, begin to matter at S steps and E epochs, and end as 1 / sqrt: the rate at a given
    share of a run does not depend much on its length. Steps once per optimiser step, as every schedule of the Trainer;
    a resumed run goes on exactly.

    Args:
        lr_batches: S; 7,500 for batches of ten minutes of audio.
        lr_epochs: E; 3.5 for 30 to 50 epochs.
        steps_per_epoch: optimiser steps of an epoch; None where there are no epochs, as for streams: then the second
            term stays 1.
        warmup_batches: steps over which the rate grows from `warmup_start` of itself, linearly.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float = 7500.0,
        lr_epochs: float = 3.5,
        *,
        steps_per_epoch: int | None = None,
        warmup_batches: float = 500.0,
        warmup_start: float = 0.5,
        last_epoch: int = -1,
    ):
        if lr_batches <= 0 or lr_epochs <= 0 or warmup_batches < 0:
            raise ValueError(
                "lr_batches and lr_epochs must be above 0 and warmup_batches not negative, got "
                f"{lr_batches}, {lr_epochs} and {warmup_batches}"
            )
        if not 0 <= warmup_start <= 1:
            raise ValueError(f"warmup_start is a share of the learning rate, in [0, 1]; got {warmup_start}")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, or None; got {steps_per_epoch}")
        self.lr_batches = lr_batches
        self.lr_epochs = lr_epochs
        self.steps_per_epoch = steps_per_epoch
        self.warmup_batches = warmup_batches
        self.warmup_start = warmup_start
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Share of the peak rate after `step` steps."""
        epoch = 0 if self.steps_per_epoch is None else step // self.steps_per_epoch
        by_step = ((step**2 + self.lr_batches**2) / self.lr_batches**2) ** -0.25
        by_epoch = ((epoch**2 + self.lr_epochs**2) / self.lr_epochs**2) ** -0.25
        if step >= self.warmup_batches:
            return by_step * by_epoch
        return by_step * by_epoch * (self.warmup_start + (1 - self.warmup_start) * step / self.warmup_batches)

    def get_lr(self) -> list[Any]:
        """Rates of the groups; called by `step`."""
        # What torch calls an epoch is a step here.
        return [base_lr * self.factor(self.last_epoch) for base_lr in self.base_lrs]
