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
Kind = Literal["tspc", "s2p", "seq2seq", "ctc"]
_OURS: dict[str, Kind] = {"tspc": "tspc", "tspc_s2p": "s2p"}


class RecogniserError(ValueError):
    """A model that cannot be loaded or cannot recognise speech; the message names it and says what to do."""


@dataclass
class Recogniser:
    """A loaded ASR pipeline and what it can give.

    kind: "tspc" gives text and phonemes, "s2p" phonemes alone, "seq2seq" and "ctc" (baselines) text alone.
    register: of the phonemes, None without. zero: two stages joined without joint tuning.
    """

    name: str
    pipe: Any
    kind: Kind
    register: Literal["full", "vmd"] | None = None
    zero: bool = False

    @property
    def decodes_with_beams(self) -> bool:
        return self.kind != "ctc"


@dataclass
class Recognised:
    """Hypotheses in the order of the rows, and the time they took.

    texts is None for a phoneme recogniser, phonemes is None for a baseline. `seconds` is wall time with reading and
    resampling of the audio included, loading of the model excluded; `rtf` is seconds per second of audio.
    """

    texts: list[str] | None
    phonemes: list[list[str]] | None
    seconds: float
    audio_s: float

    @property
    def rtf(self) -> float:
        return self.seconds / self.audio_s if self.audio_s else 0.0


def pick_device(device: str = "auto") -> str:
    """ "auto" is the first accelerator, else the CPU; anything else is returned as it is."""
    import torch

    return device if device != "auto" else ("cuda:0" if torch.cuda.is_available() else "cpu")


def load_recogniser(
    model: str, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> Recogniser:
    """Load a folder or Hub id (`id@revision` for one version). Our own model types never run code of the repository.

    Args:
        dtype: "auto" keeps the checkpoint's; else "float32", "bfloat16" or "float16".
        trust_remote_code: allow a baseline to run Python files of its repository, which must be pinned to a commit.

    Raises:
        RecogniserError: not found, not loadable, or no speech recogniser.
    """
    from transformers import AutoConfig, pipeline

    import models.tspc as tspc
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
    kind = _OURS.get(config.model_type)
    options: dict[str, Any] = {"device": pick_device(device), "dtype": dtype}
    if kind:
        options |= {"pipeline_class": tspc.TSPCPipeline, "trust_remote_code": False}
    else:
        options["trust_remote_code"] = trust_remote_code
    try:
        with plain_weights(model):
            pipe = pipeline("automatic-speech-recognition", model=repo, **pin, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, tspc.CheckpointError) as error:
        raise RecogniserError(f"cannot load {model} as a speech recogniser: {_first_line(error)}") from error
    if pipe.tokenizer is not None and pipe.tokenizer.pad_token_id is None:
        pipe.tokenizer.pad_token_id = pipe.tokenizer.eos_token_id  # batches need one; older checkpoints name none
    if kind is None:
        kind = "ctc" if pipe.type.startswith("ctc") else "seq2seq"
    return Recogniser(model, pipe, kind, _register(pipe, kind))


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


def recognise(
    recogniser: Recogniser,
    rows: Sequence[dict[str, Any]],
    *,
    num_beams: int = 1,
    batch_size: int = 8,
    generate_kwargs: dict[str, Any] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Recognised:
    """Transcribe rows of the schema, longest first so that batches hold utterances of like length.

    Args:
        rows: with `audio` (encoded, as the loaders give it) and `duration_s`.
        num_beams: of the text; TSPC-Zero uses as many for its phonemes (figure 3 of the paper), a tuned TSPC stays
            greedy there, as it was trained. CTC models have none.
        generate_kwargs: further arguments of `generate`, such as `{"language": "vi"}` for multilingual Whisper.
        progress: called with 1 after each utterance.

    Raises:
        AudioError: a recording cannot be read (validated rows can).
    """
    order = sorted(range(len(rows)), key=lambda index: -(rows[index].get("duration_s") or 0.0))
    audio_s = 0.0

    def samples() -> Iterator[dict[str, Any]]:
        nonlocal audio_s
        for index in order:
            audio = read_audio(rows[index]["audio"])
            audio_s += len(audio) / SAMPLING_RATE_HZ
            yield {"raw": audio, "sampling_rate": SAMPLING_RATE_HZ}

    options: dict[str, Any] = {"batch_size": batch_size}
    if recogniser.decodes_with_beams:
        options["generate_kwargs"] = {"num_beams": num_beams, **(generate_kwargs or {})}
        if recogniser.zero:
            options["generate_kwargs"].setdefault("s2p_num_beams", num_beams)
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
    return Recognised(texts, phonemes, seconds, audio_s)


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
