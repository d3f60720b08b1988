"""Configurations of the two-stage phoneme-centric model (TSPC, arXiv 2509.05983, section 2.2).

`S2PConfig` speech to phonemes, `P2TConfig` phonemes to text, `TSPCConfig` both joined by the bridge.
All ids of the phoneme side are fixed: `<pad>` 0, `</s>` 1, `<unk>` 2, `<s>` 3.
"""

from itertools import pairwise
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, T5Config, Wav2Vec2BertConfig, Wav2Vec2Config, WhisperConfig

ENCODER_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "whisper": WhisperConfig,
    "wav2vec2": Wav2Vec2Config,
    "wav2vec2-bert": Wav2Vec2BertConfig,
}
DECODER_TYPES = ("transformer", "gru", "lstm")
ENCODER_WINDOWS = ("padded", "trimmed")
# Far above what these models are built with. A config.json of someone else's may ask for any amount of memory.
MAX_PARAMETERS, MAX_LAYERS = 10_000_000_000, 1000

# The same pipeline serves both published models: text for TSPC, phonemes as text for S2P.
ASR_PIPELINE = {
    "automatic-speech-recognition": {
        "impl": "pipeline_tspc.TSPCPipeline",
        "pt": ["AutoModelForSpeechSeq2Seq"],
        "type": "multimodal",
    }
}


