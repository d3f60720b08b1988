"""What a run is: one dataclass per section of a config file, each field followed by its help.

`--help` prints these strings, so a field is documented here and nowhere else. Nothing in this file imports torch or
transformers: a mistake in a config is reported at once, before any model or data is touched.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from data_scripts.sources import SourceArguments
from trainers.augmentation_arguments import AugmentationArguments, ShortMediumArguments
from trainers.checks import ConfigError, require, require_fraction, require_non_negative, require_positive
from trainers.model_arguments import EncoderArguments, JointArguments, ModelArguments, P2TArguments, S2PArguments
from trainers.training_arguments import TrainingArguments

__all__ = [
    "AugmentationArguments",
    "CacheArguments",
    "Config",
    "ConfigError",
    "DataArguments",
    "EncoderArguments",
    "JointArguments",
    "LoraArguments",
    "ModelArguments",
    "P2TArguments",
    "PublishArguments",
    "RunConfig",
    "S2PArguments",
    "ShortMediumArguments",
    "SourceArguments",
    "TSPCDataArguments",
    "TrainingArguments",
]


@dataclass
class DataArguments:
    """What is read, and how it is batched."""

    train: list[SourceArguments] = field(default_factory=list)
    """Speech to train on; p2t uses its transcripts."""
    validation: list[SourceArguments] = field(default_factory=list)
    """Speech to evaluate on during training; p2t uses its transcripts."""
    replay: list[SourceArguments] = field(default_factory=list)
    """Speech of an earlier run that this one goes on from, so that the model does not forget it."""
    replay_share: float = 0.0
    """Share of each epoch's seconds (with streaming: of its rows) that comes from data.replay, in turns."""
    max_rows: int | None = None
    """Rows read from each source, the first ones (for emotions: the first of each); null reads all."""
    min_duration_s: float = 0.1
    """Shorter utterances are dropped and reported."""
    max_duration_s: float = 30.0
    """Longer utterances are dropped and reported."""
    max_dropped: float = 0.05
    """Share of unusable rows above which the run stops instead of training on the rest."""
    allow_shared_recordings: bool = False
    """Go on although recordings are both trained on and evaluated on, which makes the scores worthless."""
    mixture_exponent: float = 1.0
    """Shares of several sources in an epoch: hours ** this, times their weights; 1 is natural, 0 gives all as much."""
    batch_duration_s: float | None = None
    """Seconds of audio per device and step, padding included; null uses training.per_device_train_batch_size."""
    short_medium: ShortMediumArguments = field(default_factory=ShortMediumArguments)
    """Short and medium utterances at a fixed ratio."""
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    """Random changes to training audio."""

    def __post_init__(self) -> None:
        require_positive(self, "data.", ["max_rows", "max_duration_s", "batch_duration_s"])
        require_non_negative(self, "data.", ["min_duration_s"])
        require_fraction(self, "data.", ["max_dropped", "mixture_exponent"], one_allowed=True)
        require_fraction(self, "data.", ["replay_share"])
        both = "data.replay lists sources and data.replay_share says how much of them; set both, or neither"
        require(bool(self.replay) == (self.replay_share > 0), "data.replay_share", both)
        window = f"must be above data.min_duration_s ({self.min_duration_s}), got {self.max_duration_s}"
        require(self.max_duration_s > self.min_duration_s, "data.max_duration_s", window)
        if self.batch_duration_s is not None:
            shorter = f"must hold the longest utterance, data.max_duration_s ({self.max_duration_s}); "
            shorter += f"got {self.batch_duration_s}"
            require(self.batch_duration_s >= self.max_duration_s, "data.batch_duration_s", shorter)


@dataclass
class TSPCDataArguments(DataArguments):
    """What is read, and how it is batched; text and generated sentences are for p2t."""

    text: list[SourceArguments] = field(default_factory=list)
    """Further text for p2t."""
    text_validation: list[SourceArguments] = field(default_factory=list)
    """Further text to evaluate p2t on."""
    synthetic_sentences: int = 0
    """Code-switched sentences generated for p2t, on top of the sources."""
    synthetic_validation_sentences: int = 0
    """Code-switched sentences generated to evaluate p2t on; none of them is trained on."""
    phoneme_noise: float = 0.0
    """Mean share of p2t input phonemes replaced by neighbours, dropped or added in training, as s2p mishears them."""
    word_shuffle: float = 0.0
    """Share of p2t training sentences whose words are put in random order, so that it reads instead of guessing."""
    dialect: Literal["north", "central", "south"] | None = None
    """Pronunciation of p2t input where a row names none; null is the standard reading."""
    batch_phonemes: int | None = None
    """p2t: phonemes per device and step, padding included; null uses training.per_device_train_batch_size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "data.", ["batch_phonemes"])
        require_non_negative(self, "data.", ["synthetic_sentences", "synthetic_validation_sentences"])
        require_fraction(self, "data.", ["phoneme_noise"])
        require_fraction(self, "data.", ["word_shuffle"], one_allowed=True)


@dataclass
class CacheArguments:
    """Outputs of frozen parts, computed once and kept on disk in half precision."""

    encoder_states: bool = False
    """s2p: keep the frozen encoder's outputs."""
    s2p_outputs: bool = False
    """joint: keep the frozen s2p's phonemes and last states."""
    folder: str = "runs/cache"
    """Where; entries are keyed by weights, front end and audio, so runs may share it."""


