"""The files of a corpus, whether it lies unpacked in a folder or in archives, which are read without unpacking them.

Standard library only, besides the remote files that `datasets` opens.
"""

import fnmatch
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from data_scripts.corpora.facts import CorpusError, Record

Audio = dict[str, Any]
"""`{"path", "bytes"}`: the path of a file, or the name and bytes of a member of an archive."""

logger = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
TEXT_SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".data", ".scp", ".gz")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm")
# What an archive from elsewhere may make us hold in memory: one recording (ten hours of 16-bit 16 kHz speech are
# 1.2 GB), and all its tables together.
MAX_RECORDING_BYTES = 2 << 30
MAX_TEXT_BYTES = 1 << 30
MAX_MEMBERS = 20_000_000


class Tree:
    """Files by their name below the root, with `/`.

    Args:
        files: name → local path or address. Archives among them stand for their members, placed where they are.
        where: the root, for messages.
    """

    def __init__(self, files: Mapping[str, str], where: str) -> None:
        self.files, self.where = dict(files), where
        self._members: dict[str, dict[str, bytes | None]] = {}

    @classmethod
    def of(cls, place: str | Path) -> "Tree":
        """The tree of a folder, or of one archive.

        Raises:
            CorpusError: no such folder, or a file that is no archive known here.
        """
        root = Path(place).expanduser()
        if root.is_file():
            if not root.name.lower().endswith(ARCHIVE_SUFFIXES):
                allowed = ", ".join(ARCHIVE_SUFFIXES)
                raise CorpusError(
                    f"{place}: a folder or an archive ({allowed}) is wanted; unpack other archives first"
                )
            return cls({root.name: str(root)}, str(place))
        if not root.is_dir():
            raise CorpusError(f"{place}: no such folder or archive (data_dir)")
        return cls({name: path for name, path in sorted(_walk(root)) if not _hidden(name)}, str(place))

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "where": self.where, "_members": {}}

    @property
    def has_archives(self) -> bool:
        return any(_is_archive(name) for name in self.files)

    def fingerprint(self) -> str:
        """Changes with the names, sizes and times of the (local) files."""
        digest = hashlib.blake2b(digest_size=12)
        for name, path in self.files.items():
            stat = os.stat(path)
            digest.update(f"{name}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def names(self) -> list[str]:
        """All names; the members of archives in their order."""
        names = []
        for name in self.files:
            names += list(self._scan(name)) if _is_archive(name) else [name]
        return names

    def holds(self, *patterns: str) -> bool:
        """Whether a file or member matches one of the patterns."""
        return any(_matches(_plain(name), pattern) for pattern in patterns for name in self.names())

    def texts(self, *patterns: str) -> dict[str, str]:
        """Name → content of the text files of the first pattern that has any.

        Plain files go before members of archives: to look for one in an archive of the Hub is to fetch all of it.

        Raises:
            CorpusError: not UTF-8, damaged, or too large to be a table.
        """
        plain = [name for name in self.files if not _is_archive(name)]
        for pattern in patterns:
            if names := [name for name in plain if _matches(_plain(name), pattern)]:
                return {_plain(name): _decode(_read(self.files[name]), f"{self.where}/{name}") for name in names}
        inside = {n: raw for name in self.files if _is_archive(name) for n, raw in self._scan(name).items()}
        for pattern in patterns:
            found = {name: raw for name, raw in inside.items() if raw and _matches(_plain(name), pattern)}
            if found:
                return {_plain(name): _decode(raw, f"{self.where}/{name}") for name, raw in found.items()}
        return {}

    def json(self, *patterns: str) -> Any:
        """The content of the JSON file that `texts` finds, None if there is none.

        Raises:
            CorpusError: not JSON.
        """
        for name, text in self.texts(*patterns).items():
            try:
                return json.loads(text)
            except ValueError as error:
                raise CorpusError(f"{self.where}/{name}: not JSON: {error}") from None
        return None

    def lines(self, *patterns: str) -> Iterator[tuple[str, str]]:
        """("prompts.txt:3", line) of the files that `texts` finds; blank lines are skipped."""
        for name, text in self.texts(*patterns).items():
            for number, line in enumerate(text.splitlines(), start=1):
                if line.strip():
                    yield f"{name}:{number}", line

    def recordings(self, pattern: str) -> Iterator[tuple[str, Audio]]:
        """Name and audio of every recording, one at a time; `pattern` is matched without the extension."""
        for name, path in self.files.items():
            if _is_archive(name):
                for member, _, read in _members(path, name):
                    if _is_recording(member, pattern):
                        yield member, {"path": member, "bytes": read(MAX_RECORDING_BYTES)}
            elif _is_recording(name, pattern):
                yield name, {"path": path, "bytes": None}

    def named(self, pattern: str, name_fields: Callable[[str], Record | None]) -> Iterator[Record]:
        """Recordings whose stem is a code that `name_fields` knows; others are passed over, and counted in the log."""
        unknown = 0
        for name, audio in self.recordings(pattern):
            stem = PurePosixPath(name).stem
            if fields := name_fields(stem):
                yield {"id": stem, "audio": audio, **fields}
            else:
                unknown += 1
        if unknown:
            logger.info("%s: %d recordings passed over, their names are no codes of this corpus", self.where, unknown)

    def join(
        self, pattern: str, entries: Mapping[str, Record], key: Callable[[str], str] | None = None
    ) -> Iterator[Record]:
        """Every entry with its recording, in the order of the recordings.

        Entries without a recording come last, with audio None: validation puts them into the drop report. Recordings
        without an entry are counted in the log.

        Args:
            pattern: of the recordings, without extension.
            entries: by what `key` makes of a recording's name: its stem if not given.
        """
        left, unlisted = dict(entries), 0
        for name, audio in self.recordings(pattern):
            wanted = key(name) if key else PurePosixPath(name).stem
            if (entry := left.pop(wanted, None)) is None:
                unlisted += 1
            else:
                yield {"id": wanted, **entry, "audio": audio}
        for name, entry in left.items():
            yield {"id": name, **entry, "audio": None}
        if unlisted:
            logger.info("%s: %d recordings are in no list of this split, or twice in the tree", self.where, unlisted)

    def _scan(self, archive: str) -> dict[str, bytes | None]:
        """Member → its content if a table, by one pass; kept, since a compressed tar can only be read through."""
        if archive not in self._members:
            scanned: dict[str, bytes | None] = {}
            held = 0
            for member, size, read in _members(self.files[archive], archive):
                is_table = member.lower().endswith(TEXT_SUFFIXES) and not _is_archive(member)
                scanned[member] = read(MAX_TEXT_BYTES) if is_table else None
                held += size if is_table else 0
                if held > MAX_TEXT_BYTES or len(scanned) > MAX_MEMBERS:
                    raise CorpusError(
                        f"{self.where}/{archive}: more than {MAX_TEXT_BYTES >> 20} MiB of tables or {MAX_MEMBERS:,} "
                        "members: this is no speech corpus"
                    )
            self._members[archive] = scanned
        return self._members[archive]


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Names and paths; links are followed (a folder of links to another disk is common), each folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path):  # no pipe, no link to nowhere
                yield Path(path).relative_to(root).as_posix(), path


