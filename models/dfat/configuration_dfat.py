"""Configuration of DFAT: the acoustic encoder, the text network, and the classifiers on their features."""

from typing import Any

from transformers import PreTrainedConfig

from .configuration_ser import EncoderSpec, SERConfig, at_least, one_of, settle_labels

POOLINGS = ("mean", "statistics", "functionals")
TEXT_NETWORKS = ("gru", "transformer")
FUSIONS = ("early", "late_streams", "dual")
CLASSIFIERS = ("lr", "rf", "xgb")
# "joint": every stream of the model, side by side.
MEMBER_STREAMS = ("joint", "acoustic", "text")

DFAT_PIPELINE = {
    "audio-classification": {
        "impl": "pipeline_dfat.DFATPipeline",
        "pt": ["AutoModelForAudioClassification"],
        "type": "audio",
    }
}


class DFATConfig(PreTrainedConfig):
    """Dual-stage fusion of acoustic and text features (paper, section 3.5).

    Args:
        encoder: the acoustic stream, a mapping with the fields of `EncoderSpec` (`kind`, `config`, `features`, …);
            `None`: no acoustic stream.
        pooling: its frames to one vector: `"mean"`, `"statistics"` (mean and deviation) or `"functionals"` (these,
            quartiles, the 5th and 95th percentile, slope).
        text_vocab_size: size of the transcript's vocabulary, token 0 is the padding; `None`: no text stream.
        text_network: `"gru"` (bidirectional) or `"transformer"`.
        text_embedding_size, text_num_layers, text_num_heads, text_dropout: of that network.
        text_size: width of the text features.
        text_max_tokens: longer transcripts are cut.
        fusion: how the members came about: `"early"`, `"late_streams"` or `"dual"`.
        members: the classifiers, each `{"classifier": "lr" | "rf" | "xgb", "stream": "joint" | "acoustic" | "text"}`.
            Their weights are part of the model's tensors.

    Raises:
        ValueError: a field that cannot be built, named with what it may be.
    """

    model_type = "amvi_dfat"
    keys_to_ignore_at_inference = ["probabilities", "features", "member_probabilities"]

    encoder: Any = None
    pooling: str = "mean"
    text_vocab_size: int | None = None
    text_network: str = "gru"
    text_embedding_size: int = 256
    text_num_layers: int = 1
    text_num_heads: int = 4
    text_size: int = 1024
    text_dropout: float | int = 0.3
    text_max_tokens: int = 256
    fusion: str = "dual"
    members: Any = None
    sampling_rate: int = 16_000

    def __post_init__(self, **kwargs: Any) -> None:
        settle_labels(self, kwargs)
        kwargs.setdefault("custom_pipelines", DFAT_PIPELINE)
        super().__post_init__(**kwargs)
        # Without members it is the empty configuration that transformers compares others with.
        if self.members is not None:
            self._check()

    @property
    def encoder_specs(self) -> list[EncoderSpec]:
        """The acoustic encoder, or nothing."""
        if self.encoder is None:
            return []
        return SERConfig(encoders=[self.encoder]).encoder_specs

    @property
    def streams(self) -> list[str]:
        """Which streams there are, in the order of their features."""
        there = {"acoustic": self.encoder is not None, "text": self.text_vocab_size is not None}
        return [name for name, is_there in there.items() if is_there]

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their ids."""
        names: Any = self.id2label
        return [names[index] for index in range(len(names))]

    def _check(self) -> None:
        if not self.streams:
            raise ValueError("DFATConfig has neither encoder nor text_vocab_size; give at least one stream")
        if self.encoder is not None:
            spec = self.encoder_specs[0]  # raises what SERConfig raises
            if spec.features == "mix":
                raise ValueError("DFATConfig.encoder.features is 'mix', which nothing here would learn; give a layer")
            self.encoder = dict(vars(spec)) | {"frozen": True}
        one_of("DFATConfig", "pooling", self.pooling, POOLINGS)
        one_of("DFATConfig", "text_network", self.text_network, TEXT_NETWORKS)
        one_of("DFATConfig", "fusion", self.fusion, FUSIONS)
        for field in ("text_embedding_size", "text_num_layers", "text_num_heads", "text_size", "text_max_tokens"):
            at_least("DFATConfig", field, getattr(self, field), 1)
        if self.text_vocab_size is not None:
            at_least("DFATConfig", "text_vocab_size", self.text_vocab_size, 1)
            if self.text_network == "gru" and self.text_size % 2:
                raise ValueError(f"DFATConfig.text_size is {self.text_size}; it must be even (two directions)")
            if self.text_network == "transformer" and self.text_embedding_size % self.text_num_heads:
                raise ValueError(
                    f"DFATConfig.text_embedding_size is {self.text_embedding_size}, not a multiple of text_num_heads "
                    f"({self.text_num_heads})"
                )
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"DFATConfig.text_dropout is {self.text_dropout}; it must be in [0, 1)")
        classes: dict[int, str] = dict(self.id2label or {})  # pyright: ignore[reportAssignmentType]
        is_numbered = sorted(classes) == list(range(len(classes)))
        if len(classes) < 2 or not is_numbered or len(set(classes.values())) < len(classes):
            raise ValueError(
                f"DFATConfig.id2label is {classes}; give two or more classes, numbered 0, 1, …, with different names"
            )
        self._check_members()

    def _check_members(self) -> None:
        if not isinstance(self.members, list | tuple) or not self.members:
            raise ValueError(f"DFATConfig.members is {self.members!r}; it must be a list of at least one classifier")
        seen = set()
        for index, member in enumerate(self.members):
            owner = f"DFATConfig.members[{index}]"
            if not isinstance(member, dict) or set(member) != {"classifier", "stream"}:
                raise ValueError(f"{owner} is {member!r}; it must be a mapping with: classifier, stream")
            one_of(owner, "classifier", member["classifier"], CLASSIFIERS)
            one_of(owner, "stream", member["stream"], ("joint", *self.streams))
            seen.add((member["classifier"], member["stream"]))
        if len(seen) < len(self.members):
            raise ValueError(f"DFATConfig.members names a classifier twice: {self.members}")


DFATConfig.register_for_auto_class()
