"""Ids and recordings met so far, on disk: thousands of hours fit beside a laptop's memory."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

CACHE_KIB = 32_768


@contextmanager
def on_disk_index() -> "Iterator[SeenOnDisk]":
    """An index in a passing file that the system removes, however the process ends."""
    database = sqlite3.connect("", isolation_level=None)
    try:
        yield SeenOnDisk(database)
    finally:
        database.close()


class SeenOnDisk:
    """As `data_scripts.validate.Seen`, in constant memory."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        # It is made anew by every run from the records of the finished shards, so nothing has to survive.
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE audio (digest TEXT PRIMARY KEY, id TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            database.execute(statement)

    def is_new(self, row_id: str) -> bool:
        """Enter an id; whether it was not there."""
        digest = hashlib.blake2b(row_id.encode("utf-8"), digest_size=16).digest()
        return self._database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (digest,)).rowcount == 1

    def first_with(self, digest: str, row_id: str) -> str:
        """Enter a recording; the id of the first row that had it."""
        entered = self._database.execute("INSERT OR IGNORE INTO audio VALUES (?, ?)", (digest, row_id))
        if entered.rowcount == 1:
            return row_id
        return self._database.execute("SELECT id FROM audio WHERE digest = ?", (digest,)).fetchone()[0]
