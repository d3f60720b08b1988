"""Training runs of emotion classifiers, also as a program: started by test_ser_trainer_processes.py."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tiny_ser import make_emotion2vec, make_fusion, make_rows, ser_collator
from trainer_kit import logged, training_arguments
from transformers import TrainerCallback, set_seed

from trainers.ser import SERTrainer

SYSTEMS = ("fusion", "emotion2vec")


class Steps(TrainerCallback):
    """How many steps this process takes, be it from the start or from a checkpoint."""

    count = 0

    def on_step_end(self, *args, **kwargs):
        self.count += 1


def train(system: str, folder: Path, batch_size: int, *, resume: bool = False) -> dict[str, Any]:
    """One run of six steps, with a checkpoint after four, and what is compared of it."""
    args = training_arguments(
        folder,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        learning_rate=0.02,
        optim="sgd",
        max_steps=6,
        save_strategy="steps",
        save_steps=4,
    )
    set_seed(0)
    # The contrastive loss compares the utterances of all ranks.
    model = make_emotion2vec() if system == "emotion2vec" else make_fusion(supcon_weight=0.4, supcon_size=8)
    # Each rank draws its own numbers.
    model.apply(lambda module: setattr(module, "p", 0.0) if hasattr(module, "p") else None)
    # Seven rows do not divide by two ranks.
    held_out = make_rows(7)
    trainer = SERTrainer(
        model=model,
        args=args,
        data_collator=ser_collator(model),
        train_dataset=make_rows(12),
        eval_dataset=held_out,
        compute_metrics=lambda seen: {"rows": len(seen.predictions), "sum": float(seen.predictions[:, 0].sum())},
        class_weights=[0.5, 2.0] if system == "emotion2vec" else None,
    )
    steps = Steps()
    trainer.add_callback(steps)
    trainer.train(resume_from_checkpoint=resume)
    scores = trainer.evaluate()
    labels = trainer.embed(held_out).labels_N.tolist() if system == "fusion" else held_out["label"]
    with torch.no_grad():
        norm = sum(float(parameter.double().square().sum()) for parameter in trainer.model.parameters())
    return {
        "world_size": args.world_size,
        "steps": steps.count,
        "losses": logged(trainer),
        "parts": logged(trainer, "supcon_loss"),
        "eval": [scores["eval_loss"], scores["eval_rows"], scores["eval_sum"]],
        "labels": [list(labels), list(held_out["label"])],
        "norm": norm,
    }


if __name__ == "__main__":
    # On two ranks. Whole runs, and again as if both had died after the checkpoint of step 4: a start of processes
    # costs more than the training.
    folder = Path(sys.argv[1])
    results: dict[str, list[Any]] = {name: [train(name, folder / name, 3)] for name in SYSTEMS}
    for name, runs in results.items():
        if os.environ["RANK"] == "0":
            shutil.rmtree(folder / name / "checkpoint-6")
        torch.distributed.barrier()
        runs.append(train(name, folder / name, 3, resume=True))
    if os.environ["RANK"] == "0":
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
