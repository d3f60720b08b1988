"""What `curate.py` is told, one dataclass per section. Nothing here imports torch: a mistake costs a second."""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_scripts.curation.decisions import DecisionSettings
from data_scripts.sources import SourceArguments
from trainers.checks import ConfigError, require, require_non_negative, require_positive
from trainers.command_line import Dtype

NAME_LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


@dataclass
class ScorerArguments:
    """One recogniser that listens to every row."""

    path: str
    """Folder or Hub id: an S2P, any model with CTC outputs, or any other recogniser (hypotheses alone)."""
    name: str
    """Short name for files and columns: letters, digits, dots and underscores."""
    speeds: list[float] = field(default_factory=lambda: [1.0])
    """Speeds at which each recording is heard; 0.9 slows fast speech down. Transcripts are aligned at the first."""
    hypotheses: Literal["ctc", "generated"] = "ctc"
    """Of an S2P with a CTC head: its greedy CTC path (fast), or what its decoder writes."""
    num_beams: int = 1
    """Beam size of what is generated; CTC paths are greedy."""
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of generate, such as {language: vi} for a multilingual Whisper."""
    batch_duration_s: float = 120.0
    """Seconds of audio heard at once, padding included."""

    def __post_init__(self) -> None:
        if not self.name or not set(self.name) <= NAME_LETTERS or self.name in ("lm", ".", ".."):
            raise ValueError(f"name must be letters, digits, dots and underscores, and not 'lm'; got {self.name!r}")
        if not self.path.strip():
            raise ValueError("path must be a folder or a Hub id")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError(f"speeds must be a list of numbers between 0.5 and 2, got {self.speeds}")
        if len(set(self.speeds)) < len(self.speeds):
            raise ValueError(f"speeds names a speed twice: {self.speeds}")
        for name in ("num_beams", "batch_duration_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass
class LanguageModelArguments:
    """The n-gram language model that scores hypotheses and transcripts."""

    path: str | None = None
    """ARPA file, plain or .gz; null leaves the scores out."""


@dataclass
class EngineArguments:
    """Who does the work, beside the processes that `accelerate launch` starts."""

    name: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: a Ray cluster (optional extra)."""
    num_workers: int = 0
    """Worker processes; 0 is this process alone for local, and every CPU of the cluster for ray."""
    address: str | None = None
    """Of a running Ray cluster; null takes that of this machine, or starts one."""
    gpus_per_worker: float = 0.0
    """GPUs that a Ray worker takes; 0.5 puts two on one."""

    def __post_init__(self) -> None:
        require_non_negative(self, "engine.", ["num_workers", "gpus_per_worker"])


@dataclass
class LoopArguments:
    """Train, score, filter, and again."""

    train_config: str | None = None
    """Config of the training runs (scripts/train_tspc.py); its data.train is replaced by what is kept."""
    rounds: int = 2
    """How often; each round trains from the start of the training config."""
    folds: int = 1
    """Above 1: so many models a round, each trained on all but one part of the rows, and each row is judged by the one
    that has not seen it. For small corpora, which a model learns by heart with all their mistakes."""
    launcher: str = ""
    """Command that starts training and scoring in several processes, such as "accelerate launch --multi_gpu
    --num_processes 8"; empty: both run in this process."""

    def __post_init__(self) -> None:
        require_positive(self, "loop.", ["rounds", "folds"])


@dataclass
class CurationConfig:
    """One curation of one source: what scores it, and what is decided."""

    output_dir: str
    """Folder of the scores, decisions and kept rows."""
    source: SourceArguments
    """The rows: a prepared folder (shards are scored as they are) or any other source."""
    models: list[ScorerArguments] = field(default_factory=list)
    """Recognisers, in the order in which equals are preferred."""
    lm: LanguageModelArguments = field(default_factory=LanguageModelArguments)
    """Language model."""
    decide: DecisionSettings = field(default_factory=DecisionSettings)
    """What is kept."""
    loop: LoopArguments = field(default_factory=LoopArguments)
    """Rounds of training."""
    engine: EngineArguments = field(default_factory=EngineArguments)
    """Workers."""
    rows_per_shard: int = 500
    """Rows scored as one piece of work, for sources that are no prepared folder."""
    max_duration_s: float = 30.0
    """Longer recordings are not scored, but listed as too long."""
    device: str = "auto"
    """auto (the GPU of this process, else the CPU), cpu, cuda:0, ..."""
    dtype: Dtype = "float32"
    """Precision of the weights."""
    trust_remote_code: bool = False
    """Let a model of others run the Python files of its repository; models of this package never need it."""
    report_rows: int = 100
    """Rows of the label-noise page: those where model and transcript disagree most."""

    def __post_init__(self) -> None:
        require(bool(self.output_dir.strip()), "output_dir", "must name a folder")
        require_positive(self, "", ["rows_per_shard", "max_duration_s", "report_rows"])
        require(not self.source.streaming, "source.streaming", "cannot be used: the order of a stream is not fixed")
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "models", f"two models are called {', '.join(twice)}; names must differ")
        methods, settings = self.decide.methods, self.decide.confidence
        judges = [settings.model] if settings.folds == 1 else [f"{settings.model}{n}" for n in range(settings.folds)]
        known = settings.model is None or set(judges) <= set(names) or not names
        hint = f"is no name of a model: {settings.model!r}; there are: {', '.join(names)}"
        require(known, "decide.confidence.model", hint)
        if "voting" in methods and names:
            voters = "voting needs two models or more; add one to models, or leave voting out of decide.methods"
            require(len(names) > 1, "decide.methods", voters)

    def model_names(self) -> list[str]:
        """In the order of the config."""
        return [model.name for model in self.models]


__all__ = ["ConfigError", "CurationConfig", "EngineArguments", "LoopArguments", "ScorerArguments"]
