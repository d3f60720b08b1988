"""The `model.dfat` section: streams, classifiers, fusion, and how the classifiers are tuned (paper, section 3.5).

As in `trainers.arguments`, each field is followed by its help, and nothing here imports torch.
"""

from dataclasses import dataclass, field
from math import comb
from typing import Literal

from trainers.checks import require, require_fraction, require_non_negative, require_positive
from trainers.model_arguments import check_path

Stream = Literal["acoustic", "text"]
Classifier = Literal["lr", "rf", "xgb"]
# Points of the grid of weights.
MOST_POINTS = 100_000


@dataclass
class FilterbankArguments:
    """Frames of an acoustic stream without a pre-trained encoder; used where model.dfat.acoustic.encoder is null."""

    style: Literal["kaldi", "plain"] = "plain"
    """plain: as librosa computes them; kaldi: as Kaldi does."""
    num_mel_bins: int = 40
    """Mel filters."""
    num_cepstra: int = 20
    """Cepstra (MFCC) kept of each frame; 0 keeps the log-mel values."""
    deltas: int = 2
    """Derivatives appended to each frame: 0, 1 (slopes) or 2 (and their slopes)."""
    frame_ms: float = 25.0
    """Milliseconds that a frame sees."""
    hop_ms: float = 10.0
    """Milliseconds from one frame to the next."""

    def __post_init__(self) -> None:
        prefix = "model.dfat.acoustic.filterbank."
        require_positive(self, prefix, ["num_mel_bins", "frame_ms", "hop_ms"])
        require(self.deltas in (0, 1, 2), prefix + "deltas", f"must be 0, 1 or 2, got {self.deltas}")
        message = f"must be at least 0 and at most num_mel_bins ({self.num_mel_bins}), got {self.num_cepstra}"
        require(0 <= self.num_cepstra <= self.num_mel_bins, prefix + "num_cepstra", message)


@dataclass
class AcousticArguments:
    """The acoustic stream: a frozen speech encoder, pooled over time."""

    encoder: str | None = None
    """Pre-trained encoder: Hub id (or id@revision) or folder of a WavLM, emotion2vec, Wav2Vec2, HuBERT or Whisper."""
    layer: int | None = None
    """Layer whose states are pooled, 0 what enters the first one; null takes the last."""
    filterbank: FilterbankArguments = field(default_factory=FilterbankArguments)
    """Frames without a pre-trained encoder."""
    pooling: Literal["mean", "statistics", "functionals"] = "mean"
    """Frames to one vector: their mean; mean and deviation; or these with quartiles, extremes and slope."""

    def __post_init__(self) -> None:
        check_path(self.encoder, "model.dfat.acoustic.encoder")
        require_non_negative(self, "model.dfat.acoustic.", ["layer"])


@dataclass
class TextArguments:
    """The text stream: a small network of our own, trained on the transcripts of the training rows alone."""

    network: Literal["gru", "transformer"] = "gru"
    """Bidirectional GRU, or Transformer encoder."""
    recogniser: str | None = None
    """Recogniser (folder, Hub id or id@revision) whose transcripts are read; null reads the `text` of the rows."""
    tokens: Literal["syllables", "bpe"] = "syllables"
    """Whole syllables, as Vietnamese is written, or word pieces."""
    vocab_size: int = 2000
    """Tokens at most; fewer where the training texts have no more."""
    embedding_size: int = 256
    """Width of the embeddings and of each Transformer layer."""
    num_layers: int = 1
    """Layers."""
    num_heads: int = 4
    """Attention heads; must divide embedding_size (transformer)."""
    size: int = 1024
    """Width of the features; even (gru)."""
    dropout: float = 0.3
    """Dropout around the network."""
    max_tokens: int = 256
    """Longer transcripts are cut."""
    epochs: int = 15
    """Passes over the training transcripts."""
    batch_size: int = 32
    """Transcripts in a batch."""
    learning_rate: float = 1e-3
    """Of AdamW, falling linearly to 0."""

    def __post_init__(self) -> None:
        prefix = "model.dfat.text."
        names = ["vocab_size", "embedding_size", "num_layers", "num_heads", "size", "max_tokens", "epochs"]
        require_positive(self, prefix, [*names, "batch_size", "learning_rate"])
        require_fraction(self, prefix, ["dropout"])
        check_path(self.recogniser, prefix + "recogniser")
        if self.network == "transformer":
            message = f"must divide embedding_size ({self.embedding_size}), got {self.num_heads}"
            require(self.embedding_size % self.num_heads == 0, prefix + "num_heads", message)
        else:
            require(self.size % 2 == 0, prefix + "size", f"must be even (two directions), got {self.size}")


@dataclass
class DFATArguments:
    """DFAT: acoustic and text features side by side, three classifiers on them, their weighted mean."""

    streams: list[Stream] = field(default_factory=lambda: ["acoustic", "text"])
    """acoustic, text or both."""
    classifiers: list[Classifier] = field(default_factory=lambda: ["lr", "rf", "xgb"])
    """lr: logistic regression; rf: random forest; xgb: XGBoost."""
    fusion: Literal["early", "late_streams", "dual"] = "dual"
    """early: streams side by side, the best classifier alone; late_streams: classifiers for each stream, weighted;
    dual: streams side by side, all classifiers, weighted (the paper's)."""
    folds: int = 5
    """Parts of the training rows, each predicted by classifiers that have not seen it; for weights and tuning."""
    weight_step: float = 0.05
    """Step of the grid on which the weights are searched."""
    trials: int = 30
    """Settings of XGBoost that Optuna tries; 0 keeps the defaults."""
    tuning_s: float = 240.0
    """Seconds after which no further trial is begun; the best so far is taken."""
    regularisation: float = 0.1
    """C of the logistic regression, on scaled features: the smaller, the flatter."""
    num_trees: int = 200
    """Trees of the random forest."""
    balanced: bool = True
    """Weigh classes alike, however many rows each has."""
    num_threads: int = 1
    """Threads of the classifiers."""
    acoustic: AcousticArguments = field(default_factory=AcousticArguments)
    """The acoustic stream."""
    text: TextArguments = field(default_factory=TextArguments)
    """The text stream."""

    def __post_init__(self) -> None:
        prefix = "model.dfat."
        for name, what in (("streams", "acoustic, text"), ("classifiers", "lr, rf, xgb")):
            values = getattr(self, name)
            good = bool(values) and len(set(values)) == len(values)
            require(good, prefix + name, f"must name one or more of {what}, each once; got {values}")
        require_positive(self, prefix, ["regularisation", "num_trees", "num_threads", "tuning_s"])
        require_non_negative(self, prefix, ["trials"])
        require(self.folds >= 2, prefix + "folds", f"must be at least 2, got {self.folds}")
        parts = round(1 / self.weight_step) if self.weight_step > 0 else 0
        message = f"must be 1 divided by a whole number, such as 0.05, got {self.weight_step}"
        require(parts >= 1 and abs(parts * self.weight_step - 1) < 1e-9, prefix + "weight_step", message)
        most = len(self.classifiers) * (2 if self.fusion == "late_streams" else 1)
        points = comb(parts + most - 1, most - 1)
        coarser = f"makes {points} points for {most} classifiers; at most {MOST_POINTS} are tried: take a coarser step"
        require(points <= MOST_POINTS, prefix + "weight_step", coarser)
        both = "late_streams needs two streams; name acoustic and text, or choose early or dual"
        require(self.fusion != "late_streams" or len(self.streams) == 2, prefix + "fusion", both)
