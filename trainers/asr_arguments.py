"""What a run of `scripts/train_asr.py` is: one recogniser of Vietnamese, of one of three systems.

As in `trainers.arguments`, each field is followed by its help, and nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from data_scripts.sources import SourceArguments
from trainers.arguments import DataArguments, RunConfig
from trainers.checks import require, require_fraction, require_non_negative, require_positive
from trainers.model_arguments import check_heads, check_path

System = Literal["zipformer", "fastconformer", "whisper"]
Search = Literal["greedy", "beam", "ctc_greedy", "ctc_beam"]


@dataclass
class ZipformerSizes:
    """Sizes that differ from those of model.zipformer.size; lists have one number per stack."""

    num_mel_bins: int | None = None
    """Mel filters of the front end."""
    subsampling_channels: list[int] | None = None
    """Channels of the three convolutions that halve the frames."""
    subsampling_channels: list[int] | None = None
    """Channels of the three convolutions in front."""
    downsampling: list[int] | None = None
    """By how much each stack lowers the 50 frames per second; its length is the number of stacks."""
    num_layers: list[int] | None = None
    """Layers."""
    encoder_dim: list[int] | None = None
    """Width."""
    unmasked_dim: list[int] | None = None
    """Dimensions that are never hidden in training."""
    feedforward_dim: list[int] | None = None
    """Width of the second of three feed-forward modules; the others have 3/4 and 5/4 of it."""
    num_heads: list[int] | None = None
    """Attention heads."""
    query_head_dim: list[int] | None = None
    """Width of queries and keys of a head."""
    value_head_dim: list[int] | None = None
    """Width of values of a head."""
    position_head_dim: list[int] | None = None
    """Width of the positional part of a head."""
    conv_kernel: list[int] | None = None
    """Frames that a convolution sees; odd."""
    decoder_dim: int | None = None
    """Width of the stateless decoder."""
    joiner_dim: int | None = None
    """Width in which encoder and decoder meet."""

    def __post_init__(self) -> None:
        prefix = "model.zipformer.sizes."
        for name, value in vars(self).items():
            numbers = value if isinstance(value, list) else [value]
            good = value is None or (bool(numbers) and all(number >= 1 for number in numbers))
            require(good, prefix + name, f"must hold numbers of at least 1, got {value}")

    def given(self) -> dict[str, Any]:
        """The sizes that are set; one number in a list stands for all stacks."""
        lists = {name: value for name, value in vars(self).items() if value is not None}
        return {
            name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in lists.items()
        }


@dataclass
class ZipformerArguments:
    """Zipformer with a transducer and a CTC head, the system of the first two teams (paper, sections 3.1 and 3.2)."""

    path: str | None = None
    """Zipformer to start from (folder, Hub id or id@revision); sizes, losses and tokenizer are then its own."""
    size: Literal["zipformer-s", "zipformer-m", "zipformer-l", "zipformer-30m"] = "zipformer-30m"
    """Size of a model from scratch; 30m is the winner's, the others are those of the Zipformer paper."""
    sizes: ZipformerSizes = field(default_factory=ZipformerSizes)
    """What differs from it."""
    training_loss: Literal["pruned", "full", "ctc"] = "pruned"
    """pruned: RNN-T on a band around the path; full: on all of it, for small data; ctc: no transducer at all."""
    ctc_weight: float = 0.2
    """Loss: RNN-T + ctc_weight * CTC (the winner's); 0 leaves the CTC head out."""
    transducer_weight: float | None = None
    """Instead of ctc_weight: lambda of lambda * RNN-T + (1 - lambda) * CTC (the runner-up's), in (0, 1)."""
    simple_loss_scale: float = 0.5
    """Weight of the simple loss, which finds the band, after the warm-up of the losses."""
    prune_range: int = 5
    """Width of the band, in tokens."""
    loss_warmup_batches: int = 2000
    """Batches over which the weights of simple and pruned loss change."""
    warmup_batches: int = 4000
    """Batches over which the layers are switched on."""
    schedule_batch_s: float = 600.0
    """Seconds of audio that count as a batch in these and all other schedules of the model, whatever the batches of
    the run are: dropout falls over 20,000 of them. Lower it for runs of much less than 3,000 hours in all."""
    shape_gradients: bool = True
    """Balancer and Whiten, which act on gradients."""
    search: Search | None = None
    """Search of the finished model unless told otherwise; null: beam, or ctc_greedy without a transducer."""

    def __post_init__(self) -> None:
        prefix = "model.zipformer."
        require_positive(self, prefix, ["prune_range", "schedule_batch_s"])
        require_non_negative(self, prefix, ["loss_warmup_batches", "warmup_batches", "ctc_weight"])
        require_fraction(self, prefix, ["simple_loss_scale"], one_allowed=True)
        check_path(self.path, prefix + "path")
        weight, key = self.transducer_weight, prefix + "transducer_weight"
        require(weight is None or 0 < weight < 1, key, f"must lie between 0 and 1, got {weight}")
        no_transducer = (
            "needs a transducer, which training_loss: ctc leaves out; choose pruned or full, or set it to null"
        )
        require(weight is None or self.training_loss != "ctc", key, no_transducer)


