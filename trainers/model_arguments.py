"""The `model` section: which encoder, which decoder, how large, what is frozen."""

from dataclasses import dataclass, field
from typing import Literal

from trainers.checks import require, require_fraction, require_positive


@dataclass
class EncoderArguments:
    """Shape of a speech encoder trained from scratch; used where model.s2p.encoder is null."""

    type: Literal["whisper", "wav2vec2", "wav2vec2-bert"] = "whisper"
    """Architecture: log-mel + 2 convolutions, waveform convolutions, or stacked filter banks + conformer."""
    d_model: int = 256
    """Width."""
    num_layers: int = 6
    """Transformer (or conformer) layers."""
    num_heads: int = 4
    """Attention heads; must divide d_model."""
    ffn_dim: int = 1024
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout in every layer."""
    num_mel_bins: int = 80
    """Mel filters of the front end (whisper, wav2vec2-bert)."""
    hop_length: int = 160
    """Samples between mel frames at 16 kHz; 160 is 10 ms (whisper)."""
    frame_stack: int = 2
    """Mel frames stacked into one encoder input (wav2vec2-bert)."""
    conv_dim: int = 512
    """Channels of the waveform convolutions (wav2vec2)."""
    conv_strides: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    """Strides of the waveform convolutions; their product is samples per encoder state (wav2vec2)."""

    def __post_init__(self) -> None:
        prefix = "model.s2p.encoder_sizes."
        names = [
            "d_model",
            "num_layers",
            "num_heads",
            "ffn_dim",
            "num_mel_bins",
            "hop_length",
            "frame_stack",
            "conv_dim",
        ]
        require_positive(self, prefix, names)
        require_fraction(self, prefix, ["dropout"])
        strides = self.conv_strides
        good = bool(strides) and all(stride >= 1 for stride in strides)
        require(good, prefix + "conv_strides", f"must be a list of numbers of at least 1, got {strides}")
        check_heads(self.d_model, self.num_heads, prefix)


@dataclass
class S2PArguments:
    """Speech-to-phoneme model: a speech encoder and a phoneme decoder."""

    path: str | None = None
    """Trained S2P to start from (folder, Hub id or id@revision); its own config then decides every size below."""
    encoder: str | None = None
    """Pre-trained encoder: Hub id (or id@revision) or folder of a Whisper, Wav2Vec2 or Wav2Vec2-BERT model."""
    encoder_sizes: EncoderArguments = field(default_factory=EncoderArguments)
    """Encoder trained from scratch, where encoder and path are null."""
    freeze_encoder: bool = True
    """Keep the encoder's weights fixed."""
    encoder_window: Literal["padded", "trimmed"] = "padded"
    """padded: Whisper's 30 s window as it was pre-trained; trimmed: the true frames only (needs tuning, faster)."""
    decoder: Literal["transformer", "gru", "lstm"] = "transformer"
    """Phoneme decoder; gru and lstm use attention over the encoder states."""
    d_model: int = 512
    """Decoder width."""
    num_layers: int = 6
    """Decoder layers."""
    num_heads: int = 8
    """Attention heads; must divide d_model."""
    ffn_dim: int = 2048
    """Width of the feed-forward layers (transformer)."""
    dropout: float = 0.1
    """Decoder dropout."""
    max_phonemes: int = 448
    """Longest phoneme sequence."""
    ctc_weight: float = 0.0
    """Share of a CTC loss on the encoder states, in [0, 1); 0 is the paper's model, without a CTC head."""

    def __post_init__(self) -> None:
        prefix = "model.s2p."
        require_positive(self, prefix, ["d_model", "num_layers", "num_heads", "ffn_dim", "max_phonemes"])
        require_fraction(self, prefix, ["dropout", "ctc_weight"])
        check_heads(self.d_model, self.num_heads, prefix)
        check_path(self.path, "model.s2p.path")
        check_path(self.encoder, "model.s2p.encoder")
        both = self.path is not None and self.encoder is not None
        require(not both, "model.s2p.encoder", "cannot be set together with model.s2p.path, which has its own encoder")
        mel = self.encoder is not None or self.path is not None or self.encoder_sizes.type == "whisper"
        trimmed = "trimmed is for Whisper encoders; the others always read the true frames, so leave it at padded"
        require(mel or self.encoder_window == "padded", "model.s2p.encoder_window", trimmed)


@dataclass
class P2TArguments:
    """Phoneme-to-text model: a T5 that reads phonemes and writes text."""

    path: str | None = None
    """Trained P2T to start from (folder, Hub id or id@revision); its own config then decides every size below."""
    pretrained: str | None = None
    """Pre-trained T5 (Hub id, id@revision or folder) for weights and text tokenizer; null trains from scratch."""
    d_model: int = 512
    """Width."""
    d_ff: int = 2048
    """Width of the feed-forward layers."""
    d_kv: int = 64
    """Width of each attention head."""
    num_layers: int = 6
    """Encoder layers."""
    num_decoder_layers: int = 6
    """Decoder layers."""
    num_heads: int = 8
    """Attention heads."""
    dropout: float = 0.1
    """Dropout in every layer."""
    text_vocab_size: int = 4000
    """Word pieces of the text tokenizer trained with the model, where pretrained and path are null."""

    def __post_init__(self) -> None:
        names = ["d_model", "d_ff", "d_kv", "num_layers", "num_decoder_layers", "num_heads", "text_vocab_size"]
        require_positive(self, "model.p2t.", names)
        require_fraction(self, "model.p2t.", ["dropout"])
        check_path(self.path, "model.p2t.path")
        check_path(self.pretrained, "model.p2t.pretrained")
        both = self.path is not None and self.pretrained is not None
        require(not both, "model.p2t.pretrained", "cannot be set together with model.p2t.path; pick one")


@dataclass
class JointArguments:
    """How the two stages are tuned together; S2P is always frozen."""

    decoder: Literal["freeze", "unfreeze"] = "freeze"
    """freeze: the T5 decoder keeps its P2T weights (the paper's best); unfreeze: it is tuned too."""


@dataclass
class ModelArguments:
    """Which model is built."""

    register: Literal["full", "vmd"] = "full"
    """Phoneme set: full can be turned back into spelling; vmd is the paper's."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel of encoders and transformer decoders."""
    s2p: S2PArguments = field(default_factory=S2PArguments)
    """Speech to phonemes."""
    p2t: P2TArguments = field(default_factory=P2TArguments)
    """Phonemes to text."""
    joint: JointArguments = field(default_factory=JointArguments)
    """Both together."""


def check_heads(d_model: int, num_heads: int, prefix: str) -> None:
    """Attention splits the width evenly over its heads."""
    require(d_model % num_heads == 0, prefix + "num_heads", f"must divide d_model ({d_model}), got {num_heads}")


def check_path(path: str | None, key: str) -> None:
    """A path is null or says something."""
    require(path is None or bool(path.strip()), key, "must be a folder or a Hub id, got an empty string; use null")
