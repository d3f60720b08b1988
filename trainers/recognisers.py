"""Speech recognisers behind one interface: our models, our two stages joined on the spot, and any baseline.

Whatever `pipeline("automatic-speech-recognition")` can load is a recogniser here, so a baseline is heard, normalised
and scored exactly as our own models are.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data_scripts.audio import SAMPLING_RATE_HZ, read_audio
from data_scripts.text.phonemes import phoneme_symbols
from trainers.pins import require_pin, split_pin

logger = logging.getLogger(__name__)
Kind = Literal["tspc", "s2p", "transducer", "ctc", "seq2seq"]
SEARCHES = ("greedy", "beam", "ctc_greedy", "ctc_beam")
_OURS = ("tspc", "tspc_s2p", "zipformer", "fastconformer")


class RecogniserError(ValueError):
    """A model that cannot be loaded or cannot recognise speech; the message names it and says what to do."""


@dataclass
class Recogniser:
    """A loaded ASR pipeline and what it can give.

    kind: "tspc" gives text and phonemes, "s2p" phonemes alone; "transducer", "ctc" and "seq2seq" text alone.
    register: of the phonemes, None without. zero: two stages joined without joint tuning.
    searches: those of `SEARCHES` that the model's heads allow; none for a model that has `generate` or a baseline.
    """

    name: str
    pipe: Any
    kind: Kind
    register: Literal["full", "vmd"] | None = None
    zero: bool = False
    searches: tuple[str, ...] = ()

    @property
    def decodes_with_beams(self) -> bool:
        return self._main_search("beam") in self.searches if self.searches else self.kind != "ctc"

    @property
    def guard_counts(self) -> Any:
        """`GuardCounts` of a Whisper under guard, else None."""
        return getattr(self.pipe, "counts", None)

    def _main_search(self, search: str) -> str:
        return search if self.kind == "transducer" else f"ctc_{search}"

    def search_for(self, num_beams: int, search: str | None = None) -> str:
        """The search by that name, or that of the main head: greedy for one beam.

        Raises:
            RecogniserError: the model has no head for it.
        """
        wanted = search or self._main_search("greedy" if num_beams == 1 else "beam")
        if wanted not in self.searches:
            allowed = ", ".join(self.searches) or "none (it has `generate`, or is a baseline)"
            raise RecogniserError(f"{self.name} has no {wanted!r} search; it has: {allowed}")
        return wanted


@dataclass
class Recognised:
    """Hypotheses in the order of the rows, and the time they took.

    texts is None for a phoneme recogniser, phonemes is None for a model of text alone. nbest: readings of each row,
    `{"text", "score"}`, where more than one was asked for. `seconds` is wall time with reading and
    resampling of the audio included, loading of the model excluded; `rtf` is seconds per second of audio.
    """

    texts: list[str] | None
    phonemes: list[list[str]] | None
    seconds: float
    audio_s: float
    nbest: list[list[dict[str, Any]]] | None = None

    @property
    def rtf(self) -> float:
        return self.seconds / self.audio_s if self.audio_s else 0.0


def pick_device(device: str = "auto") -> str:
    """ "auto" is the first accelerator, else the CPU; anything else is returned as it is."""
    import torch

    return device if device != "auto" else ("cuda:0" if torch.cuda.is_available() else "cpu")


def load_recogniser(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    guards: bool = True,
) -> Recogniser:
    """Load a folder or Hub id (`id@revision` for one version). Our own model types never run code of the repository.

    Args:
        dtype: "auto" keeps the checkpoint's; else "float32", "bfloat16" or "float16".
        trust_remote_code: allow a baseline to run Python files of its repository, which must be pinned to a commit.
        guards: Whisper decodes under `trainers.whisper_guards`; False is the stock pipeline.

    Raises:
        RecogniserError: not found, not loadable, or no speech recogniser.
    """
    from transformers import AutoConfig, pipeline

    import models.fastconformer
    import models.tspc as tspc
    import models.zipformer  # noqa: F401  (registers its classes)
    from models.tspc.strict_model import plain_weights

    repo, pin = split_pin(model)
    try:
        if trust_remote_code:
            require_pin(model)
        config = AutoConfig.from_pretrained(repo, trust_remote_code=trust_remote_code, **pin)
    except (OSError, ValueError, KeyError) as error:
        hint = "name a model folder (with config.json) or a Hub id"
        raise RecogniserError(f"cannot load {model}: {_first_line(error)}; {hint}") from error
    if config.model_type == "tspc_p2t":
        raise RecogniserError(f"{model} turns phonemes into text and hears nothing; evaluate it with --zero S2P P2T")
    options: dict[str, Any] = {"device": pick_device(device), "dtype": dtype}
    if pipeline_class := _pipeline_class(config.model_type, guards):
        options["pipeline_class"] = pipeline_class
    options["trust_remote_code"] = trust_remote_code and config.model_type not in _OURS
    try:
        with plain_weights(model):
            pipe = pipeline("automatic-speech-recognition", model=repo, **pin, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, tspc.CheckpointError) as error:
        raise RecogniserError(f"cannot load {model} as a speech recogniser: {_first_line(error)}") from error
    if pipe.tokenizer is not None and pipe.tokenizer.pad_token_id is None:
        pipe.tokenizer.pad_token_id = pipe.tokenizer.eos_token_id  # batches need one; older checkpoints name none
    kind = _kind(config, pipe)
    return Recogniser(model, pipe, kind, _register(pipe, kind), searches=_searches(config))


def _pipeline_class(model_type: str, guards: bool) -> Any:
    """None is the stock pipeline."""
    if model_type in ("tspc", "tspc_s2p"):
        from models.tspc import TSPCPipeline

        return TSPCPipeline
    if model_type in _OURS:
        from models.zipformer import SpeechRecogniserPipeline

        return SpeechRecogniserPipeline
    if model_type == "whisper" and guards:
        from trainers.whisper_pipeline import GuardedWhisperPipeline

        return GuardedWhisperPipeline
    return None


def _kind(config: Any, pipe: Any) -> Kind:
    if config.model_type == "tspc":
        return "tspc"
    if config.model_type == "tspc_s2p":
        return "s2p"
    if searches := _searches(config):
        return "transducer" if "greedy" in searches else "ctc"
    return "ctc" if pipe.type.startswith("ctc") else "seq2seq"


def _searches(config: Any) -> tuple[str, ...]:
    if config.model_type == "zipformer":
        transducer, ctc, beams = config.has_transducer, config.has_ctc, True
    elif config.model_type == "fastconformer":
        transducer, ctc, beams = config.head != "ctc", config.has_ctc_head, config.head != "tdt"
    else:
        return ()
    return (
        *(("greedy",) if transducer else ()),
        *(("beam",) if transducer and beams else ()),
        *(("ctc_greedy", "ctc_beam") if ctc else ()),
    )


def load_zero(
    s2p: str, p2t: str, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> Recogniser:
    """TSPC-Zero (section 3.3 of the paper): two separately trained stages, joined without any tuning.

    Raises:
        RecogniserError: a stage cannot be loaded, is the other stage, or the phoneme vocabularies differ.
    """
    import models.tspc as tspc

    dtype_option: dict[str, Any] = {} if dtype == "auto" else {"dtype": dtype}
    stages: list[Any] = []
    places: list[tuple[str, Any, str]] = [
        (s2p, tspc.S2PForConditionalGeneration, "first"),
        (p2t, tspc.P2TForConditionalGeneration, "second"),
    ]
    for path, model_class, flag in places:
        wanted: str = model_class.config_class.model_type
        try:
            found = _model_type(path)
            if found != wanted:
                raise ValueError(f"it is a {found!r} model, {wanted!r} is wanted there")
            repo, pin = split_pin(path)
            stages.append(model_class.from_pretrained(repo, **dtype_option, **pin))
        except (OSError, ValueError, KeyError, RuntimeError, tspc.CheckpointError) as error:
            raise RecogniserError(f"cannot load {path}, the {flag} of --zero S2P P2T: {_first_line(error)}") from error
    try:
        model = tspc.TSPCForConditionalGeneration.from_stages(*stages).eval()
        processor = zero_processor(s2p, p2t)
    except (OSError, ValueError) as error:
        raise RecogniserError(f"{s2p} and {p2t} do not fit together: {_first_line(error)}") from error
    pipe = tspc.TSPCPipeline(
        model=model,
        processor=processor,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device=pick_device(device),
    )
    return Recogniser(f"TSPC-Zero: {s2p} + {p2t}", pipe, "tspc", _register(pipe, "tspc"), zero=True)


def zero_processor(s2p: str, p2t: str) -> Any:
    """Front end and phoneme tokenizer of `s2p` with the text tokenizer of `p2t`; their phonemes must agree."""
    from transformers import AutoTokenizer

    import models.tspc as tspc

    (s2p, s2p_pin), (p2t, p2t_pin) = split_pin(s2p), split_pin(p2t)
    heard = tspc.S2PProcessor.from_pretrained(s2p, **s2p_pin)
    read = AutoTokenizer.from_pretrained(p2t, subfolder="phoneme_tokenizer", trust_remote_code=False, **p2t_pin)
    if heard.tokenizer.get_vocab() != read.get_vocab():
        raise ValueError("their phoneme tokenizers differ; train both stages with the same register and tokenizer")
    text = AutoTokenizer.from_pretrained(p2t, trust_remote_code=False, **p2t_pin)
    return tspc.TSPCProcessor(heard.feature_extractor, text, read)


def decoding_options(
    recogniser: Recogniser,
    *,
    num_beams: int = 1,
    generate_kwargs: dict[str, Any] | None = None,
    search: str | None = None,
    nbest: int = 1,
    lm: Any = None,
    lm_weight: float = 0.0,
) -> dict[str, Any]:
    """What the pipeline of a recogniser is called with; arguments as of `recognise`."""
    if not recogniser.searches:
        if search or nbest > 1:
            raise RecogniserError(f"{recogniser.name} gives one text; searches and n-best lists are of transducers")
        if not recogniser.decodes_with_beams:
            return {}
        options = {"num_beams": num_beams, **(generate_kwargs or {})}
        if recogniser.zero:
            options.setdefault("s2p_num_beams", num_beams)
        return {"generate_kwargs": options}
    found = recogniser.search_for(num_beams, search)
    if not found.endswith("beam"):
        return {"search": found}
    options = {"search": found, "beam_size": num_beams, "nbest": min(nbest, num_beams)}
    return options | ({"lm": lm, "lm_weight": lm_weight} if lm is not None else {})


def recognise(
    recogniser: Recogniser,
    rows: Sequence[dict[str, Any]],
    *,
    num_beams: int = 1,
    batch_size: int = 8,
    generate_kwargs: dict[str, Any] | None = None,
    search: str | None = None,
    nbest: int = 1,
    lm: Any = None,
    lm_weight: float = 0.0,
    progress: Callable[[int], Any] | None = None,
) -> Recognised:
    """Transcribe rows of the schema, longest first so that batches hold utterances of like length.

    Args:
        rows: with `audio` (encoded, as the loaders give it) and `duration_s`.
        num_beams: of the text; TSPC-Zero uses as many for its phonemes (figure 3 of the paper), a tuned TSPC stays
            greedy there, as it was trained. CTC baselines have none. Transducers: 1 is greedy, more is modified beam
            search.
        generate_kwargs: further arguments of `generate`, such as `{"language": "vi"}` for multilingual Whisper.
        search: one of `recogniser.searches` instead of that which `num_beams` means.
        nbest, lm, lm_weight: of its beam searches: readings to keep; a `WordLanguageModel` and its weight.
        progress: called with 1 after each utterance.

    Raises:
        AudioError: a recording cannot be read (validated rows can).
        RecogniserError: a search that the model does not have.
    """
    order = sorted(range(len(rows)), key=lambda index: -(rows[index].get("duration_s") or 0.0))
    audio_s = 0.0

    def samples() -> Iterator[dict[str, Any]]:
        nonlocal audio_s
        for index in order:
            audio = read_audio(rows[index]["audio"])
            audio_s += len(audio) / SAMPLING_RATE_HZ
            yield {"raw": audio, "sampling_rate": SAMPLING_RATE_HZ}

    options = {"batch_size": batch_size} | decoding_options(
        recogniser,
        num_beams=num_beams,
        generate_kwargs=generate_kwargs,
        search=search,
        nbest=nbest,
        lm=lm,
        lm_weight=lm_weight,
    )
    if recogniser.kind == "tspc":
        options["return_phonemes"] = True
    outputs: list[dict[str, Any]] = [{}] * len(rows)
    start = time.perf_counter()
    for index, output in zip(order, recogniser.pipe(samples(), **options), strict=True):
        outputs[index] = output
        if progress:
            progress(1)
    seconds = time.perf_counter() - start
    key = {"tspc": "phonemes", "s2p": "text"}.get(recogniser.kind)
    phonemes = [_symbols(output[key]) for output in outputs] if key else None
    texts = [output["text"] for output in outputs] if recogniser.kind != "s2p" else None
    readings = [output["nbest"] for output in outputs] if options.get("nbest", 1) > 1 else None
    return Recognised(texts, phonemes, seconds, audio_s, readings)


def _symbols(value: Any) -> list[str]:
    return value.split() if isinstance(value, str) else [symbol for part in value for symbol in str(part).split()]


def _register(pipe: Any, kind: Kind) -> Literal["full", "vmd"] | None:
    """`vmd` is a subset of `full`: a vocabulary with any symbol that only `full` has is in `full`."""
    if kind not in ("tspc", "s2p"):
        return None
    tokenizer = pipe.phoneme_tokenizer  # of an S2P, its only tokenizer
    only_full = set(phoneme_symbols("full")) - set(phoneme_symbols("vmd"))
    return "full" if only_full & set(tokenizer.get_vocab()) else "vmd"


def _model_type(path: str) -> str:
    from transformers import PreTrainedConfig

    repo, pin = split_pin(path)
    return PreTrainedConfig.get_config_dict(repo, **pin)[0].get("model_type", "unknown")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
