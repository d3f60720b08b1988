"""Rows to parquet files that hold their audio, a row group at a time."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Features, config
from datasets.arrow_writer import get_parquet_column_options

from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio

# Small groups: a reader that wants one row reads its group, and a writer holds one in memory.
GROUP_ROWS, GROUP_BYTES = 100, 32 << 20


class ShardWriter:
    """Writes rows of the schema; files that they point at are put inside, as they are.

    In the file the audio column is a plain `Audio` at 16 kHz that any consumer decodes. A context manager; the caller
    owns the file. The same rows give the same bytes.

    Args:
        features: columns in their order.
        notes: kept in the file's metadata under "amvi", as JSON.
        embed: put files inside; False leaves paths as they are.
    """

    def __init__(
        self, file: BinaryIO, features: Features, notes: Mapping[str, Any] | None = None, *, embed: bool = True
    ) -> None:
        audio = SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ)
        published = Features({key: audio if isinstance(kind, Audio) else kind for key, kind in features.items()})
        schema = published.arrow_schema
        if notes:
            text = json.dumps(notes, ensure_ascii=False, sort_keys=True)
            schema = schema.with_metadata({**(schema.metadata or {}), b"amvi": text.encode("utf-8")})
        # Pages are cut by content, as `datasets` does it: the Hub stores what did not change once.
        self._writer = pq.ParquetWriter(
            file,
            schema,
            use_content_defined_chunking=cast(Any, config.DEFAULT_CDC_OPTIONS),
            write_page_index=True,
            write_page_checksum=True,
            **get_parquet_column_options(published, schema),
        )
        self._schema, self._embed = schema, embed
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
            self._writer.close()
        else:
            with suppress(Exception):  # the file is given up; left open, Arrow would write its end later
                self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        row = dict(row)
        if row.get("audio"):
            row["audio"] = _embedded(row["audio"]) if self._embed else row["audio"]
            self._num_bytes += len(row["audio"]["bytes"] or b"")
        self._rows.append(row)
        if len(self._rows) >= GROUP_ROWS or self._num_bytes >= GROUP_BYTES:
            self._flush()

    def write_group(self, table: pa.Table) -> None:
        """A row group of another file of these columns."""
        if len(table):
            self._writer.write_table(table.replace_schema_metadata(self._schema.metadata))

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [row[name] for row in self._rows] for name in self._schema.names}
            self._writer.write_table(pa.Table.from_pydict(columns, schema=self._schema))
        self._rows, self._num_bytes = [], 0


def _embedded(audio: Mapping[str, Any]) -> dict[str, Any]:
    path, content = audio.get("path"), audio.get("bytes")
    if content is None and path:
        with open(path, "rb") as file:
            content = file.read()
    return {"bytes": content, "path": os.path.basename(path) if path else None}
