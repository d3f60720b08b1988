"""What a run of `scripts/train_ser.py` is: one emotion classifier, of one of three systems.

As in `trainers.arguments`, each field is followed by its help, and nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trainers.arguments import RunConfig
from trainers.asr_arguments import TokenizerArguments
from trainers.checks import require
from trainers.dfat.arguments import DFATArguments
from trainers.ser_model_arguments import (
    Emotion2VecArguments,
    EncoderSource,
    FusionArguments,
    SERModelArguments,
    SpeechFormerArguments,
    SupConArguments,
)
from trainers.ser_rows import DEFAULT_LABELS, check_labels

__all__ = [
    "DFATArguments",
    "Emotion2VecArguments",
    "EncoderSource",
    "FeatureCacheArguments",
    "FusionArguments",
    "KNNArguments",
    "SERModelArguments",
    "SERRunConfig",
    "SamplingArguments",
    "SpeechFormerArguments",
    "SupConArguments",
]

SERSystem = Literal["fusion", "emotion2vec", "dfat"]


def default_labels() -> dict[str, list[str]]:
    return {name: list(emotions) for name, emotions in DEFAULT_LABELS.items()}


@dataclass
class SamplingArguments:
    """Which rows an epoch takes."""

    balanced: bool = False
    """As many rows of every class in each epoch; those of scarce classes come more than once."""
    corpora: bool = False
    """With balanced: of every class as many rows of each corpus that has it."""


@dataclass
class KNNArguments:
    """Neighbours among the training utterances beside the classifier: beta * model + (1 - beta) * neighbours."""

    enabled: bool = False
    """Keep the training utterances' embeddings in the finished model; fusion only."""
    betas: list[float] = field(default_factory=lambda: [number / 10 for number in range(11)])
    """Values of beta that are tried on the validation data; one value is kept as it is."""
    neighbours: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    """Numbers of neighbours that are tried."""
    temperatures: list[float] | None = None
    """Temperatures that are tried; null: multiples of the median distance to the nearest neighbour."""

    def __post_init__(self) -> None:
        lists = {"betas": self.betas, "neighbours": self.neighbours, "temperatures": self.temperatures}
        for name, values in lists.items():
            require(values is None or bool(values), f"knn.{name}", "must hold at least one value")
        inside = all(0 <= beta <= 1 for beta in self.betas)
        require(inside, "knn.betas", f"must be at least 0 and at most 1, got {self.betas}")
        require(min(self.neighbours) >= 1, "knn.neighbours", f"must be at least 1, got {self.neighbours}")
        above = self.temperatures is None or min(self.temperatures) > 0
        require(above, "knn.temperatures", f"must be above 0, got {self.temperatures}")

    @property
    def fixed(self) -> bool:
        """Whether nothing is left to be tried on validation data."""
        return len(self.betas) == len(self.neighbours) == len(self.temperatures or []) == 1


@dataclass
class FeatureCacheArguments:
    """Features of frozen encoders, computed once and kept on disk in half precision."""

    features: bool = False
    """Keep them; no augmentation of the audio then."""
    folder: str = "runs/cache"
    """Where; entries are keyed by weights and audio, so runs may share it."""


