"""One training run from a resolved config to a finished model; what `scripts/train_tspc.py` and its kin call.

What is trained is the business of an `Assembly`, one module for each kind of run; this module is everything else.
"""

import json
import logging
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import get_token
from transformers import EarlyStoppingCallback, Seq2SeqTrainingArguments, TrainingArguments, set_seed

from data_scripts.schema import SchemaError
from data_scripts.sources import SourceError
from data_scripts.text.normalize import NORMALIZER_VERSION
from data_scripts.text.spoken import SPOKEN_FORM_VERSION
from data_scripts.validate import TooManyDropped
from trainers.arguments import RunConfig
from trainers.building import Stage, log_augmentation
from trainers.callbacks import MetricsLogCallback
from trainers.card import LABELS, Evaluation, source_commit, update_model_card, write_model_card
from trainers.checks import ConfigError
from trainers.collators import RowError
from trainers.contract import check_resume, data_fingerprint, resume_facts
from trainers.guards import Stop
from trainers.publishing import PublishError
from trainers.push_queue import STATUS_FILE, PushQueue
from trainers.rows import Rows, audio_hours, build_datasets, rank
from trainers.runs import Run, RunError, begin_run, settle_checkpoint
from trainers.secrets import hide_tokens
from trainers.tokenizers import TokenizerError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Exit statuses of a run that trained but could not be uploaded, or lost a checkpoint on its way.
NOT_PUBLISHED, NOT_SAVED = 3, 5
# Enough text of a stream to train or check a tokenizer with.
STREAM_TEXTS = 100_000
# Not about the model.
SPEED = ("epoch", "_runtime", "_per_second")
# What is wrong with the user's data, paths or settings, and said well enough without a traceback.
START_ERRORS = (ConfigError, RunError, SourceError, SchemaError, TooManyDropped, TokenizerError, RowError)


class Assembly(Protocol):
    """What a kind of run is made of: `trainers.assembly` for TSPC, `trainers.asr_assembly` for the recognisers."""

    def needs_texts(self, config: Any, /) -> bool:
        """Whether `build_processor_and_model` reads the training texts, for a tokenizer."""
        ...

    def build_processor_and_model(self, config: Any, texts: Sequence[str] = (), /) -> Stage:
        """The processor and the model that the run starts with."""
        ...

    def build_collator(self, config: Any, stage: Stage, /) -> Any:
        """Rows to batches."""
        ...

    def build_metrics(self, config: Any, stage: Stage, rows: Any, /) -> Any:
        """Scores of what the model recognised in `rows`, in data set order."""
        ...

    def main_metric(self, config: Any, /) -> str:
        """The metric that picks the best checkpoint where the config names none."""
        ...

    def prepare_rows(self, config: Any, stage: Stage, rows: Rows, collator: Any, /) -> None:
        """What the rows still need, in place; the model is on its device."""
        ...

    def add_adapters(self, stage: Stage, config: Any, base_folder: Path, /, *, save: bool) -> Any:
        """The model with LoRA adapters."""
        ...

    def finish_model(self, config: Any, trainer: Any, /) -> dict[str, float]:
        """Make `trainer.model` what is published, on every process; scores that are changed by it."""
        ...

    def make_trainer(self, config: Any, stage: Stage, /, **common: Any) -> Any:
        """The Trainer, from the arguments that every Trainer here takes."""
        ...

    def card_facts(self, config: Any, stage: Stage, /) -> dict[str, Any]:
        """What the card of a checkpoint says about this kind of run alone."""
        ...


