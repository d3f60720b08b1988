"""What sealed checkpoints and the guards cost: saves and steps of a 75 M-parameter T5, against the stock Trainer.

Same model, batches and optimiser; steps and saves of the two take turns. A save of ours also flushes every file to the
disk and reads it back for its digest, in the background: the save is what training waits for, sealing is until the
checkpoint is official. The share of a step is what the guards themselves take, measured inside of it.
"""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration
from transformers.trainer_callback import TrainerCallback

from trainers.reliable import ReliableTrainer

BATCH_SIZE, TOKENS, STEPS, SAVES = 8, 64, 5, 5


class OurTrainer(ReliableTrainer, Seq2SeqTrainer):
    """The stock Trainer with the promises."""


class StepTimes(TrainerCallback):
    """CPU seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.process_time() - self.started)


def make_trainer(kind: type[Seq2SeqTrainer], folder: Path) -> Seq2SeqTrainer:
    torch.manual_seed(0)
    config = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=8, num_heads=8)
    config.decoder_start_token_id = config.pad_token_id
    model = T5ForConditionalGeneration(config)
    ids = torch.randint(2, 32_000, (BATCH_SIZE * STEPS * 20, TOKENS)).tolist()
    rows = Dataset.from_dict({"id": [str(i) for i in range(len(ids))], "input_ids": ids, "labels": ids})
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=STEPS,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
    )

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}

    return kind(model=model, args=args, train_dataset=rows, data_collator=collate)


def time_guards(trainer: Any) -> list[float]:
    """Seconds spent in what the mixin adds to a step, collected while it trains."""
    spent: list[float] = []

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.process_time() - started)

        return call

    for owner, name in ((trainer, "step_is_finite"), (trainer.signals, "raised"), (trainer, "suspect_rows")):
        setattr(owner, name, timed(getattr(owner, name)))
    return spent


def save_seconds(trainer: Any, folder: Path, step: int) -> tuple[float, float]:
    """One checkpoint, written and deleted: until training could go on, and until it was sealed."""
    os.sync()
    trainer.state.global_step = step
    started = time.monotonic()
    trainer._save_checkpoint(trainer.model, None)
    saved = time.monotonic() - started
    if isinstance(trainer, ReliableTrainer):
        trainer.finish_sealing()
    sealed = time.monotonic() - started
    shutil.rmtree(folder / f"checkpoint-{step}")
    return saved, sealed


def run() -> list[dict[str, Any]]:
    """Four rows; two minutes on one core, 1.8 GB of disk."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="amvi-benchmark-", dir=".") as scratch:
        folders = [Path(scratch) / name for name in ("ours", "theirs")]
        pair = [make_trainer(kind, folder) for kind, folder in zip((OurTrainer, Seq2SeqTrainer), folders, strict=True)]
        guards = time_guards(pair[0])
        clocks = [StepTimes(), StepTimes()]
        for trainer, clock in zip(pair, clocks, strict=True):
            trainer.add_callback(clock)
        for _ in range(3):
            for trainer in pair:
                trainer.train()
        steps = [statistics.median(clock.seconds[1:]) for clock in clocks]
        saves = [
            [save_seconds(trainer, folder, number) for trainer, folder in zip(pair, folders, strict=True)]
            for number in range(1, SAVES + 1)
        ]
    ours, theirs = (statistics.median(saved for saved, _ in column) for column in zip(*saves, strict=True))
    sealed = statistics.median(sealed for (_, sealed), _ in saves)
    own = sum(guards) / len(clocks[0].seconds)
    peer = "transformers.Seq2SeqTrainer"
    return [
        {"name": "step of 75 M with guards", "peer": peer, "ours": steps[0], "theirs": steps[1], "unit": "CPU s",
         "ratio": steps[1] / steps[0]},
        {"name": "guards inside of that step", "peer": "the whole step", "ours": own, "theirs": steps[0],
         "unit": "CPU s", "ratio": steps[0] / own},
        {"name": "sealed save of 75 M", "peer": peer, "ours": ours, "theirs": theirs, "unit": "s",
         "ratio": statistics.median(stock / mine for (mine, _), (stock, _) in saves)},
        {"name": "the same until it is sealed", "peer": peer, "ours": sealed, "theirs": theirs, "unit": "s",
         "ratio": theirs / sealed},
    ]  # fmt: skip


if __name__ == "__main__":
    print(run())
