"""What `eval_asr.py`, `eval_ser.py`, `transcribe.py` and `publish.py` are told, one dataclass each.

Read by the strict loader of training configs: an unknown option gets a "did you mean", and nothing here imports torch,
so that a mistake costs a second.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from data_scripts.sources import SourceArguments
from trainers.checks import require, require_non_negative, require_positive
from trainers.config import load_config
from trainers.secrets import hide_tokens
from trainers.ser_arguments import default_labels

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Search = Literal["greedy", "beam", "ctc_greedy", "ctc_beam"]


@dataclass
class EvaluationArguments:
    """What is evaluated on what."""

    data: SourceArguments
    """The test set."""
    model: list[str] = field(default_factory=list)
    """Folders or Hub ids, ours or any that pipeline("automatic-speech-recognition") loads; one column each."""
    zero: list[str] = field(default_factory=list)
    """S2P and P2T folders or Hub ids, joined without tuning and evaluated as TSPC-Zero."""
    num_beams: list[int] = field(default_factory=lambda: [1])
    """Beam sizes; each a column of the table. Of a transducer, 1 is greedy and more is modified beam search."""
    search: Search | None = None
    """Search of Zipformer and FastConformer; null is that of the beam size, with the main head."""
    nbest: int = 1
    """Readings to keep of each utterance where there is a beam; above 1 they go beside the report (.nbest.jsonl)."""
    lm: str | None = None
    """n-gram model of words (.arpa, .arpa.gz, .arpa.xz, as train_lm.py makes it) for the beams of these models."""
    lm_weight: float = 0.3
    """Weight of its log-probabilities."""
    lm_word_bonus: float = 0.0
    """Added to its natural log-probability of each word, against deletions."""
    guards: bool = True
    """Stop loops and hallucinations of Whisper; false is the stock pipeline."""
    batch_size: int = 8
    """Utterances recognised at once."""
    device: str = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda:0, ..."""
    dtype: Dtype = "auto"
    """Precision of the weights; auto is that of the checkpoint."""
    generate_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of generate, such as {language: vi} for a multilingual Whisper."""
    max_duration_s: float = 30.0
    """Longer recordings are skipped and reported."""
    keep_text_problems: list[str] = field(default_factory=list)
    """Kinds of odd reference text that are scored all the same: digits, symbols, emoji, other_script, mojibake."""
    spanless_language: Literal["vi", "en"] | None = None
    """Language of utterances without spans, if it is known; null leaves them out of the vi/en/switch-point split."""
    bootstrap_samples: int = 1000
    """Resamples behind the intervals; 0 leaves the intervals out."""
    seed: int = 0
    """Seed of the bootstrap."""
    trust_remote_code: bool = False
    """Let a baseline run the Python files of its repository; models of this package never need it."""
    card: bool = False
    """Add the figures to the card of every evaluated local model that has one."""
    output: str = "metrics.json"
    """Report; the hypotheses go beside it (.hypotheses.jsonl)."""

    def __post_init__(self) -> None:
        require(
            bool(self.model or self.zero), "model", "nothing to evaluate: give --model MODEL [...] or --zero S2P P2T"
        )
        require(len(self.zero) in (0, 2), "zero", f"takes two models, S2P then P2T; got {len(self.zero)}")
        require(
            bool(self.num_beams) and min(self.num_beams) >= 1, "num_beams", f"must be at least 1, got {self.num_beams}"
        )
        require_positive(self, "", ["batch_size", "max_duration_s", "nbest"])
        require_non_negative(self, "", ["bootstrap_samples", "seed", "lm_weight"])
        _check_search(self, max(self.num_beams))
        require(self.output.endswith(".json"), "output", f"must end in .json, got {self.output!r}")


@dataclass
class SEREvaluationArguments:
    """Which emotion classifiers are evaluated on what."""

    data: SourceArguments
    """The test set: rows with an emotion."""
    model: list[str]
    """Folders or Hub ids, ours or any that pipeline("audio-classification") loads; one column each."""
    labels: dict[str, list[str]] = field(default_factory=default_labels)
    """Classes, each with the emotions it stands for; rows of other emotions are left out."""
    label_maps: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Corpus -> classes with their emotions, where a corpus differs from `labels`."""
    model_labels: dict[str, str] = field(default_factory=dict)
    """Label of a model of others -> class, as {neu: neutral, ang: negative}; labels named like a class or like one of
    its emotions need none, others are left out and the rest of the probabilities made to sum to 1."""
    rules: Any = False
    """Also count what linguistic rules on the transcripts bring: true (the shipped lexicon) or a lexicon of your own
    (.json). They need the classes neutral and negative."""
    knn: Literal["both", "with", "without"] = "both"
    """Neighbours of models that have a k-NN datastore: both gives two columns."""
    batch_size: int = 8
    """Utterances classified at once."""
    device: str = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda:0, ..."""
    dtype: Dtype = "auto"
    """Precision of the weights; auto is that of the checkpoint."""
    max_duration_s: float = 600.0
    """Longer recordings are skipped and reported."""
    bootstrap_samples: int = 1000
    """Resamples behind the intervals; 0 leaves the intervals out."""
    seed: int = 0
    """Seed of the bootstrap."""
    trust_remote_code: bool = False
    """Let a model of others run the Python files of its repository; models of this package never need it."""
    card: bool = False
    """Add the figures to the card of every evaluated local model that has one."""
    output: str = "ser_metrics.json"
    """Report; the predictions (.predictions.jsonl) and a page with audio (.html) go beside it."""

    def __post_init__(self) -> None:
        require(bool(self.model), "model", "nothing to evaluate: give --model MODEL [...]")
        require_positive(self, "", ["batch_size", "max_duration_s"])
        require_non_negative(self, "", ["bootstrap_samples", "seed"])
        require(self.output.endswith(".json"), "output", f"must end in .json, got {self.output!r}")
        lexicon = isinstance(self.rules, str) and self.rules.endswith(".json")
        require(
            isinstance(self.rules, bool) or lexicon,
            "rules",
            f"must be true, false or a .json file, got {self.rules!r}",
        )
        if self.rules:
            absent = [name for name in ("neutral", "negative") if name not in self.labels]
            require(
                not absent, "rules", f"need the classes neutral and negative; {', '.join(absent)} is none of yours"
            )
        unknown = sorted(set(self.model_labels.values()) - set(self.labels))
        classes = ", ".join(self.labels)
        require(not unknown, "model_labels", f"{', '.join(unknown)} is no class; the classes are: {classes}")


@dataclass
class TranscriptionArguments:
    """What is transcribed, and how."""

    model: str
    """Folder or Hub id, ours or any that pipeline("automatic-speech-recognition") loads."""
    input: list[str]
    """Audio files, and folders whose audio files are found at any depth."""
    output: str = "transcripts.jsonl"
    """JSON lines, continued if it exists: the record that the formats are made of."""
    emotion: str | None = None
    """Emotion classifier, a folder or Hub id: each recording and each of its pieces gets an emotion and scores."""
    rules: Any = False
    """Let words turn neutral into negative: true (the shipped lexicon) or a lexicon of your own (.json)."""
    formats: list[Literal["json", "srt", "vtt", "csv", "txt"]] = field(default_factory=lambda: ["txt"])
    """What is made of the record: json, srt, vtt for each recording, csv (all pieces) and txt beside the record."""
    output_folder: str | None = None
    """Where the json, srt and vtt files go; null puts each beside its recording."""
    num_beams: int = 1
    """Beam size of the text. Of a transducer, 1 is greedy and more is modified beam search."""
    search: Search | None = None
    """Search of Zipformer and FastConformer; null is that of the beam size, with the main head."""
    lm: str | None = None
    """n-gram model of words (.arpa, .arpa.gz, .arpa.xz) for the beams of these models."""
    lm_weight: float = 0.3
    """Weight of its log-probabilities."""
    timestamps: Literal["segment", "word"] | None = None
    """Also write times in seconds: of pieces of long recordings, or of words."""
    guards: bool = True
    """Stop loops and hallucinations of Whisper; false is the stock pipeline."""
    chunk_length_s: float = 30.0
    """Longer recordings are cut at quiet places into pieces of at most this length."""
    phonemes: bool = False
    """Also write the phonemes (models of this package)."""
    batch_size: int = 4
    """Recordings recognised at once."""
    device: str = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda:0, ..."""
    dtype: Dtype = "auto"
    """Precision of the weights; auto is that of the checkpoint."""
    trust_remote_code: bool = False
    """Let a model of others run the Python files of its repository; models of this package never need it."""

    def __post_init__(self) -> None:
        require(bool(self.input), "input", "nothing to transcribe: name files or folders")
        require_positive(self, "", ["num_beams", "chunk_length_s", "batch_size"])
        require_non_negative(self, "", ["lm_weight"])
        _check_search(self, self.num_beams)
        require(not self.rules or bool(self.emotion), "rules", "revise an emotion: give --emotion MODEL too")
        lexicon = isinstance(self.rules, str) and self.rules.endswith(".json")
        require(
            isinstance(self.rules, bool) or lexicon,
            "rules",
            f"must be true, false or a .json file, got {self.rules!r}",
        )
        require(self.output.endswith(".jsonl"), "output", f"must end in .jsonl, got {self.output!r}")

    @property
    def segments(self) -> bool:
        """Whether the pieces of recordings are wanted."""
        return bool(self.emotion) or bool({"srt", "vtt", "csv"} & set(self.formats))


