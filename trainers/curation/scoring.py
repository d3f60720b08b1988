"""Scoring: every model listens to every shard, once; nothing is decided here.

A shard is scored alone, in batches that depend on its rows and nothing else, so one process, eight under `accelerate
launch` and a Ray cluster write the same bytes (on a CPU each uses one thread; start as many processes as cores).
Processes never talk to each other: rank r of n takes every n-th shard, and rank 0 merges when all files are there. A
run that was stopped anywhere goes on with the files that are missing. Nodes need a shared file system.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_scripts.engines import make_engine
from data_scripts.text.normalize import NORMALIZER_VERSION
from trainers.curation.arguments import CurationConfig, ScorerArguments
from trainers.curation.parts import (
    LM_PART,
    MODEL_PART,
    ScoringError,
    file_digest,
    is_done,
    merge,
    part_path,
    write_part,
)
from trainers.curation.shards import Shard, list_shards, read_rows

if TYPE_CHECKING:
    from trainers.curation.scorers import Scorer

logger = logging.getLogger(__name__)

FORMAT = 1
DECIMALS = 6
# Files that decide what a model says.
MODEL_FILES = (".safetensors", ".bin", ".model", ".txt", "config.json", "vocab.json", "tokenizer.json", "merges.txt")
ROWS_TO_CHECK = 200
POLL_S, REMIND_S = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """One model and one shard, or the language model (`model` is None) and one shard."""

    config: CurationConfig
    model: ScorerArguments | None
    shard: Shard
    wanted: dict[str, Any]

    @property
    def part(self) -> str:
        """Name of the model in file names."""
        return self.model.name if self.model else "lm"

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.part} on {self.shard.name}"


def score(config: CurationConfig) -> dict[str, Any] | None:
    """Score everything that is not scored yet, then merge.

    Returns:
        The counts of `parts.merge`; None on ranks other than 0.

    Raises:
        ScoringError: no models, scores of something else in the way, a vocabulary without the transcripts' letters.
        RecogniserError: a model cannot be loaded. SourceError, SchemaError: the source cannot be read.
        EngineError: a worker died twice on the same shard.
    """
    if not config.models:
        raise ScoringError("nothing to score with: list at least one model, [{path: ..., name: ...}]")
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    output = Path(config.output_dir)
    shards = list_shards(config.source, config.rows_per_shard)
    by_model = [_tasks(config, model, shards) for model in config.models]
    lm = _lm_tasks(config, shards, by_model)
    ours = [[task for task in tasks if task.shard.number % world_size == rank] for tasks in [*by_model, lm]]
    with make_engine(config.engine.name, config.engine.num_workers, config.engine.address) as engine:
        for tasks in ours:
            todo = [task for task in tasks if not is_done(_path(task), task.wanted)]
            if todo:
                logger.info("%s: %d of %d shards to score", todo[0].part, len(todo), len(tasks))
            if todo and todo[0].model:
                _check_letters(config, todo[0].model, shards)
            for name in engine.map(run_task, todo, num_gpus=config.engine.gpus_per_worker):
                logger.info("scored %s", name)
    if rank:
        return None
    tasks = [task for group in [*by_model, lm] for task in group]
    _wait(tasks)
    wanted = {"parts": [[task.part, task.shard.number, task.wanted] for task in tasks]}
    described = ((shard.number, list(read_rows(config.source, shard, audio=False))) for shard in shards)
    return merge(output, config.model_names(), bool(lm), described, wanted)


def run_task(task: Task) -> str:
    """Score one shard with one model, and write it down. Returns the task's name."""
    path = _path(task)
    if task.model is None:
        write_part(path, _lm_rows(task), LM_PART, task.wanted)
    else:
        rows = list(read_rows(task.config.source, task.shard))
        scorer = _scorer(task.config, task.model)
        write_part(path, list(score_rows(rows, scorer, task.model, task.config)), MODEL_PART, task.wanted)
    return task.name


