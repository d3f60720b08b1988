"""One training run of an aligned recogniser, as a program: started by test_transducer_processes.py."""

import argparse
import gc
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tiny_aligned import aligned_collator, make_fastconformer, make_zipformer
from tiny_tspc import make_rows
from trainer_kit import training_arguments
from transformers import set_seed

from models.tspc.strict_model import whole_tensors
from models.zipformer import (
    ZipformerConfig,
    ZipformerFeatureExtractor,
    ZipformerForASR,
    zipformer_encoder,
    zipformer_layers,
    zipformer_training,
)
from trainers.collators import IGNORED
from trainers.transducer import TransducerTrainer

parser = argparse.ArgumentParser()
parser.add_argument("out", type=Path)
parser.add_argument("--system", default="zipformer")
parser.add_argument("--accumulation", type=int, default=1)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--save_steps", type=int, default=0)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--scaled_adam", action="store_true")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--deepspeed")
parser.add_argument("--batch_size", type=int, default=4)
options = parser.parse_args()
args = training_arguments(
    options.out.with_suffix(""),
    per_device_train_batch_size=options.batch_size,
    gradient_accumulation_steps=options.accumulation,
    learning_rate=0.02 if options.scaled_adam else 1e-3,
    optim="adamw_torch",
    adam_epsilon=1e-3,  # near-zero gradients must not decide the direction of a step
    max_grad_norm=0.0 if options.scaled_adam else 1.0,
    max_steps=options.steps,
    save_strategy="steps" if options.save_steps else "no",
    save_steps=options.save_steps or 500,
    bf16=options.bf16,
    deepspeed=options.deepspeed,
)
if options.deepspeed:
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo")
set_seed(0)
DIMS = [192, 256, 256, 384, 256, 256]
# Each rank draws its own numbers, so nothing may be left to chance. Without a batch count nothing of a Zipformer is
# skipped, and where no dimension may be masked none is.
for module in (zipformer_encoder, zipformer_layers, zipformer_training):
    module.chance = lambda probability: probability >= 0.5  # type: ignore[attr-defined]
make = {
    "zipformer": lambda: make_zipformer(unmasked_dim=[16, 24]),
    "fastconformer": lambda: make_fastconformer(head="rnnt", ctc_weight=0.3),
    "zipformer-30m": lambda: ZipformerForASR(
        ZipformerConfig.preset("zipformer-30m", default_search="greedy", unmasked_dim=DIMS)
    ),
}[options.system]
with whole_tensors():
    model = make()
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
if options.system == "fastconformer":
    model.freeze_encoder()  # the statistics of a batch norm are those of one forward pass
collator = aligned_collator(model)
if options.system == "zipformer-30m":
    collator.inputs.feature_extractor = ZipformerFeatureExtractor()
scored = {}


def compute_metrics(prediction):
    scored["labels"] = [[int(token) for token in row if token != IGNORED] for row in prediction.label_ids]
    return {"rows": len(prediction.predictions)}


# One text is empty: an utterance to leave out, on one rank alone.
rows = make_rows(30).map(lambda row: {"text": "" if row["id"] == "row-9" else row["text"]})
trainer = TransducerTrainer(
    model=model,
    args=args,
    data_collator=collator,
    train_dataset=rows,
    eval_dataset=make_rows(7, start=100),
    compute_metrics=compute_metrics,
    batch_budget=1.2 if options.batch_size == 4 else None,
    scaled_adam=options.scaled_adam,
    eden={"warmup_batches": 5} if options.scaled_adam else None,
)
# Under other environment variables DeepSpeed steps aside without a word.
assert trainer.is_deepspeed_enabled == bool(options.deepspeed)
trainer.train(resume_from_checkpoint=options.resume or None)
metrics = trainer.evaluate()
if trainer.is_world_process_zero():
    log = trainer.state.log_history
    result = {
        "world_size": args.world_size,
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "ctc_losses": [entry["ctc_loss"] for entry in log if "ctc_loss" in entry],
        "skipped": [entry["skipped_utterances"] for entry in log if "skipped_utterances" in entry],
        "eval_loss": metrics["eval_loss"],
        "eval_rows": metrics["eval_rows"],
        **scored,
    }
    options.out.write_text(json.dumps(result), encoding="utf-8")
if torch.distributed.is_initialized():
    # What holds the process group must go before it, while there is an interpreter to go in.
    trainer.accelerator.free_memory()
    del trainer, model
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
