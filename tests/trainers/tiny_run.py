"""One training run of a tiny model, as a program: started by torchrun or accelerate in test_two_processes.py."""

import argparse
import gc
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tiny_tspc import make_p2t, make_rows, make_s2p, p2t_collator, s2p_collator, speech_inputs
from trainer_kit import training_arguments
from transformers import set_seed

from models.tspc.strict_model import whole_tensors
from trainers.cache import EncoderCache
from trainers.collators import IGNORED
from trainers.seq2seq import SpeechSeq2SeqTrainer

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--stage", default="s2p")
parser.add_argument("--model")
parser.add_argument("--accumulation", type=int, default=1)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--save_steps", type=int, default=0)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--deepspeed")
parser.add_argument("--cache")
parser.add_argument("--stream", action="store_true")
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--num_rows", type=int, default=30)
options = parser.parse_args()

args = training_arguments(
    options.out.with_suffix(""),
    per_device_train_batch_size=4,
    gradient_accumulation_steps=options.accumulation,
    learning_rate=3e-3,
    optim="adamw_torch",
    adam_epsilon=1e-3,  # near-zero gradients must not decide the direction of a step
    max_steps=options.steps,
    save_strategy="steps" if options.save_steps else "no",
    save_steps=options.save_steps or 500,
    generation_max_length=8,
    dataloader_num_workers=options.workers,
    deepspeed=options.deepspeed,
)
if options.deepspeed:
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo")
set_seed(0)
make = {"s2p": lambda: make_s2p(ctc_weight=0.3), "p2t": make_p2t}[options.stage]
with whole_tensors():
    model = make()
    if options.model:
        model = type(model).from_pretrained(options.model, dtype=torch.float32)
collator = {"s2p": s2p_collator(), "p2t": p2t_collator()}[options.stage]
rows, eval_rows = make_rows(options.num_rows), make_rows(7, start=100)
if options.cache:
    model.encoder.requires_grad_(False)
    rows = EncoderCache(options.cache).attach(rows, model, speech_inputs(), batch_duration_s=1.0)
if options.stream:
    rows = rows.to_iterable_dataset(num_shards=4)
scored = {}


def compute_metrics(prediction):
    labels = [[int(token) for token in row if token != IGNORED] for row in prediction.label_ids]
    scored.update(labels=labels)
    return {"rows": len(prediction.predictions)}


trainer = SpeechSeq2SeqTrainer(
    model=model,
    args=args,
    data_collator=collator,
    train_dataset=rows,
    eval_dataset=eval_rows,
    compute_metrics=compute_metrics,
    batch_budget=1.2,
)
# Under other environment variables DeepSpeed steps aside without a word.
assert trainer.is_deepspeed_enabled == bool(options.deepspeed)
assert (trainer.accelerator.distributed_type == "DEEPSPEED") == bool(options.deepspeed)
trainer.train(resume_from_checkpoint=options.resume or None)
metrics = trainer.evaluate()
if trainer.is_world_process_zero():
    result = {
        "world_size": args.world_size,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "eval_loss": metrics["eval_loss"],
        "eval_rows": metrics["eval_rows"],
        "labels": scored["labels"],
    }
    options.out.write_text(json.dumps(result), encoding="utf-8")
if torch.distributed.is_initialized():
    # What holds the process group must go before it, while there is an interpreter to go in.
    trainer.accelerator.free_memory()
    del trainer, model
    gc.collect()
    # Ranks leave together: one that goes early can take down the connection threads of the other.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