def _members(path: str, archive: str) -> Iterator[tuple[str, int, Callable[[int], bytes | None]]]:
    """Name, size and reader of the members of an archive; a reader is valid until the next member.

    Members are named as if unpacked into a folder of the archive's name: some archives tell a speaker only there.
    Names that leave the folder, links and devices are passed over: nothing is written, and nothing else is opened.
    """
    folder = _stem(archive)
    try:
        with _open(path) as file:
            for name, size, read in _zip(file) if archive.lower().endswith(".zip") else _tar(file):
                if _is_safe(name) and not _hidden(name):
                    yield f"{folder}/{name}", size, read
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise CorpusError(
            f"{archive}: damaged or cut archive: {error}; fetch it again, or unpack it yourself"
        ) from error


def _tar(file: BinaryIO) -> Iterator[tuple[str, int, Callable[[int], bytes | None]]]:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            if member.isreg():

                def read(limit: int, member: tarfile.TarInfo = member) -> bytes | None:
                    inner = tar.extractfile(member) if member.size <= limit else None
                    return inner.read() if inner else None

                yield member.name.removeprefix("./"), member.size, read


def _zip(file: BinaryIO) -> Iterator[tuple[str, int, Callable[[int], bytes | None]]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():

                def read(limit: int, member: zipfile.ZipInfo = member) -> bytes | None:
                    # zipfile stops at the declared size, so a member cannot grow beyond the limit.
                    return archive.read(member) if member.file_size <= limit else None

                yield member.filename, member.file_size, read


def _open(path: str) -> BinaryIO:
    if "://" in path:
        from datasets.utils.file_utils import xopen

        return cast(BinaryIO, xopen(path, "rb"))
    try:
        return open(path, "rb")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be opened: {error.strerror or error}") from error


def _read(path: str) -> bytes:
    with _open(path) as file:
        return file.read(MAX_TEXT_BYTES + 1)


def _decode(raw: bytes, where: str) -> str:
    try:
        if where.endswith(".gz"):
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(MAX_TEXT_BYTES + 1)
        if len(raw) > MAX_TEXT_BYTES:
            raise CorpusError(f"{where}: more than {MAX_TEXT_BYTES >> 20} MiB, too large for a table")
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{where}: damaged: {error}") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CorpusError(f"{where}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file") from error


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _hidden(name: str) -> bool:
    """Files of systems, not of the corpus: .DS_Store, ._name, __MACOSX/."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _stem(archive: str) -> str:
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if archive.lower().endswith(suffix))
    return archive[: -len(suffix)]


def _plain(name: str) -> str:
    return name.removesuffix(".gz")


def _matches(name: str, pattern: str) -> bool:
    """`*` spans folders, and the root of the corpus may lie in any folder."""
    return fnmatch.fnmatchcase(f"/{name}", f"*/{pattern}")


def _is_recording(name: str, pattern: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in AUDIO_SUFFIXES and _matches(str(path.with_suffix("")), pattern)
