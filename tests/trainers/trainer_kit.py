"""The settings of a short training run on a CPU, and what is asked of it afterwards."""

from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments


def training_arguments(folder: str | Path, **changes: Any) -> Seq2SeqTrainingArguments:
    """Nothing is saved, and every step is logged."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_eval_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "predict_with_generate": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return Seq2SeqTrainingArguments(**settings | changes)


def logged(trainer: Any, name: str = "loss") -> list[float]:
    """One figure of every step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(trainer: Any) -> torch.Tensor:
    """All parameters of the model, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
