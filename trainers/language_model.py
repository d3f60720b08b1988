"""Shallow fusion with an n-gram model of words, for searches that grow hypotheses by pieces of words.

A word is scored when it is complete: when the next piece begins another one, or at the end. Until then its pieces cost
nothing, which for Vietnamese, whose words between spaces are syllables of one to three pieces, is soon made up for.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_scripts.curation.arpa import END
from data_scripts.curation.ngram import NgramModel
from data_scripts.text.normalize import normalize_text
from models.zipformer.hypotheses import WORD_STARTS, text_of

LN_10 = math.log(10)
# Histories kept from one search to the next; an hour of audio at beam 15 has about a million.
MAX_HISTORIES = 300_000


class History(NamedTuple):
    """What a score depends on: the last words (fewer only at the beginning) and the pieces of an unfinished one."""

    words: tuple[str, ...]
    from_start: bool
    pieces: tuple[int, ...]


class WordLanguageModel:
    """An n-gram model of words as the `LanguageModel` of a search; histories and scores are cached.

    Args:
        tokenizer: of the recogniser; its word starts are pieces with "▁" or "Ġ" in front.
        word_bonus: added to the natural log of each word, against the deletions that a language model brings.
    """

    def __init__(self, model: NgramModel, tokenizer: Any, word_bonus: float = 0.0):
        self.model, self.tokenizer, self.word_bonus = model, tokenizer, word_bonus
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._starts_word = [str(token).startswith(WORD_STARTS) for token in tokens]
        self._forget()

    def _forget(self) -> None:
        self._histories: list[History] = []
        self._states: dict[History, int] = {}
        self._steps: dict[tuple[int, int], tuple[int, float]] = {}
        self._words: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._log_probs: dict[tuple[tuple[str, ...], bool], float] = {}

    def begin(self) -> int:
        if len(self._histories) > MAX_HISTORIES:
            self._forget()
        return self._state(History((), True, ()))

    def advance(self, states: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], list[float]]:
        steps = list(zip(states, tokens, strict=True))
        new = [step for step in dict.fromkeys(steps) if step not in self._steps]
        completed = [
            (self._histories[state], self._completed(state) if self._starts_word[token] else ())
            for state, token in new
        ]
        scores = self._score(completed)
        for (state, token), (history, words), score in zip(new, completed, scores, strict=True):
            if self._starts_word[token]:
                following = self._after(history, words)._replace(pieces=(token,))
            else:
                following = history._replace(pieces=(*history.pieces, token))
            self._steps[state, token] = self._state(following), score
        found = [self._steps[step] for step in steps]
        return [state for state, _ in found], [score for _, score in found]

    def finish(self, states: Sequence[int]) -> list[float]:
        completed = [(self._histories[state], self._completed(state)) for state in states]
        words = self._score(completed)
        ends = self._score([(self._after(*each), (END,)) for each in completed])
        return [one + two for one, two in zip(words, ends, strict=True)]

    def _state(self, history: History) -> int:
        if history not in self._states:
            self._states[history] = len(self._histories)
            self._histories.append(history)
        return self._states[history]

    def _completed(self, state: int) -> tuple[str, ...]:
        """The word of the pieces; none for a mark alone, several where normalising takes one apart."""
        pieces = self._histories[state].pieces
        if pieces not in self._words:
            self._words[pieces] = tuple(normalize_text(text_of(self.tokenizer, pieces)).split())
        return self._words[pieces]

    def _after(self, history: History, words: Sequence[str]) -> History:
        known = (*history.words, *words)
        context = known[max(0, len(known) - self.model.order + 1) :]
        return History(context, history.from_start and len(context) == len(known), ())

    def _score(self, completed: Iterable[tuple[History, Sequence[str]]]) -> list[float]:
        """Natural log-probability of the words after each history, with the bonus of each."""
        grams: list[list[tuple[tuple[str, ...], bool]]] = []
        for history, words in completed:
            grams.append([])
            for word in words:
                grams[-1].append(((*history.words, word), history.from_start))
                history = self._after(history, (word,))
        missing = list(dict.fromkeys(gram for each in grams for gram in each if gram not in self._log_probs))
        for from_start in (True, False):
            some = [gram for gram in missing if gram[1] == from_start]
            if some:
                self._log_probs |= dict(zip(some, self._last_words(some, from_start), strict=True))
        return [sum(self._log_probs[gram] + self.word_bonus * (gram[0][-1] != END) for gram in each) for each in grams]

    def _last_words(self, grams: Sequence[tuple[tuple[str, ...], bool]], from_start: bool) -> list[float]:
        """log p(last word | the others): that of all less that of the others."""
        befores, wholes = ([" ".join(words[:stop]) for words, _ in grams] for stop in (-1, None))
        ends = [words[-1] == END for words, _ in grams]
        scores = np.where(
            ends,
            self.model.score_batch(befores, bos=from_start, eos=True),
            self.model.score_batch(wholes, bos=from_start, eos=False),
        )
        return (LN_10 * (scores - self.model.score_batch(befores, bos=from_start, eos=False))).tolist()


def load_language_model(path: str | Path, tokenizer: Any, word_bonus: float = 0.0) -> WordLanguageModel:
    """The n-gram model of an ARPA file (plain, .gz or .xz) for the searches of one recogniser.

    Raises:
        ArpaError, OSError: an unusable file; the message names it.
    """
    return WordLanguageModel(NgramModel.load(path), tokenizer, word_bonus)
