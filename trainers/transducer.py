"""The Trainer of recognisers that align their tokens with frames: Zipformer and FastConformer, transducers and CTC.

What it asks of a model: `forward(input_features, attention_mask, labels, num_items_in_batch)`, with a loss that is a
sum over utterances divided by `num_items_in_batch`, its parts as `<name>_loss`, and `num_skipped`, the utterances that
it had to leave out; and `recognise(input_features, attention_mask, ...)`.
"""

import json
import logging
from typing import Any

import torch
from transformers import Trainer

from trainers.collators import pad_ids
from trainers.speech import IGNORED, SpeechTraining

logger = logging.getLogger(__name__)

SKIPPED = "skipped_utterances"


class TransducerTrainer(SpeechTraining, Trainer):
    """Trains and evaluates a recogniser that aligns.

    Takes the arguments of `Trainer` and of `SpeechTraining`, and these:

    Args:
        search (`dict`, *optional*): arguments of `recognise` in evaluation; greedy search by default.

    Evaluation recognises every row, for `compute_metrics`, where `args.predict_with_generate` says so. Utterances that
    the model leaves out of its loss are counted over the whole run, as `skipped_utterances` in the log; evaluation
    counts its own as `eval_skipped_utterances`.
    """

    args: Any

    def __init__(self, *args: Any, search: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.search = search or {"search": "greedy"}
        # Of this rank; a tensor, so that a GPU need not be waited for.
        self._skipped = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._eval_skipped = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss; remembers its parts and what it left out for the log."""
        if num_items_in_batch is not None:
            # Texts without a token are left out; a step of nothing else must not divide by nothing.
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.remember_parts(outputs, num_items_in_batch)
            self._skipped += outputs.num_skipped.detach()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `skipped_utterances`, the number so far on all ranks, once there is one."""
        if "loss" in logs:
            skipped = int(self.accelerator.gather(self._skipped.reshape(1)).sum())
            if skipped:
                logs[SKIPPED] = skipped
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        self._eval_skipped = 0
        output: Any = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        skipped = torch.tensor([self._eval_skipped], device=self.args.device)
        skipped = int(self.accelerator.gather(skipped).sum())
        if skipped:
            output.metrics[f"{metric_key_prefix}_{SKIPPED}"] = skipped
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Loss of the batch and, with `predict_with_generate`, the tokens that the model recognises.

        Returns:
            `tuple`: loss, token ids (B, longest) padded with -100 or None, labels or None.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
            loss = self.add_eval_loss(outputs, labels)
            self._eval_skipped += int(outputs.num_skipped)
            if prediction_loss_only or not self.args.predict_with_generate:
                return loss, None, None
            found = self.model.recognise(inputs["input_features"], inputs["attention_mask"], **self.search)
        # Not empty, so that it can be gathered.
        ids = [hypotheses[0].tokens or [IGNORED] for hypotheses in found]
        return loss, pad_ids(ids, IGNORED).to(labels.device), labels

    # Checkpoints

    def data_state(self) -> dict[str, Any]:
        """The place in the training data, and how many utterances this rank has left out."""
        return {**super().data_state(), SKIPPED: int(self._skipped)}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = self._data_state_path(checkpoint) if checkpoint is not None else None
        if path is not None and path.is_file():
            self._skipped.fill_(json.loads(path.read_text(encoding="utf-8")).get(SKIPPED, 0))
