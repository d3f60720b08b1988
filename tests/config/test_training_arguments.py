"""The training section is the Trainer's own: every field exists there under the same name and reaches it."""

from dataclasses import fields

import pytest
from transformers import Seq2SeqTrainingArguments

from trainers.training_arguments import OWN_FIELDS, TrainingArguments


def test_field_names_are_the_trainers():
    theirs = {item.name for item in fields(Seq2SeqTrainingArguments)}
    assert {item.name for item in fields(TrainingArguments)} - theirs == set(OWN_FIELDS)


def test_values_reach_the_trainer(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    ours = TrainingArguments(use_cpu=True, learning_rate=3e-4, warmup_steps=7, report_to=["none"], seed=9)
    args = ours.build(tmp_path, metric_for_best_model="wer", run_name="a-b")
    assert args.output_dir == str(tmp_path) and args.run_name == "a-b"
    assert (args.learning_rate, args.warmup_steps, args.seed, args.report_to) == (3e-4, 7, 9, [])
    assert args.metric_for_best_model == "wer" and args.greater_is_better is False
    assert args.label_names == ["labels"] and not args.remove_unused_columns and not args.logging_nan_inf_filter
    assert args.device.type == "cpu" and args.predict_with_generate


def test_every_choice_is_one_of_the_trainers(tmp_path):
    from typing import get_args, get_type_hints

    hints = get_type_hints(TrainingArguments)
    for name in ("lr_scheduler_type", "optim", "eval_strategy", "save_strategy"):
        for choice in get_args(hints[name]):
            extra = {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}} if choice == "cosine_with_min_lr" else {}
            own = {"max_grad_norm": 0} if choice == "scaled_adam" else {}
            plain = {"use_cpu": True, "report_to": ["none"], "load_best_model_at_end": False}
            ours = TrainingArguments(**plain, **own, **{name: choice})
            ours.lr_scheduler_kwargs = extra.get("lr_scheduler_kwargs")
            built = ours.build(tmp_path, metric_for_best_model="wer", run_name="x")
            # The Trainer knows neither of these: they are handed over as classes, or made by our trainers.
            stand_in = {"adafactor_scaled": "adafactor", "scaled_adam": "adamw_torch", "eden": "constant"}
            assert getattr(built, name) == stand_in.get(choice, choice)
            assert (ours.optimizer_cls_and_kwargs is not None) == (choice == "adafactor_scaled")


def test_fp16_needs_a_gpu(tmp_path):
    import torch

    from trainers.checks import ConfigError

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"training\.fp16: .*no GPU"):
        TrainingArguments(fp16=True).build(tmp_path, metric_for_best_model="wer", run_name="x")
