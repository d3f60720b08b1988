"""One Trainer for every sequence-to-sequence speech model: S2P, P2T, TSPC and Whisper.

What differs from `transformers.Seq2SeqTrainer`: batches by a budget of padded seconds with the same steps on every
rank; an epoch that reaches sampler and rows; losses per target token over the global batch; evaluation that scores
every row once, in data set order, on what the model generates without seeing the answer; complete checkpoints.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import Seq2SeqTrainer

from trainers.speech import IGNORED, SpeechTraining

# Never shown to generate(): the answer itself, and what a teacher-forced pass reads.
ANSWER_KEYS = {"labels", "decoder_input_ids", "decoder_attention_mask"}


class SpeechSeq2SeqTrainer(SpeechTraining, Seq2SeqTrainer):
    """Trains and evaluates a sequence-to-sequence speech model.

    Takes the arguments of `Seq2SeqTrainer` and of `SpeechTraining`, and these:

    Args:
        max_new_tokens (`int`, *optional*): longest generated sequence; by default `args.generation_max_length`.
        generate (`Callable[..., torch.Tensor]`, *optional*): called with the model, its inputs and the options of
            generation in place of `model.generate`.

    The model's loss must be a sum over target tokens divided by `num_items_in_batch` (`accepts_loss_kwargs = True`),
    or, in stock models without that attribute, their mean.
    """

    def __init__(
        self,
        *args: Any,
        max_new_tokens: int | None = None,
        generate: Callable[..., torch.Tensor] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        # Stock models take the number through **kwargs and ignore it: their mean is turned into a share of the sum.
        self._model_averages = getattr(self.model, "accepts_loss_kwargs", None) is None
        self.max_new_tokens = max_new_tokens
        self.generate_with = generate

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
            self.remember_parts(outputs, num_items_in_batch)
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
                loss = self.add_eval_loss(model(**inputs), labels)
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
        if self.generate_with is not None:
            ids = self.generate_with(self.model, **shown, **options)
        else:
            ids = self.model.generate(**shown, **options)
        pad = self.model.generation_config.pad_token_id
        return ids.masked_fill(ids == pad, IGNORED) if pad is not None else ids

    def complete_checkpoint(self, folder: str) -> None:
        """Adapters are saved without the generation config of the model that they adapt."""
        if not os.path.exists(os.path.join(folder, "generation_config.json")):
            self.model.generation_config.save_pretrained(folder)
