"""What a model leaves out of its loss, counted over the whole run and over each evaluation."""

import json
from typing import Any

import torch

from trainers.speech import SpeechTraining


class SkippedCounts(SpeechTraining):
    """Mixin in front of `transformers.Trainer`, for models whose output may have `num_skipped`.

    The log has the number so far on all ranks under `skipped_name` once there is one, an evaluation its own. Also
    remembers the parts of the loss.
    """

    args: Any
    skipped_name = "skipped_utterances"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Of this rank; a tensor, so that a GPU need not be waited for.
        self._skipped = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._eval_skipped = torch.zeros_like(self._skipped)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's loss; remembers its parts and what it left out for the log."""
        if num_items_in_batch is not None:
            # Rows without a label are left out; a step of nothing else must not divide by nothing.
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.remember_parts(outputs, num_items_in_batch)
            self._skipped += _skipped_of(outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was skipped so far on all ranks, once there is something."""
        if "loss" in logs:
            skipped = int(self.accelerator.gather(self._skipped.reshape(1)).sum())
            if skipped:
                logs[self.skipped_name] = skipped
        super().log(logs, start_time)

    # Evaluation

    def add_eval_loss(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        self._eval_skipped += _skipped_of(outputs)
        return super().add_eval_loss(outputs, labels)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        self._eval_skipped.zero_()
        output: Any = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        skipped = int(self.accelerator.gather(self._eval_skipped.reshape(1)).sum())
        if skipped:
            output.metrics[f"{metric_key_prefix}_{self.skipped_name}"] = skipped
        return output

    # Checkpoints

    def data_state(self) -> dict[str, Any]:
        """The place in the training data, and how much this rank has left out."""
        return {**super().data_state(), self.skipped_name: int(self._skipped)}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = self._data_state_path(checkpoint) if checkpoint is not None else None
        if path is not None and path.is_file():
            self._skipped.fill_(json.loads(path.read_text(encoding="utf-8")).get(self.skipped_name, 0))


def _skipped_of(outputs: Any) -> Any:
    """`num_skipped` of an output, 0 where it has none."""
    skipped = getattr(outputs, "num_skipped", None)
    return 0 if skipped is None else skipped.detach()
