"""Transcribe files and folders: resumable, and one bad file never stops the others.

The output is JSON lines, one object a file, appended while the work goes on; it is its own record, so the same command
goes on where it was cut off and retries what failed. `<output>.txt` holds "file<TAB>text" lines of what succeeded;
`trainers.subtitles` makes subtitles and tables of it. With an emotion classifier, recordings and their pieces carry
emotions too (`trainers.understanding`).
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_scripts.audio import SAMPLING_RATE_HZ, AudioError, audio_info, read_audio

from .classifiers import Classifier
from .language_model import load_language_model
from .recognisers import Recogniser, decoding_options
from .subtitles import replace_file, write_formats

logger = logging.getLogger(__name__)
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".mp4", ".aiff", ".aif", ".au")


LONG_S = 120.0
# What is kept of a result beside its text.
EXTRA = ("chunks", "emotion", "scores", "cues", "segments")


class TranscriptionError(ValueError):
    """Wrong arguments: nothing to transcribe, or an output that belongs to other settings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a transcript; an output file is only ever continued with the same settings."""

    model: str
    num_beams: int = 1
    chunk_length_s: float = 30.0
    phonemes: bool = False
    search: str | None = None
    lm: str | None = None
    lm_weight: float = 0.3
    timestamps: str | None = None
    guards: bool = True
    emotion: str | None = None
    rules: bool | str = False
    segments: bool = False
    """A record with pieces also serves where none are wanted."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within it, gives what to call between files: it raises the KeyboardInterrupt that reading a file swallowed.

    Python drops exceptions in callbacks of C libraries, and soundfile reads by such callbacks: an interruption in one
    would only make a sound file look truncated.
    """
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    # The main thread alone gets signals; shells let jobs in the background ignore this one, and notebooks handle it.
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def find_audio(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files named directly, and audio files (by suffix) anywhere below folders; sorted within a folder, no repeats.

    Raises:
        TranscriptionError: a path does not exist, or a folder has no audio file.
    """
    found: dict[Path, None] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            files = sorted(
                path for path in given.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()
            )
            if not files:
                raise TranscriptionError(f"{given} has no audio file ({', '.join(AUDIO_SUFFIXES)})")
            found |= dict.fromkeys(files)
        elif given.exists():
            found[given] = None
        else:
            raise TranscriptionError(f"{given} does not exist")
    if not found:
        raise TranscriptionError("nothing to transcribe: name files or folders")
    return list(found)


