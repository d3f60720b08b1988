"""Files that are whole or not there, whatever stops the process or fills the disk."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

RESERVE_BYTES = 1 << 20  # left free beside what is about to be written, for the records of the run


class DiskFull(ValueError):
    """No room for a file; the message names path, needed and free bytes, and says what to do."""


@contextmanager
def whole_file(path: str | Path, needed_bytes: int = 0) -> Iterator[BinaryIO]:
    """Write a file under a passing name; at the end it is synced to disk and takes its own name.

    If anything goes wrong what was written is removed, and a file that was there stays as it was. A process that is
    killed leaves `.NAME.PID.partial`, which `remove_partials` takes away.

    Args:
        needed_bytes: what will be written, as far as it is known: the room for it is checked first.

    Raises:
        DiskFull
    """
    path = Path(path)
    check_space(path, needed_bytes)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        written = partial.stat().st_size if partial.exists() else 0
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path, max(needed_bytes, written)) from error
        raise


def check_space(path: Path, needed_bytes: int) -> None:
    """Raises DiskFull where the disk of `path` has no room for `needed_bytes`."""
    if needed_bytes and shutil.disk_usage(path.parent).free < needed_bytes + RESERVE_BYTES:
        raise _disk_full(path, needed_bytes)


def _disk_full(path: Path, needed_bytes: int) -> DiskFull:
    free = shutil.disk_usage(path.parent).free
    return DiskFull(
        f"{path}: no space left on the disk: {_mib(needed_bytes)} or more needed, {_mib(free)} free. What was "
        "finished is kept; free some space and run the same command again"
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.1f} MiB"


def _sync_folder(folder: Path) -> None:
    """The new name survives a loss of power only if its folder is written too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partials(folder: Path, pattern: str = ".*.partial") -> None:
    """Take away what killed processes left in a folder; only while no other process writes there."""
    for partial in folder.glob(pattern):
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, data: Any) -> None:
    """Whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))


def write_text(path: str | Path, text: str) -> None:
    """Whole or not at all, as UTF-8."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))
