"""Audio for the pipeline: any common file, bytes or array to mono samples, with whatever decoder is installed.

soundfile reads WAV, FLAC, Ogg, Opus and MP3; PyAV adds m4a and webm; without either, PCM WAV still works.
"""

import io
import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch

MAX_CHANNELS = 8
FRAME_S = 0.01
QUIET_S = 0.2
# A last piece shorter than this holds no word.
SHORTEST_PIECE_S = 0.5


class AudioInputError(ValueError):
    """Audio that cannot be transcribed; the message names the input."""


def load_audio(source: Any, sampling_rate: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Anything the pipeline accepts -> mono float32 samples at `sampling_rate`, and the extra keys of a dict.

    Raises:
        FileNotFoundError: no such file.
        AudioInputError: empty, truncated, not audio, NaN samples, or an input of another kind.
    """
    extra: dict[str, Any] = {}
    if isinstance(source, str | os.PathLike):
        name = str(source)
        samples, rate = decode(read_file(name), name)
    elif isinstance(source, bytes | bytearray):
        name = f"audio of {len(source)} bytes"
        samples, rate = decode(bytes(source), name)
    elif isinstance(source, dict):
        samples, rate, extra = from_dict(source, sampling_rate)
        name = str(source.get("path") or f"array of shape {tuple(np.shape(samples))}")
    else:
        samples, rate = source, sampling_rate
        name = f"array of shape {tuple(np.shape(samples))}"
    mono = to_mono(samples, name)
    if mono.size == 0:
        raise AudioInputError(f"{name}: empty, it has no samples")
    if not np.isfinite(mono).all():
        raise AudioInputError(f"{name}: {int((~np.isfinite(mono)).sum())} of {mono.size} samples are NaN or infinite")
    return resample(mono, int(rate), sampling_rate), extra


def from_dict(source: dict[str, Any], sampling_rate: int) -> tuple[Any, int, dict[str, Any]]:
    extra = extra_keys(source)
    samples = source.get("raw", source.get("array"))
    if samples is not None:
        if not isinstance(source.get("sampling_rate"), int | np.integer) or source["sampling_rate"] <= 0:
            raise AudioInputError(
                f"audio dict: sampling_rate is {source.get('sampling_rate')!r}; give the rate of the samples in Hz"
            )
        return samples, int(source["sampling_rate"]), extra
    if source.get("bytes"):
        samples, rate = decode(source["bytes"], str(source.get("path") or "bytes"))
        return samples, rate, extra
    if source.get("path"):
        samples, rate = decode(read_file(str(source["path"])), str(source["path"]))
        return samples, rate, extra
    raise AudioInputError(
        f"audio dict with keys {sorted(map(str, source))}: it needs 'array' (or 'raw') with 'sampling_rate', "
        "or 'bytes', or 'path'"
    )


def extra_keys(source: dict[str, Any]) -> dict[str, Any]:
    """What a dict holds beside its audio."""
    return {
        key: value for key, value in source.items() if key not in ("array", "raw", "sampling_rate", "path", "bytes")
    }


def read_file(name: str) -> bytes:
    if name.startswith(("http://", "https://")):
        from urllib.request import urlopen

        with urlopen(name, timeout=60) as response:
            return response.read()
    if os.path.isdir(name):
        raise AudioInputError(f"{name}: a folder, not an audio file")
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such audio file")
    with open(name, "rb") as file:
        return file.read()


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Encoded audio -> mono (samples,) float32 and its rate in Hz."""
    if not data:
        raise AudioInputError(f"{name}: empty, 0 bytes")
    if data[:4] == b"RIFF":
        declared = int.from_bytes(data[4:8], "little") + 8
        # Streams leave the size at 0 or at its maximum.
        if len(data) + 1 < declared < 0xFFFFFFFF:
            raise AudioInputError(f"{name}: truncated, {len(data)} of {declared} bytes are there")
    for decoder in (decode_soundfile, decode_av, decode_wave):
        try:
            samples, rate = decoder(data, name)
            return (samples.mean(axis=1) if samples.size else samples.reshape(-1)), rate
        except ImportError:
            continue
        except AudioInputError as error:
            if decoder is decode_soundfile and "truncated" not in str(error):
                # PyAV knows formats that soundfile does not; its absence leaves the first verdict.
                try:
                    samples, rate = decode_av(data, name)
                    return samples[:, 0], rate
                except (ImportError, AudioInputError):
                    raise error from None
            raise
    raise AudioInputError(f"{name}: not a PCM WAV file; `pip install soundfile` to read other formats")


def decode_soundfile(data: bytes, name: str) -> tuple[np.ndarray, int]:
    # Not `import`: transformers would demand every package named so of whoever loads the model.
    soundfile = import_module("soundfile")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            declared, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioInputError(f"{name}: not readable as audio ({str(error).strip()})") from error
    if 0 < declared < 2**60 and len(samples) < declared:
        raise AudioInputError(f"{name}: truncated, {len(samples)} of {declared} samples are there")
    return samples, rate


def decode_av(data: bytes, name: str) -> tuple[np.ndarray, int]:
    av = import_module("av")
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.audio:
                raise AudioInputError(f"{name}: no audio in the file")
            rate = container.streams.audio[0].rate
            converter = av.AudioResampler(format="flt", layout="mono", rate=rate)
            frames = [*container.decode(audio=0), None]
            pieces = [out.to_ndarray().reshape(-1) for frame in frames for out in converter.resample(frame)]
    except (av.FFmpegError, ValueError) as error:
        raise AudioInputError(f"{name}: not readable as audio ({error})") from error
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32))[:, None], rate