@dataclass
class LoraArguments:
    """Low-rank adapters on the speech encoder (s2p); the decoder is trained in full beside them."""

    rank: int = 0
    """Rank of the adapters; 0 trains without."""
    alpha: int = 32
    """Scale of the adapters; their output is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout before the adapters."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Names of the linear layers that get adapters."""

    def __post_init__(self) -> None:
        require_non_negative(self, "lora.", ["rank"])
        require_positive(self, "lora.", ["alpha"])
        require_fraction(self, "lora.", ["dropout"])
        require(self.rank == 0 or bool(self.target_modules), "lora.target_modules", "must name at least one layer")


@dataclass
class PublishArguments:
    """Sending the finished model to the Hugging Face Hub."""

    push: bool = False
    """Upload the finished model; the token comes from `hf auth login` or HF_TOKEN, never from a config."""
    checkpoints: bool = False
    """With push: also upload each checkpoint while training goes on; the newest replaces the one before."""
    deadline_s: float = 600.0
    """How long a busy or failing Hub is retried for each upload; push_status.json in the run directory tells."""
    repo_id: str | None = None
    """Repository, for example my-name/tspc-base."""
    private: bool = True
    """Create the repository as private."""

    def __post_init__(self) -> None:
        require_positive(self, "publish.", ["deadline_s"])
        require(self.push or not self.checkpoints, "publish.checkpoints", "needs publish.push: true")
        named = self.repo_id is not None and bool(self.repo_id.strip())
        require(not self.push or named, "publish.repo_id", "must be set when publish.push is true")


@dataclass
class RunConfig:
    """What every training run is told, whatever it trains: the base of each script's config."""

    name: str = "run"
    """Name shared by the runs of one experiment; {name} and {stage} are filled into paths of this config."""
    data: DataArguments = field(default_factory=DataArguments)
    """The data."""
    lora: LoraArguments = field(default_factory=LoraArguments)
    """Adapters."""
    training: TrainingArguments = field(default_factory=TrainingArguments)
    """The Trainer."""
    publish: PublishArguments = field(default_factory=PublishArguments)
    """The Hub."""

    # Name of this config in the `only` section of a file that serves several scripts, such as configs/smoke.yaml.
    kind: ClassVar[str] = ""
    # Mappings that a later file or the command line replaces, and does not add to.
    whole: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        plain = bool(self.name) and not set(self.name) & set("/\\{}") and self.name not in (".", "..")
        require(plain, "name", f"must be a plain folder name, got {self.name!r}")
        for section, name in self._places():
            value = getattr(section, name)
            if value is not None:
                setattr(section, name, value.replace("{name}", self.name).replace("{stage}", self.trains))
        self._check_data()

    @property
    def trains(self) -> str:
        """What is trained, as folders, logs and cards call it."""
        raise AttributeError(f"{type(self).__name__} does not say what it trains")

    @property
    def is_text(self) -> bool:
        """Whether rows are text alone, without audio."""
        return False

    @property
    def needs_text(self) -> bool:
        """Whether a row without text, or with text that cannot be learnt, is left out."""
        return True

    @property
    def caches(self) -> bool:
        """Whether outputs of a frozen part are kept on disk."""
        return False

    @property
    def length_column(self) -> str:
        """Column by which rows are batched."""
        return "duration_s"

    @property
    def batch_budget(self) -> float | None:
        """Largest count x longest of a batch, in the unit of `length_column`."""
        return self.data.batch_duration_s

    def train_sources(self) -> list[SourceArguments]:
        """Every source that is trained on, in order, those that are replayed last."""
        return [*self.data.train, *self.data.replay]

    def validation_sources(self) -> list[SourceArguments]:
        """Every source that is evaluated on, in order."""
        return [*self.data.validation]

    def sources(self) -> list[SourceArguments]:
        """Every source this config names, in order."""
        return [*self.train_sources(), *self.data.validation]

    def _places(self) -> list[tuple[Any, str]]:
        """Paths that {name} and {stage} are filled into: the section and the name of each."""
        return [(self.training, "output_dir"), *((source, "path") for source in self.sources())]

    def _check_data(self) -> None:
        nothing = "nothing to train on: list at least one source, for example [{path: my/folder}]"
        require(bool(self.data.train), "data.train", nothing)
        self._check_evaluation(bool(self.data.validation), "data.validation")
        streamed = self._check_streams(self.train_sources())
        if self.data.short_medium.ratio:
            key = "data.short_medium.ratio"
            require(not streamed, key, "needs every length beforehand: turn streaming off, or set it to 0")

    def _check_evaluation(self, some: bool, key: str, places: str = "") -> None:
        missing = f"training.eval_strategy needs data: set {places or key}"
        require(some or self.training.eval_strategy == "no", key, missing)

    def _check_streams(self, sources: list[SourceArguments]) -> bool:
        streamed = any(source.streaming for source in sources)
        endless = "must be set with streaming sources, whose length is unknown; for example --training.max_steps 10000"
        require(not streamed or self.training.max_steps > 0, "training.max_steps", endless)
        return streamed