@dataclass
class FastConformerSizes:
    """Sizes that differ from those of model.fastconformer.size."""

    num_mel_bins: int | None = None
    """Mel filters of the front end; a multiple of subsampling_factor."""
    subsampling_factor: Literal["2", "4", "8", "16"] | None = None
    """Input frames of 10 ms to one output frame."""
    subsampling_conv_channels: int | None = None
    """Channels of the convolutions in front."""
    hidden_size: int | None = None
    """Width."""
    num_hidden_layers: int | None = None
    """Conformer blocks."""
    num_attention_heads: int | None = None
    """Attention heads; must divide hidden_size."""
    intermediate_size: int | None = None
    """Width of the feed-forward modules."""
    conv_kernel_size: int | None = None
    """Frames that a convolution sees; odd."""
    decoder_hidden_size: int | None = None
    """Width of prediction and joint network (rnnt, tdt)."""
    num_decoder_layers: int | None = None
    """LSTM layers of the prediction network (rnnt, tdt)."""

    def __post_init__(self) -> None:
        names = [name for name in vars(self) if name != "subsampling_factor"]
        require_positive(self, "model.fastconformer.sizes.", names)

    def given(self) -> dict[str, Any]:
        """The sizes that are set."""
        return {name: int(value) for name, value in vars(self).items() if value is not None}


@dataclass
class FastConformerArguments:
    """FastConformer with a CTC, RNN-T or TDT head, the system of the third team (paper, section 3.3)."""

    path: str | None = None
    """FastConformer or Parakeet to go on with (folder, Hub id or id@revision); everything below is then its own."""
    encoder: str | None = None
    """FastConformer or Parakeet whose encoder gets a new head for our tokenizer, such as nvidia/parakeet-ctc-0.6b."""
    size: Literal["fastconformer-small", "fastconformer-medium", "fastconformer-large"] = "fastconformer-medium"
    """Size of a model from scratch."""
    sizes: FastConformerSizes = field(default_factory=FastConformerSizes)
    """What differs from it."""
    head: Literal["ctc", "rnnt", "tdt"] = "ctc"
    """ctc; rnnt: a transducer; tdt: a transducer that also predicts how long each token lasts."""
    ctc_weight: float = 0.0
    """Beside rnnt and tdt: (1 - w) * transducer + w * CTC, in [0, 1); 0 leaves the CTC head out."""
    freeze_encoder: bool = False
    """Keep the encoder's weights fixed."""
    attention_context: list[int] | None = None
    """[left, right] output frames that a frame attends to, for long audio; null: all."""
    global_tokens: int = 0
    """With attention_context: first frames that attend to all and are seen by all."""
    dropout: float = 0.1
    """Dropout in every block."""
    layerdrop: float = 0.0
    """Probability of leaving out a block in training."""
    sync_batch_norm: bool = False
    """Take the batch statistics over all processes."""

    def __post_init__(self) -> None:
        prefix = "model.fastconformer."
        require_fraction(self, prefix, ["ctc_weight", "dropout", "layerdrop"])
        require_non_negative(self, prefix, ["global_tokens"])
        check_path(self.path, prefix + "path")
        check_path(self.encoder, prefix + "encoder")
        both = self.path is not None and self.encoder is not None
        require(not both, prefix + "encoder", f"cannot be set together with {prefix}path, which has its own encoder")
        context = self.attention_context
        pair = context is None or (len(context) == 2 and min(context) >= 0)
        require(pair, prefix + "attention_context", f"must be [left, right] in output frames, got {context}")
        needs = "needs attention_context: without it every frame attends to all"
        require(context is not None or not self.global_tokens, prefix + "global_tokens", needs)
        only = "is for rnnt and tdt; head ctc has nothing beside CTC"
        require(self.head != "ctc" or not self.ctc_weight, prefix + "ctc_weight", only)


