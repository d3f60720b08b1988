"""The Trainer of emotion classifiers: fusions of speech encoders, and emotion2vec.

What it asks of a model: `forward(..., labels, num_items_in_batch)` whose loss is a sum over utterances divided by
`num_items_in_batch`, its parts as `<name>_loss`, and `logits` (B, C).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import Trainer

from models.ser import cross_entropy_sum
from trainers.skipped import SkippedCounts


class Embedded(NamedTuple):
    """What a model makes of rows, in data set order."""

    embeddings_NE: torch.Tensor
    logits_NC: torch.Tensor
    labels_N: torch.Tensor


class SERTrainer(SkippedCounts, Trainer):
    """Trains and evaluates an emotion classifier.

    Takes the arguments of `Trainer` and of `SpeechTraining`, and these:

    Args:
        class_weights (`Sequence[float]`, *optional*): factor of each class in the loss, for a model that has none of
            its own.

    Utterances that a contrastive loss could not compare are counted as `skipped_anchors`. Evaluation classifies every
    row once, for `compute_metrics`, where `args.predict_with_generate` says so.
    """

    skipped_name = "skipped_anchors"

    def __init__(self, *args: Any, class_weights: Sequence[float] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.class_weights = None if class_weights is None else list(class_weights)
        self._embed = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss, or its cross entropy with the factors of the classes."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.class_weights is not None:
            loss = self._weighted(outputs.logits, inputs["labels"], num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _weighted(self, logits_BC: torch.Tensor, labels_B: torch.Tensor, num_items: Any = None) -> torch.Tensor:
        total = cross_entropy_sum(logits_BC, labels_B, self.class_weights)
        if num_items is None:
            return total / (labels_B >= 0).sum().clamp(min=1)
        # The mean over ranks that follows is of their shares of one sum.
        return total / torch.as_tensor(num_items).clamp(min=1) * self.accelerator.num_processes

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss of the batch and, with `predict_with_generate`, its logits (with the embeddings behind them while
        `embed` runs).

        Returns:
            `tuple`: loss, (B, C) logits or None, (B,) labels or None.
        """
        inputs = self._prepare_inputs(inputs)
        labels_B = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
            if self.class_weights is not None:
                outputs.loss = self._weighted(outputs.logits, labels_B)
            loss = self.add_eval_loss(outputs, labels_B)
        if self._embed:
            return loss, torch.cat([outputs.logits.float(), outputs.embedding.float()], dim=1), labels_B
        if prediction_loss_only or not self.args.predict_with_generate:
            return loss, None, None
        return loss, outputs.logits.float(), labels_B

    def embed(self, rows: Any) -> Embedded:
        """Embeddings, logits and labels of rows as they are, without augmentation; all ranks must call it.

        Args:
            rows: labelled rows, such as those of training.
        """
        self._embed = True
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            loader = self.get_eval_dataloader(rows)
            output = self.evaluation_loop(loader, "Embedding", prediction_loss_only=False)
        finally:
            self._embed, self.compute_metrics = False, compute_metrics
        both, labels = np.asarray(output.predictions), np.asarray(output.label_ids)
        num_classes = len(self.model.label_names)
        logits_NC, embeddings_NE = both[:, :num_classes], both[:, num_classes:]
        return Embedded(torch.from_numpy(embeddings_NE), torch.from_numpy(logits_NC), torch.from_numpy(labels))
