"""The `model` section of `scripts/train_ser.py`: which encoders, how they are fused, which head, what is frozen.

As in `trainers.arguments`, each field is followed by its help, and nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from trainers.checks import require, require_fraction, require_non_negative, require_positive
from trainers.dfat.arguments import DFATArguments
from trainers.model_arguments import check_path

EncoderKind = Literal[
    "wav2vec2", "hubert", "wavlm", "whisper", "emotion2vec", "fastconformer", "zipformer", "filterbank"
]


@dataclass
class EncoderSource:
    """One speech encoder of a fusion model: a pre-trained one, or a kind with its sizes.

    Args:
        path: pre-trained encoder (folder, Hub id or id@revision), with or without heads around it.
        kind: architecture of an encoder that is built here, with random weights; filterbank has none.
        config: fields of its configuration that differ from the kind's defaults.
        features: what the fusion reads: conv (the waveform convolutions), the number of a layer (0 is what enters the
            first one) or mix (a learned weighted sum of all layers); null takes mix, of a filterbank its frames.
        frozen: keep its weights fixed; only then can its features be cached.
        normalise: bring waveforms to zero mean and unit variance; null does as the pre-trained encoder was trained.
        name: how caches and tensors call it; by default its kind.

    Raises:
        ValueError: neither path nor kind, or both; sizes of a pre-trained encoder; features that there are not.
    """

    path: str | None = None
    kind: EncoderKind | None = None
    config: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    frozen: bool = True
    normalise: bool | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.kind is None):
            raise ValueError("path of an encoder, or kind: set one of the two, and not both")
        if self.path is not None and not self.path.strip():
            raise ValueError("path must be a folder or a Hub id, got an empty string")
        if self.path is not None and self.config:
            raise ValueError("config is for an encoder that is built here; a pre-trained one brings its own")
        if self.features not in (None, "conv", "mix") and not self.features.isdecimal():
            raise ValueError(f"features must be conv, mix or the number of a layer, got {self.features!r}")

    def given(self) -> dict[str, Any]:
        """Fields of `models.ser.EncoderSpec` that are set, without kind and config."""
        features = int(self.features) if self.features and self.features.isdecimal() else self.features
        fields = {"features": features, "frozen": self.frozen, "normalise": self.normalise, "name": self.name}
        return {key: value for key, value in fields.items() if value is not None}


@dataclass
class SpeechFormerArguments:
    """The SpeechFormer++ head."""

    heads: int = 8
    """Attention heads; must divide the width."""
    layers: list[int] = field(default_factory=lambda: [2, 2, 4, 4])
    """Layers of the frame, phone, word and utterance stages."""
    frames: int = 326
    """With exact: frames to which every utterance is cut or padded."""
    projection: int | None = None
    """Width behind a linear layer in front; null keeps that of the features."""
    exact: bool = False
    """The published mode of a fixed length without masks; false reads utterances as long as they are."""

    def __post_init__(self) -> None:
        prefix = "model.fusion.speechformer."
        require_positive(self, prefix, ["heads", "frames", "projection"])
        four = len(self.layers) == 4 and min(self.layers) >= 1
        require(four, prefix + "layers", f"must be four numbers of at least 1, got {self.layers}")


@dataclass
class SupConArguments:
    """The supervised contrastive loss beside the cross entropy: (1 - weight) CE + weight SupCon."""

    weight: float = 0.0
    """Its share; 0 leaves it out. It compares the utterances of a batch, so batches must not be small."""
    temperature: float = 0.07
    """Temperature of the similarities."""
    size: int = 128
    """Width of the projection that it compares."""

    def __post_init__(self) -> None:
        prefix = "model.fusion.supcon."
        require_fraction(self, prefix, ["weight"], one_allowed=True)
        require_positive(self, prefix, ["temperature", "size"])


@dataclass
class FusionArguments:
    """Any set of speech encoders, their fusion and a head: the systems of the first three teams and of the fourth."""

    path: str | None = None
    """Trained model of this system to go on with (folder, Hub id or id@revision); its encoders, fusion and head."""
    encoders: list[EncoderSource] = field(default_factory=list)
    """The encoders; the first one gives the frames that others are aligned to."""
    fusion: Literal["concat", "cross_attention"] = "concat"
    """concat: features side by side in every frame; cross_attention: frames attend to the others and to the text."""
    fusion_size: int = 256
    """Width of cross_attention."""
    fusion_layers: int = 2
    """Layers of cross_attention."""
    fusion_heads: int = 4
    """Attention heads of cross_attention; must divide fusion_size."""
    reads_text: bool = False
    """Read the transcripts as well (cross_attention); an utterance may lack one."""
    pooling: Literal["mean", "attentive_statistics"] | None = None
    """Frames to one vector; null takes mean for concat, attentive_statistics for cross_attention."""
    head: Literal["linear", "mlp", "speechformer"] = "mlp"
    """What reads the fused frames."""
    head_size: int = 256
    """Width of the hidden layer of mlp."""
    head_dropout: float = 0.5
    """Dropout before the last layer; between all layers of the SpeechFormer head."""
    dropout: float = 0.1
    """Dropout inside fusion and SpeechFormer."""
    speechformer: SpeechFormerArguments = field(default_factory=SpeechFormerArguments)
    """The SpeechFormer++ head."""
    supcon: SupConArguments = field(default_factory=SupConArguments)
    """The contrastive loss."""
    label_smoothing: float = 0.0
    """Probability mass spread over the other classes, in [0, 1)."""

    def __post_init__(self) -> None:
        prefix = "model.fusion."
        require_positive(self, prefix, ["fusion_size", "fusion_layers", "fusion_heads", "head_size"])
        require_fraction(self, prefix, ["head_dropout", "dropout", "label_smoothing"])
        check_path(self.path, prefix + "path")
        if self.fusion == "cross_attention":
            divides = f"must divide fusion_size ({self.fusion_size}), got {self.fusion_heads}"
            require(self.fusion_size % self.fusion_heads == 0, prefix + "fusion_heads", divides)
        text = "needs fusion: cross_attention; concat puts frames side by side, which a transcript has not"
        require(not self.reads_text or self.fusion == "cross_attention", prefix + "reads_text", text)


@dataclass
class Emotion2VecArguments:
    """emotion2vec with one linear layer on the mean of its frames, tuned as a whole, in part or by adapters."""

    path: str | None = None
    """emotion2vec to start from, with or without classifier (folder, Hub id or id@revision); null: from scratch."""
    size: Literal["base", "large"] = "base"
    """Size of a model from scratch."""
    config: dict[str, Any] = field(default_factory=dict)
    """From scratch: fields of its configuration that differ."""
    new_head: bool = True
    """Train a new classifier; false goes on with that of path, whose other classes are never answered."""
    freeze: Literal["nothing", "feature_encoder", "backbone"] = "feature_encoder"
    """What keeps its weights: nothing; the convolutions on the waveform; all but the classifier."""
    freeze_layers: int = 0
    """First transformer blocks that keep their weights."""

    def __post_init__(self) -> None:
        prefix = "model.emotion2vec."
        check_path(self.path, prefix + "path")
        require_non_negative(self, prefix, ["freeze_layers"])
        own = "is for a model from scratch: set model.emotion2vec.path to null, or leave it empty"
        require(self.path is None or not self.config, prefix + "config", own)
        head = "false needs model.emotion2vec.path, a model that has a classifier"
        require(self.new_head or self.path is not None, prefix + "new_head", head)
        random = "backbone freezes random weights: set model.emotion2vec.path, or another value"
        require(self.freeze != "backbone" or self.path is not None, prefix + "freeze", random)


@dataclass
class SERModelArguments:
    """Which model is built; the section of `system` counts."""

    fusion: FusionArguments = field(default_factory=FusionArguments)
    """Encoders, fusion and head."""
    emotion2vec: Emotion2VecArguments = field(default_factory=Emotion2VecArguments)
    """emotion2vec."""
    dfat: DFATArguments = field(default_factory=DFATArguments)
    """Acoustic and text features under classical classifiers."""
