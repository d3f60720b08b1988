"""The Trainer of recognisers that align their tokens with frames: Zipformer and FastConformer, transducers and CTC.

What it asks of a model: `forward(input_features, attention_mask, labels, num_items_in_batch)`, with a loss that is a
sum over utterances divided by `num_items_in_batch`, its parts as `<name>_loss`, and `num_skipped`, the utterances that
it had to leave out; and `recognise(input_features, attention_mask, ...)`.
"""

from typing import Any

import torch
from transformers import Trainer

from trainers.collators import pad_ids
from trainers.skipped import SkippedCounts
from trainers.speech import IGNORED

SKIPPED = SkippedCounts.skipped_name


class TransducerTrainer(SkippedCounts, Trainer):
    """Trains and evaluates a recogniser that aligns.

    Takes the arguments of `Trainer` and of `SpeechTraining`, and these:

    Args:
        search (`dict`, *optional*): arguments of `recognise` in evaluation; greedy search by default.

    Evaluation recognises every row, for `compute_metrics`, where `args.predict_with_generate` says so. Utterances that
    the model leaves out of its loss are counted over the whole run, as `skipped_utterances` in the log; evaluation
    counts its own as `eval_skipped_utterances`.
    """

    def __init__(self, *args: Any, search: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.search = search or {"search": "greedy"}

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
            if prediction_loss_only or not self.args.predict_with_generate:
                return loss, None, None
            found = self.model.recognise(inputs["input_features"], inputs["attention_mask"], **self.search)
        # Not empty, so that it can be gathered.
        ids = [hypotheses[0].tokens or [IGNORED] for hypotheses in found]
        return loss, pad_ids(ids, IGNORED).to(labels.device), labels
