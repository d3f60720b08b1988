"""Long audio: files read in blocks, whatever their length, and silence told from sound."""

import io
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from .audio_input import AudioInputError, extra_keys, load_audio, read_file

BLOCK_S = 10.0
# Loudness is that of this long.
WINDOW_S = 0.1


def stream_audio(source: Any, sampling_rate: int) -> tuple[Iterator[np.ndarray], dict[str, Any]]:
    """As `load_audio`, in blocks (mono float32), with the extra keys of a dict.

    What soundfile reads is decoded as the blocks are taken, so that memory does not grow with the length of a file;
    the rest is loaded as a whole. Errors are those of `load_audio`, and may come with any block.
    """
    if isinstance(source, dict) and source.get("raw", source.get("array")) is None:
        inner = source.get("bytes") or source.get("path")
        if inner:
            return stream_audio(inner, sampling_rate)[0], extra_keys(source)
    if isinstance(source, str | os.PathLike | bytes | bytearray):
        is_data = isinstance(source, bytes | bytearray)
        name = f"audio of {len(source)} bytes" if is_data else str(source)
        if name.startswith(("http://", "https://")):
            source = read_file(name)
        if (file := _open(source, sampling_rate)) is not None:
            return _file_blocks(file, name, sampling_rate), {}
    samples, extra = load_audio(source, sampling_rate)
    return iter([samples]), extra


def _open(source: Any, sampling_rate: int) -> Any:
    """The file opened by soundfile; None where that cannot stream it: `load_audio` can, or says what is wrong."""
    if isinstance(source, bytes | bytearray):
        handle: Any = io.BytesIO(source)
    elif os.path.isfile(source):
        handle = open(source, "rb")  # noqa: SIM115 - it is closed with the blocks
    else:
        return None
    file = None
    try:
        head, size = handle.read(8), handle.seek(0, os.SEEK_END)
        handle.seek(0)
        if not (head[:4] == b"RIFF" and size + 1 < int.from_bytes(head[4:], "little") + 8 < 0xFFFFFFFF):
            file = import_module("soundfile").SoundFile(handle)
            if file.samplerate != sampling_rate:
                import_module("soxr")
    except (ImportError, RuntimeError):  # the errors of soundfile are RuntimeErrors
        file = None
    if file is None:
        handle.close()
    return file


def _file_blocks(file: Any, name: str, sampling_rate: int) -> Iterator[np.ndarray]:
    rate, declared, read = file.samplerate, file.frames, 0
    size = int(BLOCK_S * rate)
    resampler = import_module("soxr").ResampleStream(rate, sampling_rate, 1) if rate != sampling_rate else None
    with file:
        is_last = False
        while not is_last:
            try:
                block = file.read(size, dtype="float32", always_2d=True).mean(axis=1)
            except RuntimeError as error:
                raise AudioInputError(f"{name}: not readable as audio ({str(error).strip()})") from error
            read, is_last = read + len(block), len(block) < size
            if not np.isfinite(block).all():
                raise AudioInputError(f"{name}: samples before {read / rate:.1f} s are NaN or infinite")
            if is_last and not read:
                raise AudioInputError(f"{name}: empty, it has no samples")
            if is_last and read < declared < 2**60:
                raise AudioInputError(f"{name}: truncated, {read} of {declared} samples are there")
            yield resampler.resample_chunk(block, last=is_last) if resampler else block


def is_silent(samples: np.ndarray, sampling_rate: int, threshold_dbfs: float) -> bool:
    """Whether no tenth of a second is louder (RMS about the mean, against full scale 1) than the threshold."""
    if not len(samples):
        return True
    width = max(1, int(WINDOW_S * sampling_rate))
    centred = samples - samples.mean(dtype=np.float64)
    whole = len(centred) // width * width
    parts = (centred[:whole].reshape(-1, width), centred[None, -width:])
    loudest = max(float(np.square(part).mean(1).max()) for part in parts if part.size)
    return loudest <= 10 ** (threshold_dbfs / 10)
