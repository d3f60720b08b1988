"""espeak-ng through ctypes: text in, samples out, the same bytes every time.

The library and its voices come from the `espeakng-loader` package; nothing of espeak-ng (GPL-3.0) is part of this
project. espeak-ng keeps its state in global variables, so one process can hold one `Espeak`; use processes, not
threads, to go parallel. That state also drifts from utterance to utterance (phase, flutter, noise), which makes a
rendering depend on what was said before, and it sometimes ends in a crash. So each call speaks in a fork of a process
that has said nothing: the same words always give the same bytes, and a crash costs one utterance.
"""

import ctypes
import os
import struct
import sys
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
# Exit status of a child whose words were refused, and the number of samples before each utterance in its pipe.
_REFUSED = 3
_COUNT = struct.Struct("<q")


class EspeakError(RuntimeError):
    """espeak-ng is missing, or refused what it was asked."""


class EspeakCrashError(EspeakError):
    """espeak-ng crashed on these words in this voice."""


class Utterance(NamedTuple):
    """What to say, and how."""

    text: str
    """Words; espeak-ng reads digits and signs in its own way, so spell them out."""
    voice: str
    """Language, with a timbre variant if wanted: "vi", "vi-vn-x-south+f2", "en-us+Alex"."""
    rate_wpm: int = 175
    """Words a minute, 80 to 450."""
    pitch: int = 50
    """0 to 99."""
    pitch_range: int = 50
    """0 (monotone) to 99."""


class Espeak:
    """The one espeak-ng of this process; a context manager.

    Attributes:
        sampling_rate_hz: rate of the samples it returns (22,050 with the stock voices).

    Raises:
        EspeakError: espeakng-loader is not installed, the library does not start, or another `Espeak` is open.
    """

    _open = False

    def __init__(self) -> None:
        if Espeak._open:
            raise EspeakError("espeak-ng has one global state: close the Espeak that is open, or use another process")
        try:
            import espeakng_loader
        except ImportError as error:
            raise EspeakError(
                "speech synthesis needs espeak-ng, and the package that brings it is not installed: "
                "pip install espeakng-loader"
            ) from error
        self._library_path = str(espeakng_loader.get_library_path())
        self._data_path = str(espeakng_loader.get_data_path()).encode()
        self._chunks: list[np.ndarray] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        # The library keeps only the address: without this reference Python would free the callback.
        self._callback = prototype(self._receive)
        self._library: ctypes.CDLL | None = None
        self.sampling_rate_hz = 0
        Espeak._open = True
        try:
            self._load()
        except BaseException:
            Espeak._open = False
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the library go; safe to call twice."""
        self._unload()
        Espeak._open = False

    def speak(self, *utterances: Utterance) -> list[np.ndarray]:
        """Each utterance in turn, as a process would that says nothing else; a call costs a fork.

        Without fork (Windows) they are spoken here, and their bytes depend on what was said before.

        Returns:
            float32 in [-1, 1], shape (n,), at `sampling_rate_hz`, for each; n is 0 when there is nothing to say.

        Raises:
            EspeakCrashError: espeak-ng crashed on them.
            EspeakError: unknown voice, a NUL character, or a closed instance.
        """
        if self._library is None:
            raise EspeakError("this Espeak is closed; open another")
        if not hasattr(os, "fork"):
            return [self._speak(utterance) for utterance in utterances]
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forks beside threads, whose locks stay locked; the child takes none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            self._speak_into(writing, utterances)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == _REFUSED:
            raise EspeakError(data.decode())
        if status != 0:
            spoken = " | ".join(utterance.text for utterance in utterances)
            raise EspeakCrashError(f"espeak-ng crashed (status {status}) on {spoken!r}")
        samples, start = [], 0
        while start < len(data):
            (count,) = _COUNT.unpack_from(data, start)
            start += _COUNT.size
            samples.append(np.frombuffer(data, np.float32, count, start))
            start += 4 * count
        return samples

    def _speak_into(self, pipe: int, utterances: Sequence[Utterance]) -> None:
        """The child's life: speak, write, and leave without the clean-up that belongs to the parent."""
        status = 1
        try:
            with os.fdopen(pipe, "wb") as file:
                try:
                    self._seed()
                    for samples in [self._speak(utterance) for utterance in utterances]:
                        file.write(_COUNT.pack(samples.size) + samples.tobytes())
                    status = 0
                except EspeakError as error:
                    file.write(str(error).encode())
                    status = _REFUSED
        finally:
            os._exit(status)

    def _speak(self, utterance: Utterance) -> np.ndarray:
        text, voice, rate_wpm, pitch, pitch_range = utterance
        assert self._library is not None
        if "\0" in text:
            raise EspeakError(f"text holds a NUL character: {text!r}")
        self._set_voice(voice)
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range), (_VOLUME, 100)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        self._chunks.clear()
        status = self._library.espeak_Synth(data, len(data), 0, 1, 0, _CHARS_UTF8, None, None)
        if status != 0:
            raise EspeakError(f"espeak-ng could not speak {text!r} in voice {voice!r} (status {status})")
        self._library.espeak_Synchronize()
        if not self._chunks:
            return np.zeros(0, np.float32)
        return np.concatenate(self._chunks).astype(np.float32) / 32768.0

    def _set_voice(self, voice: str) -> None:
        assert self._library is not None
        # espeak-ng takes an unknown "+variant" without a word; callers choose from the list in `speech`.
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(
                f"espeak-ng has no voice {voice!r}; use a language id such as vi, vi-vn-x-south or en-us"
            )

    def _receive(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def _load(self) -> None:
        library = ctypes.CDLL(self._library_path)
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, self._data_path, 0)
        if rate <= 0:
            raise EspeakError(f"espeak-ng in {self._library_path} did not start with {self._data_path.decode()}")
        library.espeak_SetSynthCallback(self._callback)
        self._library, self.sampling_rate_hz = library, rate

    def _seed(self) -> None:
        assert self._library is not None
        # Breath noise comes from the C library's generator, jitter of pitch from espeak-ng's own.
        libc = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        libc.srand(1)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def _unload(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            library.espeak_Terminate()
