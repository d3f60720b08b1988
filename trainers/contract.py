"""What must be the same for a resumed run to be the run that was interrupted.

Sealed into every checkpoint and compared before a resume: with other data, batches, processes or code the steps after
it would silently be those of another run. `training.allow_resume_mismatch` goes on and logs what differs.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_scripts.text.normalize import NORMALIZER_VERSION
from trainers.arguments import RunConfig
from trainers.checkpoints import read_seal
from trainers.runs import RunError

logger = logging.getLogger(__name__)

PACKAGES = ("data_scripts", "models", "trainers")
MEANING = {
    "data": "the training rows",
    "batch_size": "rows per device and step",
    "batch_budget": "seconds or phonemes per device and step",
    "gradient_accumulation_steps": "batches per optimiser step",
    "world_size": "the number of processes",
    "stream_workers": "training.dataloader_num_workers, by which streams are divided",
    "seed": "the seed",
    "normalizer_version": "the rules that normalise text",
    "code": "the code of this package",
}


def resume_facts(config: RunConfig, world_size: int, data: str) -> dict[str, Any]:
    """The facts of a run at its start.

    Args:
        world_size: processes of this launch.
        data: fingerprint of the training rows.
    """
    streamed = any(source.streaming for source in config.train_sources())
    return {
        "data": data,
        "batch_size": config.training.per_device_train_batch_size,
        "batch_budget": config.batch_budget,
        "gradient_accumulation_steps": config.training.gradient_accumulation_steps,
        "world_size": world_size,
        "stream_workers": max(1, config.training.dataloader_num_workers) if streamed else None,
        "seed": config.training.seed,
        "normalizer_version": NORMALIZER_VERSION,
        "code": code_version(),
    }


def check_resume(checkpoint: Path, facts: Mapping[str, Any], *, allow_mismatch: bool = False) -> None:
    """Compare the facts that a checkpoint was sealed with to those of this start.

    Raises:
        RunError: they differ and that is not allowed; names each with both values.
    """
    sealed = (read_seal(checkpoint) or {}).get("facts", {})
    differing = [
        f"  {name} ({meaning}): was {sealed.get(name)!r}, now {facts.get(name)!r}"
        for name, meaning in MEANING.items()
        if sealed.get(name) != facts.get(name)
    ]
    if not differing:
        return
    message = "\n".join([f"going on from {checkpoint} would not repeat the interrupted run:", *differing])
    if not allow_mismatch:
        raise RunError(f"{message}\nRestore them, or accept another course with --training.allow_resume_mismatch true")
    logger.warning(message)


def data_fingerprint(rows: Any, sources: Sequence[Any]) -> str:
    """Changes with the training rows or their order: their ids, texts and lengths, or, of a stream, its sources.

    Args:
        rows: a `datasets.Dataset` (0.5 s for a million rows), shards read in place, or a stream.
        sources: `SourceArguments` of the run.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr([asdict(source) for source in sources]).encode())
    if hasattr(rows, "num_rows"):
        names = [name for name in ("id", "text", "duration_s") if name in rows.column_names]
        for batch in rows.select_columns(names).with_format("arrow").iter(batch_size=10_000):
            for name in names:
                digest.update(repr(batch.column(name).to_pylist()).encode())
    elif hasattr(rows, "blocks"):
        for name in ("id", "text", "duration_s"):
            digest.update(repr(list(rows[name])).encode())
    return digest.hexdigest()


def code_version() -> str:
    """Changes with any line of the three packages; the same for a checkout and an installed copy."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
