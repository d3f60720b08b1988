"""Configuration of FastConformer, the model of Twinkle ASR (VLSP 2025, section 3.3).

The encoder is that of transformers' Parakeet classes: eight-fold convolutional subsampling and Conformer blocks with
relative positions. One config describes all three heads, and reads the config.json of a Parakeet checkpoint as well.
"""

import os
from typing import Any

from transformers import PreTrainedConfig

HEADS = ("ctc", "rnnt", "tdt")
SEARCHES = ("greedy", "beam", "ctc_greedy", "ctc_beam")
GLOBAL_ATTENTIONS = ("relative", "content")
PARAKEET_HEADS = {"parakeet_ctc": "ctc", "parakeet_rnnt": "rnnt", "parakeet_tdt": "tdt"}
# Sizes of NeMo's FastConformer recipes: with a CTC head over 1,025 tokens 12.8, 26.4 and 109.3 million parameters.
PRESETS: dict[str, dict[str, int]] = {
    "fastconformer-small": {
        "hidden_size": 176,
        "num_attention_heads": 4,
        "num_hidden_layers": 16,
        "intermediate_size": 704,
        "subsampling_conv_channels": 256,
        "decoder_hidden_size": 320,
        "num_decoder_layers": 1,
    },
    "fastconformer-medium": {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 16,
        "intermediate_size": 1024,
        "subsampling_conv_channels": 256,
        "decoder_hidden_size": 640,
        "num_decoder_layers": 1,
    },
    "fastconformer-large": {
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_hidden_layers": 17,
        "intermediate_size": 2048,
        "subsampling_conv_channels": 256,
        "decoder_hidden_size": 640,
        "num_decoder_layers": 1,
    },
}
# What belongs to the encoder is every other field.
HEAD_FIELDS = (
    "head",
    "vocab_size",
    "blank_token_id",
    "pad_token_id",
    "ctc_weight",
    "default_search",
    "decoder_hidden_size",
    "num_decoder_layers",
    "joint_act",
    "durations",
    "max_symbols_per_step",
)
# The same pipeline serves every head.
ASR_PIPELINE = {
    "automatic-speech-recognition": {
        "impl": "pipeline_asr.SpeechRecogniserPipeline",
        "pt": ["AutoModelForCTC"],
        "type": "multimodal",
    }
}
# Far above what these models are built with. A config.json of someone else's may ask for any amount of memory.
MAX_PARAMETERS, MAX_LAYERS = 10_000_000_000, 1000


