"""What a run writes down while it trains."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.runs import METRICS_FILE


class MetricsLogCallback(TrainerCallback):
    """Appends everything that is logged to `metrics.jsonl`, one object a line: `step`, `epoch` and the values.

    A resumed run first drops the entries after its checkpoint, so each step is there once.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / METRICS_FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A line that was cut off by a crash has no end and belongs to no finished step.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
        self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        # JSON has no NaN: null keeps the file readable by everything.
        values = {key: value for key, value in logs.items() if isinstance(value, int | float | str)}
        values = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        entry = {"step": state.global_step, **values, "epoch": state.epoch}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