def train(config: RunConfig, run: Run, argv: Sequence[str], assembly: Assembly) -> dict[str, float]:
    """Train, save the finished model in `run.model_folder`, evaluate it, and publish it if the config says so.

    Returns:
        The metrics of the finished model on the validation data, as `eval_wer` and so on, and `train_loss`; also in
        `metrics.json` of the run directory.

    Raises:
        Any of `START_ERRORS`, before the first step.
    """
    if config.publish.push and get_token() is None:
        raise ConfigError("publish.push", "needs a token of the Hub: run `hf auth login` or set HF_TOKEN")
    args = set_up(config, run, assembly.main_metric(config))
    queue = open_queue(config, run)
    run = on_first_rank(lambda: settle_checkpoint(run, required=config.training.resume == "true"))
    rows = build_datasets(config, run.folder)
    facts = resume_facts(config, args.world_size, data_fingerprint(rows.train, config.sources()))
    if run.checkpoint:
        check_resume(run.checkpoint, facts, allow_mismatch=config.training.allow_resume_mismatch)
    stage = assembly.build_processor_and_model(
        config, training_texts(rows.train) if assembly.needs_texts(config) else []
    )
    collator = assembly.build_collator(config, stage)
    log_augmentation(collator, rows.train)
    metrics = assembly.build_metrics(config, stage, rows.validation) if rows.validation is not None else None
    stage.model.to(args.device)
    assembly.prepare_rows(config, stage, rows, collator)
    if args.process_index == 0:
        begin_run(run, config, argv, world_size=args.world_size, device=device_name(args))
    if config.lora.rank:
        stage.model = assembly.add_adapters(stage, config, run.folder / "base", save=args.process_index == 0)
    hours, command = audio_hours(rows.train), shlex.join(argv)
    trainer = assembly.make_trainer(
        config,
        stage,
        **trainer_arguments(config, args, run, stage, rows, collator),
        compute_metrics=metrics if args.predict_with_generate else None,
        write_card=lambda folder, trainer: card(config, folder, trainer, hours, command, assembly, stage),
        seal_facts=facts,
    )
    if queue and config.publish.checkpoints:
        trainer.on_sealed = queue.offer
    started = time.monotonic()
    try:
        result = trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    except Stop as stop:
        leave(trainer, stop)
    scores = {"train_loss": result.training_loss}
    if rows.validation is not None:
        scores |= {name: value for name, value in trainer.evaluate().items() if not name.endswith(SPEED)}
    status = finish(config, run, trainer, scores, time.monotonic() - started, queue, assembly)
    if args.world_size > 1:
        # A rank that leaves while another is still sending makes the launcher report a failure of a finished run.
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
    if trainer.failed_saves:
        logger.error("%d checkpoint(s) could not be saved: %s", len(trainer.failed_saves), trainer.failed_saves[-1])
        status = status or NOT_SAVED
    if status:
        raise SystemExit(status)
    return scores


def on_first_rank(work: Callable[[], T]) -> T:
    """What `work` gives on the first process, on every process; an error of it is raised on all of them."""
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def open_queue(config: RunConfig, run: Run) -> PushQueue | None:
    """The way to the Hub, tried out before anything expensive is done; None where nothing is to be published.

    Raises:
        ConfigError: token, rights or visibility will not do.
    """
    if not config.publish.push:
        return None
    publish = config.publish
    queue = PushQueue(run.folder, str(publish.repo_id), private=publish.private, deadline_s=publish.deadline_s)

    def check() -> None:
        try:
            queue.check()
        except PublishError as error:
            raise ConfigError("publish.push", str(error)) from None

    on_first_rank(check)
    return queue


def leave(trainer: Any, stop: Stop) -> NoReturn:
    """End all processes with the status of an early stop; nothing is evaluated, finished or published."""
    if trainer.is_world_process_zero():
        logger.error("%s", stop)
    if trainer.args.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
    raise SystemExit(stop.exit_code)


def set_up(config: RunConfig, run: Run, main_metric: str) -> Seq2SeqTrainingArguments:
    """Processes, seeds and the Trainer's arguments, in the order that distributed backends need."""
    hide_tokens()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.ERROR)
    name = f"{config.name}-{config.trains}"
    args = config.training.build(run.folder, metric_for_best_model=main_metric, run_name=name)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        # With use_cpu accelerate sets up torch.distributed but not deepspeed's own communication.
        import deepspeed

        if not deepspeed.comm.is_initialized():
            deepspeed.init_distributed(dist_backend="gloo" if args.use_cpu else None)
    set_seed(args.seed)
    return args


def training_texts(rows: Any) -> list[str]:
    """Texts for the tokenizer: all of a data set, the first of a stream."""
    streamed = hasattr(rows, "take") and not hasattr(rows, "num_rows")
    return [row["text"] for row in rows.take(STREAM_TEXTS)] if streamed else list(rows["text"])


def trainer_arguments(
    config: RunConfig, args: Seq2SeqTrainingArguments, run: Run, stage: Stage, rows: Rows, collator: Any
) -> dict[str, Any]:
    """What every Trainer is given: model, rows, batches, log and early stopping."""
    patience = config.training.early_stopping_patience
    callbacks: list[Any] = [MetricsLogCallback(run.folder)]
    if patience is not None:
        callbacks.append(EarlyStoppingCallback(patience, config.training.early_stopping_threshold))
    # Of recordings as they may become: slowed down they last longer.
    stretch = 1.0 if config.is_text else config.data.augmentation.longest_stretch
    return {
        "model": stage.model,
        "args": args,
        "data_collator": collator,
        "train_dataset": rows.train,
        "eval_dataset": rows.validation,
        "processing_class": stage.processor,
        "callbacks": callbacks,
        "length_column": config.length_column,
        "batch_budget": config.batch_budget and config.batch_budget / stretch,
        "eval_batch_budget": config.batch_budget,
        "select": rows.select,
    }