@dataclass
class SERRunConfig(RunConfig):
    """One training run of one emotion classifier."""

    name: str = "ser"
    """Name of the experiment; {name} and {stage}, the system, are filled into paths of this config."""
    system: SERSystem = "fusion"
    """fusion | emotion2vec | dfat."""
    labels: dict[str, list[str]] = field(default_factory=default_labels)
    """Classes, in the order of their ids, each with the emotions it stands for; rows of others are left out.
    A later file replaces all of them."""
    label_maps: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Corpus -> classes with their emotions, where a corpus differs from `labels`."""
    model: SERModelArguments = field(default_factory=SERModelArguments)
    """The model."""
    tokenizer: TokenizerArguments = field(default_factory=TokenizerArguments)
    """Word pieces of transcripts, where the model reads them."""
    class_weights: Any = "none"
    """Factors of the classes in the loss: none, balanced (rarer classes count for more) or a list, one for each class;
    their mean over the training rows is made 1."""
    sampling: SamplingArguments = field(default_factory=SamplingArguments)
    """Which rows an epoch takes."""
    knn: KNNArguments = field(default_factory=KNNArguments)
    """Neighbours."""
    cache: FeatureCacheArguments = field(default_factory=FeatureCacheArguments)
    """Cached features."""

    kind: ClassVar[str] = "ser"
    whole: ClassVar[tuple[str, ...]] = ("labels", "label_maps")

    def __post_init__(self) -> None:
        check_labels(self.labels, self.label_maps)
        super().__post_init__()
        smoothing = "is for text: use model.fusion.label_smoothing"
        require(not self.training.label_smoothing_factor, "training.label_smoothing_factor", smoothing)
        if self.system == "dfat":
            self._check_dfat()
            return
        if self.system == "fusion":
            fusion = self.model.fusion
            none = "lists no encoder: give at least one, for example [{path: facebook/wav2vec2-base}]"
            require(fusion.path is not None or bool(fusion.encoders), "model.fusion.encoders", none)
        self._check_weights()
        self._check_audio()
        self._check_knn()
        self._check_lora()

    @property
    def trains(self) -> str:
        return self.system

    @property
    def caches(self) -> bool:
        return self.cache.features

    @property
    def needs_text(self) -> bool:
        return False

    @property
    def reads_text(self) -> bool:
        """Whether the model reads transcripts."""
        if self.system == "dfat":
            return "text" in self.model.dfat.streams
        return self.system == "fusion" and self.model.fusion.reads_text

    def _places(self) -> list[tuple[Any, str]]:
        model = self.model
        sections = (model.fusion, model.emotion2vec, self.tokenizer)
        encoders = [(source, "path") for source in model.fusion.encoders]
        dfat = [(model.dfat.acoustic, "encoder"), (model.dfat.text, "recogniser")]
        return [*super()._places(), (self.cache, "folder"), *((one, "path") for one in sections), *encoders, *dfat]

    def _check_data(self) -> None:
        super()._check_data()
        for source in self.train_sources():
            every = f"{source.path} streams, but classes are counted over all rows: set its streaming to false"
            require(not source.streaming, "data.train", every)

    def _check_weights(self) -> None:
        given, key = self.class_weights, "class_weights"
        if isinstance(given, list):
            numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in given)
            each = f"must have a number above 0 for each of {', '.join(self.labels)}, got {given}"
            require(numbers and len(given) == len(self.labels), key, each)
        else:
            require(given in ("none", "balanced"), key, f"must be none, balanced or a list of numbers, got {given!r}")
        by = "needs sampling.balanced: true"
        require(self.sampling.balanced or not self.sampling.corpora, "sampling.corpora", by)
        if self.sampling.balanced:
            twice = "balanced would count rare classes twice together with class_weights: balanced; choose one"
            require(given != "balanced", "sampling.balanced", twice)
            even = all(source.weight == 1 for source in self.train_sources()) and not self.data.replay
            even &= not self.data.short_medium.ratio and self.data.mixture_exponent == 1
            other = "chooses the rows of an epoch by itself: leave weights of sources, data.replay, "
            other += "data.mixture_exponent and data.short_medium alone"
            require(even, "sampling.balanced", other)

    def _check_audio(self) -> None:
        augmentation, frozen = self.data.augmentation, "cannot be used with"
        masks = augmentation.time_masks or augmentation.frequency_masks
        waveform = "masks features, but these models read waveforms: set time_masks and frequency_masks to 0"
        require(not masks, "data.augmentation", waveform)
        if self.cache.features:
            key = "cache.features"
            require(self.system == "fusion", key, f"is for fusion; {self.system} has no frozen part beside its head")
            require(not augmentation.active, key, f"{frozen} data.augmentation, which changes what encoders hear")
            require(self.lora.rank == 0, key, f"{frozen} lora.rank above 0, which changes the encoders")
            fusion = self.model.fusion
            some = fusion.path is not None or any(source.frozen for source in fusion.encoders)
            require(some, key, "needs a frozen encoder: set frozen of one to true, or turn the cache off")

    def _check_knn(self) -> None:
        if not self.knn.enabled:
            return
        require(self.system == "fusion", "knn.enabled", f"is for fusion, not for {self.system}")
        tried = self.knn.fixed or (bool(self.data.validation) and self.training.eval_strategy != "no")
        needs = "needs validation data to choose beta, neighbours and temperature: give them, or one value of each"
        require(tried, "knn.enabled", needs)

    def _check_lora(self) -> None:
        if not self.lora.rank:
            return
        if self.system == "emotion2vec":
            scratch = "needs a pre-trained model: set model.emotion2vec.path"
            require(self.model.emotion2vec.path is not None, "lora.rank", scratch)
            return
        fusion = self.model.fusion
        sources = fusion.encoders if fusion.path is None else []
        pretrained = fusion.path is not None or any(source.path is not None for source in sources)
        require(pretrained, "lora.rank", "needs a pre-trained encoder: set the path of one of model.fusion.encoders")
        layer = all(source.path is None or source.features not in (None, "mix") for source in sources)
        mixed = "mix learns weights that adapters do not keep: with lora.rank choose the number of a layer"
        require(layer, "model.fusion.encoders", mixed)

    def _check_dfat(self) -> None:
        for key, used in (
            ("lora.rank", bool(self.lora.rank)),
            ("knn.enabled", self.knn.enabled),
            ("sampling.balanced", self.sampling.balanced),
            ("class_weights", self.class_weights != "none"),
        ):
            require(not used, key, "is for fusion and emotion2vec; dfat has model.dfat.balanced")