def score_rows(
    rows: Sequence[Mapping[str, Any]], scorer: "Scorer", model: ScorerArguments, config: CurationConfig
) -> Iterator[dict[str, Any]]:
    """`{"id", "scores", "audio_digest"}` of rows, in order; a row that cannot be heard has its problem as score."""
    from data_scripts.audio import AudioError, read_audio
    from data_scripts.augment import change_speed
    from data_scripts.curation.repeats import audio_digest
    from trainers.curation.scorers import EMPTY

    found: list[list[dict[str, Any]]] = [[] for _ in rows]
    for batch in batches([row["duration_s"] or 0.0 for row in rows], model.batch_duration_s):
        heard, audio = [], []
        for index in batch:
            try:
                audio.append(read_audio(rows[index]["audio"] or {}, max_duration_s=config.max_duration_s))
                heard.append(index)
            except (AudioError, OSError) as error:
                logger.warning("row %r is not scored: %s", rows[index]["id"], error)
                problem = f"audio_{getattr(error, 'code', 'unreadable')}"
                found[index] = [{**EMPTY, "speed": speed, "problem": problem} for speed in model.speeds]
        for number, speed in enumerate(model.speeds if heard else []):
            at_speed = [change_speed(one, speed) if speed != 1 else one for one in audio]
            scores = scorer([rows[index] for index in heard], at_speed, aligned=number == 0)
            for index, one in zip(heard, scores, strict=True):
                found[index].append({**one, "speed": speed})
    for row, scores in zip(rows, found, strict=True):
        named = [{"model": model.name, "unit": scorer.unit, **one} for one in scores]
        yield {"id": row["id"], "scores": named, "audio_digest": audio_digest(row["audio"])}


def batches(durations_s: Sequence[float], budget_s: float) -> list[list[int]]:
    """Indices by falling duration, in batches of at most `budget_s` padded seconds (at least one row each)."""
    order = sorted(range(len(durations_s)), key=lambda index: (-durations_s[index], index))
    found: list[list[int]] = []
    for index in order:
        longest = durations_s[found[-1][0]] if found else 0.0
        if found and longest * (len(found[-1]) + 1) <= budget_s and len(found[-1]) < 256:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def _tasks(config: CurationConfig, model: ScorerArguments, shards: Sequence[Shard]) -> list[Task]:
    shared = {
        "format": FORMAT,
        "model": fingerprint(model.path),
        **{key: value for key, value in asdict(model).items() if key not in ("path", "name")},
        "dtype": config.dtype,
        "max_duration_s": config.max_duration_s,
        "normalizer_version": NORMALIZER_VERSION,
    }
    return [Task(config, model, shard, {**shared, "rows": shard.digest}) for shard in shards]


def _lm_tasks(config: CurationConfig, shards: Sequence[Shard], by_model: Sequence[Sequence[Task]]) -> list[Task]:
    if config.lm.path is None:
        return []
    if not Path(config.lm.path).is_file():
        raise ScoringError(f"lm.path: no such file: {config.lm.path}; make one with scripts/train_lm.py")
    digest = file_digest(config.lm.path)
    tasks = []
    for index, shard in enumerate(shards):
        models = {group[index].part: group[index].wanted for group in by_model}
        tasks.append(Task(config, None, shard, {"format": FORMAT, "lm": digest, "models": models}))
    return tasks


