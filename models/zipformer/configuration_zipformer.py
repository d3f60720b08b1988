"""Configuration of the Zipformer recogniser (arXiv 2310.11230) with a CTC and a transducer head.

Sizes of the VLSP 2025 systems: `ZipformerConfig.preset("zipformer-30m", vocab_size=2048)`.
"""

from typing import Any

from transformers import PreTrainedConfig

TRAINING_LOSSES = ("pruned", "full", "ctc")
SEARCHES = ("greedy", "beam", "ctc_greedy", "ctc_beam")
# Far above what these models are built with. A config.json of someone else's may ask for any amount of memory.
MAX_PARAMETERS, MAX_LAYERS = 10_000_000_000, 1000

# Only what differs from the defaults, which are those of `zipformer-s`.
PRESETS: dict[str, dict[str, Any]] = {
    "zipformer-s": {},
    "zipformer-m": {
        "num_layers": [2, 2, 3, 4, 3, 2],
        "feedforward_dim": [512, 768, 1024, 1536, 1024, 768],
        "encoder_dim": [192, 256, 384, 512, 384, 256],
        "unmasked_dim": [192, 192, 256, 256, 256, 192],
    },
    "zipformer-l": {
        "num_layers": [2, 2, 4, 5, 4, 2],
        "feedforward_dim": [512, 768, 1536, 2048, 1536, 768],
        "encoder_dim": [192, 256, 512, 768, 512, 256],
        "unmasked_dim": [192, 192, 256, 320, 256, 192],
    },
    "zipformer-30m": {
        "encoder_dim": [192, 256, 256, 384, 256, 256],
        "unmasked_dim": [192, 192, 192, 256, 192, 192],
    },
}
# One number per stack; a single number stands for all of them.
PER_STACK = (
    "num_layers",
    "encoder_dim",
    "unmasked_dim",
    "feedforward_dim",
    "num_heads",
    "query_head_dim",
    "value_head_dim",
    "position_head_dim",
    "conv_kernel",
)

# The same pipeline serves every model of this folder, whatever heads it has.
ASR_PIPELINE = {
    "automatic-speech-recognition": {
        "impl": "pipeline_asr.SpeechRecogniserPipeline",
        "pt": ["AutoModelForCTC"],
        "type": "multimodal",
    }
}


def one_of(field: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"ZipformerConfig.{field} is {value!r}; it must be one of: {', '.join(map(repr, allowed))}")


def at_least(field: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"ZipformerConfig.{field} is {value!r}; it must be a whole number of at least {lowest}")


