"""ARPA files of back-off language models, plain or compressed: the format that kenlm, SRILM and IRSTLM share.

    \\data\\
    ngram 1=<how many>
    ...
    \\1-grams:
    <log10 probability>\\t<words>\\t<log10 back-off weight>

N-grams are kept as sorted integer keys, `context index * vocabulary size + last word`, where the context index is the
row of the n-gram without its last word in the table one order below: any order and vocabulary fit 64 bits, and 3.5
million n-grams take 16 bytes each.
"""

import gzip
import lzma
import os
import re
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)$")
_ROWS_PER_WRITE = 1 << 18


class ArpaError(ValueError):
    """A file that is no ARPA file or is damaged; the message names the file and the line."""


class NgramTable(NamedTuple):
    """All n-grams of one order, sorted by key.

    Attributes:
        keys: int64 (n,), see the module; for order 1 the number of the word.
        log_probs: float32 (n,), log10.
        log_backoffs: float32 (n,), log10; 0 where nothing follows and in the highest order.
    """

    keys: np.ndarray
    log_probs: np.ndarray
    log_backoffs: np.ndarray


def find_keys(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of each wanted key in the sorted keys, -1 where it is not among them: int64 (n,)."""
    if not len(keys):
        return np.full(wanted.shape, -1, np.int64)
    # In rising order each search begins where the last one ended: two and a half times as fast.
    arrangement = np.argsort(wanted)
    rising = wanted[arrangement]
    rows = np.minimum(np.searchsorted(keys, rising), len(keys) - 1)
    found = np.empty(len(wanted), np.int64)
    found[arrangement] = np.where(keys[rows] == rising, rows, -1)
    return found


def write_arpa(path: str | Path, words: list[str], tables: list[NgramTable]) -> None:
    """Write a model, whole or not at all; a name that ends in .gz or .xz compresses. Same model, same bytes.

    Numbers have the fewest digits that give the same float32 when read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as raw:
            with _compressing(raw, path.suffix) as file:
                file.write(b"\\data\\\n")
                for order, table in enumerate(tables, 1):
                    file.write(b"ngram %d=%d\n" % (order, len(table.keys)))
                for order in range(1, len(tables) + 1):
                    file.write(b"\n\\%d-grams:\n" % order)
                    for lines in _format_rows(words, tables, order):
                        file.write(lines)
                file.write(b"\n\\end\\\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _compressing(raw: IO[bytes], suffix: str) -> AbstractContextManager[Any]:
    if suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
    if suffix == ".xz":
        return lzma.LZMAFile(raw, "wb", preset=1)
    return nullcontext(raw)


def _format_rows(words: list[str], tables: list[NgramTable], order: int) -> Iterator[bytes]:
    """Lines of one order, many at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    space, tab = pa.scalar(" ", text), pa.scalar("\t", text)
    vocabulary, table = pa.array(words, text), tables[order - 1]
    for start in range(0, len(table.keys), _ROWS_PER_WRITE):
        part = slice(start, start + _ROWS_PER_WRITE)
        rows, ids = table.keys[part], []
        for lower in reversed(tables[: order - 1]):
            contexts, last = np.divmod(rows, len(words))
            ids.insert(0, last)
            rows = lower.keys[contexts]
        ids.insert(0, rows)
        columns = [pc.binary_join_element_wise(*(vocabulary.take(pa.array(i)) for i in ids), space)]
        columns.insert(0, pa.array(table.log_probs[part]).cast(text))
        if order < len(tables):
            columns.append(pa.array(table.log_backoffs[part]).cast(text))
        lines = pc.binary_join_element_wise(*columns, tab)
        yield ("\n".join(lines.to_pylist()) + "\n").encode()


def read_arpa(path: str | Path) -> tuple[list[str], list[NgramTable]]:
    """(words in the order of the file, one table per order) of an ARPA file; .gz and .xz are unpacked.

    Fields may be parted by any ASCII white space. `<UNK>` counts as `<unk>`.

    Raises:
        ArpaError: damaged, cut off, an n-gram twice, a word that is no 1-gram, an n-gram whose context is missing.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        reader = _Reader(path, raw)
        try:
            return reader.read()
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, OSError) as error:
            raise ArpaError(
                f"{path}:{reader.number}: the compressed file is damaged or cut off here: {error}"
            ) from None


class _Reader:
    """One pass over the lines of a file, `number` being that of the last one read."""

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        self.path, self.number = path, 0
        self.words: list[str] = []
        opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix)
        self.lines: Iterator[bytes] = iter(opened(raw, "rb") if opened else raw)  # type: ignore[operator]

    def fail(self, problem: str, number: int | None = None) -> ArpaError:
        return ArpaError(f"{self.path}:{number or self.number}: {problem}")

    def line(self) -> bytes | None:
        """The next line, stripped; None after the last."""
        line = next(self.lines, None)
        if line is None:
            return None
        self.number += 1
        return line.strip()

    def read(self) -> tuple[list[str], list[NgramTable]]:
        counts = self.counts()
        ids: dict[bytes, int] = {}
        tables: list[NgramTable] = []
        for order, count in enumerate(counts, 1):
            table, is_last = self.section(order, count, ids, tables), order == len(counts)
            tables.append(table._replace(log_backoffs=np.zeros_like(table.log_probs)) if is_last else table)
        if (line := self.skip_blank()) != b"\\end\\":
            raise self.fail(f"expected \\end\\ here, got {_shown(line)}: cut off, or more orders than announced")
        if missing := [mark for mark in (BEGIN, END) if mark not in self.words]:
            raise ArpaError(f"{self.path}: no 1-gram {' or '.join(missing)}: not a model of sentences")
        return self.words, tables

    def skip_blank(self) -> bytes | None:
        while (line := self.line()) == b"":
            pass
        return line

    def counts(self) -> list[int]:
        line = self.skip_blank()
        while line is not None and line != b"\\data\\":  # comments may come first
            if line.startswith(b"\\"):
                break
            line = self.line()
        if line != b"\\data\\":
            raise self.fail(r"no \data\ line: this is no ARPA file")
        counts: list[int] = []
        while line := self.line():
            match = _COUNT.match(line)
            if not match or int(match[1]) != len(counts) + 1:
                raise self.fail(f"expected 'ngram {len(counts) + 1}=<count>', got {_shown(line)}")
            counts.append(int(match[2]))
        if not counts:
            raise self.fail(r"\data\ announces no n-grams")
        return counts

    def section(self, order: int, count: int, ids: dict[bytes, int], tables: list[NgramTable]) -> NgramTable:
        """The n-grams of one order; `ids` is filled by order 1."""
        if (line := self.skip_blank()) != b"\\%d-grams:" % order:
            raise self.fail(f"expected \\{order}-grams: here, got {_shown(line)}")
        first = self.number + 1
        flat, probs, backoffs = array("i"), array("d"), array("d")
        while line := self.line():
            fields = line.split()
            words = fields[1 : order + 1]
            try:
                probs.append(float(fields[0]))
                if len(fields) == order + 2:
                    backoffs.append(float(fields[-1]))
                elif len(fields) == order + 1:
                    backoffs.append(0.0)
                else:
                    raise ValueError
                if order == 1:
                    self.add_word(words[0], ids)
                flat.extend([ids[word] for word in words])
            except ArpaError:
                raise
            except ValueError:
                form = f"<log10 probability> <{order} word{'s' * (order > 1)}> [<log10 back-off>]"
                raise self.fail(f"expected '{form}', got {_shown(line)}") from None
            except KeyError as error:
                raise self.fail(f"the word {_shown(error.args[0])} is not among the 1-grams") from None
        if len(probs) != count:
            raise self.fail(f"\\{order}-grams: holds {len(probs)} n-grams, the head of the file announces {count}")
        return self.table(order, first, np.frombuffer(flat, np.int32), np.array(probs), np.array(backoffs), tables)

    def add_word(self, word: bytes, ids: dict[bytes, int]) -> None:
        if word in ids:
            raise self.fail(f"the 1-gram {_shown(word)} comes twice")
        try:
            self.words.append(word.decode().replace("<UNK>", UNKNOWN))
        except UnicodeDecodeError:
            raise self.fail(f"the word {_shown(word)} is not UTF-8") from None
        ids[word] = len(ids)

    def table(
        self,
        order: int,
        first: int,
        flat: np.ndarray,
        probs: np.ndarray,
        backoffs: np.ndarray,
        lower: list[NgramTable],
    ) -> NgramTable:
        """Checked and sorted; row i of the arrays was on line `first + i`."""
        if len(bad := np.flatnonzero(~(probs <= 0) | ~np.isfinite(probs) | ~np.isfinite(backoffs))):
            got = f"{probs[bad[0]]:g} and {backoffs[bad[0]]:g}"
            raise self.fail(f"log10 probability must be ≤ 0 and both finite, got {got}", first + int(bad[0]))
        words_NU = flat.reshape(-1, order).astype(np.int64)
        num_words = len(lower[0].keys) if lower else len(flat)
        keys = words_NU[:, 0]
        for place in range(1, order):
            rows = find_keys(lower[place - 1].keys, keys)
            if len(bad := np.flatnonzero(rows < 0)):
                raise self.fail(f"its first {place} words are no {place}-gram", first + int(bad[0]))
            keys = rows * num_words + words_NU[:, place]
        if len(keys) > 1 and not np.all(keys[1:] > keys[:-1]):
            arrangement = np.argsort(keys, kind="stable")
            keys, probs, backoffs = keys[arrangement], probs[arrangement], backoffs[arrangement]
            if len(bad := np.flatnonzero(keys[1:] == keys[:-1])):
                raise self.fail(f"this {order}-gram comes twice", first + int(arrangement[bad[0] + 1]))
        return NgramTable(keys, probs.astype(np.float32), backoffs.astype(np.float32))


def _shown(line: bytes | None) -> str:
    return "the end of the file" if line is None else repr(line[:80].decode(errors="replace"))