def card(
    config: RunConfig,
    folder: str | Path,
    trainer: Any,
    hours: float | None,
    command: str,
    assembly: Assembly,
    stage: Stage,
) -> None:
    """README.md and card.json of a checkpoint."""
    args, state = trainer.args, trainer.state
    model: Any = trainer.model
    own = assembly.card_facts(config, stage)
    facts = {
        "audio_hours": hours and round(hours, 2),
        "epochs": state.epoch and round(state.epoch, 2),
        "steps": state.global_step,
        "batch_duration_s": None if config.is_text else config.data.batch_duration_s,
        "learning_rate": args.learning_rate,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **own.pop("training", {}),
        "lora_rank": config.lora.rank or None,
    }
    write_model_card(
        folder,
        stage=own.pop("stage", config.trains),
        datasets=list(dict.fromkeys(source.path for source in config.train_sources())),
        normalizer_version=NORMALIZER_VERSION if config.needs_text else None,
        spoken_form_version=SPOKEN_FORM_VERSION if config.needs_text else None,
        hardware=device_name(args),
        command=command,
        commit=source_commit(),
        training={name: value for name, value in facts.items() if value is not None},
        **own,
    )


def finish(
    config: RunConfig,
    run: Run,
    trainer: Any,
    scores: dict[str, float],
    seconds: float,
    queue: PushQueue | None,
    assembly: Assembly,
) -> int:
    """Save the finished model, write its metrics down, and publish it; the exit status, on every process."""
    if config.lora.rank:
        trainer.model = trainer.model.merge_and_unload()
    scores |= assembly.finish_model(config, trainer)
    # Under another name until it is whole: a model folder is a finished model.
    partial = run.model_folder.with_suffix(".partial")
    problem = trainer.write_model(partial)
    if problem is not None:
        logger.error("the finished model could not be written to %s: %s. Mend that and resume", partial, problem)
        return NOT_SAVED

    def complete_and_publish() -> int:
        complete(config, run, trainer, partial, scores, seconds)
        if queue is None:
            return 0
        if not queue.finish(run.model_folder):
            logger.error("the model is finished in %s but not published; see %s", run.model_folder, STATUS_FILE)
            return NOT_PUBLISHED
        logger.info("published as %s", queue.repo_id)
        return 0

    return on_first_rank(complete_and_publish)


def complete(
    config: RunConfig, run: Run, trainer: Any, partial: Path, scores: dict[str, float], seconds: float
) -> None:
    """What the first process does with a finished model before it is published."""
    if run.model_folder.exists():
        shutil.rmtree(run.model_folder)  # of the same run, resumed after it had finished
    os.replace(partial, run.model_folder)
    values = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    report = {"stage": config.trains, "steps": trainer.state.global_step, "seconds": round(seconds, 1), **values}
    (run.folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("finished model in %s: %s", run.model_folder, json.dumps(report))
    if trainer.eval_dataset is not None:
        add_figures(config, run, trainer, scores)


def add_figures(config: RunConfig, run: Run, trainer: Any, scores: dict[str, float]) -> None:
    """The validation figures of the finished model on its card."""
    metrics = {name.removeprefix("eval_"): value for name, value in scores.items()}
    metrics = {name: value for name, value in metrics.items() if name in LABELS and math.isfinite(value)}
    sources = config.validation_sources()
    figures = Evaluation(
        metrics=metrics,
        dataset=", ".join(dict.fromkeys(source.path for source in sources)) or "generated sentences",
        split="validation",
        num_beams=config.training.generation_num_beams if config.needs_text else None,
        num_utterances=len(trainer.eval_dataset),  # type: ignore[arg-type]
        normalizer_version=NORMALIZER_VERSION if config.needs_text else None,
        spoken_form_version=SPOKEN_FORM_VERSION if config.needs_text else None,
    )
    if metrics:
        update_model_card(run.model_folder, evaluations=[figures])


def device_name(args: TrainingArguments) -> str:
    """The hardware in words."""
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type.upper()
    return f"{args.world_size} x {device}" if args.world_size > 1 else device
