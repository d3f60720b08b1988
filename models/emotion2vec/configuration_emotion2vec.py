"""Configuration of emotion2vec (Ma et al., arXiv 2312.15185): a data2vec 2.0 encoder for speech emotion."""

from typing import Any

from transformers import PreTrainedConfig

# Far above what these models are built with. A config.json of someone else's may ask for any amount of memory.
MAX_WIDTH, MAX_LAYERS = 16_384, 1000

CLASSIFICATION_PIPELINE = {
    "audio-classification": {
        "impl": "pipeline_audio_classification.SpeechClassificationPipeline",
        "pt": ["AutoModelForAudioClassification"],
        "type": "audio",
    }
}

# What differs between the published sizes; whatever a converted checkpoint says in its own config.yaml goes before.
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"hidden_size": 1024, "num_attention_heads": 16, "num_prenet_layers": 8, "num_main_layers": 16},
}


class Emotion2VecConfig(PreTrainedConfig):
    """emotion2vec: convolutions to 50 Hz, convolutional positions, transformer blocks with symmetric ALiBi.

    Args:
        hidden_size, num_attention_heads, mlp_ratio: width of the transformer, its heads, width of the MLP by that.
        num_prenet_layers, num_main_layers: blocks of the "context encoder" and of the main stack; they are the same
            blocks one after the other, `num_hidden_layers` in all.
        layer_norm_first: where blocks normalise; see `Emotion2VecLayer` for what each does exactly.
        norm_affine, layer_norm_eps: the norms of the blocks.
        conv_dim, conv_kernel, conv_stride: the convolutions on the waveform (320 samples, 20 ms, a frame by default).
        conv_pos_width, conv_pos_depth, conv_pos_groups: the convolutions that encode position; each of the `depth`
            convolutions spans `max(3, width // depth)` frames.
        num_extra_tokens: learned tokens in front of the frames; no output holds them.
        use_alibi: whether attention is biased by distance; the scale of the bias is learned where
            `learned_alibi_scale`, for each head where `alibi_scale_per_head`, for each block where
            `alibi_scale_per_layer`. `alibi_scale` is its initial value.
        input_dropout: on what enters the first block. `hidden_dropout` after attention, `mlp_dropout` after the MLP,
            `activation_dropout` in it, `attention_dropout` on attention weights. `layerdrop`: chance of a block to be
            left out in training.
        classifier_dropout: on the utterance vector.
        active_labels: names of the labels that can be answered; the others have probability 0. `None`: all.
        attention_block_elements: most entries of the bias of attention (batch x heads x queries x keys) that are held
            at once; longer clips are computed in blocks of queries, with the same result.

    Raises:
        ValueError: a size that cannot be built, or an active label that `id2label` lacks.
    """

    model_type = "emotion2vec"
    keys_to_ignore_at_inference = ["embeddings", "frame_mask", "hidden_states", "attentions"]

    hidden_size: int = 768
    num_attention_heads: int = 12
    mlp_ratio: float | int = 4.0
    num_prenet_layers: int = 4
    num_main_layers: int = 8
    layer_norm_first: bool = False
    norm_affine: bool = True
    layer_norm_eps: float = 1e-5
    conv_dim: list[int] | tuple[int, ...] = (512,) * 7
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_pos_width: int = 95
    conv_pos_depth: int = 5
    conv_pos_groups: int = 16
    num_extra_tokens: int = 10
    use_alibi: bool = True
    alibi_scale: float | int = 1.0
    learned_alibi_scale: bool = True
    alibi_scale_per_head: bool = True
    alibi_scale_per_layer: bool = False
    input_dropout: float | int = 0.1
    hidden_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    attention_dropout: float | int = 0.1
    layerdrop: float | int = 0.0
    classifier_dropout: float | int = 0.0
    initializer_range: float = 0.02
    active_labels: list[str] | tuple[str, ...] | None = None
    attention_block_elements: int = 2**26

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_sizes()
        kwargs["num_hidden_layers"] = self.num_prenet_layers + self.num_main_layers
        kwargs.setdefault("custom_pipelines", CLASSIFICATION_PIPELINE)
        super().__post_init__(**kwargs)
        self.active_label_ids()

    @classmethod
    def of_size(cls, size: str, **changes: Any) -> "Emotion2VecConfig":
        """The configuration of a published size, `"base"` or `"large"`, with `changes` to single fields.

        Raises:
            ValueError: another size.
        """
        if size not in SIZES:
            raise ValueError(f"there is no emotion2vec of size {size!r}; choose one of: {', '.join(SIZES)}")
        return cls(**{**SIZES[size], **changes})

    @property
    def samples_per_frame(self) -> int:
        """Hop between frames, in samples."""
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

    @property
    def shortest_input(self) -> int:
        """Samples that one frame sees."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def active_label_ids(self) -> list[int] | None:
        """Ids of `active_labels` in ascending order, or None where all labels are active.

        Raises:
            ValueError: a name that `id2label` lacks, or none at all.
        """
        if self.active_labels is None:
            return None
        ids = {str(name): int(index) for index, name in (self.id2label or {}).items()}
        unknown = [name for name in self.active_labels if name not in ids]
        if unknown or not self.active_labels:
            raise ValueError(
                f"Emotion2VecConfig.active_labels is {list(self.active_labels)}; it must name at least one of: "
                f"{', '.join(map(str, ids))}"
            )
        return sorted({ids[name] for name in self.active_labels})

    def _check_sizes(self) -> None:
        positive = ("hidden_size", "num_attention_heads", "conv_pos_width", "conv_pos_depth", "conv_pos_groups",
                    "attention_block_elements")  # fmt: skip
        counts = ("num_prenet_layers", "num_main_layers", "num_extra_tokens")
        for name in (*positive, *counts):
            value, least = getattr(self, name), int(name in positive)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"Emotion2VecConfig.{name} is {value!r}; it must be a whole number of at least {least}"
                )
        for name in ("num_attention_heads", "conv_pos_groups"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"Emotion2VecConfig.hidden_size is {self.hidden_size}, not a multiple of {name} "
                    f"({getattr(self, name)}); change one of the two"
                )
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) >= 1:
            raise ValueError(
                "Emotion2VecConfig.conv_dim, conv_kernel and conv_stride have "
                f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)} values; give one for each "
                "convolution"
            )
        if min(*self.conv_dim, *self.conv_kernel, *self.conv_stride) < 1:
            raise ValueError("Emotion2VecConfig: sizes of convolutions must be positive")
        layers = self.num_prenet_layers + self.num_main_layers
        width = max(self.hidden_size, int(self.hidden_size * self.mlp_ratio), *self.conv_dim)
        if layers > MAX_LAYERS or width > MAX_WIDTH or max(self.conv_pos_width, *self.conv_kernel) > MAX_WIDTH:
            raise ValueError(
                f"Emotion2VecConfig describes {layers} layers of width {width}; at most {MAX_LAYERS} of {MAX_WIDTH} "
                "are built: config.json is damaged, or not of this kind of model"
            )
        if self.mlp_ratio <= 0:
            raise ValueError(f"Emotion2VecConfig.mlp_ratio is {self.mlp_ratio}; it must be positive")
        for name in ("input_dropout", "hidden_dropout", "mlp_dropout", "activation_dropout", "attention_dropout",
                     "layerdrop", "classifier_dropout"):  # fmt: skip
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Emotion2VecConfig.{name} is {getattr(self, name)}; it must be in [0, 1)")


Emotion2VecConfig.register_for_auto_class()