class FastConformerConfig(PreTrainedConfig):
    """A FastConformer encoder and its head.

    Args:
        head: `"ctc"`; `"rnnt"`, an LSTM prediction network and a joint network; or `"tdt"`, the same with a predicted
            duration of every token.
        vocab_size: tokens with the blank.
        blank_token_id: 0 in this project's tokenizers; the last id in NVIDIA's checkpoints.
        ctc_weight: beside RNN-T or TDT, the weight in [0, 1) of an auxiliary CTC head, `(1 - w) * transducer + w *
            CTC` (the hybrid models of NeMo); 0 leaves the head out. Unused by `head="ctc"`.
        durations: what a TDT token or blank may last, in output frames.
        max_symbols_per_step: most tokens a search takes from one frame.
        default_search: what `recognise` and the pipeline use: `"greedy"`, `"beam"`, `"ctc_greedy"` or `"ctc_beam"`
            (the last two read the CTC head).
        attention_context: `[left, right]` output frames (80 ms) that a frame attends to, for long audio: memory grows
            with the length and not with its square. `None`: all frames.
        global_tokens: with `attention_context`, how many first frames attend to all frames and are seen by all.
        global_attention: `"relative"`: global frames are scored as in full attention, so that a window which covers
            the audio changes nothing. `"content"`: as NeMo's rel_pos_local_attn, by content alone and in addition to
            the window, for models trained so.
        masked_batch_norm: count the true frames alone in the batch statistics of training. False: padding counts too,
            as in transformers and NeMo.
        sync_batch_norm: take these statistics over all processes. Either way they are those of one forward pass, not
            of all the passes of an accumulated step.
        layerdrop: probability of leaving out a block in training.
        feature_frame_s: seconds between input frames.
        Others as in `ParakeetEncoderConfig` and `ParakeetRNNTConfig`.
    """

    model_type = "fastconformer"
    keys_to_ignore_at_inference = ["last_hidden_state", "lengths", "num_skipped", "ctc_loss", "transducer_loss"]

    head: str = "ctc"
    vocab_size: int = 1025
    blank_token_id: int = 0
    pad_token_id: int | None = None
    ctc_weight: float | int = 0.0
    default_search: str = "greedy"
    # encoder
    hidden_size: int = 512
    num_hidden_layers: int = 17
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "silu"
    attention_bias: bool = True
    convolution_bias: bool = True
    conv_kernel_size: int = 9
    subsampling_factor: int = 8
    subsampling_conv_channels: int = 256
    subsampling_conv_kernel_size: int = 3
    subsampling_conv_stride: int = 2
    num_mel_bins: int = 80
    feature_frame_s: float = 0.01
    scale_input: bool = True
    max_position_embeddings: int = 5000
    dropout: float | int = 0.1
    dropout_positions: float | int = 0.0
    activation_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layerdrop: float | int = 0.0
    masked_batch_norm: bool = True
    sync_batch_norm: bool = False
    attention_context: list[int] | tuple[int, ...] | None = None
    global_tokens: int = 0
    global_attention: str = "relative"
    # transducer
    decoder_hidden_size: int = 640
    num_decoder_layers: int = 1
    joint_act: str = "relu"
    durations: list[int] | tuple[int, ...] = (0, 1, 2, 3, 4)
    max_symbols_per_step: int = 10

    def __post_init__(self, **kwargs: Any) -> None:
        if self.pad_token_id is None:
            self.pad_token_id = self.blank_token_id
        self.num_key_value_heads = self.num_attention_heads
        kwargs.setdefault("custom_pipelines", ASR_PIPELINE)
        self._check()
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "FastConformerConfig":
        """`"fastconformer-small"`, `"-medium"` or `"-large"`, with other fields as given.

        Raises:
            ValueError: an unknown preset.
        """
        _one_of("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if fields.get("model_type") in PARAKEET_HEADS:
            fields = from_parakeet(fields)
        return fields, kwargs

    def encoder_fields(self) -> dict[str, Any]:
        """What describes the encoder: fields for the config of another head on it."""
        own = FastConformerConfig.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
        return {name: getattr(self, name) for name in sorted(own - {*HEAD_FIELDS, "keys_to_ignore_at_inference"})}

    @property
    def has_ctc_head(self) -> bool:
        return self.head == "ctc" or self.ctc_weight > 0

    def _check(self) -> None:
        _one_of("head", self.head, HEADS)
        _one_of("default_search", self.default_search, SEARCHES)
        _one_of("global_attention", self.global_attention, GLOBAL_ATTENTIONS)
        sizes = "hidden_size num_hidden_layers num_attention_heads intermediate_size num_mel_bins conv_kernel_size"
        sizes += " subsampling_conv_channels decoder_hidden_size num_decoder_layers max_symbols_per_step"
        for field in sizes.split():
            _at_least(field, getattr(self, field), 1)
        _at_least("vocab_size", self.vocab_size, 2)
        _at_least("global_tokens", self.global_tokens, 0)
        if not 0 <= self.blank_token_id < self.vocab_size:
            raise ValueError(
                f"FastConformerConfig.blank_token_id is {self.blank_token_id}, outside of the vocabulary of "
                f"{self.vocab_size} tokens"
            )
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"FastConformerConfig.hidden_size is {self.hidden_size}; it must be even and a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"FastConformerConfig.conv_kernel_size is {self.conv_kernel_size}; it must be odd")
        if self.subsampling_factor not in (2, 4, 8, 16) or self.subsampling_conv_stride != 2:
            raise ValueError(
                f"FastConformerConfig.subsampling_factor is {self.subsampling_factor} with convolutions of stride "
                f"{self.subsampling_conv_stride}; it must be 2, 4, 8 or 16 with stride 2"
            )
        if self.num_mel_bins % self.subsampling_factor:
            raise ValueError(
                f"FastConformerConfig.num_mel_bins is {self.num_mel_bins}; it must be a multiple of "
                f"subsampling_factor ({self.subsampling_factor})"
            )
        for field in ("ctc_weight", "dropout", "dropout_positions", "activation_dropout", "attention_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"FastConformerConfig.{field} is {getattr(self, field)}; it must be in [0, 1)")
        if not 0 <= self.layerdrop < 1:
            raise ValueError(f"FastConformerConfig.layerdrop is {self.layerdrop}; it must be in [0, 1)")
        if self.default_search.startswith("ctc_") and not self.has_ctc_head:
            raise ValueError(
                f"FastConformerConfig.default_search is {self.default_search!r} but a {self.head!r} model has a CTC "
                "head only with ctc_weight above 0"
            )
        self._check_attention()
        self._check_durations()
        per_layer = 4 * self.hidden_size**2 + 4 * self.hidden_size * self.intermediate_size
        decoder = (self.vocab_size + 8 * self.num_decoder_layers * self.decoder_hidden_size) * self.decoder_hidden_size
        parameters = self.num_hidden_layers * per_layer + decoder + self.vocab_size * self.hidden_size
        if self.num_hidden_layers > MAX_LAYERS or parameters > MAX_PARAMETERS:
            raise ValueError(
                f"FastConformerConfig describes a model of about {parameters:.1e} parameters in "
                f"{self.num_hidden_layers} layers; at most {MAX_PARAMETERS:.0e} in {MAX_LAYERS} are built: "
                "config.json is damaged, or not of this kind of model"
            )

    def _check_attention(self) -> None:
        context = self.attention_context
        if context is None:
            if self.global_tokens:
                raise ValueError(
                    f"FastConformerConfig.global_tokens is {self.global_tokens} but attention_context is None: every "
                    "frame attends to all frames already; set attention_context, e.g. [128, 128]"
                )
            return
        valid = isinstance(context, list | tuple) and len(context) == 2
        if not valid or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in context):
            raise ValueError(
                f"FastConformerConfig.attention_context is {context!r}; it must be [left, right] in frames of "
                f"{self.feature_frame_s * self.subsampling_factor:g} s, e.g. [128, 128], or null"
            )
        self.attention_context = list(context)

    def _check_durations(self) -> None:
        durations = list(self.durations)
        if sorted(set(durations)) != durations or not durations or durations[0] < 0 or durations[-1] < 1:
            raise ValueError(
                f"FastConformerConfig.durations is {durations}; they must be increasing whole numbers of frames, one "
                "of them at least 1, e.g. [0, 1, 2, 3, 4]"
            )
        self.durations = durations


def from_parakeet(fields: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a Parakeet checkpoint -> fields of `FastConformerConfig`.

    `layerdrop` is not taken over: 0.1 there is a default of the class, NVIDIA's models were trained without.
    """
    own = {name for name in FastConformerConfig.__dataclass_fields__ if not name.startswith("_")} - {"layerdrop"}
    head = PARAKEET_HEADS[fields["model_type"]]
    converted = {key: value for key, value in fields.get("encoder_config", {}).items() if key in own}
    kept = {"vocab_size", "pad_token_id", "blank_token_id", "decoder_hidden_size", "num_decoder_layers", "durations"}
    kept |= {"max_symbols_per_step"}
    converted |= {key: fields[key] for key in kept & fields.keys()}
    if head == "ctc":
        converted["blank_token_id"] = fields["pad_token_id"]
    else:
        converted["joint_act"] = fields.get("hidden_act", "relu")
    return {**converted, "head": head, "model_type": FastConformerConfig.model_type}


def _one_of(field: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"FastConformerConfig.{field} is {value!r}; it must be one of: {', '.join(allowed)}")


def _at_least(field: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"FastConformerConfig.{field} is {value!r}; it must be a whole number of at least {lowest}")


FastConformerConfig.register_for_auto_class()