def within(field: str, value: Any, lowest: float, highest: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ValueError(f"ZipformerConfig.{field} is {value!r}; it must be a number in [{lowest:g}, {highest:g}]")


class ZipformerConfig(PreTrainedConfig):
    """Sizes, heads and losses of a Zipformer recogniser. The defaults are `zipformer-s`.

    Args:
        vocab_size: number of tokens, the blank included.
        num_mel_bins: width of the input features.
        subsampling_channels: of the three convolutions that halve the frames.
        downsampling: by how much each stack lowers the 50 frames per second it gets; the output has 25.
        num_layers, encoder_dim, feedforward_dim, num_heads, query_head_dim, value_head_dim, position_head_dim,
            conv_kernel: one number per stack. The three feed-forward modules of a layer have 3/4, 1 and 5/4 of
            `feedforward_dim` hidden units.
        unmasked_dim: in training, the dimensions of a stack above it are hidden in some utterances.
        position_dim: width of the encoding of relative positions.
        decoder_dim, context_size: the stateless decoder sees the last `context_size` tokens.
        joiner_dim: width in which encoder and decoder states meet.
        training_loss: `"pruned"` RNN-T, `"full"` RNN-T, or `"ctc"`, which leaves decoder and joiner out.
        ctc_weight: RNN-T + `ctc_weight` * CTC, the winner's way (0.2); 0 leaves the CTC head out.
        transducer_weight: lambda in (0, 1) of lambda * RNN-T + (1 - lambda) * CTC, the runner-up's way, which then
            stands in place of `ctc_weight`; `None` for the winner's.
        simple_loss_scale, prune_range, lm_scale, am_scale: pruned loss: weight of the simple loss after warm-up,
            tokens kept per frame, smoothing of the simple loss.
        loss_warmup_batches: over so many batches the weight of the simple loss falls from 1 to `simple_loss_scale`
            and that of the pruned loss rises from 0.1 to 1.
        warmup_batches: over so many batches the layers are switched on, stack by stack.
        shape_gradients: Balancer and Whiten, which act on gradients in training and cost nothing in evaluation.
        mask_padding: outputs do not depend on how far an utterance is padded. False reproduces icefall, where the
            last frames do; models that were trained so should stay so.
        default_search: how `recognise` searches unless told otherwise; `None`: "beam" with a transducer, else
            "ctc_greedy".
        padding_value: log-mel energy of padding, log(1e-10).
        frame_shift_s: seconds between two input frames.

    Raises:
        ValueError: a value that cannot be; the message names the field and what is allowed.
    """

    model_type = "zipformer"

    vocab_size: int = 2048
    num_mel_bins: int = 80
    subsampling_channels: Any = (8, 32, 128)
    downsampling: Any = (1, 2, 4, 8, 4, 2)
    num_layers: Any = 2
    encoder_dim: Any = (192, 256, 256, 256, 256, 256)
    unmasked_dim: Any = 192
    feedforward_dim: Any = (512, 768, 768, 768, 768, 768)
    num_heads: Any = (4, 4, 4, 8, 4, 4)
    query_head_dim: Any = 32
    value_head_dim: Any = 12
    position_head_dim: Any = 4
    conv_kernel: Any = (31, 31, 15, 15, 15, 31)
    position_dim: int = 48
    decoder_dim: int = 512
    context_size: int = 2
    joiner_dim: int = 512
    training_loss: str = "pruned"
    ctc_weight: float | int = 0.2
    transducer_weight: float | None = None
    simple_loss_scale: float | int = 0.5
    prune_range: int = 5
    lm_scale: float | int = 0.25
    am_scale: float | int = 0.0
    loss_warmup_batches: int = 2000
    warmup_batches: int = 4000
    shape_gradients: bool = True
    mask_padding: bool = True
    default_search: str | None = None
    padding_value: float | int = -23.025850929940457
    frame_shift_s: float | int = 0.01
    blank_token_id: int = 0
    pad_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("custom_pipelines", ASR_PIPELINE)
        self._spread()
        self._check_sizes()
        self._check_losses()
        if self.default_search is None:
            self.default_search = "beam" if self.has_transducer else "ctc_greedy"
        self._check_search()
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "ZipformerConfig":
        """A named size: `zipformer-s`, `-m`, `-l` (the paper's) or `zipformer-30m`; `fields` go on top.

        Raises:
            ValueError: a name that is none of them.
        """
        if name not in PRESETS:
            raise ValueError(f"there is no Zipformer of size {name!r}; choose one of: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **fields})

    @property
    def has_transducer(self) -> bool:
        return self.training_loss != "ctc"

    @property
    def has_ctc(self) -> bool:
        return not self.has_transducer or self.transducer_weight is not None or self.ctc_weight > 0

    @property
    def hidden_size(self) -> int:
        """Width of the encoder states: that of the widest stack."""
        return max(self.encoder_dim)

    def _spread(self) -> None:
        """A number becomes one per stack; lists are lists, as config.json has them."""
        if not isinstance(self.downsampling, list | tuple) or not self.downsampling:
            raise ValueError(f"ZipformerConfig.downsampling is {self.downsampling!r}; it must be a list of numbers")
        self.downsampling = list(self.downsampling)
        channels = self.subsampling_channels
        if not isinstance(channels, list | tuple) or len(channels) != 3:
            raise ValueError(f"ZipformerConfig.subsampling_channels is {channels!r}; it must be a list of 3 numbers")
        self.subsampling_channels = list(channels)
        stacks = len(self.downsampling)
        for field in PER_STACK:
            value = getattr(self, field)
            values = list(value) if isinstance(value, list | tuple) else [value] * stacks
            if len(values) != stacks:
                raise ValueError(
                    f"ZipformerConfig.{field} has {len(values)} numbers for {stacks} stacks; give one per stack, or a "
                    "single number for all (the number of stacks is that of `downsampling`)"
                )
            setattr(self, field, values)

    def _check_sizes(self) -> None:
        for field in (*PER_STACK, "downsampling", "subsampling_channels"):
            for value in getattr(self, field):
                at_least(field, value, 1)
        for field, lowest in (("vocab_size", 2), ("position_dim", 2), ("context_size", 1), ("prune_range", 2)):
            at_least(field, getattr(self, field), lowest)
        at_least("num_mel_bins", self.num_mel_bins, 7)
        for field in ("loss_warmup_batches", "warmup_batches"):
            at_least(field, getattr(self, field), 0)
        for field in ("decoder_dim", "joiner_dim"):
            at_least(field, getattr(self, field), 4)
        if self.decoder_dim % 4:
            raise ValueError(f"ZipformerConfig.decoder_dim is {self.decoder_dim}; it must be a multiple of 4")
        if self.position_dim % 2:
            raise ValueError(f"ZipformerConfig.position_dim is {self.position_dim}; it must be even")
        for field, (number, name) in {"encoder_dim": (4, "a multiple of 4"), "conv_kernel": (2, "odd")}.items():
            for value in getattr(self, field):
                if value % number != (field == "conv_kernel"):
                    raise ValueError(f"ZipformerConfig.{field} holds {value}; every number of it must be {name}")
        for unmasked, dim in zip(self.unmasked_dim, self.encoder_dim, strict=True):
            if unmasked > dim:
                raise ValueError(
                    f"ZipformerConfig.unmasked_dim holds {unmasked} for a stack of {dim} dimensions; it must not be "
                    "larger than encoder_dim"
                )
        widest = max(self.encoder_dim) * max(*self.feedforward_dim, *self.encoder_dim)
        parameters = sum(self.num_layers) * 8 * widest + self.vocab_size * 4 * max(self.encoder_dim)
        if sum(self.num_layers) > MAX_LAYERS or parameters > MAX_PARAMETERS:
            raise ValueError(
                f"ZipformerConfig describes a model of about {parameters:.1e} parameters in {sum(self.num_layers)} "
                f"layers; at most {MAX_PARAMETERS:.0e} in {MAX_LAYERS} are built: config.json is damaged, or not of "
                "this kind of model"
            )

    def _check_losses(self) -> None:
        one_of("training_loss", self.training_loss, TRAINING_LOSSES)
        within("ctc_weight", self.ctc_weight, 0, 10)
        within("simple_loss_scale", self.simple_loss_scale, 0, 1)
        within("lm_scale", self.lm_scale, 0, 1)
        within("am_scale", self.am_scale, 0, 1)
        if self.lm_scale + self.am_scale >= 1:
            raise ValueError(
                f"ZipformerConfig.lm_scale + am_scale is {self.lm_scale + self.am_scale}; it must be less than 1, "
                "which leaves something for both together"
            )
        if self.transducer_weight is not None:
            if not self.has_transducer:
                raise ValueError(
                    "ZipformerConfig.transducer_weight is set but training_loss is 'ctc', which has no transducer; "
                    "leave transducer_weight out or choose the 'pruned' loss"
                )
            if not 0 < self.transducer_weight < 1:
                raise ValueError(
                    f"ZipformerConfig.transducer_weight is {self.transducer_weight}; it must be in (0, 1): "
                    "lambda * RNN-T + (1 - lambda) * CTC"
                )
        at_least("blank_token_id", self.blank_token_id, 0)
        if self.blank_token_id >= self.vocab_size:
            raise ValueError(
                f"ZipformerConfig.blank_token_id is {self.blank_token_id} but the last of the {self.vocab_size} "
                f"tokens is {self.vocab_size - 1}"
            )

    def _check_search(self) -> None:
        one_of("default_search", self.default_search, SEARCHES)
        needs_ctc = str(self.default_search).startswith("ctc")
        if not (self.has_ctc if needs_ctc else self.has_transducer):
            raise ValueError(
                f"ZipformerConfig.default_search is {self.default_search!r} but the model has no "
                f"{'CTC head' if needs_ctc else 'transducer'} (training_loss {self.training_loss!r}, ctc_weight "
                f"{self.ctc_weight}); choose another search"
            )


ZipformerConfig.register_for_auto_class()
