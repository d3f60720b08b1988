"""Recordings that several splits or corpora share: a test recording that is also trained on makes its score a lie."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from data_scripts.files import write_json
from data_scripts.preparing.folder import STATE

SHARED_FILE = "shared_recordings.json"
PAIRS_LISTED = 100  # of each two splits


def shared_recordings(folders: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Recordings (by the bytes of their files) that stand in more than one split of prepared folders.

    Args:
        folders: prepared folders; compared by the records of their shards, no audio is read.

    Returns:
        "vivos/test and bud500/train" → {"count": recordings, "ids": [[id in the first, id in the second], ...]}, the
        first `PAIRS_LISTED` of them; in the order of the folders.
    """
    found: dict[str, dict[str, Any]] = {}
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE audio (digest TEXT PRIMARY KEY, place TEXT, id TEXT) WITHOUT ROWID")
        database.execute("BEGIN")
        for folder in folders:
            for state in sorted((Path(folder) / STATE).iterdir()):
                if not state.is_dir():
                    continue
                place = f"{Path(folder).name}/{state.name}"
                for digest, row_id in recordings(folder, state.name):
                    entered = database.execute("INSERT OR IGNORE INTO audio VALUES (?, ?, ?)", (digest, place, row_id))
                    if entered.rowcount == 1:
                        continue
                    there = database.execute("SELECT place, id FROM audio WHERE digest = ?", (digest,)).fetchone()
                    if there[0] != place:
                        pair = found.setdefault(f"{there[0]} and {place}", {"count": 0, "ids": []})
                        pair["count"] += 1
                        if len(pair["ids"]) < PAIRS_LISTED:
                            pair["ids"].append([there[1], row_id])
    return found


def recordings(folder: str | Path, split: str) -> Iterator[tuple[str, str]]:
    """Digest and id of every recording that the records of a prepared split name."""
    for record in sorted((Path(folder) / STATE / split).glob("[0-9]*.json")):
        yield from json.loads(record.read_text(encoding="utf-8"))["audio"].items()


def write_shared(output_dir: str | Path, folders: Iterable[str | Path]) -> list[str]:
    """Note what `folders` share in `shared_recordings.json`; a sentence for each two splits."""
    found = shared_recordings(folders)
    write_json(Path(output_dir) / SHARED_FILE, found)
    return [
        f"{places} share {pair['count']} recording(s), for example {' and '.join(pair['ids'][0])}"
        for places, pair in found.items()
    ]
