"""The `training` section: the Trainer's own arguments under the Trainer's own names, checked before torch is imported.

`transformers.Seq2SeqTrainingArguments` takes seconds to import and accepts `learning_rate: -1` and `save_steps: 0`;
this dataclass carries the fields that make sense for our trainers, with our defaults, and builds the real one.
"""

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainers.checks import require, require_fraction, require_non_negative, require_positive

if TYPE_CHECKING:
    from transformers import Seq2SeqTrainingArguments

POSITIVE = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "dataloader_prefetch_factor",
    "adam_epsilon",
    "torch_empty_cache_steps",
    "eval_steps",
    "generation_num_beams",
    "generation_max_length",
    "early_stopping_patience",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "ddp_timeout",
)
NON_NEGATIVE = (
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "dataloader_num_workers",
    "early_stopping_threshold",
    "seed",
)
# Arguments of the schedule, and launches that cut tensors into pieces, which its optimiser cannot have.
EDEN = ("lr_batches", "lr_epochs", "warmup_batches", "warmup_start")
SHARDED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}
# Of the metrics that a run can be judged by; the others are errors and losses.
GREATER_IS_BETTER = ("uar", "accuracy", "f1_macro")
# Ours, not the Trainer's.
OWN_FIELDS = ("resume", "allow_resume_mismatch", "early_stopping_patience", "early_stopping_threshold")


