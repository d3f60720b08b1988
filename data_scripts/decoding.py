"""Encoded audio in, mono float32 out: one decoder for every reader, with an error that names the file and the fault.

soundfile (libsndfile) reads WAV, FLAC, Ogg/Vorbis, Opus, MP3, AIFF and AU with nothing installed beside it; m4a, aac
and webm need the optional PyAV. The format is recognised by content, never by file name.

Cost of `read_audio` on one core, checks included, per second of audio: FLAC 0.27 ms at 16 kHz and 0.89 ms at 48 kHz,
Opus 2.2 ms; libsndfile alone takes 0.23 ms and 2.0 ms of it at 16 kHz.
"""

import io
import os
import struct
from collections.abc import Mapping
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

SAMPLING_RATE_HZ = 16_000
MIN_DURATION_S = 0.025  # one analysis window
MAX_DURATION_S = (
    4 * 3600.0
)  # 0.9 GB once decoded; a guard against a small file that decodes to more memory than there is
SILENCE_PEAK = 1e-4  # -80 dBFS: above the residue that lossy codecs leave of digital silence
CANCELLED_RATIO = 0.03  # mono mix 30 dB below its channels
WRONG_SCALE_PEAK = 8.0  # no float recording reaches +18 dBFS; integer samples stored as floats do
DC_OFFSET = 0.05
CLIPPED_FRACTION = 0.01
HEADER_TOLERANCE_S = 0.1  # MP3 headers count encoder padding

AudioSource = str | os.PathLike | bytes | bytearray | Mapping[str, Any]
"""A path, the bytes of a file, `{"path", "bytes"}` or `{"array", "sampling_rate"}`."""

# libsndfile's name of a container → the file name extensions that agree with it.
EXTENSIONS = {
    "WAV": {".wav", ".wave"},
    "WAVEX": {".wav", ".wave"},
    "RF64": {".wav", ".rf64"},
    "W64": {".w64"},
    "FLAC": {".flac"},
    "OGG": {".ogg", ".oga", ".opus"},
    "MP3": {".mp3", ".mpga", ".mpeg"},
    "MPEG": {".mp3", ".mpga", ".mpeg"},
    "AIFF": {".aif", ".aiff", ".aifc"},
    "AU": {".au", ".snd"},
}


class AudioError(ValueError):
    """Audio that cannot be used.

    Attributes:
        code: what is wrong, one of `data_scripts.validate.CODES`.
        name: the file, or "<bytes>" / "<array>" for sources without one.
        detail: the sentence after the file name in the message.
    """

    def __init__(self, code: str, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail} [{code}]")
        self.code, self.name, self.detail = code, name, detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.code, self.name, self.detail)  # survives the way back from a worker process


class AudioInfo(NamedTuple):
    """What the header says, before any sample is decoded; `container` is libsndfile's name ("WAV", "OGG", ...)."""

    duration_s: float
    sampling_rate_hz: int
    num_channels: int
    container: str = ""


class DecodedAudio(NamedTuple):
    """`samples`: mono float32 (n,) at `info.sampling_rate_hz`. `notes`: codes of what was repaired on the way."""

    samples: np.ndarray
    info: AudioInfo
    notes: tuple[str, ...]


def source_name(source: AudioSource) -> str:
    """The name of a source for messages."""
    if isinstance(source, Mapping):
        return str(source.get("path") or ("<array>" if "array" in source else "<bytes>"))
    return "<bytes>" if isinstance(source, bytes | bytearray) else str(os.fspath(source))


