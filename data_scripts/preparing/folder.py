"""The output folder of one split: whose it is, what is finished, and how checked blocks become shards.

    train-00000.parquet                  a shard
    .prepared/train/run.json             what made it: source, limits, versions
    .prepared/train/00000.json           record of a committed block: its shards, report, ids and recordings
    .prepared/train/checked-00000.json   outcomes of a block that waits for those before it, and
    .prepared/train/checked-00000-000.parquet   its rows

A block is committed after all blocks before it, so that an id or recording that occurs twice is decided in the order
of the rows. Every file is whole or absent: a process may be killed at any moment, and what it had not finished is
done again.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from data_scripts.drop_report import DropReport
from data_scripts.files import remove_partials, whole_file, write_json
from data_scripts.preparing.writing import ShardWriter
from data_scripts.row_checks import Outcome
from data_scripts.validate import SeenRows, record

STATE, RUN_FILE, LOCK_FILE, REPORT_FILE = ".prepared", "run.json", "lock", "drop_report.json"


class OutputError(ValueError):
    """The output folder holds something else."""


class Folder:
    """Paths and steps of one split in an output folder; picklable."""

    def __init__(self, output: str | Path, split: str) -> None:
        self.output, self.split = Path(output), split
        self.state = self.output / STATE / split

    def shard(self, number: int) -> Path:
        return self.output / f"{self.split}-{number:05d}.parquet"

    def record(self, block: int) -> Path:
        return self.state / f"{block:05d}.json"

    def checked(self, block: int) -> Path:
        return self.state / f"checked-{block:05d}.json"

    def checked_part(self, block: int, part: int) -> Path:
        return self.state / f"checked-{block:05d}-{part:03d}.parquet"

    def spooled(self, block: int) -> Path:
        """Where a block of a stream that carries audio waits for its worker."""
        return self.state / f"spool-{block:05d}.parquet"

    @contextmanager
    def claimed(self, run: dict[str, Any]) -> Iterator[None]:
        """Make a split of the folder ours, or make sure that it was; nobody else may write it meanwhile.

        Raises:
            OutputError
        """
        self.check(run)
        self.state.mkdir(parents=True, exist_ok=True)
        with _locked(self.state / LOCK_FILE):
            remove_partials(self.state)
            remove_partials(self.output, f".{self.split}-*.partial")
            if not (self.state / RUN_FILE).is_file():
                write_json(self.state / RUN_FILE, run)
            self.check(run)
            yield

    def check(self, run: dict[str, Any]) -> None:
        """Make sure that a run may write this split, without writing anything.

        Raises:
            OutputError: the folder is not of this command, or the split of another run.
        """
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(f"{self.output}: is a file, a folder is wanted")
        if (self.state / RUN_FILE).is_file():
            if different := sorted(_differences(_run(self.state), run)):
                differences = ", ".join(different)
                raise OutputError(
                    f"{self.output}: split {self.split!r} is of another run: {differences}; choose a new folder"
                )
            return
        foreign = self.output.is_dir() and any(self.output.iterdir()) and not (self.output / STATE).is_dir()
        if foreign or any(self.output.glob(f"{self.split}-*.parquet")):
            raise OutputError(f"{self.output}: holds files that this command did not write; choose a new folder")

    def check_neighbours(self, run: dict[str, Any]) -> None:
        """Make sure that the other splits of the folder are of the same corpus, made by the same rules.

        Raises:
            OutputError
        """
        for path in sorted((self.output / STATE).glob(f"*/{RUN_FILE}")):
            there, here = (json.loads(json.dumps(made)) for made in (_run(path.parent), run))
            for made in (there, here):
                for key in ("split", "content", "revision", "max_rows"):
                    made["source"].pop(key, None)
            if different := sorted(_differences(there, here)):
                differences = ", ".join(different)
                raise OutputError(
                    f"{self.output}: holds split {path.parent.name!r} of another corpus or other rules: "
                    f"{differences}; choose a new folder"
                )

    def is_done(self, block: int) -> bool:
        """Whether a block is committed or checked, with all its files."""
        return self._committed(block) is not None or self._checked(block) is not None

    def _committed(self, block: int) -> dict[str, Any] | None:
        data = _read(self.record(block))
        return data if data and all((self.output / name).is_file() for name in data["shards"]) else None

    def _checked(self, block: int) -> list[list[list[Any]]] | None:
        """Outcomes of the rows of each part: [id, code, detail, file, notes, duration_s, digest]."""
        if not (data := _read(self.checked(block))):
            return None
        parts = data["parts"]
        kept = [part for part, rows in enumerate(parts) if any(row[1] is None for row in rows)]
        return parts if all(self.checked_part(block, part).is_file() for part in kept) else None

    def commit(self, block: int, first_shard: int, seen: SeenRows) -> tuple[DropReport, int]:
        """Turn a checked block into shards, or read the record of one that was.

        Args:
            first_shard: number of its first shard.
            seen: ids and recordings of the blocks before it; extended by this one's.

        Returns:
            Its report and the number of the next shard.
        """
        data = self._committed(block)
        if data is None:
            data = self._commit(block, first_shard, seen)
        else:
            for row_id in data["ids"]:
                seen.is_new(row_id)
            for digest, row_id in data["audio"].items():
                seen.first_with(digest, row_id)
        for name in (self.checked(block), self.spooled(block), *self.state.glob(f"checked-{block:05d}-*.parquet")):
            name.unlink(missing_ok=True)
        return DropReport.from_dict(data["report"]), first_shard + data["num_shards"]

    def _commit(self, block: int, first_shard: int, seen: SeenRows) -> dict[str, Any]:
        parts = self._checked(block)
        if parts is None:
            raise OutputError(f"{self.checked(block)}: has gone while it was needed; run the same command again")
        report, ids, audio, shards = DropReport(), [], {}, []
        for part, rows in enumerate(parts):
            kept = []  # of the rows that passed on their own
            for row_id, code, detail, file, notes, duration_s, digest in rows:
                outcome = Outcome(code, detail, file, tuple(map(tuple, notes)), "", [], duration_s, digest)
                is_kept = record(report, seen, row_id, outcome)
                ids.append(row_id)
                if code is None:
                    kept.append(is_kept)
                if is_kept and digest and seen.first_with(digest, row_id) == row_id:
                    audio[digest] = row_id
            if any(kept):
                shard = self.shard(first_shard + part)
                _publish(self.checked_part(block, part), shard, kept)
                shards.append(shard.name)
        data = {"shards": shards, "num_shards": len(parts), "report": report.to_dict(), "ids": ids, "audio": audio}
        write_json(self.record(block), data)
        return data

    def save_report(self, report: DropReport) -> None:
        """Set the report of this split beside those of the others, which may be prepared at the same time."""
        path = self.output / REPORT_FILE
        with _locked(self.output / STATE / LOCK_FILE, wait=True):
            remove_partials(self.output, f".{REPORT_FILE}.*.partial")
            reports = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_json(path, {**reports, self.split: report.to_dict()})


def _publish(checked: Path, shard: Path, kept: list[bool]) -> None:
    """Move a file of checked rows to its place, without the rows that earlier blocks have already."""
    if all(kept):
        os.replace(checked, shard)
        return
    with pq.ParquetFile(checked) as parquet, whole_file(shard, needed_bytes=checked.stat().st_size) as file:
        features, metadata = Features.from_arrow_schema(parquet.schema_arrow), parquet.schema_arrow.metadata
        with ShardWriter(file, features, json.loads(metadata[b"amvi"])) as writer:
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group)
                writer.write_group(rows.filter(pa.array(kept[first : first + len(rows)])))
                first += len(rows)


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none, or the disk lost it: its block is then made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _run(state: Path) -> dict[str, Any]:
    try:
        return json.loads((state / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise OutputError(f"{state / RUN_FILE}: cannot be read ({error}); choose a new folder") from error


@contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Keep a second run of the same command out; the system lets go of the lock when this process ends."""
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except ImportError:
            pass  # not a POSIX system
        except BlockingIOError as error:
            raise OutputError(f"{path.parent}: another run is writing there; wait for it, or stop it") from error
        yield


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there.keys() | here.keys():
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} ({there!r} there, {here!r} now)"