def _check_search(args: EvaluationArguments | TranscriptionArguments, num_beams: int) -> None:
    greedy = args.search.endswith("greedy") if args.search else num_beams == 1
    if args.search and greedy:
        require(num_beams == 1, "search", f"{args.search} has one beam; num_beams is {num_beams}")
    require(not (args.lm and greedy), "lm", "needs a beam: give --num_beams 15, say, and no greedy search")
    if args.lm:
        require(args.lm.endswith((".arpa", ".arpa.gz", ".arpa.xz")), "lm", f"must be an ARPA file, got {args.lm!r}")


@dataclass
class PublishingArguments:
    """What is published, and where. The token comes from `hf auth login` or HF_TOKEN."""

    folder: str
    """A finished model, or LoRA adapters (merged into their base model first)."""
    repo_id: str
    """Repository, "name" or "owner/name"; created if it does not exist."""
    private: bool = True
    """Create the repository as private; one that exists keeps its visibility."""
    metrics: str | None = None
    """Report of eval_asr.py or eval_ser.py whose figures go into the card."""
    message: str = "Upload model"
    """Commit message."""
    deadline_s: float = 600.0
    """How long a busy or unreachable Hub is retried."""
    dry_run: bool = False
    """Check the folder and list what would be uploaded; needs neither token nor network."""

    def __post_init__(self) -> None:
        require_positive(self, "", ["deadline_s"])


