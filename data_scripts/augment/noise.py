"""Recordings of noise, or of rooms, in folders of the user's: catalogued once, decoded when drawn.

What is drawn is a function of the generator and of the files: paths are sorted, so another machine with the same
folders draws the same.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from data_scripts.decoding import EXTENSIONS, SAMPLING_RATE_HZ, AudioError, audio_info, read_audio, resample

logger = logging.getLogger(__name__)

SUFFIXES = frozenset().union(*EXTENSIONS.values(), {".m4a", ".aac", ".mp4", ".webm", ".caf", ".sph"})
# Longer files are read in pieces of this length: an hour of street noise is not decoded for three seconds of it.
PIECE_S = 30.0
# Decoded pieces kept by each process, 16 bits a sample: 40 minutes.
CACHE_BYTES = 80_000_000
# Below the peak by so much is silence (60 dB), which recordings have before and after the sound.
SILENCE = 1e-3
# A crop this much softer than its clip (40 dB) is a pause of it.
PAUSE = 0.01
FADE = SAMPLING_RATE_HZ // 100
FULL_SCALE = 32767


class NoiseError(ValueError):
    """Folders that cannot be used.

    Attributes:
        key: the setting that names them.
        detail: what is wrong with them; the message is both.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"{key}: {detail}")
        self.key, self.detail = key, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.detail)


class NoiseFile(NamedTuple):
    """One recording, as its header describes it."""

    path: str
    duration_s: float


class NoiseBank:
    """Clips from folders, each folder drawn equally often and each file of a folder equally often.

    Headers are read once, when the bank is made; files that cannot be read are left out, counted and logged. A bank
    can be sent to loader workers: each keeps the clips that it decoded last.

    Args:
        folders: searched with all their sub-folders for audio of any format that `data_scripts.decoding` reads.
        key: the setting that names the folders, for messages.

    Attributes:
        folders: the files of each folder.
        unreadable: files left out so far, with the reason.

    Raises:
        NoiseError: a folder that is missing or has no readable audio.
    """

    def __init__(self, folders: Sequence[str | os.PathLike], key: str = "noise_folders") -> None:
        self.key = key
        self.unreadable: dict[str, str] = {}
        self.folders = [self._catalogue(os.fspath(folder)) for folder in folders]
        if not self.folders:
            raise NoiseError(key, "names no folder")
        # float32 would halve how much fits.
        self._clips: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return sum(len(files) for files in self.folders)

    @property
    def duration_s(self) -> float:
        """Seconds of audio in all folders."""
        return sum(file.duration_s for files in self.folders for file in files)

    def clip(self, rng: np.random.Generator) -> np.ndarray:
        """A recording, or 30 s of a longer one: float32 (num_samples,) at 16 kHz, silence at its ends removed.

        Its peak is full scale, whatever its level was: what is made of it has a level of its own.

        A file that turns out to be unreadable gives way to the next one of its folder.

        Raises:
            NoiseError: no file of a folder can be read any more.
        """
        files = self.folders[int(rng.integers(len(self.folders)))]
        index, where = int(rng.integers(len(files))), rng.random()
        for file in (*files[index:], *files[:index]):
            if file.path in self.unreadable:
                continue
            piece = int(where * np.ceil(file.duration_s / PIECE_S))
            try:
                return self._decoded(file, piece).astype(np.float32) / np.float32(FULL_SCALE)
            except AudioError as error:
                self.unreadable[file.path] = error.detail
                logger.warning("%s: left out: %s", self.key, error)
        raise NoiseError(self.key, f"none of the {len(files)} files beside {files[0].path} can be read any more")

    def noise(self, num_samples: int, rng: np.random.Generator) -> np.ndarray:
        """`num_samples` of a clip from a random place, repeated where it is shorter; never a pause of it."""
        clip = self.clip(rng)
        start = rng.random()
        if len(clip) < num_samples:
            # The end fades into the beginning, so that repeats do not click.
            fade = min(FADE, len(clip) // 2)
            rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)
            loop = clip[: len(clip) - fade].copy()
            loop[:fade] = rise * clip[:fade] + (1.0 - rise) * clip[len(clip) - fade :]
            return loop[(int(start * len(loop)) + np.arange(num_samples)) % len(loop)]
        first = int(start * (len(clip) - num_samples + 1))
        crop = clip[first : first + num_samples]
        if np.square(crop).mean() < PAUSE**2 * np.square(clip).mean():
            loudest = int(np.argmax(np.abs(clip)))
            first = min(max(0, loudest - num_samples // 2), len(clip) - num_samples)
            crop = clip[first : first + num_samples]
        return crop

    def _catalogue(self, folder: str) -> list[NoiseFile]:
        """The readable files of a folder, in the order of their paths."""
        if not os.path.isdir(folder):
            raise NoiseError(self.key, f"no such folder: {folder}")
        paths = sorted(
            os.path.join(place, name)
            for place, _, names in os.walk(folder)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        )
        files = []
        for path in paths:
            try:
                files.append(NoiseFile(path, audio_info(path).duration_s))
            except AudioError as error:
                self.unreadable[path] = error.detail
        files = [file for file in files if file.duration_s > 0]
        bad = [path for path in paths if path in self.unreadable]
        if not files:
            found = f"all {len(bad)} are unreadable, the first: {self.unreadable[bad[0]]}" if bad else "there is none"
            raise NoiseError(self.key, f"no audio in {folder} ({found}); give folders of recordings")
        if bad:
            shown = "; ".join(f"{path}: {self.unreadable[path]}" for path in bad[:3])
            logger.warning("%s: %d of %d files left out: %s", self.key, len(bad), len(paths), shown)
        return files

    def _decoded(self, file: NoiseFile, piece: int) -> np.ndarray:
        """A piece of a file, int16 with its peak at full scale; from memory if it was drawn lately."""
        name = (file.path, piece)
        if name in self._clips:
            self._clips.move_to_end(name)
            return self._clips[name]
        clip = _read(file, piece)
        if not np.isfinite(clip).all():
            raise AudioError("non_finite", file.path, "NaN or infinite samples")
        level = np.abs(clip)
        peak = float(level.max(initial=0.0))
        if peak <= 0.0:
            raise AudioError("silent", file.path, "silent")
        loud = np.flatnonzero(level > SILENCE * peak)
        clip = np.rint(clip[loud[0] : loud[-1] + 1] * (FULL_SCALE / peak)).astype(np.int16)
        self._clips[name] = clip
        self._cached_bytes += clip.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._clips) > 1:
            self._cached_bytes -= self._clips.popitem(last=False)[1].nbytes
        return clip


def _read(file: NoiseFile, piece: int) -> np.ndarray:
    """The first channel of a piece: a mean of microphones would colour a room, and its noise."""
    try:
        with soundfile.SoundFile(file.path) as opened:
            rate = opened.samplerate
            if piece:
                opened.seek(int(piece * PIECE_S * rate))
            samples = opened.read(int(PIECE_S * rate), dtype="float32", always_2d=True)[:, 0]
            return resample(np.ascontiguousarray(samples), rate, SAMPLING_RATE_HZ)
    except (soundfile.LibsndfileError, RuntimeError):
        # What libsndfile does not know.
        first = int(piece * PIECE_S * SAMPLING_RATE_HZ)
        samples = read_audio(file.path, min_duration_s=0.0, allow_silent=True)
        return samples[first : first + int(PIECE_S * SAMPLING_RATE_HZ)]
