"""What a run is: one dataclass per section of a config file, each field followed by its help.

`--help` prints these strings, so a field is documented here and nowhere else. Nothing in this file imports torch or
transformers: a mistake in a config is reported at once, before any model or data is touched.
"""

from dataclasses import dataclass, field
from typing import Literal

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
    "S2PArguments",
    "ShortMediumArguments",
    "SourceArguments",
    "TrainingArguments",
]


@dataclass
class DataArguments:
    """What is read, and how it is batched."""

    train: list[SourceArguments] = field(default_factory=list)
    """Speech to train on; p2t uses its transcripts."""
    validation: list[SourceArguments] = field(default_factory=list)
    """Speech to evaluate on during training; p2t uses its transcripts."""
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
    max_rows: int | None = None
    """Rows read from each source, the first ones; null reads all."""
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
    batch_phonemes: int | None = None
    """p2t: phonemes per device and step, padding included; null uses training.per_device_train_batch_size."""
    short_medium: ShortMediumArguments = field(default_factory=ShortMediumArguments)
    """Short and medium utterances at a fixed ratio."""
    augmentation: AugmentationArguments = field(default_factory=AugmentationArguments)
    """Random changes to training audio."""

    def __post_init__(self) -> None:
        names = ["max_rows", "max_duration_s", "batch_duration_s", "batch_phonemes"]
        require_positive(self, "data.", names)
        names = ["synthetic_sentences", "synthetic_validation_sentences", "min_duration_s"]
        require_non_negative(self, "data.", names)
        require_fraction(self, "data.", ["phoneme_noise"])
        require_fraction(self, "data.", ["max_dropped", "word_shuffle", "mixture_exponent"], one_allowed=True)
        window = f"must be above data.min_duration_s ({self.min_duration_s}), got {self.max_duration_s}"
        require(self.max_duration_s > self.min_duration_s, "data.max_duration_s", window)
        if self.batch_duration_s is not None:
            shorter = f"must hold the longest utterance, data.max_duration_s ({self.max_duration_s}); "
            shorter += f"got {self.batch_duration_s}"
            require(self.batch_duration_s >= self.max_duration_s, "data.batch_duration_s", shorter)


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
class Config:
    """One training run of one stage of TSPC."""

    stage: Literal["s2p", "p2t", "joint"] = "s2p"
    """s2p: speech to phonemes; p2t: phonemes to text; joint: both, tuned together."""
    name: str = "tspc"
    """Name shared by the stages of one experiment; {name} and {stage} are filled into paths of this config."""
    model: ModelArguments = field(default_factory=ModelArguments)
    """The model."""
    data: DataArguments = field(default_factory=DataArguments)
    """The data."""
    cache: CacheArguments = field(default_factory=CacheArguments)
    """Caches of frozen parts."""
    lora: LoraArguments = field(default_factory=LoraArguments)
    """Adapters."""
    training: TrainingArguments = field(default_factory=TrainingArguments)
    """The Trainer."""
    publish: PublishArguments = field(default_factory=PublishArguments)
    """The Hub."""

    def __post_init__(self) -> None:
        plain = bool(self.name) and not set(self.name) & set("/\\{}") and self.name not in (".", "..")
        require(plain, "name", f"must be a plain folder name, got {self.name!r}")
        self._fill_names()
        self._check_data()
        self._check_caches()
        self._check_lora()
        if self.stage == "joint":
            for key, path in (("model.s2p.path", self.model.s2p.path), ("model.p2t.path", self.model.p2t.path)):
                require(path is not None, key, "stage joint needs both stages trained: set it to a folder or Hub id")

    def _fill_names(self) -> None:
        places = [
            (self.training, "output_dir"),
            (self.cache, "folder"),
            (self.model.s2p, "path"),
            (self.model.s2p, "encoder"),
            (self.model.p2t, "path"),
            (self.model.p2t, "pretrained"),
        ]
        places += [(source, "path") for source in self.sources()]
        for section, name in places:
            value = getattr(section, name)
            if value is not None:
                setattr(section, name, value.replace("{name}", self.name).replace("{stage}", self.stage))

    def sources(self) -> list[SourceArguments]:
        """Every source this config names, in order."""
        data = self.data
        return [*data.train, *data.validation, *data.text, *data.text_validation]

    def _check_data(self) -> None:
        data, training = self.data, self.training
        text_stage = self.stage == "p2t"
        if text_stage:
            some = bool(data.train or data.text or data.synthetic_sentences)
            require(some, "data.text", "nothing to train on: set data.text, data.train or data.synthetic_sentences")
            some = bool(data.validation or data.text_validation or data.synthetic_validation_sentences)
            key, places = "data.text_validation", "data.text_validation or data.synthetic_validation_sentences"
        else:
            some = bool(data.train)
            require(
                some, "data.train", "nothing to train on: list at least one source, for example [{path: my/folder}]"
            )
            some, key, places = bool(data.validation), "data.validation", "data.validation"
        require(some or training.eval_strategy == "no", key, f"training.eval_strategy needs data: set {places}")
        streamed = any(source.streaming for source in (data.train + data.text if text_stage else data.train))
        endless = "must be set with streaming sources, whose length is unknown; for example --training.max_steps 10000"
        require(not streamed or training.max_steps > 0, "training.max_steps", endless)
        if data.short_medium.ratio:
            key = "data.short_medium.ratio"
            require(not text_stage, key, "chooses by seconds of audio, but stage p2t reads text: set it to 0")
            require(not streamed, key, "needs every length beforehand: turn streaming off, or set it to 0")

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
