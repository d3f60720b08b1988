"""One Trainer for every sequence-to-sequence speech model: S2P, P2T, TSPC and Whisper baselines.

What differs from `transformers.Seq2SeqTrainer`: batches by a budget of padded seconds with the same steps on every
rank; an epoch that reaches sampler and rows; losses per target token over the global batch; evaluation that scores
every row once, in data set order, on what the model generates without seeing the answer; complete checkpoints.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from trainers.loading import BudgetBatches
from trainers.reliable import ReliableTrainer

logger = logging.getLogger(__name__)

IGNORED = -100
# Never shown to generate(): the answer itself, and what a teacher-forced pass reads.
ANSWER_KEYS = {"labels", "decoder_input_ids", "decoder_attention_mask"}


class SpeechSeq2SeqTrainer(ReliableTrainer, BudgetBatches, Seq2SeqTrainer):
    """Trains and evaluates a sequence-to-sequence speech model.

    Takes the arguments of `Seq2SeqTrainer`, of `ReliableTrainer` and of `BudgetBatches`, and these:

    Args:
        max_new_tokens (`int`, *optional*): longest generated sequence; by default `args.generation_max_length`.
        write_card (`Callable[[str, SpeechSeq2SeqTrainer], None]`, *optional*): writes README.md into each checkpoint.
        optimizer_cls_and_kwargs (*optional*): an optimiser that `args.optim` cannot name.

    The model's loss must be a sum over target tokens divided by `num_items_in_batch` (`accepts_loss_kwargs = True`),
    or, in stock models without that attribute, their mean.

    Raises:
        ValueError: the model's loss depends on how a batch is divided.
    """

    # The base class types it as optional.
    model: Any

    def __init__(
        self,
        *args: Any,
        max_new_tokens: int | None = None,
        write_card: Callable[[str, "SpeechSeq2SeqTrainer"], None] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
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
        # Stock models take the number through **kwargs and ignore it: their mean is turned into a share of the sum.
        self._model_averages = getattr(self.model, "accepts_loss_kwargs", None) is None
        self.max_new_tokens = max_new_tokens
        self.write_card = write_card
        # Its smoothing takes the labels away from the model, which then computes neither loss nor decoder inputs.
        self.label_smoother = None
        # A NaN loss is shown as NaN, not as the mean of the losses before it.
        self.args.logging_nan_inf_filter = False
        self._parts: dict[str, torch.Tensor] = {}
        self._parts_steps: set[int] = set()
        self._eval_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))

    # Loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss, smoothed if asked for; remembers its parts (`ctc_loss`, ...) for the log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self._model_averages and num_items_in_batch is not None:
            loss = loss * (inputs["labels"] != IGNORED).sum() / num_items_in_batch
        # A hybrid model's decoder has the weight that CTC leaves it.
        smoothing = self.args.label_smoothing_factor * (1.0 - getattr(self.model.config, "ctc_weight", 0.0))
        if smoothing and model.training:
            loss = loss + smoothing * self._smoothing(outputs.logits, inputs["labels"], num_items_in_batch)
        if model.training:
            scale = self.accelerator.num_processes if num_items_in_batch is not None else 1
            for name, part in loss_parts(outputs).items():
                self._parts[name] = self._parts.get(name, 0.0) + torch.nan_to_num(part, nan=0.0, posinf=0.0) * scale
            self._parts_steps.add(self.state.global_step)
        return (loss, outputs) if return_outputs else loss

    def _smoothing(self, logits: torch.Tensor, labels: torch.Tensor, num_items: Any) -> torch.Tensor:
        """What label smoothing adds to a cross entropy: (mean over the vocabulary - target) of -log p, per token."""
        valid = labels != IGNORED
        log_probs = torch.log_softmax(logits[valid].float(), dim=-1)
        target = log_probs.gather(-1, labels[valid].unsqueeze(-1)).squeeze(-1)
        total = (target - log_probs.mean(-1)).sum()
        if num_items is None:
            return total / valid.sum().clamp(min=1)
        return total / num_items * self.accelerator.num_processes

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

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        """Loss of the batch and, with `predict_with_generate`, what the model generates from its inputs alone.

        Returns:
            `tuple`: loss, generated ids (B, longest) padded with -100 or None, labels or None.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        loss = None
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is not None:
                outputs = model(**inputs)
                loss = outputs.loss.detach()
                tokens = int((labels != IGNORED).sum())
                self._eval_sums["tokens"] += tokens
                for name, part in {"loss": loss, **loss_parts(outputs)}.items():
                    self._eval_sums[name] += part.detach().cpu().double() * tokens
            if prediction_loss_only or not self.args.predict_with_generate:
                return loss, None, None
            generated = self._generate(inputs, gen_kwargs or getattr(self, "_gen_kwargs", {}))
        return loss, generated, labels

    def _generate(self, inputs: Mapping[str, torch.Tensor], gen_kwargs: dict[str, Any]) -> torch.Tensor:
        shown = {name: value for name, value in inputs.items() if name not in ANSWER_KEYS}
        if "input_features" in shown:
            # Beside audio, phonemes are the answer of the first stage; without audio they are a cache of its output.
            shown = {name: value for name, value in shown.items() if not name.startswith(("phoneme_", "s2p_"))}
        options = {name: value for name, value in gen_kwargs.items() if value is not None}
        # Seq2SeqTrainer calls its default max_length; a start token must not count.
        longest = options.pop("max_length", None)
        options.setdefault("max_new_tokens", self.max_new_tokens or longest)
        ids = self.model.generate(**shown, **options)
        pad = self.model.generation_config.pad_token_id
        return ids.masked_fill(ids == pad, IGNORED) if pad is not None else ids

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, config, code, processor, generation config and card: a folder that can be published as it is."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = str(output_dir if output_dir is not None else self.args.output_dir)
        if not os.path.exists(os.path.join(folder, "generation_config.json")):
            # Adapters are saved without the one of the model that they adapt.
            self.model.generation_config.save_pretrained(folder)
        if self.write_card is not None:
            self.write_card(folder, self)


def loss_parts(outputs: Any) -> dict[str, torch.Tensor]:
    """The named parts of a model's loss: every output called `<name>_loss`."""
    return {name: value.detach() for name, value in outputs.items() if name.endswith("_loss") and value is not None}