@dataclass
class WhisperArguments:
    """Whisper, transformers' own classes, the system of the fourth team (paper, section 3.4)."""

    path: str | None = None
    """Whisper to start from (folder, Hub id, id@revision), such as openai/whisper-small; null trains from scratch."""
    language: str = "vi"
    """Language that prompts and the generation config fix; the task is always transcribe."""
    freeze_encoder: bool = False
    """Keep the encoder's weights fixed."""
    dropout: float = 0.0
    """Dropout in every layer; Whisper was trained without."""
    timestamp_share: float = 0.0
    """Share of training targets with times around the text, so that the model keeps or learns them."""
    ctc_weight: float = 0.0
    """From scratch: share of a CTC loss on the encoder states, in [0, 1); the finished model has no such head."""
    guards: bool = True
    """Evaluate with the guards against loops and hallucinations that eval_asr.py and transcribe.py use."""
    window_s: int = 30
    """From scratch: seconds that the encoder reads, silence included; a pre-trained model keeps its own."""
    vocab_size: int = 1000
    """From scratch: byte-level word pieces; prompt and time tokens come on top."""
    d_model: int = 256
    """From scratch: width."""
    encoder_layers: int = 4
    """From scratch: encoder layers."""
    decoder_layers: int = 4
    """From scratch: decoder layers."""
    num_heads: int = 4
    """From scratch: attention heads; must divide d_model."""
    ffn_dim: int = 1024
    """From scratch: width of the feed-forward layers."""
    num_mel_bins: int = 80
    """From scratch: mel filters of the front end."""

    def __post_init__(self) -> None:
        prefix = "model.whisper."
        sizes = ["window_s", "vocab_size", "d_model", "encoder_layers", "decoder_layers", "num_heads", "ffn_dim"]
        require_positive(self, prefix, [*sizes, "num_mel_bins"])
        require_fraction(self, prefix, ["dropout", "ctc_weight"])
        require_fraction(self, prefix, ["timestamp_share"], one_allowed=True)
        require(self.window_s <= 30, prefix + "window_s", f"must be at most 30, got {self.window_s}")
        check_heads(self.d_model, self.num_heads, prefix)
        check_path(self.path, prefix + "path")
        scratch = "is for a Whisper from scratch: set it to 0, or model.whisper.path to null"
        require(self.path is None or not self.ctc_weight, prefix + "ctc_weight", scratch)


@dataclass
class ASRModelArguments:
    """Which model is built; the section of `system` counts."""

    zipformer: ZipformerArguments = field(default_factory=ZipformerArguments)
    """Zipformer."""
    fastconformer: FastConformerArguments = field(default_factory=FastConformerArguments)
    """FastConformer."""
    whisper: WhisperArguments = field(default_factory=WhisperArguments)
    """Whisper."""


