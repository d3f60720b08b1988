"""What the Trainers of all recognisers share: losses per token of the global batch, their parts in the log, evaluation
of every row once in data set order, ScaledAdam and Eden, complete checkpoints.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from trainers.loading import BudgetBatches
from trainers.optim import Eden, create_scaled_adam
from trainers.reliable import ReliableTrainer
from trainers.sampler import BudgetBatchSampler

logger = logging.getLogger(__name__)

IGNORED = -100


class SpeechTraining(ReliableTrainer, BudgetBatches):
    """Mixin in front of `transformers.Trainer` or a subclass of it.

    Takes the arguments of `ReliableTrainer` and of `BudgetBatches`, and these:

    Args:
        write_card (`Callable[[str, SpeechTraining], None]`, *optional*): writes README.md into each checkpoint.
        optimizer_cls_and_kwargs (*optional*): an optimiser that `args.optim` cannot name.
        scaled_adam (`bool`): train with ScaledAdam at `args.learning_rate` in place of `args.optim`.
        eden (`dict`, *optional*): the learning rate follows Eden with these arguments in place of
            `args.lr_scheduler_type`; an epoch is that of the training data.

    Raises:
        ValueError: the model's loss depends on how a batch is divided.
    """

    # The base class types it as optional.
    model: Any

    def __init__(
        self,
        *args: Any,
        write_card: Callable[[str, "SpeechTraining"], None] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        scaled_adam: bool = False,
        eden: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        # `Trainer` takes it, `Seq2SeqTrainer` forgets to pass it on.
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        if not self.model_accepts_loss_kwargs:
            raise ValueError(
                f"{type(self.model).__name__} does not take num_items_in_batch: its loss would change with gradient "
                "accumulation and the number of ranks. Set accepts_loss_kwargs = True and divide by num_items_in_batch"
            )
        self.write_card = write_card
        self.scaled_adam = scaled_adam
        self.eden = eden
        # Its smoothing takes the labels away from the model, which then computes neither loss nor decoder inputs.
        self.label_smoother = None
        # A NaN loss is shown as NaN, not as the mean of the losses before it.
        self.args.logging_nan_inf_filter = False
        self._parts: dict[str, torch.Tensor] = {}
        self._parts_steps: set[int] = set()
        self._eval_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))

    # Optimisation

    def create_optimizer(self, model: Any = None) -> Any:
        """`Trainer.create_optimizer`, or ScaledAdam."""
        if self.optimizer is None and self.scaled_adam:
            self.optimizer = create_scaled_adam(self.model, lr=self.args.learning_rate)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """`Trainer.create_scheduler`, or Eden."""
        if self.lr_scheduler is None and self.eden is not None:
            steps = None
            if isinstance(self._order, BudgetBatchSampler):
                group = self.args.world_size * self.args.gradient_accumulation_steps
                steps = max(1, len(self._order) // group)
            self.lr_scheduler = Eden(optimizer or self.optimizer, steps_per_epoch=steps, **self.eden)
            self._created_lr_scheduler = True  # else it is left out of checkpoints
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer._prepare_for_training`, for models with parameters that are single numbers."""
        with single_numbers_sent() if self.is_deepspeed_enabled else contextlib.nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    # Parts of the loss

    def remember_parts(self, outputs: Any, num_items_in_batch: Any) -> None:
        """Keep the parts of a training loss (`ctc_loss`, ...) for the log."""
        scale = self.accelerator.num_processes if num_items_in_batch is not None else 1
        for name, part in loss_parts(outputs).items():
            self._parts[name] = self._parts.get(name, 0.0) + torch.nan_to_num(part, nan=0.0, posinf=0.0) * scale
        self._parts_steps.add(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the training loss, averaged over ranks and steps since the last log line."""
        if "loss" in logs and self._parts:
            for name in sorted(self._parts):
                mean_over_ranks = self.accelerator.gather(self._parts[name].reshape(1)).mean().item()
                logs[name] = mean_over_ranks / len(self._parts_steps)
            self._parts, self._parts_steps = {}, set()
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, dataloader, description, *, metric_key_prefix="eval", **kwargs):
        """Scores every row once, in data set order, and reports losses per target token of the whole set."""
        sampler: Any = getattr(dataloader.batch_sampler, "batch_sampler", dataloader.batch_sampler)
        # Ranks take turns and their outputs are joined step by step, so rows come back as the sampler lists them.
        came = np.array([row for batch in sampler for row in batch])
        order = np.unique(came, return_index=True)[1]
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        self._eval_sums.clear()
        self.gather_function = self._gather_rows
        try:
            output = super().evaluation_loop(dataloader, description, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self.compute_metrics = compute_metrics
        # In place of the Trainer's mean over batches.
        metrics = dict(output.metrics or {})
        metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self._reduced_eval_sums().items()})
        predictions, labels = output.predictions, output.label_ids
        if predictions is not None:
            predictions, labels = predictions[order], labels[order] if labels is not None else None
            if compute_metrics is not None and labels is not None:
                scores = compute_metrics(EvalPrediction(predictions=predictions, label_ids=labels))
                metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return EvalLoopOutput(predictions, labels, metrics, len(order))

    def add_eval_loss(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Count the loss of an evaluation batch and its parts in; returns the loss."""
        tokens = int((labels != IGNORED).sum())
        self._eval_sums["tokens"] += tokens
        for name, part in {"loss": outputs.loss, **loss_parts(outputs)}.items():
            self._eval_sums[name] += part.detach().cpu().double() * tokens
        return outputs.loss.detach()

    def _gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of all ranks, rank by rank; accelerate's own gather needs as many rows on every rank."""
        if self.args.world_size == 1:
            return rows
        counts = self.accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        parts = self.accelerator.gather(self.accelerator.pad_across_processes(rows, dim=0, pad_index=IGNORED))
        parts = parts.split(max(counts))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def _reduced_eval_sums(self) -> dict[str, float]:
        """Summed losses over summed tokens, of all ranks."""
        if "tokens" not in self._eval_sums:
            return {}
        names = sorted(self._eval_sums)
        # float32 for backends without doubles; sums of one rank were taken in float64.
        sums = torch.stack([self._eval_sums[name] for name in names]).float().to(self.args.device)
        totals = dict(zip(names, self.accelerator.reduce(sums, "sum").tolist(), strict=True))
        tokens = max(totals.pop("tokens"), 1.0)
        return {name: total / tokens for name, total in totals.items()}

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, config, code, processor and card: a folder that can be published as it is."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = str(output_dir if output_dir is not None else self.args.output_dir)
        self.complete_checkpoint(folder)
        if self.write_card is not None:
            self.write_card(folder, self)

    def complete_checkpoint(self, folder: str) -> None:
        """Write what else a model of this kind needs beside weights, config, code and processor."""


@contextlib.contextmanager
def single_numbers_sent() -> Iterator[None]:
    """Let DeepSpeed send parameters without a dimension to all ranks: as bytes, for which they need one."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    stock = DeepSpeedEngine._broadcast_model

    def broadcast(engine: Any) -> None:
        single = [parameter for parameter in engine.module.parameters() if parameter.data.ndim == 0]
        for parameter in single:
            parameter.data = parameter.data.reshape(1)
        stock(engine)
        for parameter in single:
            parameter.data = parameter.data.reshape(())

    DeepSpeedEngine._broadcast_model = broadcast
    try:
        yield
    finally:
        DeepSpeedEngine._broadcast_model = stock


def loss_parts(outputs: Any) -> dict[str, torch.Tensor]:
    """The named parts of a model's loss: every output called `<name>_loss`."""
    return {name: value.detach() for name, value in outputs.items() if name.endswith("_loss") and value is not None}
