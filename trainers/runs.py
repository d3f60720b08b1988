"""Run directories: what is in them, and why a run never writes over another.

    <run>/config.yaml         the resolved config: `--config <run>/config.yaml` repeats the run elsewhere
    <run>/environment.json    versions, hardware, commit and command of every start
    <run>/metrics.jsonl       everything that was logged, one JSON object a line
    <run>/checkpoint-N/       a complete model and the state to go on from
    <run>/model/              the finished model

`plan_run` only reads, so every process of a launch calls it before the processes meet and all come to the same answer;
`begin_run` writes, on the first process, after they have met.
"""

import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from trainers.arguments import Config, RunConfig
from trainers.checkpoints import has_pickles, newest_whole, sealed_here, set_aside
from trainers.checks import ConfigError
from trainers.config import dump_config, read_config
from trainers.secrets import mask_tokens

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
DROP_REPORT = "drop_report-"
MODEL_FOLDER = "model"
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "deepspeed", "tokenizers", "numpy")
# A resumed run may differ in these: they change where and how fast it runs and what is shown, not what is learnt.
MAY_CHANGE = {
    "training.allow_resume_mismatch",
    "cache.folder",
    "publish.checkpoints",
    "publish.deadline_s",
    "publish.private",
    "publish.push",
    "publish.repo_id",
    "training.dataloader_num_workers",
    "training.dataloader_persistent_workers",
    "training.dataloader_pin_memory",
    "training.dataloader_prefetch_factor",
    "training.ddp_timeout",
    "training.disable_tqdm",
    "training.log_level",
    "training.output_dir",
    "training.per_device_eval_batch_size",
    "training.project",
    "training.report_to",
    "training.resume",
    "training.run_name",
    "training.save_total_limit",
    "training.torch_empty_cache_steps",
}


class RunError(ValueError):
    """The run directory does not allow this start."""


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a run."""

    folder: Path
    """The run directory."""
    checkpoint: Path | None
    """Checkpoint to go on from; None at a first start."""

    @property
    def model_folder(self) -> Path:
        """Where the finished model goes."""
        return self.folder / MODEL_FOLDER


def plan_run(config: RunConfig) -> Run:
    """Decide between a new run and going on with one; reads only.

    Raises:
        RunError: the folder holds another run, or something else, or nothing that can be resumed.
    """
    folder = Path(config.training.output_dir)
    resume = config.training.resume
    if resume == "false" and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        resume = "auto"  # a rank died and the launcher starts all of them again: this is still the first run
    if folder.exists() and not folder.is_dir():
        raise RunError(f"training.output_dir: {folder} is a file; choose a folder")
    # What was dropped is reported before anything is trained, so reports alone are no run.
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    found = {name for name in found if not name.startswith(DROP_REPORT)}
    if not found:
        if resume == "true":
            raise RunError(f"nothing to resume: {folder} is empty or missing; leave out --training.resume true")
        return Run(folder, None)
    if not (folder / CONFIG_FILE).is_file():
        raise RunError(f"{folder} is not empty and holds no run; choose another --training.output_dir")
    # A run that stopped before its first log line, on a wrong path for example, has nothing to lose.
    if resume != "true" and found <= {CONFIG_FILE, ENVIRONMENT_FILE, "tensorboard"}:
        return Run(folder, None)
    if resume == "false":
        done = "a finished run" if (folder / MODEL_FOLDER).is_dir() else "an unfinished run"
        raise RunError(
            f"{folder} already holds {done}. Go on with it by --training.resume auto, or choose another --name or "
            "--training.output_dir"
        )
    changed = changed_keys(read_run_config(folder, type(config)), config)
    if changed:
        lines = [f"  {key}: was {old!r}, now {new!r}" for key, old, new in changed]
        message = "\n".join([f"{folder} was begun with another config:", *lines])
        if not config.training.allow_resume_mismatch:
            raise RunError(
                f"{message}\nResume with --config {folder / CONFIG_FILE} as it is, accept another course with "
                "--training.allow_resume_mismatch true, or choose another --training.output_dir"
            )
        logger.warning(message)
    checkpoint, damaged = newest_whole(folder, digests=False)
    if checkpoint is None and resume == "true":
        found = "".join(f"\n  {path.name}: {problem}" for path, problem in damaged.items())
        raise RunError(f"nothing to resume: no whole checkpoint in {folder}; use --training.resume auto{found}")
    return Run(folder, checkpoint)


def settle_checkpoint(run: Run, *, required: bool = False) -> Run:
    """The run with the newest checkpoint whose every byte verifies; newer ones are set aside and named.

    Writes: call it on the first process alone, once all have planned, and tell the others.

    Args:
        required: there must be one (training.resume: true).

    Raises:
        RunError: there is none; DeepSpeed would read pickles that no run of this user wrote.
    """
    checkpoint, damaged = newest_whole(run.folder)
    set_aside(damaged)
    if checkpoint is None:
        if required:
            raise RunError(f"nothing to resume: every checkpoint in {run.folder} was damaged and is set aside")
        if damaged:
            logger.warning("no checkpoint in %s is whole: the run starts anew", run.folder)
    elif has_pickles(checkpoint) and not sealed_here(checkpoint):
        raise RunError(
            f"{checkpoint} holds pickled DeepSpeed states that were not sealed with your key, so they could run any "
            "code. Resume on the machine that wrote them (or bring its key: AMVI_SEAL_KEY), or start a new run from "
            "its .safetensors"
        )
    return Run(run.folder, checkpoint)


def read_run_config(folder: Path, cls: type[RunConfig] = Config) -> RunConfig:
    """The resolved config of a run, which is one of `cls`."""
    try:
        return read_config(["--config", str(folder / CONFIG_FILE)], cls)
    except ConfigError as error:
        raise RunError(f"the config of the run in {folder} cannot be read: {error}") from error


def changed_keys(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every value that differs and may not, in order."""
    before, after = flatten(asdict(old)), flatten(asdict(new))
    keys = [key for key in {**before, **after} if key not in MAY_CHANGE]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists are left whole."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def begin_run(run: Run, config: RunConfig, argv: Sequence[str], *, world_size: int = 1, device: str = "cpu") -> None:
    """Write the resolved config and the environment; call it on the first process, once all have planned.

    Args:
        argv: the command line, program included; tokens have no key, so none can be in it.
        world_size: processes of this launch.
        device: accelerator in words.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    path = run.folder / ENVIRONMENT_FILE
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    starts.append(environment(argv, world_size, device) | {"resumed_from": run.checkpoint and run.checkpoint.name})
    path.write_text(json.dumps(starts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def environment(argv: Sequence[str], world_size: int, device: str) -> dict[str, Any]:
    """Versions, hardware, commit and command, as plain JSON."""
    from trainers.card import source_commit

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": mask_tokens(shlex.join(argv)),
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device,
        "world_size": world_size,
        "packages": versions,
    }


def refuse(error: Exception) -> NoReturn:
    """Report a start that is not allowed, once per launch, and exit with status 2."""
    sys.stderr.write(f"cannot start: {error}\n" if os.environ.get("RANK", "0") == "0" else "")
    raise SystemExit(2) from None


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of a run's metrics log, oldest first."""
    path = Path(folder) / METRICS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
