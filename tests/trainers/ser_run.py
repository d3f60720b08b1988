"""One training run of an emotion classifier, as a program: started by test_ser_trainer_processes.py."""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tiny_ser import make_emotion2vec, make_fusion, make_rows, ser_collator
from transformers import Seq2SeqTrainingArguments, set_seed

from trainers.ser import SERTrainer

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--system", default="fusion")
parser.add_argument("--batch_size", type=int, default=3)
parser.add_argument("--resume", action="store_true")
options = parser.parse_args()
args = Seq2SeqTrainingArguments(
    output_dir=str(options.out.with_suffix("")),
    use_cpu=True,
    report_to=[],
    disable_tqdm=True,
    per_device_train_batch_size=options.batch_size,
    per_device_eval_batch_size=2,
    learning_rate=0.02,
    optim="sgd",
    max_steps=6,
    logging_steps=1,
    save_strategy="steps",
    save_steps=4,
    predict_with_generate=True,
    remove_unused_columns=False,
    label_names=["labels"],
)
set_seed(0)
# The contrastive loss compares the utterances of all ranks.
model = make_emotion2vec() if options.system == "emotion2vec" else make_fusion(supcon_weight=0.4, supcon_size=8)
# Each rank draws its own numbers.
model.apply(lambda module: setattr(module, "p", 0.0) if hasattr(module, "p") else None)
weights = {"class_weights": [0.5, 2.0]} if options.system == "emotion2vec" else {}
# Seven rows do not divide by two ranks.
held_out = make_rows(7)
trainer = SERTrainer(
    model=model,
    args=args,
    data_collator=ser_collator(model),
    train_dataset=make_rows(12),
    eval_dataset=held_out,
    compute_metrics=lambda seen: {"rows": len(seen.predictions), "sum": float(seen.predictions[:, 0].sum())},
    **weights,
)
trainer.train(resume_from_checkpoint=options.resume)
scores = trainer.evaluate()
labels = trainer.embed(held_out).labels_N.tolist() if options.system == "fusion" else held_out["label"]
if args.process_index == 0:
    with torch.no_grad():
        norm = sum(float(parameter.double().square().sum()) for parameter in trainer.model.parameters())
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "world_size": args.world_size,
        "losses": [entry["loss"] for entry in history],
        "parts": [entry.get("supcon_loss", 0.0) for entry in history],
        "eval": [scores["eval_loss"], scores["eval_rows"], scores["eval_sum"]],
        "labels": [labels, held_out["label"]],
        "norm": norm,
    }
    options.out.write_text(json.dumps(result), encoding="utf-8")
