"""Lines of text files to records: which file a source means, its encoding, its columns and its paths.

Standard library only. CSV is read as text: "nan" (a Vietnamese syllable), "NA" and "None" stay what they are.
"""

import csv
import difflib
import gzip
import json
import lzma
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

COLUMN_KEYS = (
    "id",
    "audio",
    "text",
    "marked_text",
    "duration_s",
    "speaker",
    "dialect",
    "spans",
    "emotion",
    "corpus",
)
# Names that mean the same in the corpora at hand, tried in this order where `columns` says nothing.
ALIASES = {
    "id": ("id", "utterance_id", "utt_id"),
    "audio": ("audio", "file_name", "audio_filepath", "audio_path", "path"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "duration_s": ("duration_s", "duration"),
    "speaker": ("speaker", "speaker_id", "client_id"),
}
RECORD_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SENTENCE_SUFFIXES = (".txt",)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Record = tuple[str, dict[str, Any]]
"""Where a record stands ("metadata.csv:17") and its fields."""


class SourceError(ValueError):
    """A source that cannot be read; the message names the file and line, what was found and what to do."""


def closest(name: str, among: Sequence[str]) -> str:
    """ " Did you mean 'x'?", or nothing if no name is near."""
    near = difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def suffix_of(path: str | Path) -> str:
    """File extension without a trailing .xz or .gz, in lower case."""
    path = Path(path)
    return Path(path.stem).suffix.lower() if path.suffix.lower() in (".xz", ".gz") else path.suffix.lower()


def detect_kind(path: str, columns: Mapping[str, str] | None = None) -> str:
    """ "folder", "manifest", "parquet", "text", "corpus" or "hub"; `columns` as in `SourceArguments`.

    Raises:
        SourceError: neither a readable file or folder nor the name of a corpus nor a Hub id.
    """
    from data_scripts.corpora import CORPORA  # imports this module

    local = Path(path).expanduser()
    if local.is_dir():
        if metadata_files(local):
            return "folder"
        if any(local.rglob("*.parquet")):
            return "parquet"
        raise SourceError(f"{path}: a folder with neither metadata.csv, metadata.jsonl nor *.parquet files")
    if local.is_file():
        suffix = suffix_of(local)
        if suffix == ".parquet":
            return "parquet"
        if suffix in SENTENCE_SUFFIXES:
            return "text"
        if suffix in RECORD_SUFFIXES:
            found, _ = peek(read_records(local))
            speech = "audio" in (columns or {}) or any(name in found for name in ALIASES["audio"])
            return "manifest" if speech else "text"
        allowed = ", ".join((*RECORD_SUFFIXES, ".parquet", *SENTENCE_SUFFIXES))
        raise SourceError(
            f"{path}: cannot tell what this is from {suffix or 'a name without extension'}; known: {allowed}"
        )
    if path in CORPORA:
        return "corpus"
    if _HUB_ID.fullmatch(path) and not path.startswith((".", "/")) and suffix_of(path) not in RECORD_SUFFIXES:
        return "hub"
    raise SourceError(
        f"{path}: no such file, folder or corpus, and no Hub id (owner/name).{closest(path, list(CORPORA))} "
        "`scripts/prepare_data.py list` names the corpora"
    )


def metadata_files(folder: Path) -> dict[str, Path]:
    """Split → metadata file of a folder in the AudioFolder layout; "" for one in the folder itself."""
    found = {}
    for split, place in [("", folder), *((child.name, child) for child in sorted(folder.iterdir()) if child.is_dir())]:
        for name in ("metadata.csv", "metadata.jsonl"):
            if (place / name).is_file():
                found[split] = place / name
                break
    return found


def metadata_file(folder: Path, split: str) -> tuple[Path, str]:
    """The metadata file of a split, and the start its file names must have ("test/" if one file serves all)."""
    found = metadata_files(folder)
    if split in found:
        return found[split], ""
    if "" in found:
        if (folder / split).is_dir():
            return found[""], f"{split}/"
        if split == "train":  # no splits at all: everything is for training
            return found[""], ""
    there = ", ".join(sorted(name for name in found if name)) or "none"
    raise SourceError(f"{folder}: no split {split!r} (no {split}/metadata.csv); splits found: {there}")


def open_bytes(path: Path) -> BinaryIO:
    """A file, decompressed by its extension."""
    try:
        if path.suffix.lower() == ".xz":
            return lzma.open(path, "rb")  # type: ignore[return-value]
        if path.suffix.lower() == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        return open(path, "rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror or error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end) of a UTF-8 file, with or without a byte order mark."""
    with open_bytes(path) as file:
        number = 0
        try:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise SourceError(f"{path}: is UTF-16; save it as UTF-8")
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    wrong = raw[error.start : error.start + 1].hex()
                    raise SourceError(
                        f"{path}:{number}: byte 0x{wrong} at position {error.start + 1} is not UTF-8; "
                        "save the file as UTF-8 (Windows-1258 and Latin-1 are not read)"
                    ) from None
        except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
            raise SourceError(f"{path}: damaged after line {number}: {error}") from error


def read_sentences(path: Path) -> Iterator[Record]:
    """The lines of a text file as `{"text"}`; blank lines are skipped."""
    for number, line in read_lines(path):
        if line := line.strip():
            yield f"{path}:{number}", {"text": line}


def read_records(path: Path) -> Iterator[Record]:
    """The rows of a CSV, TSV or JSONL file, which may be compressed (.xz, .gz).

    Raises:
        SourceError: not UTF-8, a broken line, a row with more or fewer fields than the header.
    """
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _read_jsonl(path)
    raise SourceError(f"{path}: a manifest is a {', '.join(RECORD_SUFFIXES)} file")


def _read_csv(path: Path, delimiter: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise SourceError(f"{path}:{start}: not valid CSV: {error} (a quote that is never closed?)") from error
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            if len(header) == 1 and re.search(r"[;\t|]", header[0]):
                raise SourceError(f"{path}:1: no {delimiter!r} in the header {header[0]!r}; columns are divided by it")
            if len(set(header)) < len(header):
                raise SourceError(f"{path}:1: a column name occurs twice: {', '.join(header)}")
            continue
        if len(fields) != len(header):
            hint = "; quote a text that holds the delimiter" if len(fields) > len(header) else ""
            raise SourceError(f"{path}:{start}: {len(fields)} fields, the header has {len(header)}{hint}")
        yield f"{path}:{start}", dict(zip(header, fields, strict=True))
    if header is None:
        raise SourceError(f"{path}: empty, a header line is wanted")


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "; one object a line is wanted, not one list" if line.lstrip().startswith("[") else ""
            raise SourceError(f"{path}:{number}: not JSON: {error.msg} at character {error.colno}{hint}") from None
        except RecursionError:
            raise SourceError(f"{path}:{number}: nested too deeply to read") from None
        if not isinstance(record, dict):
            raise SourceError(f"{path}:{number}: an object is wanted on each line, got {type(record).__name__}")
        yield f"{path}:{number}", record


def peek(records: Iterator[Record]) -> tuple[list[str], Iterator[Record]]:
    """Column names of the first 100 records (JSON objects may leave keys out), and all records."""
    first = list(islice(records, 100))
    return list(dict.fromkeys(name for _, record in first for name in record)), chain(first, records)


def match_columns(
    found: Sequence[str], wanted: Mapping[str, str], name: str, *, need_audio: bool, need_text: bool
) -> dict[str, str]:
    """Schema name → name in the source.

    Args:
        found: the columns of the source.
        wanted: `SourceArguments.columns`.
        name: the source, for messages.

    Raises:
        SourceError: a column is missing; lists those found and the nearest.
    """
    if not found:
        raise SourceError(f"{name}: there are no rows")
    matched = {}
    listing = ", ".join(found) or "none"
    for key, theirs in wanted.items():
        if theirs not in found:
            raise SourceError(
                f"{name}: no column {theirs!r} (columns.{key}).{closest(theirs, found)} Columns found: {listing}"
            )
        matched[key] = theirs
    for key in COLUMN_KEYS:
        if key not in matched:
            for alias in ALIASES.get(key, (key,)):
                if alias in found and alias not in matched.values():
                    matched[key] = alias
                    break
    if "marked_text" in wanted:
        matched = {key: theirs for key, theirs in matched.items() if key not in ("text", "spans")}
    needed = [("audio", need_audio and "audio" not in matched)]
    needed += [("text", need_text and not {"text", "marked_text"} & matched.keys())]
    for key, missing in needed:
        if missing:
            known = ", ".join(ALIASES[key])
            raise SourceError(
                f"{name}: no {key} column (looked for {known}).{closest(key, found)} Columns found: {listing}. "
                f"Name it with columns: {{{key}: THEIRS}}"
            )
    if not need_audio:
        matched.pop("audio", None)
    return matched


class PathResolver:
    """Audio paths of a manifest, kept inside of its folder.

    Args:
        root: folder that paths are relative to.
        allow_outside: accept absolute paths, `..`, links out of the folder and addresses.
    """

    def __init__(self, root: str | Path, allow_outside: bool) -> None:
        self.root = os.path.realpath(root)
        self.allow_outside = allow_outside
        self._folders: dict[str, bool] = {}

    def resolve(self, value: Any, where: str) -> str | None:
        """An absolute path, None for an empty value.

        Raises:
            SourceError: the path leaves the folder.
        """
        if isinstance(value, Mapping):
            value = value.get("path")
        if value is None or value == "":
            return None
        if not isinstance(value, str) or "\0" in value:
            raise SourceError(f"{where}: audio must be a path, got {value!r}")
        if self.allow_outside:
            return value if "://" in value else os.path.join(self.root, os.path.expanduser(value))
        path = os.path.normpath(os.path.join(self.root, value))
        if "://" in value or "::" in value:
            reason = "is an address"
        elif os.path.isabs(value):
            reason = "is absolute"
        elif not path.startswith(self.root + os.sep):
            reason = f"leaves {self.root}"
        elif not self._inside(path):
            reason = f"is a link that leaves {self.root}"
        else:
            return path
        raise SourceError(f"{where}: audio path {value!r} {reason}; set allow_outside_root if you trust the manifest")

    def _inside(self, path: str) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._folders:
            real = os.path.realpath(folder)
            self._folders[folder] = real == self.root or real.startswith(self.root + os.sep)
        if not self._folders[folder]:
            return False
        return not os.path.islink(path) or os.path.realpath(path).startswith(self.root + os.sep)