@dataclass
class Config(RunConfig):
    """One training run of one stage of TSPC."""

    name: str = "tspc"
    """Name shared by the stages of one experiment; {name} and {stage} are filled into paths of this config."""
    data: TSPCDataArguments = field(default_factory=TSPCDataArguments)
    """The data."""
    stage: Literal["s2p", "p2t", "joint"] = "s2p"
    """s2p: speech to phonemes; p2t: phonemes to text; joint: both, tuned together."""
    model: ModelArguments = field(default_factory=ModelArguments)
    """The model."""
    cache: CacheArguments = field(default_factory=CacheArguments)
    """Caches of frozen parts."""

    kind: ClassVar[str] = "tspc"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_caches()
        self._check_lora()
        if self.stage == "joint":
            for key, path in (("model.s2p.path", self.model.s2p.path), ("model.p2t.path", self.model.p2t.path)):
                require(path is not None, key, "stage joint needs both stages trained: set it to a folder or Hub id")

    @property
    def trains(self) -> str:
        return self.stage

    @property
    def is_text(self) -> bool:
        return self.stage == "p2t"

    @property
    def caches(self) -> bool:
        return self.cache.encoder_states or self.cache.s2p_outputs

    @property
    def length_column(self) -> str:
        return "num_phonemes" if self.is_text else "duration_s"

    @property
    def batch_budget(self) -> float | None:
        return self.data.batch_phonemes if self.is_text else self.data.batch_duration_s

    def train_sources(self) -> list[SourceArguments]:
        return [*self.data.train, *self.data.text] if self.is_text else super().train_sources()

    def validation_sources(self) -> list[SourceArguments]:
        return [*self.data.validation, *self.data.text_validation] if self.is_text else [*self.data.validation]

    def sources(self) -> list[SourceArguments]:
        data = self.data
        return [*data.train, *data.replay, *data.validation, *data.text, *data.text_validation]

    def _places(self) -> list[tuple[Any, str]]:
        model = self.model
        paths = [(model.s2p, "path"), (model.s2p, "encoder"), (model.p2t, "path"), (model.p2t, "pretrained")]
        return [*super()._places(), (self.cache, "folder"), *paths]

    def _check_data(self) -> None:
        if not self.is_text:
            return super()._check_data()
        data = self.data
        some = bool(data.train or data.text or data.synthetic_sentences)
        require(some, "data.text", "nothing to train on: set data.text, data.train or data.synthetic_sentences")
        some = bool(data.validation or data.text_validation or data.synthetic_validation_sentences)
        places = "data.text_validation or data.synthetic_validation_sentences"
        self._check_evaluation(some, "data.text_validation", places)
        self._check_streams(self.train_sources())
        replays = "is for speech: in stage p2t give sources of data.text the weight that you want, and leave it empty"
        require(not data.replay, "data.replay", replays)
        if data.short_medium.ratio:
            reads = "chooses by seconds of audio, but stage p2t reads text: set it to 0"
            require(False, "data.short_medium.ratio", reads)

    def _check_caches(self) -> None:
        cache, key = self.cache, "cache.encoder_states"
        if cache.encoder_states:
            require(self.stage == "s2p", key, f"is for stage s2p; stage {self.stage} has no use for it")
            frozen = "needs a frozen encoder: set model.s2p.freeze_encoder to true, or turn the cache off"
            require(self.model.s2p.freeze_encoder, key, frozen)
            require(self.lora.rank == 0, key, "cannot be used with lora.rank above 0, which changes the encoder")
            changed = "cannot be used with data.augmentation, which changes what the encoder hears"
            require(not self.data.augmentation.active, key, changed)
        if cache.s2p_outputs:
            key = "cache.s2p_outputs"
            require(self.stage == "joint", key, f"is for stage joint; stage {self.stage} has no use for it")
            changed = "cannot be used with data.augmentation, which changes what s2p hears"
            require(not self.data.augmentation.active, key, changed)

    def _check_lora(self) -> None:
        if self.lora.rank:
            require(self.stage == "s2p", "lora.rank", f"is for stage s2p, not for {self.stage}")
            pretrained = self.model.s2p.encoder is not None or self.model.s2p.path is not None
            scratch = "needs a pre-trained encoder: set model.s2p.encoder or model.s2p.path"
            require(pretrained, "lora.rank", scratch)