@dataclass
class TokenizerArguments:
    """Word pieces of a zipformer or fastconformer that is built here; Whisper and trained models have their own."""

    bpe_vocab_size: int = 2048
    """Pieces, <blank> and <unk> included, learned from the training texts; fewer where the texts give no more."""
    path: str | None = None
    """Trained tokenizer to use instead: a folder or Hub id, such as the finished model of another run."""

    def __post_init__(self) -> None:
        require_positive(self, "tokenizer.", ["bpe_vocab_size"])
        check_path(self.path, "tokenizer.path")


@dataclass
class DecodingArguments:
    """How zipformer and fastconformer are decoded in evaluation during training."""

    search: Search = "greedy"
    """greedy and beam read the transducer (of a CTC model its only head), ctc_greedy and ctc_beam the CTC head."""
    beam_size: int = 15
    """Hypotheses kept by the beam searches."""

    def __post_init__(self) -> None:
        require_positive(self, "decoding.", ["beam_size"])


@dataclass
class AveragingArguments:
    """The mean of the weights along the later part of the run, as the finished model."""

    period: int = 0
    """Steps between two additions; 0 averages nothing."""
    start: float = 0.5
    """Share of the run after which averaging begins."""
    keep: Literal["better", "average"] = "better"
    """Finish with the mean, or with the better of mean and last (or best) weights on the validation data."""

    def __post_init__(self) -> None:
        require_non_negative(self, "averaging.", ["period"])
        require_fraction(self, "averaging.", ["start"])


@dataclass
class ASRConfig(RunConfig):
    """One training run of one recogniser."""

    name: str = "asr"
    """Name of the experiment; {name} and {stage}, the system, are filled into paths of this config."""
    system: System = "zipformer"
    """zipformer | fastconformer | whisper."""
    model: ASRModelArguments = field(default_factory=ASRModelArguments)
    """The model."""
    tokenizer: TokenizerArguments = field(default_factory=TokenizerArguments)
    """Word pieces."""
    decoding: DecodingArguments = field(default_factory=DecodingArguments)
    """Evaluation during training."""
    averaging: AveragingArguments = field(default_factory=AveragingArguments)
    """Averaged weights."""

    kind: ClassVar[str] = "asr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora.rank:
            require(self.system == "whisper", "lora.rank", f"is for whisper, not for {self.system}")
            scratch = "needs a pre-trained model: set model.whisper.path"
            require(self.model.whisper.path is not None, "lora.rank", scratch)
        if self.system != "whisper":
            smoothing = "is for whisper; transducers and CTC have no such thing: set it to 0"
            require(not self.training.label_smoothing_factor, "training.label_smoothing_factor", smoothing)
        self._check_search()

    def _check_search(self) -> None:
        model, search = self.model, self.decoding.search
        if self.system == "zipformer" and model.zipformer.path is None:
            loss, zipformer = model.zipformer.training_loss, model.zipformer
            has_ctc = loss == "ctc" or zipformer.ctc_weight > 0 or zipformer.transducer_weight is not None
            has = has_ctc if search.startswith("ctc") else loss != "ctc"
        elif self.system == "fastconformer" and model.fastconformer.path is None:
            head = model.fastconformer.head
            has = not (search.startswith("ctc") and head != "ctc" and not model.fastconformer.ctc_weight)
            has &= not (search == "beam" and head == "tdt")
        else:
            return
        require(has, "decoding.search", f"the {self.system} of this config has no head for {search}; choose another")

    @property
    def trains(self) -> str:
        return self.system

    def _places(self) -> list[tuple[Any, str]]:
        model = self.model
        paths = [
            (section, "path") for section in (model.zipformer, model.fastconformer, model.whisper, self.tokenizer)
        ]
        return [*super()._places(), *paths, (model.fastconformer, "encoder")]


__all__ = [
    "ASRConfig",
    "ASRModelArguments",
    "AveragingArguments",
    "DataArguments",
    "DecodingArguments",
    "FastConformerArguments",
    "SourceArguments",
    "TokenizerArguments",
    "WhisperArguments",
    "ZipformerArguments",
]