@dataclass
class TrainingArguments:
    """How a run is trained. Fields keep the names of `transformers.Seq2SeqTrainingArguments`, plus `OWN_FIELDS`."""

    output_dir: str = "runs/{name}/{stage}"
    """Run directory: resolved config, environment, metrics log, checkpoints; `model/` holds the finished model."""
    resume: Literal["false", "true", "auto"] = "false"
    """`true` continues from the newest complete checkpoint, `auto` does so if there is one, `false` starts anew."""
    allow_resume_mismatch: bool = False
    """Resume though data, config, processes or code are no longer those of the interrupted run."""

    # Length and schedule
    num_train_epochs: float = 10.0
    """Passes over the training data; ignored when max_steps is set."""
    max_steps: int = -1
    """Optimiser steps; -1 trains for num_train_epochs. Required for streaming data."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_min_lr",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "polynomial",
        "warmup_stable_decay",
        "eden",
    ] = "linear"
    """Shape of the learning rate after warm-up; eden falls with steps and with epochs, for scaled_adam."""
    lr_scheduler_kwargs: dict[str, Any] | None = None
    """Extra arguments of the schedule, for example {min_lr_rate: 0.1}; of eden {lr_batches: 7500, lr_epochs: 3.5}."""
    warmup_steps: float = 0.1
    """Warm-up: below 1 a share of all steps, otherwise a number of steps. eden has its own, warmup_batches."""

    # Batches
    per_device_train_batch_size: int = 16
    """Utterances per device and step where data.batch_duration_s and data.batch_phonemes are null."""
    per_device_eval_batch_size: int = 16
    """Utterances per device in evaluation."""
    gradient_accumulation_steps: int = 1
    """Batches summed before each optimiser step; the loss does not depend on it at the same global batch."""
    dataloader_num_workers: int = 0
    """Processes that read and decode audio; 0 reads in the training process."""
    dataloader_prefetch_factor: int | None = None
    """Batches each worker prepares ahead; needs dataloader_num_workers above 0."""
    dataloader_persistent_workers: bool = False
    """Keep workers alive between epochs; needs dataloader_num_workers above 0."""
    dataloader_pin_memory: bool = True
    """Page-locked host memory, for faster copies to a GPU; without one it is not used."""

    # Optimiser
    optim: Literal[
        "adamw_torch_fused", "adamw_torch", "adafactor", "adafactor_scaled", "scaled_adam", "sgd", "adamw_bnb_8bit"
    ] = "adamw_torch_fused"
    """Optimiser; adafactor_scaled takes steps relative to each tensor's size, for a T5 from scratch at about 0.03;
    scaled_adam does so for a Zipformer at 0.045, and clips by itself (max_grad_norm: 0)."""
    optim_args: str | None = None
    """sgd: its further arguments, for example momentum=0.9."""
    weight_decay: float = 0.01
    """Decoupled weight decay, not applied to biases and norms."""
    adam_beta1: float = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: float = 0.98
    """AdamW's second-moment decay; 0.98 is usual for speech transformers."""
    adam_epsilon: float = 1e-8
    """AdamW's denominator floor."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down; 0 turns clipping off."""
    label_smoothing_factor: float = 0.0
    """Probability mass spread over wrong tokens, in [0, 1)."""

    # Precision and memory
    bf16: bool = False
    """bfloat16 autocast; weights stay in float32."""
    fp16: bool = False
    """float16 autocast with loss scaling, for GPUs without bfloat16."""
    tf32: bool | None = None
    """TensorFloat-32 matrix products on Ampere and newer GPUs; null leaves torch's setting."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the model; worth it for long GPU runs only."""
    use_cpu: bool = False
    """Train on the CPU even if there is a GPU; with a multi-process launch this uses gloo."""
    torch_empty_cache_steps: int | None = None
    """Release unused GPU memory every so many steps; null never does."""

    # Evaluation and selection
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When to evaluate on the validation data."""
    eval_steps: int | None = None
    """Optimiser steps between evaluations; null uses logging_steps."""
    eval_on_start: bool = False
    """Evaluate once before the first step (for joint training that is TSPC-Zero)."""
    predict_with_generate: bool = True
    """Evaluate error rates on generated sequences, not only the loss."""
    generation_num_beams: int = 1
    """Beams in evaluation during training; 1 is greedy."""
    generation_max_length: int = 225
    """Longest generated sequence in evaluation, in tokens."""
    load_best_model_at_end: bool = True
    """Finish with the checkpoint that is best by metric_for_best_model."""
    metric_for_best_model: str | None = None
    """Metric that picks the best checkpoint; null means the phoneme error rate for s2p, uar for
    emotions, wer for the others."""
    greater_is_better: bool | None = None
    """Whether larger values of metric_for_best_model are better; null: those of uar, accuracy and f1_macro are."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations without improvement; null never stops early."""
    early_stopping_threshold: float = 0.0
    """Smallest change of the metric that counts as improvement."""

    # Saving and logging
    save_strategy: Literal["no", "steps", "epoch", "best"] = "epoch"
    """When to write a checkpoint."""
    save_steps: int = 500
    """Optimiser steps between checkpoints with save_strategy: steps."""
    save_total_limit: int | None = 2
    """Checkpoints kept, the best one included; null keeps all."""
    save_only_model: bool = False
    """Leave optimiser and random states out of checkpoints: smaller, but the run cannot be resumed."""
    logging_steps: int = 25
    """Optimiser steps between log lines."""
    logging_first_step: bool = True
    """Also log the first step, so that a wrong loss shows at once."""
    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow", "none"]] = field(
        default_factory=lambda: ["tensorboard"]
    )
    """Experiment trackers; [none] turns them off. metrics.jsonl in the run directory is always written."""
    run_name: str | None = None
    """Name shown by trackers; null uses <name>-<stage>."""
    project: str = "amvi"
    """Project shown by trackers."""
    disable_tqdm: bool = False
    """No progress bars."""
    log_level: Literal["debug", "info", "warning", "error", "critical", "passive"] = "passive"
    """Verbosity of the main process."""

    # Reproducibility and distribution
    seed: int = 42
    """Seed of weights, dropout, data order, pronunciation variants and augmentation."""
    full_determinism: bool = False
    """Deterministic kernels only: slower, for debugging."""
    ddp_find_unused_parameters: bool | None = None
    """Let DistributedDataParallel look for parameters without gradient; null decides by model."""
    ddp_timeout: int = 1800
    """Seconds that a process waits for the others before the run is given up."""

    def __post_init__(self) -> None:
        require_positive(self, "training.", POSITIVE)
        require_non_negative(self, "training.", NON_NEGATIVE)
        require_fraction(self, "training.", ["label_smoothing_factor", "adam_beta1", "adam_beta2"])
        steps = self.max_steps
        require(steps == -1 or steps > 0, "training.max_steps", f"must be above 0, or -1 for epochs; got {steps}")
        whole_or_share = self.warmup_steps < 1 or self.warmup_steps == int(self.warmup_steps)
        require(whole_or_share, "training.warmup_steps", f"from 1 up it counts steps, got {self.warmup_steps}")
        require(self.seed < 2**32, "training.seed", f"must be below 2**32, got {self.seed}")
        require(bool(self.output_dir.strip()), "training.output_dir", "must name a folder, got an empty string")
        self._check_precision()
        self._check_optimiser()
        self._check_workers()
        self._check_selection()

    def _check_precision(self) -> None:
        require(not (self.bf16 and self.fp16), "training.fp16", "cannot be combined with training.bf16; pick one")
        no_fp16 = "does not work with training.use_cpu: true; use --training.bf16 true or full precision"
        require(not (self.fp16 and self.use_cpu), "training.fp16", no_fp16)

    def _check_optimiser(self) -> None:
        given = [] if self.optim_args is None else self.optim_args.replace(" ", "").split(",")
        good = self.optim_args is None or self.optim == "sgd"
        good &= all(re.fullmatch(r"(momentum|dampening)=[0-9.e-]+|nesterov=(True|False)", one) for one in given)
        sgd = f"is for sgd: momentum=0.9, dampening=..., nesterov=True; got {self.optim_args!r} with {self.optim}"
        require(good, "training.optim_args", sgd)
        if self.optim == "scaled_adam":
            clips = f"must be 0 with training.optim: scaled_adam, which clips by itself; got {self.max_grad_norm}"
            require(self.max_grad_norm == 0, "training.max_grad_norm", clips)
        if self.lr_scheduler_type == "eden":
            given, key = self.lr_scheduler_kwargs or {}, "training.lr_scheduler_kwargs"
            unknown = ", ".join(sorted(set(given) - set(EDEN)))
            require(not unknown, key, f"eden has no {unknown}; it has {', '.join(EDEN)}")
            for name, value in given.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                good = number and (value > 0 or (value == 0 and name.startswith("warmup")))
                require(good, f"{key}.{name}", f"must be a number above 0, got {value!r}")

    def _check_workers(self) -> None:
        if self.dataloader_num_workers == 0:
            reason = "needs --training.dataloader_num_workers above 0"
            require(self.dataloader_prefetch_factor is None, "training.dataloader_prefetch_factor", reason)
            require(not self.dataloader_persistent_workers, "training.dataloader_persistent_workers", reason)

    def _check_selection(self) -> None:
        if self.resume != "false":
            reason = "true leaves nothing to resume from, but training.resume is set"
            require(not self.save_only_model, "training.save_only_model", reason)
        if self.early_stopping_patience is not None:
            reason = "needs --training.load_best_model_at_end true, so that the best checkpoint is the one kept"
            require(self.load_best_model_at_end, "training.early_stopping_patience", reason)
        if not self.load_best_model_at_end:
            return
        key = "training.load_best_model_at_end"
        require(self.eval_strategy != "no", key, "needs evaluation: set training.eval_strategy to steps or epoch")
        if self.save_strategy == "best":
            return
        same = self.save_strategy == self.eval_strategy
        got = f"save_strategy is {self.save_strategy} and eval_strategy is {self.eval_strategy}"
        require(same, key, f"needs checkpoints where it evaluates, but {got}; make them equal")
        if self.eval_strategy == "steps":
            eval_steps = self.eval_steps or self.logging_steps
            reason = f"needs save_steps to be a multiple of eval_steps, got {self.save_steps} and {eval_steps}"
            require(self.save_steps % eval_steps == 0, key, reason)

    @property
    def eden(self) -> dict[str, Any] | None:
        """Arguments of the schedule, where it is Eden."""
        return dict(self.lr_scheduler_kwargs or {}) if self.lr_scheduler_type == "eden" else None

    @property
    def optimizer_cls_and_kwargs(self) -> tuple[type, dict[str, Any]] | None:
        """What the Trainer cannot be told through its own arguments.

        A T5 starts with tensors of very different size, and AdamW's equal steps blow up the small ones: on the demo's
        sentences scaled steps reach in one minute the loss that AdamW reaches in five.
        """
        if self.optim != "adafactor_scaled":
            return None
        from transformers.optimization import Adafactor

        return Adafactor, {"lr": self.learning_rate, "scale_parameter": True, "relative_step": False}

    def build(self, run_dir: str | Path, *, metric_for_best_model: str, run_name: str) -> "Seq2SeqTrainingArguments":
        """The Trainer's arguments for this section; imports torch and, in a multi-process launch, joins the group.

        Must be called before any `from_pretrained`, or DeepSpeed ZeRO-3 cannot partition the weights as they load.
        """
        import torch
        from transformers import Seq2SeqTrainingArguments

        no_gpu = "needs a GPU and torch sees no GPU; use --training.bf16 true or full precision"
        require(not self.fp16 or torch.cuda.is_available(), "training.fp16", no_gpu)
        if self.optim == "scaled_adam":
            by = next((name for key, name in SHARDED.items() if os.environ.get(key, "").lower() == "true"), None)
            pieces = (
                f"scaled_adam looks at whole tensors, and {by} trains pieces of them: use adamw_torch_fused with a "
            )
            pieces += "learning rate of about 1e-3 and training.max_grad_norm of 1, or launch without it"
            require(by is None, "training.optim", pieces)
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(run_dir) / "tensorboard")
        values = {name: value for name, value in asdict(self).items() if name not in OWN_FIELDS}
        values["optim"] = {"adafactor_scaled": "adafactor", "scaled_adam": "adamw_torch"}.get(self.optim, self.optim)
        if self.lr_scheduler_type == "eden":
            values.update(lr_scheduler_type="constant", lr_scheduler_kwargs=None)
        # Renamed in transformers 5.23; everybody knows the old name.
        values["activation_checkpointing"] = values.pop("gradient_checkpointing")
        metric = self.metric_for_best_model or metric_for_best_model
        if self.greater_is_better is None:
            values["greater_is_better"] = metric.removeprefix("eval_") in GREATER_IS_BETTER
        values.update(
            output_dir=str(run_dir),
            run_name=self.run_name or run_name,
            metric_for_best_model=metric,
            # The collators need every column, and the Trainer cannot guess labels of models with several outputs.
            remove_unused_columns=False,
            label_names=["labels"],
            # Otherwise rank 0 decodes everything for streamed data, and a NaN loss is logged as 0.
            accelerator_config={"dispatch_batches": False},
            logging_nan_inf_filter=False,
            restore_callback_states_from_checkpoint=True,
            do_train=True,
            do_eval=self.eval_strategy != "no",
        )
        if not self.load_best_model_at_end and self.save_strategy != "best":
            values["metric_for_best_model"] = None
        return Seq2SeqTrainingArguments(**values)
