"""The vocabulary of an icefall model, `bpe.model` or `tokens.txt`, as a tokenizer of transformers.

`bpe.model` is SentencePiece's file, a protocol buffer of which a few fields are read here, so that the package is not
needed.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

BLANKS, UNKNOWN, OTHERS = ("<blk>", "<blank>", "<eps>"), "<unk>", ("<sos/eos>", "<s>", "</s>")
UNIGRAM, BPE = 1, 2


def read_vocabulary(path: str | os.PathLike, vocab_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a model with `vocab_size` tokens, blank included.

    A `tokens.txt` names the tokens alone. Text is read back exactly; text that is cut into tokens, to train on, is cut
    by the order of the tokens, which may differ from how the model was trained.

    Raises:
        ValueError: a file of another kind, or with another number of tokens, or without blank or unknown token.
        OSError: no such file.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    path = Path(path)
    if path.suffix == ".txt":
        pieces, kind, charsmap = _read_tokens(path, vocab_size), UNIGRAM, b""
    else:
        pieces, kind, charsmap = _read_sentencepiece(path)
    names = [piece for piece, _ in pieces]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: tokens must be unique")
    if len(pieces) != vocab_size:
        raise ValueError(
            f"{path} holds {len(pieces)} tokens but the model emits {vocab_size}: they come from different models"
        )
    if names[0] not in BLANKS or UNKNOWN not in names:
        raise ValueError(
            f"{path}: token 0 is {names[0]!r}; it must be the blank ({', '.join(BLANKS)}), and {UNKNOWN} must be there"
        )
    special = {UNKNOWN, *BLANKS, *OTHERS} & set(names)
    if kind == BPE:
        model: Any = models.BPE(
            {name: index for index, name in enumerate(names)},
            _merges(names, special),
            unk_token=UNKNOWN,
            fuse_unk=True,
        )
    else:
        model = models.Unigram(pieces, unk_id=names.index(UNKNOWN), byte_fallback=False)
    tokenizer = Tokenizer(model)
    cleaning = [normalizers.Precompiled(charsmap)] if charsmap else []
    spaces = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*cleaning, *spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=names[0],
        unk_token=UNKNOWN,
        additional_special_tokens=sorted(special - {UNKNOWN, names[0]}),
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def _read_tokens(path: Path, vocab_size: int) -> list[tuple[str, float]]:
    """`piece id` lines in the order of their ids, without the disambiguation symbols behind the vocabulary."""
    pieces: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        piece, _, index = line.strip("\n").rpartition(" ")
        if not piece or not index.isdigit():
            raise ValueError(f"{path}:{number} is {line!r}; every line must be a token and its id")
        if int(index) < vocab_size:
            pieces[int(index)] = piece
    missing = [index for index in range(vocab_size) if index not in pieces]
    if missing:
        raise ValueError(f"{path}: the model emits {vocab_size} tokens, but there is none with the id {missing[0]}")
    # As if their frequencies followed Zipf's law: SentencePiece writes frequent pieces first.
    return [(pieces[index], -math.log(index + 1) - 1.0) for index in range(vocab_size)]


def _read_sentencepiece(path: Path) -> tuple[list[tuple[str, float]], int, bytes]:
    """Pieces with their scores, kind of model and the table of the normaliser, of a SentencePiece file."""
    pieces, kind, charsmap = [], UNIGRAM, b""
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                piece = dict(_fields(value))
                pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]))
            elif field == 2:
                kind = dict(_fields(value)).get(3, UNIGRAM)
            elif field == 3:
                charsmap = dict(_fields(value)).get(2, b"")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{path} is not a SentencePiece model ({error}); give bpe.model or tokens.txt") from error
    if not pieces or kind not in (UNIGRAM, BPE):
        raise ValueError(f"{path} is not a SentencePiece model of the kind 'unigram' or 'bpe'")
    return pieces, kind, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protocol buffer: numbers, or bytes for everything else."""
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
            continue
        lengths = {1: 8, 5: 4}
        length = number() if key & 7 == 2 else lengths[key & 7]
        if position + length > len(data):
            raise ValueError("the file ends in the middle")
        yield key >> 3, data[position : position + length]
        position += length


def _merges(names: list[str], special: set[str]) -> list[tuple[str, str]]:
    """Which pairs of pieces make a piece; SentencePiece numbers pieces in the order in which it learned them."""
    known = {name: index for index, name in enumerate(names) if name not in special}
    merges = []
    for name in known:
        pairs = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        pairs = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        merges += sorted(pairs, key=lambda pair: (known[pair[0]], known[pair[1]]))
    return merges