def one_of(owner: str, field: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{owner}.{field} is {value!r}; it must be one of: {', '.join(map(repr, allowed))}")


def at_least(owner: str, field: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{owner}.{field} is {value!r}; it must be a whole number of at least {lowest}")


def refuse_huge(owner: str, config: Any) -> None:
    """Raise ValueError, before any memory is asked for, if a config describes more than any machine would hold.

    The number of parameters is estimated from above by widths, layers and rows of embeddings.
    """

    def largest(*names: str) -> int:
        values = [getattr(config, name, None) for name in names]
        return max((value for value in values if isinstance(value, int)), default=0)

    width = largest("d_model", "hidden_size")
    inner = max(width, largest("d_ff", "intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"))
    inner = max(inner, largest("d_kv") * largest("num_heads"), largest("bridge_hidden_size"))
    layers = largest("encoder_layers", "num_layers", "num_hidden_layers")
    layers += largest("decoder_layers", "num_decoder_layers")
    rows = largest("vocab_size") + largest("phoneme_vocab_size") + largest("num_mel_bins", "max_source_positions")
    rows += largest("max_target_positions") + largest("feature_projection_input_dim")
    channels = [1, *(getattr(config, "conv_dim", None) or ())]
    convolutions = sum(a * b for a, b in pairwise(channels)) * 10
    parameters = rows * width + layers * 4 * width * inner + convolutions
    if layers > MAX_LAYERS or parameters > MAX_PARAMETERS:
        raise ValueError(
            f"{owner} describes a model of about {parameters:.1e} parameters in {layers} layers; at most "
            f"{MAX_PARAMETERS:.0e} in {MAX_LAYERS} are built: config.json is damaged, or not of this kind of model"
        )


def as_config(value: Any, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config object from what the user or config.json gives: an object, a dict or nothing."""
    if value is None:
        return config_class()
    if isinstance(value, dict):
        return config_class(**{key: item for key, item in value.items() if key != "model_type"})
    return value


class S2PConfig(PreTrainedConfig):
    """Speech to phonemes: a pre-trained speech encoder and a fresh phoneme decoder.

    Args:
        encoder_config: a `WhisperConfig`, `Wav2Vec2Config` or `Wav2Vec2BertConfig`, or a dict with its `model_type`.
        decoder_type: `"transformer"` (pre-LN, learned positions), `"gru"` or `"lstm"` (recurrent layers, each followed
            by attention over the encoder states): the decoders compared in the paper's table 2.
        vocab_size: number of phoneme tokens, special tokens included.
        d_model: width of the decoder; encoder states of another width go through a linear projection.
        max_target_positions: most phonemes (with `</s>`) a decoder can emit.
        encoder_window: Whisper only. `"padded"`: every utterance is padded to the full window, exactly as the encoder
            was pre-trained, and only the frames of the utterance are kept. `"trimmed"`: the encoder sees the frames of
            the utterance alone, about ten times cheaper on 4-second utterances; for encoders trained or tuned so.
        ctc_weight: weight in [0, 1) of a CTC loss on the encoder states, `(1 - w) * decoder loss + w * CTC loss`;
            0 leaves the head out.
        label_smoothing: smoothing of the decoder's cross entropy, in [0, 1).
        max_phonemes_per_frame: bound on what generation may emit, so that no model can loop forever on any audio.
            One phoneme per 20-ms frame is about twice the rate of fast speech.
    """

    model_type = "tspc_s2p"
    sub_configs = {"encoder_config": AutoConfig}  # pyright: ignore[reportAssignmentType]
    keys_to_ignore_at_inference = [
        "past_key_values",
        "ctc_logits",
        "encoder_last_hidden_state",
        "encoder_attention_mask",
        "decoder_last_hidden_state",
    ]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    }

    encoder_config: Any = None
    decoder_type: str = "transformer"
    vocab_size: int = 128
    d_model: int = 512
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    dropout: float | int = 0.1
    max_target_positions: int = 448
    encoder_window: str = "padded"
    ctc_weight: float | int = 0.0
    label_smoothing: float | int = 0.0
    max_phonemes_per_frame: float | int = 1.0
    activation_function: str = "gelu"
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    bos_token_id: int = 3
    decoder_start_token_id: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_config is None:
            self.encoder_config = WhisperConfig()
        if isinstance(self.encoder_config, dict):
            kind = str(self.encoder_config.get("model_type"))
            one_of("S2PConfig", "encoder_config.model_type", kind, ENCODER_CONFIGS)
            self.encoder_config = as_config(self.encoder_config, ENCODER_CONFIGS[kind])
        kwargs.setdefault("custom_pipelines", ASR_PIPELINE)
        self._check()
        super().__post_init__(**kwargs)

    @property
    def encoder_hidden_size(self) -> int:
        """Width of the encoder states (what a cache of encoder outputs holds)."""
        return self.encoder_config.hidden_size

    def _check(self) -> None:
        encoder = self.encoder_config
        one_of("S2PConfig", "encoder_config.model_type", encoder.model_type, ENCODER_CONFIGS)
        one_of("S2PConfig", "decoder_type", self.decoder_type, DECODER_TYPES)
        one_of("S2PConfig", "encoder_window", self.encoder_window, ENCODER_WINDOWS)
        for field in ("d_model", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"):
            at_least("S2PConfig", field, getattr(self, field), 1)
        at_least("S2PConfig", "vocab_size", self.vocab_size, 5)
        at_least("S2PConfig", "max_target_positions", self.max_target_positions, 2)
        refuse_huge("S2PConfig", self)
        refuse_huge("S2PConfig.encoder_config", encoder)
        if self.d_model % self.decoder_attention_heads:
            raise ValueError(
                f"S2PConfig.d_model is {self.d_model}, not a multiple of decoder_attention_heads "
                f"({self.decoder_attention_heads}); change one of the two"
            )
        if self.d_model % 2:
            raise ValueError(f"S2PConfig.d_model is {self.d_model}; it must be even")
        for field in ("ctc_weight", "label_smoothing", "dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"S2PConfig.{field} is {getattr(self, field)}; it must be in [0, 1)")
        if self.max_phonemes_per_frame <= 0:
            raise ValueError(f"S2PConfig.max_phonemes_per_frame is {self.max_phonemes_per_frame}; it must be positive")
        if self.encoder_window == "trimmed" and encoder.model_type != "whisper":
            raise ValueError(
                f"S2PConfig.encoder_window is 'trimmed' but the encoder is {encoder.model_type!r}, which always sees "
                "the frames of the utterance alone; leave encoder_window at 'padded' (it concerns Whisper only)"
            )
        if getattr(encoder, "add_adapter", False):
            raise ValueError(
                "S2PConfig.encoder_config.add_adapter is true: the adapter's convolutions would see padding; "
                "load the encoder with add_adapter=False"
            )


class P2TConfig(T5Config):
    """Phonemes to text: a T5 that reads phonemes and writes text.

    Differs from `T5Config` in three fields.

    Args:
        phoneme_vocab_size: size of the encoder's own embedding; `vocab_size` is that of the text side.
        tie_lm_head: whether the output layer shares the weights of the text embedding (T5, ViT5 do; T5 v1.1, mT5 do
            not). `tie_word_embeddings` stays true, as in T5: it also ties the decoder's embedding to `shared`.
        bridge_hidden_size: width of the S2P states that every encoder block attends to; `None` (a P2T of its own)
            builds no bridge.
    """

    model_type = "tspc_p2t"

    phoneme_vocab_size: int = 128
    tie_lm_head: bool = True
    bridge_hidden_size: int | None = None
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        scale = self.scale_decoder_outputs
        super().__post_init__(**kwargs)
        # T5 scales the decoder output exactly where the output layer is tied, unless a checkpoint says otherwise.
        self.scale_decoder_outputs = self.tie_lm_head if scale is None else scale
        at_least("P2TConfig", "phoneme_vocab_size", self.phoneme_vocab_size, 5)
        at_least("P2TConfig", "vocab_size", self.vocab_size, 4)
        if self.bridge_hidden_size is not None:
            at_least("P2TConfig", "bridge_hidden_size", self.bridge_hidden_size, 1)
        refuse_huge("P2TConfig", self)


class TSPCConfig(PreTrainedConfig):
    """Both stages joined: each P2T encoder block attends to the final decoder states of S2P (section 2.2).

    Args:
        s2p_config, p2t_config: configs of the stages (objects or dicts); `p2t_config.bridge_hidden_size` is set here.
        max_text_tokens_per_phoneme: bound on what the text stage may emit for a phoneme sequence, beside 16 tokens of
            slack, so that an untrained model cannot loop. Four is enough for a byte-level vocabulary.
    """

    model_type = "tspc"
    sub_configs = {"s2p_config": S2PConfig, "p2t_config": P2TConfig}  # pyright: ignore[reportAssignmentType]
    keys_to_ignore_at_inference = [
        "past_key_values",
        "phoneme_ids",
        "phoneme_attention_mask",
        "s2p_states",
        "encoder_last_hidden_state",
    ]

    s2p_config: Any = None
    p2t_config: Any = None
    max_text_tokens_per_phoneme: float | int = 4.0
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.s2p_config = as_config(self.s2p_config, S2PConfig)
        self.p2t_config = as_config(self.p2t_config, P2TConfig)
        for field, expected in (("s2p_config", "tspc_s2p"), ("p2t_config", "tspc_p2t")):
            kind = getattr(self, field).model_type
            if kind != expected:
                raise ValueError(f"TSPCConfig.{field} has model_type {kind!r}; it must be {expected!r}")
        if self.s2p_config.vocab_size != self.p2t_config.phoneme_vocab_size:
            raise ValueError(
                f"S2P emits {self.s2p_config.vocab_size} phoneme tokens but P2T reads "
                f"{self.p2t_config.phoneme_vocab_size}; train both stages with the same phoneme tokenizer"
            )
        if self.max_text_tokens_per_phoneme <= 0:
            raise ValueError(
                f"TSPCConfig.max_text_tokens_per_phoneme is {self.max_text_tokens_per_phoneme}; it must be positive"
            )
        self.p2t_config.bridge_hidden_size = self.s2p_config.d_model
        # What generation and the Trainer read from the top level is that of the text side.
        kwargs["vocab_size"] = self.p2t_config.vocab_size
        kwargs["hidden_size"] = self.p2t_config.d_model
        kwargs["num_hidden_layers"] = self.p2t_config.num_decoder_layers
        for field in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            kwargs[field] = getattr(self.p2t_config, field)
        kwargs.setdefault("custom_pipelines", ASR_PIPELINE)
        super().__post_init__(**kwargs)


for _config in (S2PConfig, P2TConfig, TSPCConfig):
    _config.register_for_auto_class()
