"""Tokenizers of text: trained on our own text, or checked for Vietnamese letters. For P2T and for the recognisers."""

import itertools
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger(__name__)

_BASES = "aăâeêioôơuưy"
_TONES = "\u0300\u0301\u0303\u0309\u0323"  # huyền, sắc, ngã, hỏi, nặng
TONE_MARKED = tuple(unicodedata.normalize("NFC", vowel + mark) for vowel in _BASES for mark in _TONES)
"""The 60 Vietnamese vowels with a tone mark, composed: à á ã ả ạ ằ ... ỵ."""
VIETNAMESE_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz" + "ăâêôơưđ") + TONE_MARKED


class TokenizerError(ValueError):
    """A tokenizer that cannot write the text it is meant for."""


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-pair tokenizer over normalised text that writes every training text back exactly.

    `<pad>` is 0, `</s>` 1, `<unk>` 2; sequences end in `</s>`; all Vietnamese letters are in the alphabet whether or
    not the texts contain them.

    Args:
        texts (`Iterable[str]`): normalised texts (`data_scripts.text.normalize`); read twice, so a list or a data set
            column, not a generator.
        vocab_size (`int`): number of tokens, special tokens included; fewer come out where the texts are few.

    Returns:
        `PreTrainedTokenizerFast`

    Raises:
        TokenizerError: no texts, a vocabulary smaller than the alphabet, or a text that does not come back.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if iter(texts) is texts:
        texts = list(texts)
    tokenizer = _learn_pieces(texts, vocab_size, ["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    check_text_tokenizer(wrapped, texts, name="the trained tokenizer")
    return wrapped


def train_bpe(texts: Iterable[str], vocab_size: int = 2048) -> Any:
    """The word pieces of a recogniser that aligns: `<blank>` is 0 and the pad token, `<unk>` 1, and nothing else.

    Pieces that begin a word begin with "▁". All Vietnamese letters are in the alphabet whether or not the texts
    contain them. The same texts give the same pieces.

    Args:
        texts (`Iterable[str]`): normalised texts; read twice, so a list or a data set column, not a generator.
        vocab_size (`int`): pieces, `<blank>` and `<unk>` included; fewer come out where the texts are few.

    Returns:
        `PreTrainedTokenizerFast`

    Raises:
        TokenizerError: no texts, a vocabulary smaller than the alphabet, or a text that does not come back.
    """
    from transformers import PreTrainedTokenizerFast

    if iter(texts) is texts:
        texts = list(texts)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=_learn_pieces(texts, vocab_size, ["<blank>", "<unk>"]),
        pad_token="<blank>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    check_bpe(wrapped, texts, name="the trained tokenizer")
    return wrapped


def check_bpe(tokenizer: Any, texts: Iterable[str], *, name: str = "the tokenizer") -> dict[str, float]:
    """Checks that a recogniser's tokenizer writes every text and every vowel with a tone mark; returns as
    `check_text_tokenizer`.

    Raises:
        TokenizerError: it loses text, has no tone marks, or has no pad token to stand for the blank.
    """
    advice = "Train one on the text instead: leave tokenizer.path and the paths of the model empty"
    if tokenizer.pad_token_id is None:
        raise TokenizerError(f"{name} has no pad token, which stands for the blank. {advice}")
    lost = [letter for letter in TONE_MARKED if not _survives(tokenizer, letter)]
    if lost:
        raise TokenizerError(
            f"{name} cannot write {len(lost)} of the {len(TONE_MARKED)} vowels with a tone mark ({' '.join(lost[:12])}"
            f"{' ...' if len(lost) > 12 else ''}): half of the words of Vietnamese would be lost. {advice}"
        )
    return check_text_tokenizer(tokenizer, texts, name=name, advice=advice)


def _learn_pieces(texts: Iterable[str], vocab_size: int, special_tokens: list[str]) -> Any:
    """Byte pairs of characters within words; special tokens come first, in order, then the alphabet."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(set(VIETNAMESE_LETTERS) | set(itertools.chain.from_iterable(texts)) - {" "})
    smallest = len(alphabet) + len(special_tokens) + 1  # and the word mark
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size is {vocab_size}; the alphabet of the texts alone needs {smallest}")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


ADVICE_P2T = (
    "Train a tokenizer on the text instead (leave model.p2t.pretrained empty), or use a Vietnamese T5 such as "
    "VietAI/vit5-base"
)


def check_text_tokenizer(
    tokenizer: Any, texts: Iterable[str], *, name: str = "the tokenizer", advice: str = ADVICE_P2T
) -> dict[str, float]:
    """Checks that every text survives encoding and decoding, and logs how well tone marks are covered.

    Several pre-trained tokenizers (that of `t5-small` among them) have no Vietnamese letters: they would train a model
    that cannot write half of its words.

    Args:
        tokenizer: any Hugging Face tokenizer.
        texts (`Iterable[str]`): normalised texts.
        name (`str`): how messages call the tokenizer.
        advice (`str`): what to do, in messages.

    Returns:
        `dict`: `tone_mark_coverage` (share of the 60 tone-marked vowels it can write), `tokens_per_word`, `texts`.

    Raises:
        TokenizerError: a text does not come back; the message lists the characters that are lost.
    """
    written = sum(_survives(tokenizer, letter) for letter in TONE_MARKED) / len(TONE_MARKED)
    lost: Counter[str] = Counter()
    damaged, example, total, num_tokens, num_words = 0, "", 0, 0, 0
    for batch in _batched(texts, 1000):
        ids = tokenizer(batch, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        num_tokens += sum(map(len, ids))
        for text, back in zip(batch, decoded, strict=True):
            total += 1
            num_words += len(text.split())
            if text.split() != back.split():
                damaged += 1
                example = example or f"{text!r} comes back as {back!r}"
                lost.update(set(text) - set(back) - {" "})
    if not total:
        raise TokenizerError("no texts to train or check a tokenizer with")
    logger.info("%s writes %.0f %% of the tone-marked vowels of Vietnamese", name, 100 * written)
    if damaged:
        characters = " ".join(character for character, _ in lost.most_common(30)) or "only their order or case"
        raise TokenizerError(
            f"{name} cannot write {damaged} of {total} texts, for example {example}. Characters lost: {characters}. "
            f"{advice}"
        )
    return {"tone_mark_coverage": written, "tokens_per_word": num_tokens / max(num_words, 1), "texts": total}


def _survives(tokenizer: Any, letter: str) -> bool:
    ids = tokenizer(letter, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True).strip() == letter


def _batched(items: Iterable[str], size: int) -> Iterable[list[str]]:
    """`itertools.batched`, which Python 3.11 lacks."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
