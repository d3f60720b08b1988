"""What a search finds: tokens with their frames, and words with times made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# How SentencePiece-like and byte-level vocabularies mark the first piece of a word.
WORD_STARTS = ("▁", "Ġ")


@dataclass(slots=True)
class Hypothesis:
    """One reading of an utterance.

    Attributes:
        tokens: ids, without blanks.
        frames: output frame of the encoder at which each token was emitted; never falls.
        score: natural log of the probability, plus `lm_weight` times that of the language model where one is used.
            Beam search of a transducer ranks by the score per token, so that scores of an n-best list need not fall.
        confidences: probability of each token at its frame, 0 to 1.
    """

    tokens: list[int]
    frames: list[int]
    score: float
    confidences: list[float]


@dataclass(slots=True)
class Word:
    """A word, or a piece of one, with the seconds at which it begins and ends, and its least sure token."""

    text: str
    start_s: float
    end_s: float
    confidence: float


class LanguageModel(Protocol):
    """What shallow fusion needs: it scores hypotheses as they grow, and hands out a number for each history.

    Equal histories have equal states; scores are natural logs. `trainers.language_model` makes one of an n-gram model.
    """

    def begin(self) -> int:
        """The state of the empty history; called once in a search, before anything else."""
        ...

    def advance(self, states: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], list[float]]:
        """States after one more token each, and what each token adds to the score."""
        ...

    def finish(self, states: Sequence[int]) -> list[float]:
        """What the end of the utterance adds to the score of each."""
        ...


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Text of token ids, for any fast tokenizer.

    Tokenizers of CTC models merge equal neighbours, which a search has done already ("▁ba ba" would lose a syllable):
    their `decode` is passed by.
    """
    text = tokenizer.backend_tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)
    return " ".join(text.split())  # two marks of word starts in a row are no word


def words_of(
    hypothesis: Hypothesis, tokenizer: Any, frame_s: float, *, offset_s: float = 0.0, end_s: float = float("inf")
) -> list[Word]:
    """Words of a hypothesis; each ends one frame after its last token, at the latest where the next one begins.

    Words within one frame, which models with several symbols a frame give, share its time.

    Args:
        frame_s: seconds per output frame. offset_s: where the piece of audio begins in the whole.
        end_s: where it ends; no word ends later.
    """
    pieces = tokenizer.convert_ids_to_tokens(hypothesis.tokens)
    groups: list[list[int]] = []
    for index, piece in enumerate(pieces):
        if not groups or piece.startswith(WORD_STARTS):
            groups.append([])
        groups[-1].append(index)
    texts = [text_of(tokenizer, [hypothesis.tokens[index] for index in group]) for group in groups]
    kept = [(text, group) for text, group in zip(texts, groups, strict=True) if text]
    return _timed(hypothesis, kept, frame_s, offset_s, end_s)


def pieces_of(
    hypothesis: Hypothesis, tokenizer: Any, frame_s: float, *, offset_s: float = 0.0, end_s: float = float("inf")
) -> list[Word]:
    """As `words_of`, a `Word` for each token; the marks of word starts are written as spaces."""
    pieces = tokenizer.convert_ids_to_tokens(hypothesis.tokens)
    texts = [" " + piece[1:] if piece.startswith(WORD_STARTS) else piece for piece in pieces]
    return _timed(hypothesis, [(text, [index]) for index, text in enumerate(texts)], frame_s, offset_s, end_s)


def _timed(
    hypothesis: Hypothesis, groups: Sequence[tuple[str, list[int]]], frame_s: float, offset_s: float, end_s: float
) -> list[Word]:
    words: list[Word] = []
    for text, group in groups:
        first, last = hypothesis.frames[group[0]], hypothesis.frames[group[-1]]
        start = min(offset_s + first * frame_s, end_s)
        end = min(offset_s + (last + 1) * frame_s, end_s)
        confidence = min(hypothesis.confidences[index] for index in group)
        start, end = round(start, 3), round(end, 3)
        if words and words[-1].start_s < start < words[-1].end_s:
            words[-1].end_s = start
        words.append(Word(text, start, end, confidence))
    return words