def read_audio(
    source: AudioSource,
    sampling_rate_hz: int = SAMPLING_RATE_HZ,
    *,
    min_duration_s: float = MIN_DURATION_S,
    max_duration_s: float | None = MAX_DURATION_S,
    allow_silent: bool = False,
) -> np.ndarray:
    """Decode, mix down and resample.

    Args:
        source: a path, the bytes of a file, `{"path", "bytes"}` or `{"array", "sampling_rate"}`; integer arrays are
            scaled to [-1, 1), two-dimensional ones hold channels on their shorter axis.
        sampling_rate_hz: rate of the result.
        min_duration_s, max_duration_s: outside of them is an error; the maximum is checked before decoding.
        allow_silent: accept digital silence (noise recordings, live input).

    Returns:
        float32 (n,), mono: the mean of the channels.

    Raises:
        AudioError: with `.code` and a message naming the file.
    """
    decoded = decode_audio(
        source, min_duration_s=min_duration_s, max_duration_s=max_duration_s, allow_silent=allow_silent
    )
    return resample(decoded.samples, decoded.info.sampling_rate_hz, sampling_rate_hz)


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 (n,) at `from_hz` → float32 (m,) at `to_hz` (soxr HQ)."""
    if from_hz != to_hz:
        samples = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)


def audio_info(source: AudioSource) -> AudioInfo:
    """Duration, rate and channels from the header, without decoding (0.1 ms a file).

    Raises:
        AudioError: unreadable, truncated (where the container shows it) or not audio.
    """
    if isinstance(source, Mapping) and source.get("array") is not None:
        samples, rate, name = _array_samples(source)
        return AudioInfo(len(samples) / rate, rate, samples.shape[1], "ARRAY")
    with _open(source) as stream:
        name = source_name(source)
        container = _check_container(stream, name)
        if container == "PYAV":
            samples, rate = _decode_with_pyav(stream, name)
            return AudioInfo(len(samples) / rate, rate, samples.shape[1], container)
        with _open_soundfile(stream, name) as file:
            return _header(file, name)


def decode_audio(
    source: AudioSource,
    *,
    min_duration_s: float = MIN_DURATION_S,
    max_duration_s: float | None = MAX_DURATION_S,
    allow_silent: bool = False,
) -> DecodedAudio:
    """As `read_audio`, at the rate of the source and with notes of what was repaired."""
    name = source_name(source)
    if isinstance(source, Mapping) and source.get("array") is not None:
        samples, rate, _ = _array_samples(source)
        info = AudioInfo(len(samples) / rate, rate, samples.shape[1], "ARRAY")
        _check_long(info.duration_s, max_duration_s, name)
    else:
        with _open(source) as stream:
            if _check_container(stream, name) == "PYAV":
                samples, rate = _decode_with_pyav(stream, name, max_duration_s)
                info = AudioInfo(len(samples) / rate, rate, samples.shape[1], "PYAV")
                _check_long(info.duration_s, max_duration_s, name)
            else:
                samples, info = _decode_with_soundfile(stream, name, max_duration_s)
    return _checked(samples, info, name, min_duration_s, allow_silent)


def _decode_with_soundfile(stream: BinaryIO, name: str, max_duration_s: float | None) -> tuple[np.ndarray, AudioInfo]:
    """Samples (n, channels) float32 and the header."""
    with _open_soundfile(stream, name) as file:
        info = _header(file, name)
        _check_long(info.duration_s, max_duration_s, name)
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError("truncated", name, f"truncated or corrupt, the decoder stopped: {error}") from error
        except (MemoryError, ValueError) as error:  # only without a maximum: a header may declare any length
            detail = f"{info.duration_s:.3g} s by its header do not fit into memory"
            raise AudioError("too_long", name, detail) from error
    rate = info.sampling_rate_hz
    if len(samples) < (info.duration_s - HEADER_TOLERANCE_S) * rate:
        detail = f"the header declares {info.duration_s:.2f} s, only {len(samples) / rate:.2f} s are there"
        raise AudioError("truncated", name, detail)
    return samples, info._replace(duration_s=len(samples) / rate)


def _checked(
    samples: np.ndarray, info: AudioInfo, name: str, min_duration_s: float, allow_silent: bool
) -> DecodedAudio:
    """Repair what can be repaired, refuse the rest. `samples`: float32 (n, channels)."""
    notes = []
    if not len(samples):
        raise AudioError("no_samples", name, "a header and no samples")
    if info.duration_s < min_duration_s:
        detail = (
            f"{len(samples)} sample(s), {1000 * info.duration_s:.1f} ms, at least {1000 * min_duration_s:g} ms wanted"
        )
        raise AudioError("too_short", name, detail)
    # A sum is five times faster than isfinite over the array, and finite unless a sample is not (or floats overflow).
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples).all(axis=1)))
        detail = f"NaN or infinite sample at {first / info.sampling_rate_hz:.3f} s"
        raise AudioError("non_finite", name, detail)
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    peak = _peak(mono)
    if peak > WRONG_SCALE_PEAK:
        if peak > 32768:
            detail = f"peak sample {peak:.3g}; floats belong in [-1, 1], integers up to 32768 are rescaled"
            raise AudioError("wrong_scale", name, detail)
        samples, mono, peak = samples / 32768, mono / np.float32(32768), peak / 32768
        notes.append("rescaled")
    offset = float(mono.mean())
    if abs(offset) > DC_OFFSET:
        mono = mono - np.float32(offset)
        peak = _peak(mono)
        notes.append("dc_offset")
    elif peak >= 0.99 and np.count_nonzero(np.abs(mono) >= 0.99) > CLIPPED_FRACTION * len(mono):
        notes.append("clipped")
    if not allow_silent:
        if samples.shape[1] > 1:
            channels_rms = float(np.sqrt(np.mean(np.square(samples - samples.mean(axis=0)))))
            mix_rms = float(np.sqrt(np.mean(np.square(mono))))
            if channels_rms > SILENCE_PEAK and mix_rms < CANCELLED_RATIO * channels_rms:
                detail = "the channels cancel each other (opposite phase): their mean is silent; keep one channel"
                raise AudioError("cancelled_stereo", name, detail)
        if peak < SILENCE_PEAK:
            raise AudioError("silent", name, f"silent: no sample above {SILENCE_PEAK:g} of full scale")
    if samples.shape[1] > 1:
        notes.append("downmixed")
    return DecodedAudio(np.ascontiguousarray(mono, dtype=np.float32), info, tuple(notes))


def _peak(mono: np.ndarray) -> float:
    return max(float(mono.max()), -float(mono.min()))


def _check_long(duration_s: float, max_duration_s: float | None, name: str) -> None:
    if max_duration_s is not None and duration_s > max_duration_s:
        raise AudioError("too_long", name, f"{duration_s:.1f} s, at most {max_duration_s:g} s allowed")


def _array_samples(source: Mapping[str, Any]) -> tuple[np.ndarray, int, str]:
    """Float32 (n, channels), rate, name of an `{"array", "sampling_rate"}` source."""
    name = source_name(source)
    array, rate = np.asarray(source["array"]), source.get("sampling_rate")
    if not isinstance(rate, int | float | np.number) or not 1000 <= rate <= 768_000:
        raise AudioError("no_sampling_rate", name, f"an array needs its sampling_rate in Hz, got {rate!r}")
    if array.ndim not in (1, 2) or not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
        raise AudioError("not_audio", name, f"an array of real numbers (n,) wanted, got {array.dtype} {array.shape}")
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        half = (limits.max - int(limits.min) + 1) / 2
        array = (array.astype(np.float64) - (half if limits.min == 0 else 0)) / half
    return array.astype(np.float32).reshape(len(array), -1), int(rate), name


def _open(source: AudioSource) -> BinaryIO:
    """A seekable binary stream; raises AudioError for what is not a readable file."""
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            source = source["bytes"]
        elif source.get("path") is not None:
            source = source["path"]
        else:
            raise AudioError("missing", "<audio>", f"neither path nor bytes nor array in {sorted(source)}")
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    path = str(os.fspath(source))  # type: ignore[arg-type]
    if path.startswith("hf://") or "::hf://" in path:  # what streaming a Hub data set leaves in the column
        from datasets.utils.file_utils import xopen

        try:
            with xopen(path, "rb") as file:
                return io.BytesIO(file.read())
        except (OSError, ValueError) as error:
            raise AudioError("unreadable", path, f"cannot be fetched: {error}") from error
    if "://" in path:
        raise AudioError("missing", path, "is an address, not a file; download it first")
    if os.path.isdir(path):
        raise AudioError("is_directory", path, "is a directory, an audio file is wanted")
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise AudioError("missing", path, "no such file") from error
    except OSError as error:
        raise AudioError("unreadable", path, f"cannot be opened: {error.strerror}") from error


def _check_container(stream: BinaryIO, name: str) -> str:
    """Refuse empty and cut files by their structure, which the decoders accept silently; "PYAV" if PyAV is needed."""
    size = stream.seek(0, os.SEEK_END)
    if not size:
        raise AudioError("empty_file", name, "empty file (0 bytes)")
    stream.seek(0)
    head = stream.read(4096)
    if head[:4] == b"OggS":
        _check_ogg_end(stream, size, name)
    elif head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        _check_wav_length(head, size, name)
    stream.seek(0)
    adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    return "PYAV" if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or adts else ""


def _check_ogg_end(stream: BinaryIO, size: int, name: str) -> None:
    # A stream ends with a whole page that carries the end-of-stream flag (RFC 3533); libsndfile does not ask for it.
    stream.seek(max(0, size - 65_536 - 282))
    tail = stream.read()
    page = tail.rfind(b"OggS")
    whole = False
    if page >= 0 and len(tail) >= page + 27:
        num_segments = tail[page + 26]
        table = tail[page + 27 : page + 27 + num_segments]
        whole = len(table) == num_segments and page + 27 + num_segments + sum(table) <= len(tail)
    if not whole or not tail[page + 5] & 4:
        raise AudioError("truncated", name, "the Ogg stream stops before its last page")


def _check_wav_length(head: bytes, size: int, name: str) -> None:
    offset = 12
    while offset + 8 <= len(head):
        length = struct.unpack_from("<I", head, offset + 4)[0]
        if head[offset : offset + 4] == b"data":
            # Writers to a pipe cannot know the length and leave 0 or a number near the limit.
            if length < 0x7FFF_0000 and offset + 8 + length > size:
                detail = f"the header declares {length} bytes of samples, {size - offset - 8} are there"
                raise AudioError("truncated", name, detail)
            return
        offset += 8 + length + length % 2


class _Nameless:
    """A stream without a name: soundfile takes `.raw`, and libsndfile `.gsm` and others, from the name alone."""

    def __init__(self, stream: BinaryIO) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self.readinto = stream.readinto  # type: ignore[attr-defined]


def _open_soundfile(stream: BinaryIO, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(_Nameless(stream))  # type: ignore[arg-type]
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        stream.seek(0)
        start = stream.read(16)
        raise AudioError("not_audio", name, f"not a known audio format, starts with {start!r}") from error


def _header(file: soundfile.SoundFile, name: str) -> AudioInfo:
    if not 1000 <= file.samplerate <= 768_000:
        raise AudioError("not_audio", name, f"impossible sampling rate {file.samplerate} Hz in the header")
    return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels, file.format)


def _decode_with_pyav(stream: BinaryIO, name: str, max_duration_s: float | None = None) -> tuple[np.ndarray, int]:
    """Samples (n, channels) float32 and their rate of an m4a, aac or webm file; stops at the first second too many."""
    try:
        import av  # an option: only these formats need it
    except ImportError as error:
        detail = "m4a, aac and webm need PyAV: pip install av, or convert the file to FLAC"
        raise AudioError("unsupported_format", name, detail) from error
    blocks, num_samples = [], 0
    try:
        with av.open(stream) as container:
            if container.duration:  # by the header, in units of 1 / av.time_base; raw AAC has none
                _check_long(container.duration / av.time_base, max_duration_s, name)
            track = container.streams.audio[0]
            rate = int(track.rate)
            resampler = av.AudioResampler(format="fltp", layout=track.layout.name, rate=rate)
            for frame in chain(container.decode(track), [None]):
                for block in resampler.resample(frame):
                    blocks.append(block.to_ndarray())
                    num_samples += blocks[-1].shape[1]
                if max_duration_s is not None and num_samples > (max_duration_s + 1) * rate:
                    _check_long(num_samples / rate, max_duration_s, name)
    except AudioError:
        raise
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise AudioError("not_audio", name, f"no audio track could be decoded: {error}") from error
    return (np.concatenate(blocks, axis=1).T if blocks else np.zeros((0, 1), np.float32)), rate


def encode_flac(source: Mapping[str, Any]) -> bytes:
    """`{"array", "sampling_rate"}` → the bytes of a 16-bit FLAC file; int16 samples come back exactly."""
    samples, rate, _ = _array_samples(source)
    # libsndfile scales by 32767 when writing and by 32768 when reading; integers avoid the mismatch.
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
