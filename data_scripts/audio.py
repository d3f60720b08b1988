"""Audio for rows: `read_audio` decodes wherever samples are needed, `SoundfileAudio` is the column that holds files.

The decoder itself is in `data_scripts.decoding`; importing this module also makes every `Audio` column of parquet,
README and dataset_info files a `SoundfileAudio` in this process.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Audio, Dataset
from datasets.features import features as datasets_features
from datasets.table import embed_table_storage

from data_scripts.decoding import (
    MAX_DURATION_S,
    MIN_DURATION_S,
    SAMPLING_RATE_HZ,
    AudioError,
    AudioInfo,
    AudioSource,
    DecodedAudio,
    audio_info,
    decode_audio,
    encode_flac,
    read_audio,
    resample,
    source_name,
)

__all__ = [
    "MAX_DURATION_S",
    "MIN_DURATION_S",
    "SAMPLING_RATE_HZ",
    "AudioError",
    "AudioInfo",
    "AudioSource",
    "DecodedAudio",
    "SoundfileAudio",
    "audio_info",
    "decode_audio",
    "embed_audio",
    "encode_flac",
    "read_audio",
    "resample",
    "source_name",
]


@dataclass(repr=False)
class SoundfileAudio(Audio):
    """`datasets.Audio` that encodes and decodes with soundfile: neither torchcodec nor FFmpeg is needed.

    Decoded values are `{"path", "array": float32 (n,), "sampling_rate"}`, mono; `sampling_rate` None keeps the rate of
    the file. Files and metadata written with it say `Audio`, so any consumer reads them with the stock feature.
    """

    _type: str = field(default="Audio", init=False, repr=False)

    def encode_example(self, value: Any) -> dict[str, Any]:
        """A path, bytes, `{"path", "bytes"}` or `{"array", "sampling_rate"}` (kept as 16-bit FLAC)."""
        if isinstance(value, str | os.PathLike):
            return {"bytes": None, "path": os.fspath(value)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": bytes(value), "path": None}
        if isinstance(value, Mapping):
            if value.get("array") is not None:
                return {"bytes": encode_flac(value), "path": None}
            if value.get("bytes") is not None or value.get("path") is not None:
                return {"bytes": value.get("bytes"), "path": value.get("path")}
            raise ValueError(f"audio needs one of 'path', 'bytes' or 'array', got keys {sorted(value)}")
        raise TypeError(f"audio must be a path, bytes or a dict, got {type(value).__name__}")

    def decode_example(self, value: dict[str, Any], token_per_repo_id: Any = None) -> dict[str, Any]:
        if not self.decode:
            raise RuntimeError("decoding is off for this column: use SoundfileAudio(decode=True) or read_audio(value)")
        if self.num_channels not in (None, 1):
            raise ValueError(f"SoundfileAudio gives mono, num_channels={self.num_channels} was asked for")
        decoded = decode_audio(value, min_duration_s=0.0, allow_silent=True)
        rate = self.sampling_rate or decoded.info.sampling_rate_hz
        samples = resample(decoded.samples, decoded.info.sampling_rate_hz, rate)
        return {"path": value.get("path"), "array": samples, "sampling_rate": rate}

    def cast_storage(self, storage: Any) -> Any:
        import pyarrow as pa

        # `map` over a decoded column hands {"array", "sampling_rate"} structs back; the stock class would encode them
        # with torchcodec.
        if pa.types.is_struct(storage.type) and storage.type.get_field_index("array") >= 0:
            encoded = [None if value is None else self.encode_example(value) for value in storage.to_pylist()]
            storage = pa.array(encoded, type=self.pa_type)
        return super().cast_storage(storage)


def embed_audio(dataset: Dataset, *, keep_in_memory: bool = False) -> Dataset:
    """Put the bytes of the files a data set points at into the data set (`Dataset.to_parquet` would write paths)."""
    formatted = dataset.with_format("arrow")
    return formatted.map(embed_table_storage, batched=True, batch_size=256, keep_in_memory=keep_in_memory).with_format(
        None
    )


def _register() -> None:
    """Columns typed `Audio` in parquet, README and dataset_info files come back as SoundfileAudio in this process."""
    logger = logging.getLogger(datasets_features.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)  # "Overwriting feature type" is the point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets_features.register_feature(SoundfileAudio, "Audio")
    logger.setLevel(level)


_register()
