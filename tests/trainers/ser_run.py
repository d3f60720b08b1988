"""Training runs of emotion classifiers, also as a program: started by test_ser_trainer_processes.py."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tiny_ser import make_emotion2vec, make_fusion, make_rows, ser_collator
from trainer_kit import logged, training_arguments
from transformers import set_seed

from trainers.ser import SERTrainer

SYSTEMS = ("fusion", "emotion2vec")


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
    trainer.train(resume_from_checkpoint=resume)
    scores = trainer.evaluate()
    labels = trainer.embed(held_out).labels_N.tolist() if system == "fusion" else held_out["label"]
    with torch.no_grad():
        norm = sum(float(parameter.double().square().sum()) for parameter in trainer.model.parameters())
    return {
        "world_size": args.world_size,
        "losses": logged(trainer),
        "parts": logged(trainer, "supcon_loss"),
        "eval": [scores["eval_loss"], scores["eval_rows"], scores["eval_sum"]],
        "labels": [list(labels), list(held_out["label"])],
        "norm": norm,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    results = {name: train(name, options.folder / name, 3, resume=options.resume) for name in options.systems}
    if os.environ.get("RANK", "0") == "0":
        (options.folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