def read_record(output: str | os.PathLike[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Lines of an earlier, perhaps interrupted, run by file; a line that was cut off is dropped.

    Raises:
        TranscriptionError: the file is something else, or was made with other settings.
    """
    record: dict[str, dict[str, Any]] = {}
    path = Path(output)
    if not path.is_file():
        return record
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, made_with = entry["file"], asdict(Settings(**entry["settings"]))
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # the only line that an interruption can cut
                continue
            problem = f"{path}, line {number}, is not a transcript of this program"
            raise TranscriptionError(f"{problem}; choose another --output") from None
        wanted = asdict(settings)
        wanted["segments"] |= made_with["segments"]
        if made_with != wanted:
            changed = sorted(key for key, value in wanted.items() if made_with[key] != value)
            theirs = ", ".join(f"{key}={made_with[key]!r}" for key in changed)
            raise TranscriptionError(
                f"{path} was made with {theirs}; choose another --output, or delete it to start again"
            )
        record[name] = entry
    return record


def pending(files: Sequence[Path], output: str | os.PathLike[str], settings: Settings) -> list[Path]:
    """Files that `output` has no transcript of yet; errors as `read_record`."""
    record = read_record(output, settings)
    return [file for file in files if _is_open(file, record.get(str(file)))]


def transcribe_files(
    recogniser: Recogniser | None,
    files: Sequence[Path],
    output: str | os.PathLike[str],
    settings: Settings,
    *,
    batch_size: int = 4,
    on_result: Callable[[dict[str, Any]], None] | None = None,
    classifier: Classifier | None = None,
    formats: Sequence[str] = ("txt",),
    output_folder: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Transcribe what the output does not hold yet.

    A file that changed in size since, or that failed, is done again. Memory holds one batch of recordings; Zipformer
    and FastConformer, and every model with `settings.emotion` or `settings.segments`, read recordings of more than
    `LONG_S` as they go.

    Args:
        recogniser: may be None if nothing is `pending`.
        files: as from `find_audio`. output: a .jsonl file, created or continued.
        on_result: called with each new line: {"file", "size_bytes", "settings", "duration_s", "text", "phonemes"?,
            "chunks"?, "emotion"?, "scores"?, "cues"?, "segments"?} or {…, "error"}; chunks are {"text", "timestamp":
            [start_s, end_s]}, segments {"start_s", "end_s", "text", "emotion"?, "scores"?, "cues"?}.
        classifier: the `Classifier` that `settings.emotion` names; may be None if nothing is `pending`.
        formats, output_folder: as of `write_formats`; they can be other ones in each run.

    Returns:
        The lines of `files`, in their order, old and new.

    Raises:
        TranscriptionError: `output` is not a .jsonl path or belongs to other settings, or files of `formats` are there
            that this program did not write (all others are written).
    """
    path = Path(output)
    if path.suffix != ".jsonl":
        raise TranscriptionError(f"--output must end in .jsonl, got {path}")
    record = read_record(path, settings)
    if any(entry["settings"].get("segments") for entry in record.values()):
        settings = replace(settings, segments=True)
    todo = pending(files, path, settings)
    if todo and recogniser is None:
        raise TranscriptionError(f"{len(todo)} files are not transcribed yet and no recogniser was given")
    if todo and settings.emotion and classifier is None:
        raise TranscriptionError(f"{len(todo)} files are not classified yet and no classifier was given")
    logger.info("%d of %d files to transcribe", len(todo), len(files))
    path.parent.mkdir(parents=True, exist_ok=True)
    if record:  # drops a cut-off line and lines that are done again
        again = {str(file) for file in todo}
        kept = [_json(entry) + "\n" for name, entry in record.items() if name not in again]
        replace_file(path, "".join(kept).encode())
    with path.open("a", encoding="utf-8") as stream:
        for entry in _transcripts(recogniser, classifier, todo, settings, batch_size) if recogniser else ():
            record[entry["file"]] = entry
            stream.write(_json(entry) + "\n")
            stream.flush()
            if on_result:
                on_result(entry)
    if left := write_formats(list(record.values()), path, formats, output_folder):
        others = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise TranscriptionError(
            f"not written, because this program did not write what is there: {left[0]}{others}; name another "
            "--output_folder, or move what is there"
        )
    return [record[str(file)] for file in files]


def _is_open(file: Path, entry: dict[str, Any] | None) -> bool:
    return entry is None or "error" in entry or entry["size_bytes"] != file.stat().st_size


def _transcripts(
    recogniser: Recogniser, classifier: Classifier | None, files: Iterable[Path], settings: Settings, batch_size: int
) -> Iterator[dict[str, Any]]:
    call, streams = _call(recogniser, classifier, settings)
    batch: list[tuple[dict[str, Any], Any]] = []
    for file in files:
        entry: dict[str, Any] = {"file": str(file), "size_bytes": 0, "settings": asdict(settings)}
        try:
            entry["size_bytes"] = file.stat().st_size
            audio: Any = str(file)
            if streams and (seconds := audio_info(audio).duration_s) > LONG_S:
                entry["duration_s"] = round(seconds, 3)
            else:
                audio = {"raw": read_audio(audio), "sampling_rate": SAMPLING_RATE_HZ}
                entry["duration_s"] = round(len(audio["raw"]) / SAMPLING_RATE_HZ, 3)
        except (AudioError, OSError) as error:
            yield entry | {"error": _line(str(error))}
            continue
        batch.append((entry, audio))
        if len(batch) == batch_size:
            yield from _recognise(call, batch, batch_size)
            batch = []
    if batch:
        yield from _recognise(call, batch, batch_size)


def _call(
    recogniser: Recogniser, classifier: Classifier | None, settings: Settings
) -> tuple[Callable[..., Any], bool]:
    """What recordings are given to, with `batch_size`; and whether it reads files as it goes."""
    options = _options(recogniser, settings)
    if not (settings.emotion or settings.segments):
        streams = bool(recogniser.searches)
        return lambda audio, batch_size: recogniser.pipe(audio, batch_size=batch_size, **options), streams
    from .understanding import SpeechUnderstandingPipeline, read_rules

    rules = read_rules(settings.rules)
    understand = SpeechUnderstandingPipeline(recogniser, classifier if settings.emotion else None, rules)
    options.pop("return_phonemes", None)  # they come where there are any
    return partial(understand, segments=True, **options), True


def _options(recogniser: Recogniser, settings: Settings) -> dict[str, Any]:
    """What the pipeline is called with; ValueErrors for what it cannot do."""
    if settings.phonemes and recogniser.kind not in ("tspc", "s2p") and (settings.emotion or settings.segments):
        raise TranscriptionError(f"{recogniser.name} gives no phonemes: leave --phonemes out")
    if settings.timestamps and recogniser.kind in ("tspc", "s2p"):
        raise TranscriptionError(f"{recogniser.name} gives no times: leave --timestamps out")
    if settings.lm and not recogniser.searches:
        raise TranscriptionError(f"{recogniser.name} takes no language model: leave --lm out")
    lm = load_language_model(settings.lm, recogniser.pipe.tokenizer) if settings.lm else None
    options = {"chunk_length_s": settings.chunk_length_s} | decoding_options(
        recogniser, num_beams=settings.num_beams, search=settings.search, lm=lm, lm_weight=settings.lm_weight
    )
    if settings.phonemes:
        options["return_phonemes"] = True
    if settings.timestamps:
        options["return_timestamps"] = True if settings.timestamps == "segment" else settings.timestamps
    return options


def _recognise(
    call: Callable[..., Any], batch: list[tuple[dict[str, Any], Any]], batch_size: int
) -> Iterator[dict[str, Any]]:
    try:
        # The pieces of one long recording make batches too.
        outputs = call([audio for _, audio in batch], batch_size=batch_size)
    except (RuntimeError, ValueError, OSError) as error:  # one recording, or all of them together, may be too much
        if len(batch) > 1:
            for single in batch:
                yield from _recognise(call, [single], 1)
        else:
            yield batch[0][0] | {"error": f"recognition failed: {_line(str(error))}"}
        return
    for (entry, _), result in zip(batch, outputs, strict=True):
        wanted = ["phonemes", *EXTRA] if entry["settings"]["phonemes"] else EXTRA
        extra = {key: result[key] for key in wanted if key in result}
        for part in (extra, *extra.get("segments", ())):
            if "scores" in part:
                part["scores"] = {label: round(score, 6) for label, score in part["scores"].items()}
        yield entry | {"text": result["text"].strip()} | extra


def _json(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.split())
