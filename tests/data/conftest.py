"""Audio files made with numpy and soundfile, and a private cache for `datasets`."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

RATE_HZ = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory):
    """Arrow files of loaded parquet go to a temporary folder, not to the user's cache."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before


def voice(seconds: float = 0.6, rate_hz: int = RATE_HZ, hertz: float = 220.0) -> np.ndarray:
    """A tone with a little noise, so that no codec removes it; float32 (n,)."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.005 * noise).astype(np.float32)


def encode(samples: np.ndarray, kind: str = "wav", rate_hz: int = RATE_HZ) -> bytes:
    """Samples (n,) or (n, channels) as the bytes of a file; `kind` is a key of FORMATS."""
    container, subtype = FORMATS[kind]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → bytes of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def make_folder(tmp_path) -> Callable[..., Path]:
    """`make_folder({"a.wav": bytes}, text={"a.wav": "xin chào"}, name="corpus")` → a folder with metadata.csv."""

    def make(files: Mapping[str, bytes], text: Mapping[str, str] | None = None, name: str = "corpus") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        texts = text or dict.fromkeys(files, "xin chào")
        write_csv(folder / "metadata.csv", [{"file_name": file, "text": line} for file, line in texts.items()])
        return folder

    return make