def decode_wave(data: bytes, name: str) -> tuple[np.ndarray, int]:
    import wave

    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise AudioInputError(
            f"{name}: not a PCM WAV file ({error}); `pip install soundfile` to read other formats"
        ) from error
    if width == 3:  # no 24-bit type: shift into 32
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        samples = padded.view("<i4").reshape(-1) / 2.0**31
    elif width == 1:
        samples = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    else:
        samples = np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)
    return samples.astype(np.float32).reshape(-1, channels), rate


def to_mono(samples: Any, name: str) -> np.ndarray:
    """(N,), (N, channels) or (channels, N) of any real type -> (N,) float32; integers are scaled to full scale 1."""
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples
        samples = samples.numpy()
    if not isinstance(samples, np.ndarray | list | tuple):
        raise AudioInputError(
            f"input of type {type(samples).__name__}: give a path, bytes, an array of samples, or a dict with 'array' "
            "and 'sampling_rate'"
        )
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf":
        raise AudioInputError(f"{name}: samples of type {array.dtype}, not numbers")
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        middle = 0 if limits.min < 0 else (limits.max + 1) / 2
        array = (array.astype(np.float64) - middle) / (limits.max + 1 - middle)
    if array.ndim == 2 and array.size:
        channel_axis = 0 if array.shape[0] < array.shape[1] else 1
        if array.shape[channel_axis] > MAX_CHANNELS:
            raise AudioInputError(
                f"{name}: {array.shape[channel_axis]} channels; at most {MAX_CHANNELS} are mixed down"
            )
        array = array.mean(axis=channel_axis)
    if array.ndim != 1 and array.size:
        raise AudioInputError(f"{name}: samples of {array.ndim} dimensions; give (samples,) or (channels, samples)")
    return array.astype(np.float32).reshape(-1)


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Band-limited resampling of (N,) float32: soxr where installed, else by Fourier transform."""
    if source_rate == target_rate:
        return samples
    try:
        import soxr
    except ImportError:
        # Mirrored ends, because the transform takes the signal for periodic.
        margin = min(len(samples) - 1, source_rate // 10)
        padded = np.pad(samples, margin, mode="reflect")
        size = max(1, round(len(padded) * target_rate / source_rate))
        spectrum = np.fft.rfft(padded)[: size // 2 + 1]
        full = np.fft.irfft(spectrum, n=size) * (size / len(padded))
        start = round(margin * target_rate / source_rate)
        return full[start : start + max(1, round(len(samples) * target_rate / source_rate))].astype(np.float32)
    return soxr.resample(samples, source_rate, target_rate)


def split_at_quiet(samples: np.ndarray, sampling_rate: int, longest_s: float) -> Iterator[np.ndarray]:
    """Pieces of at most `longest_s`, cut where the audio is quietest; no overlap, so nothing has to be merged.

    A cut falls in the last 40 % of the longest piece possible, at the quietest fifth of a second there.
    """
    for _, piece in pieces_at_quiet([samples], sampling_rate, longest_s):
        yield piece


def pieces_at_quiet(
    blocks: Iterable[np.ndarray], sampling_rate: int, longest_s: float
) -> Iterator[tuple[int, np.ndarray]]:
    """As `split_at_quiet`, of audio that comes in blocks: (first sample, samples) of each piece.

    Pieces do not depend on the blocks; a piece and half a second, and one block, are held at a time.
    """
    longest = max(1, int(longest_s * sampling_rate))
    shortest = int(SHORTEST_PIECE_S * sampling_rate)
    buffer, start = np.zeros(0, np.float32), 0
    for block in blocks:
        buffer = np.concatenate([buffer, block]) if len(buffer) else block
        # The cut depends on how much follows only within the last half second.
        while len(buffer) - longest > shortest:
            cut = _quiet_cut(buffer, sampling_rate, longest, longest)
            yield start, buffer[:cut]
            buffer, start = buffer[cut:], start + cut
    while len(buffer) > longest:
        cut = _quiet_cut(buffer, sampling_rate, longest, len(buffer) - shortest)
        yield start, buffer[:cut]
        buffer, start = buffer[cut:], start + cut
    yield start, buffer


def _quiet_cut(samples: np.ndarray, sampling_rate: int, longest: int, spared: int) -> int:
    """The quietest place between 0.6 and 1 times `longest`, before `spared` if that lies between them."""
    low, high = int(0.6 * longest), longest
    if low < spared < high:
        high = spared
    section = samples[low:high].astype(np.float64)
    hop = max(1, int(FRAME_S * sampling_rate))
    frames = max(1, len(section) // hop)
    energy = np.square(section[: frames * hop]).reshape(frames, -1).sum(1) if len(section) >= hop else np.zeros(1)
    width = min(frames, int(QUIET_S / FRAME_S))
    smooth = np.convolve(energy, np.ones(width), mode="same")
    quietest = frames - 1 - int(smooth[::-1].argmin())  # the last one: fewer pieces
    return min(low + quietest * hop + hop // 2, longest)
