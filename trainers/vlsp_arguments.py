"""What `score_vlsp.py` is told. Nothing here imports torch, so that a mistake costs a second."""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_scripts.sources import SourceArguments
from trainers.checks import require, require_fraction, require_non_negative, require_positive
from trainers.command_line import Dtype
from trainers.ser_rows import DEFAULT_LABELS, check_labels

CLASSES = ("neutral", "negative")


@dataclass
class VLSPArguments:
    """Files to compare, or models to run on a test set."""

    reference: list[str] = field(default_factory=list)
    """CSV, TSV or JSONL files with id, text, emotion (either or both): what was said, and how."""
    hypothesis: list[str] = field(default_factory=list)
    """Files of the same form, or what eval_asr.py (.hypotheses.jsonl) and eval_ser.py (.predictions.jsonl) write."""
    reference_columns: dict[str, str] = field(default_factory=dict)
    """id, text, emotion → column of the reference files, where they have other names: {text: sentence}."""
    hypothesis_columns: dict[str, str] = field(default_factory=dict)
    """The same of the hypothesis files."""
    select: dict[str, Any] = field(default_factory=dict)
    """Column → value: the hypotheses to take from a file of several systems, as {num_beams: 4} or {rules: null}."""
    only: Literal["asr", "ser"] | None = None
    """Score one half although the reference has both."""
    allow_missing: bool = False
    """Count a missing hypothesis as wrong: every syllable deleted, the emotion missed."""
    asr: str | None = None
    """Recogniser to run: a folder or Hub id that eval_asr.py takes."""
    ser: str | None = None
    """Emotion classifier to run: a folder or Hub id that eval_ser.py takes."""
    data: SourceArguments | None = None
    """Test set of both models, with a text and an emotion column, or neither: then only the submission is written. Ids
    are those of its id column, else corpus/file; columns: {id: file_name, audio: file_name} makes them file names."""
    asr_data: SourceArguments | None = None
    """Test set of the recogniser alone, where text and emotion belong to different sets."""
    ser_data: SourceArguments | None = None
    """Test set of the classifier alone."""
    labels: dict[str, list[str]] = field(default_factory=lambda: {name: [*DEFAULT_LABELS[name]] for name in CLASSES})
    """neutral and negative → emotions of each; rows of other emotions are left out and counted."""
    model_labels: dict[str, str] = field(default_factory=dict)
    """Label of a classifier of others → neutral or negative, as {neu: neutral, ang: negative}; labels named like a
    class or like one of its emotions need none, others are left out and the rest made to sum to 1."""
    rules: Any = False
    """Let words turn neutral into negative: true (the shipped lexicon) or a lexicon of your own (.json)."""
    rules_threshold: float | None = None
    """Least probability of negative for that, instead of the lexicon's; 0 also works without probabilities."""
    num_beams: int = 1
    """Beam size of the recogniser. Of a transducer, 1 is greedy and more is modified beam search."""
    batch_size: int = 8
    """Utterances heard at once."""
    device: str = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda:0, ..."""
    dtype: Dtype = "auto"
    """Precision of the weights; auto is that of the checkpoint."""
    knn: bool = True
    """Use the k-NN datastore of a classifier that has one."""
    trust_remote_code: bool = False
    """Let models of others run Python files of their repositories; models of this package never need it."""
    max_duration_s: float = 30.0
    """Longer recordings are skipped and reported."""
    keep_text_problems: list[str] = field(default_factory=list)
    """Kinds of odd reference text that are scored all the same: digits, symbols, emoji, other_script, mojibake."""
    submission: str | None = None
    """File for the organisers: CSV with columns id, text, emotion; never written over another."""
    leaderboard: bool = False
    """Show the result between the published ones of VLSP 2025."""
    bootstrap_samples: int = 1000
    """Resamples behind the intervals; 0 leaves the intervals out."""
    seed: int = 0
    """Seed of the bootstrap."""
    output: str = "vlsp.json"
    """Report."""

    def __post_init__(self) -> None:
        files, models = bool(self.reference or self.hypothesis), bool(self.asr or self.ser)
        require(
            files != models,
            "reference",
            "give either files, --reference R [...] --hypothesis H [...], or models, --asr M --ser M --data.path D",
        )
        if files:
            require(bool(self.reference), "reference", "is wanted beside --hypothesis: what was really said")
            require(bool(self.hypothesis), "hypothesis", "is wanted beside --reference: what the systems gave")
            for name in ("data", "asr_data", "ser_data"):
                require(getattr(self, name) is None, name, "is for models (--asr, --ser); files name their rows")
        else:
            self._check_sets()
        for name in ("reference_columns", "hypothesis_columns"):
            unknown = [key for key in getattr(self, name) if key not in ("id", "text", "emotion")]
            require(not unknown, name, f"keys are id, text, emotion; got {', '.join(unknown)}")
        require(
            tuple(sorted(self.labels, reverse=True)) == tuple(sorted(CLASSES, reverse=True)),
            "labels",
            f"the task has the classes {', '.join(CLASSES)}; got {', '.join(self.labels)}",
        )
        check_labels(self.labels, {})
        unknown = sorted(set(self.model_labels.values()) - set(CLASSES))
        require(not unknown, "model_labels", f"{', '.join(unknown)} is no class; the classes are {', '.join(CLASSES)}")
        lexicon = isinstance(self.rules, str) and self.rules.endswith(".json")
        wrong = f"must be true, false or a .json file, got {self.rules!r}"
        require(isinstance(self.rules, bool) or lexicon, "rules", wrong)
        require(bool(self.rules) or self.rules_threshold is None, "rules_threshold", "is of --rules; give both")
        require(not (self.rules and self.only == "asr"), "rules", "change emotions; --only asr scores none")
        if self.rules_threshold is not None:
            require_fraction(self, "", ["rules_threshold"], one_allowed=True)
        require_positive(self, "", ["num_beams", "batch_size", "max_duration_s"])
        require_non_negative(self, "", ["bootstrap_samples", "seed"])
        require(self.output.endswith(".json"), "output", f"must end in .json, got {self.output!r}")
        suffix = self.submission is None or self.submission.endswith(".csv")
        require(suffix, "submission", f"must end in .csv, got {self.submission!r}")

    def _check_sets(self) -> None:
        require(self.only is None, "only", "is for files; of models, leave --asr or --ser out")
        if self.data is not None:
            for name in ("asr_data", "ser_data"):
                require(getattr(self, name) is None, name, "and data exclude each other: one set for both, or two")
        for model in ("asr", "ser"):
            mine, its_data = getattr(self, model), getattr(self, f"{model}_data")
            place = f"{model}_data"
            require(its_data is None or mine is not None, place, f"needs its model, --{model}")
            require(mine is None or bool(its_data or self.data), "data", f"a test set for --{model} is wanted")
        if self.rules:
            require(bool(self.asr and self.ser), "rules", "need the words of --asr and the emotions of --ser")
