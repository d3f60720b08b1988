"""A tiny run with averaged weights."""

import torch
from tiny_tspc import make_p2t, make_rows, p2t_collator
from transformers import Seq2SeqTrainingArguments

from trainers.averaging import AverageCallback
from trainers.seq2seq import SpeechSeq2SeqTrainer


def make_trainer(folder, *, callbacks=(), evaluate=False, average=None, **changes):
    """A trainer whose last callback averages every second step of the second half."""
    torch.manual_seed(0)
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 6,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    trainer = SpeechSeq2SeqTrainer(
        model=make_p2t(),
        args=Seq2SeqTrainingArguments(**settings | changes),
        data_collator=p2t_collator(),
        train_dataset=make_rows(24),
        eval_dataset=make_rows(5, start=100) if evaluate else None,
        callbacks=list(callbacks),
        length_column=None,
    )
    trainer.add_callback(AverageCallback(trainer, **(average or {"period": 2, "start": 0.5})))
    return trainer


def weights(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