def fingerprint(path: str) -> str:
    """Changes with the weights, the vocabulary or the config of a folder; the commit of a Hub id.

    Raises:
        ScoringError: no such folder, and no model on the Hub or in its cache.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.name.endswith(MODEL_FILES) and file.is_file())
        if files:
            names = [str(file.relative_to(folder)) + file_digest(file) for file in files]
            return hashlib.blake2b("\n".join(names).encode(), digest_size=12).hexdigest()
    from transformers import AutoConfig

    try:
        commit = getattr(AutoConfig.from_pretrained(path), "_commit_hash", None)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ScoringError(f"models: cannot load {path}: {first}; name a model folder or a Hub id") from error
    return f"{path}@{commit or 'unknown'}"


def _scorer(config: CurationConfig, model: ScorerArguments) -> "Scorer":
    device = config.device
    if device == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    settings = {"path": model.path, "num_beams": model.num_beams, "generate_kwargs": model.generate_kwargs}
    settings["hypotheses"] = model.hypotheses
    settings |= {"device": device, "dtype": config.dtype, "trust_remote_code": config.trust_remote_code}
    return _load(json.dumps(settings))


@lru_cache(maxsize=1)
def _load(settings: str) -> "Scorer":
    """One model a process at a time: the shards of a model follow one another."""
    import torch

    from trainers.curation.scorers import load_scorer
    from trainers.recognisers import load_recogniser, pick_device

    chosen = json.loads(settings)
    device = pick_device(chosen["device"])
    if device == "cpu":
        # Sums come out in another order with other numbers of threads; processes use the cores instead.
        torch.set_num_threads(1)
    recogniser = load_recogniser(
        chosen["path"], device=device, dtype=chosen["dtype"], trust_remote_code=chosen["trust_remote_code"]
    )
    return load_scorer(recogniser, chosen["num_beams"], chosen["generate_kwargs"], chosen["hypotheses"])


def _check_letters(config: CurationConfig, model: ScorerArguments, shards: Sequence[Shard]) -> None:
    """A vocabulary without the letters of most transcripts is a mistake, and found before hours are spent on it."""
    from itertools import islice

    from trainers.curation.scorers import LabelError

    scorer = _scorer(config, model)
    if scorer.ctc is None:
        return
    strange: list[str] = []
    texts = [row for row in islice(read_rows(config.source, shards[0], audio=False), ROWS_TO_CHECK) if row["text"]]
    for row in texts:
        try:
            scorer.ctc.labels(row)
        except LabelError as error:
            strange.append(str(error))
    if len(strange) > len(texts) / 2:
        letters = " ".join(sorted({letter for text in strange for letter in text.split()})[:20])
        raise ScoringError(
            f"models: {model.path} cannot write {len(strange)} of the first {len(texts)} transcripts; missing: "
            f"{letters}. Choose a model of the transcripts' language"
        )


def _lm_rows(task: Task) -> list[dict[str, Any]]:
    """Scores of the texts of one shard, log10 a syllable (the end of a sentence counts as one)."""
    import pyarrow.parquet as pq

    assert task.config.lm.path is not None
    model = _language_model(task.config.lm.path)

    output, number = Path(task.config.output_dir), task.shard.number
    columns = [
        pq.read_table(part_path(output, name, number), columns=["scores"])["scores"].to_pylist()
        for name in task.config.model_names()
    ]
    described = list(read_rows(task.config.source, task.shard, audio=False))
    # The transcript first, then every hypothesis; None where there is no text to score.
    texts = [
        [row["text"], *(one["hypothesis"] if one["unit"] == "syllable" else None for c in columns for one in c[index])]
        for index, row in enumerate(described)
    ]
    values = iter(model.score_batch([text for row in texts for text in row if text], per_word=True))
    scores = [[round(float(next(values)), DECIMALS) if text else None for text in row] for row in texts]
    return [
        {"id": row["id"], "lm_score": mine, "lm_scores": heard}
        for row, (mine, *heard) in zip(described, scores, strict=True)
    ]


@lru_cache(maxsize=1)
def _language_model(path: str) -> Any:
    from data_scripts.curation.ngram import NgramModel

    return NgramModel.load(path)


def _path(task: Task) -> Path:
    return part_path(Path(task.config.output_dir), task.part, task.shard.number)


def _wait(tasks: Sequence[Task]) -> None:
    """Until the other ranks are done; whoever launched them ends this one if they die."""
    asked = time.monotonic()
    missing = list(tasks)
    while missing := [task for task in missing if not _path(task).is_file()]:
        if time.monotonic() - asked > REMIND_S:
            logger.info("waiting for %d shards of other processes, first %s", len(missing), missing[0].name)
            asked = time.monotonic()
        time.sleep(POLL_S)