T = TypeVar("T", bound="DataclassInstance")


def load_arguments(
    cls: type[T], argv: Sequence[str] | None = None, *, positional: Sequence[str] = (), usage: str | None = None
) -> T:
    """The arguments of a script; prints what is wrong and exits with status 2 on a mistake.

    Args:
        cls: a dataclass of this module.
        argv: without the program's name; None takes the program's own.
        positional: fields that words before the first option fill, in order; a list field takes all that are left.
        usage: first lines of `--help`, a script's docstring.
    """
    hide_tokens()
    words = list(sys.argv[1:] if argv is None else argv)
    lists = {name for name, kind in cls.__annotations__.items() if str(kind).startswith("list")}
    return load_config(gather_lists(words, lists, positional), cls, usage or cls.__doc__ or "")


def gather_lists(words: Sequence[str], lists: set[str], positional: Sequence[str] = ()) -> list[str]:
    """Rewrite `a b --model x y` to `--first a --second b --model [x, y]`, the form that the loader reads.

    >>> gather_lists(["--num_beams", "1", "4", "--seed", "2"], {"num_beams"})
    ['--num_beams', '[1, 4]', '--seed', '2']
    """
    rest = list(words)
    found: list[str] = []
    for name in positional:
        if not rest or rest[0].startswith("--"):
            break
        found.append(f"--{name}")
        if name in lists:
            found.append(_yaml_list(_take_values(rest)))
        else:
            found.append(rest.pop(0))
    while rest:
        word = rest.pop(0)
        found.append(word)
        if word.removeprefix("--") in lists:
            values = _take_values(rest)
            # One value may already be a YAML list.
            found += (
                values if len(values) == 1 and values[0].startswith("[") else [_yaml_list(values)] if values else []
            )
    return found


def _take_values(rest: list[str]) -> list[str]:
    values = []
    while rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    return values


def _yaml_list(values: Sequence[str]) -> str:
    items = [
        value if value.lstrip("-").isdigit() else yaml.safe_dump(value, default_style='"').strip() for value in values
    ]
    return f"[{', '.join(items)}]"
