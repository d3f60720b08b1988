"""Configuration of the emotion classifiers: which encoders, how they are fused, which head, which loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from .configuration_fastconformer import FastConformerConfig
from .configuration_zipformer import PER_STACK, ZipformerConfig
from .filterbank_ser import FilterbankSettings

ENCODER_KINDS = (
    "wav2vec2", "hubert", "wavlm", "whisper", "emotion2vec", "fastconformer", "zipformer", "filterbank"
)  # fmt: skip
# Trained on the log-mel frames of waveforms as they were recorded.
LOG_MEL_KINDS = ("whisper", "fastconformer", "zipformer")
FUSIONS = ("concat", "cross_attention")
HEADS = ("linear", "mlp", "speechformer")
POOLINGS = ("mean", "attentive_statistics")
DEFAULT_LABELS = ("neutral", "negative")
ENCODER_KEYS = {"name", "kind", "config", "features", "frozen", "normalise"}
# Of the encoder of a Zipformer, beside those of its stacks.
ZIPFORMER_FIELDS = (
    "downsampling", "num_mel_bins", "subsampling_channels", "position_dim", "warmup_batches", "shape_gradients",
    "mask_padding", "padding_value",
)  # fmt: skip
# Far above what these models are built with. A config.json of someone else's may ask for any amount of memory.
MAX_PARAMETERS, MAX_LAYERS = 10_000_000_000, 1000

SER_PIPELINE = {
    "audio-classification": {
        "impl": "pipeline_ser.SERPipeline",
        "pt": ["AutoModelForAudioClassification"],
        "type": "audio",
    }
}


@dataclass(frozen=True)
class EncoderSpec:
    """One speech encoder of a model.

    Args:
        name: how batches, caches and tensors call it; an identifier.
        kind: one of `ENCODER_KINDS`.
        config: fields of the encoder's own configuration; of a filter bank, those of `FilterbankSettings`.
        features: `"conv"` (the layer-normed output of the convolutions, 512 wide in published models), a layer (0 what
            enters the first one, 12 what leaves the twelfth) or `"mix"` (a learned weighted sum of all layers). The
            layers of a Zipformer are its stacks; a filter bank has its frames alone, 0.
        frozen: never trained, never in training mode; only then can its features be cached.
        normalise: whether each waveform is brought to zero mean and unit variance, as its training did; of a filter
            bank, each column of its frames. `SERConfig` takes False for Whisper, FastConformer and Zipformer, which
            were not, where it is not given.
    """

    name: str
    kind: str
    config: dict[str, Any]
    features: str | int = "mix"
    frozen: bool = True
    normalise: bool = True

    @property
    def num_layers(self) -> int:
        """Layers of the whole encoder."""
        if self.kind == "filterbank":
            return 0
        if self.kind == "fastconformer":
            return FastConformerConfig(**self.config).num_hidden_layers
        if self.kind == "zipformer":
            return len(ZipformerConfig(**self.config).downsampling)
        if self.kind == "emotion2vec":
            return int(self.config.get("num_prenet_layers", 4)) + int(self.config.get("num_main_layers", 8))
        return int(self.config.get("encoder_layers", self.config.get("num_hidden_layers", 12)))

    @property
    def width(self) -> int:
        """Width of the states."""
        if self.kind == "filterbank":
            return FilterbankSettings.of(self.config).width
        if self.kind == "fastconformer":
            return FastConformerConfig(**self.config).hidden_size
        if self.kind == "zipformer":
            return ZipformerConfig(**self.config).hidden_size
        return int(self.config.get("d_model", self.config.get("hidden_size", 768)))


class SERConfig(PreTrainedConfig):
    """Speech emotion recognition by any set of encoders.

    Args:
        encoders: mappings with the fields of `EncoderSpec`; the first one gives the frames that others are aligned to,
            and the queries of `cross_attention`.
        fusion: `"concat"`: features side by side in every frame (the winner's 512 + 768); `"cross_attention"`: the
            frames of the first encoder attend to those of the others and to the tokens of the transcript.
        fusion_size, fusion_layers, fusion_heads: of `cross_attention`.
        text_vocab_size: size of the transcript's vocabulary; `None`: the model reads no text.
        pooling: frames to one vector, `"mean"` or `"attentive_statistics"`; the default follows the fusion. The
            SpeechFormer head takes the mean of its own states.
        head: `"linear"`, `"mlp"` (one hidden layer of `head_size`) or `"speechformer"`.
        head_dropout: before the last layer; between all layers of the SpeechFormer head.
        dropout: inside fusion and SpeechFormer.
        speechformer_heads, speechformer_layers, speechformer_frames: see `SpeechFormer`; `speechformer_projection` is
            its width behind a linear layer, `None` for none; `speechformer_exact` the published fixed-length mode.
        supcon_weight: a in `(1 - a) * cross entropy + a * supervised contrastive loss`, in [0, 1].
        supcon_temperature, supcon_size: of the contrastive loss; width of its projection.
        label_smoothing: of the cross entropy, in [0, 1).
        class_weights: one factor for each class, or `None`.
        frame_rate_hz: frames per second at which encoders are aligned.

    Raises:
        ValueError: a field that cannot be built, named with what it may be.
    """

    model_type = "amvi_ser"
    keys_to_ignore_at_inference = [
        "ce_loss",
        "supcon_loss",
        "num_skipped",
        "probabilities",
        "embedding",
        "last_hidden_state",
        "attention_mask",
    ]

    encoders: Any = None
    fusion: str = "concat"
    fusion_size: int = 256
    fusion_layers: int = 2
    fusion_heads: int = 4
    text_vocab_size: int | None = None
    pooling: str | None = None
    head: str = "mlp"
    head_size: int = 256
    head_dropout: float | int = 0.5
    dropout: float | int = 0.1
    speechformer_heads: int = 8
    speechformer_layers: list[int] | tuple[int, ...] = (2, 2, 4, 4)
    speechformer_frames: int = 326
    speechformer_projection: int | None = None
    speechformer_exact: bool = False
    supcon_weight: float | int = 0.0
    supcon_temperature: float | int = 0.07
    supcon_size: int = 128
    label_smoothing: float | int = 0.0
    class_weights: list[float] | tuple[float, ...] | None = None
    frame_rate_hz: float | int = 50.0
    sampling_rate: int = 16_000

    def __post_init__(self, **kwargs: Any) -> None:
        settle_labels(self, kwargs)
        kwargs.setdefault("custom_pipelines", SER_PIPELINE)
        super().__post_init__(**kwargs)
        if self.pooling is None:
            self.pooling = "mean" if self.fusion == "concat" else "attentive_statistics"
        # Without encoders it is the empty configuration that transformers compares others with.
        if self.encoders is not None:
            self.encoders = [self._encoder(index, item) for index, item in enumerate(as_list(self.encoders))]
            self._check()

    @property
    def encoder_specs(self) -> list[EncoderSpec]:
        """The encoders, in order.

        Raises:
            ValueError: there are none.
        """
        if not self.encoders:
            raise ValueError("SERConfig.encoders is empty; give at least one encoder, with its kind and config")
        return [EncoderSpec(**item) for item in self.encoders]

    def _encoder(self, index: int, item: Any) -> dict[str, Any]:
        owner = f"SERConfig.encoders[{index}]"
        if not isinstance(item, dict):
            raise ValueError(f"{owner} is a {type(item).__name__}; it must be a mapping with: {names(ENCODER_KEYS)}")
        if unknown := set(item) - ENCODER_KEYS:
            raise ValueError(f"{owner} has unknown fields {names(unknown)}; allowed are: {names(ENCODER_KEYS)}")
        one_of(owner, "kind", item.get("kind"), ENCODER_KINDS)
        nested = item.get("config") or {}
        nested = nested.to_dict() if isinstance(nested, PreTrainedConfig) else dict(nested)
        declared = nested.get("model_type", item["kind"])
        if declared != item["kind"]:
            raise ValueError(f"{owner}.config has model_type {declared!r} but kind is {item['kind']!r}")
        defaults: dict[str, Any] = {"name": item["kind"]}
        if item["kind"] == "filterbank":
            nested, defaults = filterbank_fields(owner, nested, item), {**defaults, "features": 0}
        elif item["kind"] in ("fastconformer", "zipformer"):
            nested = recogniser_fields(owner, item["kind"], nested)
        if item["kind"] in LOG_MEL_KINDS:
            defaults["normalise"] = False
        spec = EncoderSpec(**{**defaults, **item, "config": nested})
        if not str(spec.name).isidentifier():
            raise ValueError(f"{owner}.name is {spec.name!r}; it must be an identifier such as 'wavlm_large'")
        at_least(owner, "config: layers", spec.num_layers, 0)
        at_least(owner, "config: width", spec.width, 1)
        if isinstance(spec.features, bool) or (
            spec.features not in ("conv", "mix")
            and not (isinstance(spec.features, int) and 0 <= spec.features <= spec.num_layers)
        ):
            raise ValueError(
                f"{owner}.features is {spec.features!r}; it must be 'conv', 'mix' or a layer from 0 to "
                f"{spec.num_layers}"
            )
        if spec.features == "conv" and spec.kind in LOG_MEL_KINDS:
            raise ValueError(f"{owner}.features is 'conv', which a {spec.kind} does not have; choose a layer or 'mix'")
        refuse_huge(owner, spec)
        return {field: getattr(spec, field) for field in ("name", "kind", "config", "features", "frozen", "normalise")}

    def _check(self) -> None:
        specs = self.encoder_specs
        seen = [spec.name for spec in specs]
        if len(set(seen)) < len(seen):
            raise ValueError(f"SERConfig.encoders have the names {seen}; give each its own `name`")
        one_of("SERConfig", "fusion", self.fusion, FUSIONS)
        one_of("SERConfig", "head", self.head, HEADS)
        one_of("SERConfig", "pooling", self.pooling, POOLINGS)
        for field in ("fusion_size", "fusion_layers", "fusion_heads", "head_size", "speechformer_heads",
                      "speechformer_frames", "supcon_size", "sampling_rate"):  # fmt: skip
            at_least("SERConfig", field, getattr(self, field), 1)
        for field in ("text_vocab_size", "speechformer_projection"):
            if getattr(self, field) is not None:
                at_least("SERConfig", field, getattr(self, field), 1)
        classes: dict[int, str] = dict(self.id2label or {})  # pyright: ignore[reportAssignmentType]
        if len(classes) < 2:
            raise ValueError(f"SERConfig.id2label is {classes}; a classifier tells at least two classes apart")
        if sorted(classes) != list(range(len(classes))) or len(set(classes.values())) < len(classes):
            raise ValueError(f"SERConfig.id2label is {classes}; its keys must be 0, 1, … and its names differ")
        if len(self.speechformer_layers) != 4 or min(self.speechformer_layers) < 1:
            raise ValueError(
                f"SERConfig.speechformer_layers is {list(self.speechformer_layers)}; give the layers of the four "
                "stages, such as [2, 2, 4, 4]"
            )
        if self.fusion == "cross_attention" and self.fusion_size % self.fusion_heads:
            raise ValueError(
                f"SERConfig.fusion_size is {self.fusion_size}, not a multiple of fusion_heads ({self.fusion_heads})"
            )
        if self.text_vocab_size is not None and self.fusion != "cross_attention":
            raise ValueError("SERConfig.text_vocab_size is set, but only fusion='cross_attention' reads text")
        if self.fusion == "cross_attention" and len(specs) == 1 and self.text_vocab_size is None:
            raise ValueError(
                "SERConfig.fusion is 'cross_attention' with one encoder and no text: there is nothing to attend to; "
                "add an encoder, set text_vocab_size or use 'concat'"
            )
        for field in ("head_dropout", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"SERConfig.{field} is {getattr(self, field)}; it must be in [0, 1)")
        if not 0 <= self.supcon_weight <= 1:
            raise ValueError(f"SERConfig.supcon_weight is {self.supcon_weight}; it must be in [0, 1]")
        for field in ("supcon_temperature", "frame_rate_hz"):
            if not getattr(self, field) > 0:
                raise ValueError(f"SERConfig.{field} is {getattr(self, field)}; it must be positive")
        weights = self.class_weights
        if weights is not None and (len(weights) != len(classes) or not all(weight >= 0 for weight in weights)):
            raise ValueError(
                f"SERConfig.class_weights is {list(weights)}; give {len(classes)} factors of at least 0, one for "
                f"each of: {', '.join(classes.values())}"
            )


def settle_labels(config: Any, kwargs: Mapping[str, Any]) -> None:
    """Number the classes of a configuration, those of the binary task where it names none, and the way back."""
    if config.id2label is None and "num_labels" not in kwargs:
        config.id2label = dict(enumerate(DEFAULT_LABELS))
    if config.id2label is not None:
        config.id2label = {int(index): str(name) for index, name in config.id2label.items()}
        config.label2id = {name: index for index, name in config.id2label.items()}


def as_list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"SERConfig.encoders is {value!r}; it must be a list of at least one encoder")
    return list(value)


def names(values: Any) -> str:
    return ", ".join(sorted(values))


def one_of(owner: str, field: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{owner}.{field} is {value!r}; it must be one of: {', '.join(map(repr, allowed))}")


def at_least(owner: str, field: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{owner}.{field} is {value!r}; it must be a whole number of at least {lowest}")


def filterbank_fields(owner: str, config: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Every number of a filter bank, so that config.json says what later defaults might not."""
    if item.get("features", 0) != 0 or isinstance(item.get("features"), bool):
        raise ValueError(f"{owner}.features is {item['features']!r}; a filter bank has its frames alone: 0")
    if not item.get("frozen", True):
        raise ValueError(f"{owner}.frozen is {item['frozen']!r}; a filter bank has no weights to train: leave it out")
    try:
        return FilterbankSettings.of(config).to_dict()
    except ValueError as error:
        raise ValueError(f"{owner}.config: {error}") from error


def recogniser_fields(owner: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """What describes the encoder of a recogniser, with every number, and without its heads and vocabulary."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    known = (FastConformerConfig if kind == "fastconformer" else ZipformerConfig).__dataclass_fields__
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"{owner}.config: no field {', '.join(unknown)} in the configuration of a {kind}")
    try:
        if kind == "fastconformer":
            return FastConformerConfig(**fields).encoder_fields()
        whole = ZipformerConfig(**fields)
        return {name: getattr(whole, name) for name in (*PER_STACK, *ZIPFORMER_FIELDS)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{owner}.config: {error}") from error


def refuse_huge(owner: str, spec: EncoderSpec) -> None:
    """Raise ValueError, before any memory is asked for, if an encoder has more parameters than any machine holds."""
    config = spec.config
    inner = max(int(config.get("intermediate_size") or 0), int(config.get("encoder_ffn_dim") or 0), 4 * spec.width)
    channels = max((int(value) for value in config.get("conv_dim") or (1,)), default=1)
    parameters = spec.num_layers * 4 * spec.width * inner + 10 * channels * channels
    parameters += int(config.get("max_source_positions") or 0) * spec.width
    if spec.num_layers > MAX_LAYERS or parameters > MAX_PARAMETERS:
        raise ValueError(
            f"{owner} describes an encoder of about {parameters:.1e} parameters in {spec.num_layers} layers; at most "
            f"{MAX_PARAMETERS:.0e} in {MAX_LAYERS} are built: config.json is damaged, or not of this kind of model"
        )


SERConfig.register_for_auto_class()
