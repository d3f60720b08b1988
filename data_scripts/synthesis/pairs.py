"""Phoneme-to-text pairs for P2T: several pronunciations of each word, and phonemes with the errors S2P makes.

Everything about a pair follows from (seed, epoch, index): another epoch pronounces the same sentence in another way, a
resumed run sees what it would have seen. Errors are those of `data_scripts.synthesis.confusions`. Training on such
pairs keeps P2T from trusting every phoneme it reads (Sec. 2.2 of the TSPC paper joins the stages for the same reason).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, TypedDict

from data_scripts.synthesis.confusions import phoneme_noise
from data_scripts.synthesis.sentences import SentenceStream
from data_scripts.text.g2p import G2P
from data_scripts.text.phonemes import UNKNOWN

if TYPE_CHECKING:
    from datasets import IterableDataset

logger = logging.getLogger(__name__)


class P2TPair(TypedDict):
    """One training example: `phonemes` as symbols without `</s>`, `text` normalised."""

    id: str
    phonemes: list[str]
    text: str


def make_pair(
    row: Mapping[str, Any],
    g2p: G2P,
    *,
    seed: int,
    epoch: int = 0,
    index: int = 0,
    noise_rate: float = 0.0,
    dialects: Sequence[str | None] = (None,),
) -> P2TPair:
    """The pair of one labelled sentence.

    Args:
        row: id, text and spans.
        g2p: grapheme-to-phoneme converter; its register is the pair's.
        seed: seed of the run.
        epoch: another epoch draws other pronunciations and errors.
        index: position of the row in its data set.
        noise_rate: expected errors per symbol over many pairs; a pair's own rate is uniform on 0…2·noise_rate, so that
            clean and badly recognised sentences both occur.
        dialects: pronounce in one of these, drawn evenly; None is the dictionary form.
    """
    rng = Random(f"{seed}/{epoch}/{index}/{row['id']}")
    dialect = rng.choice(dialects)
    phonemised = g2p.phonemise(row["text"], row["spans"], seed=rng.getrandbits(32), dialect=dialect)
    phonemes = phoneme_noise(g2p.register).corrupt_sentence(phonemised.phonemes, rng, noise_rate)
    return P2TPair(id=row["id"], phonemes=phonemes, text=row["text"])


def p2t_pairs(
    rows: Iterable[Mapping[str, Any]],
    *,
    seed: int = 0,
    epoch: int = 0,
    register: str = "full",
    separator: bool = False,
    noise_rate: float = 0.0,
    dialects: Sequence[str | None] = (None,),
) -> Iterator[P2TPair]:
    """Pairs of any stream of labelled sentences, one for each; arguments as in `make_pair` and `G2P`.

    Sentences with a word that nothing can be said for are left out and counted in the log.
    """
    g2p = G2P(register=register, separator=separator)
    left_out = 0
    for index, row in enumerate(rows):
        pair = make_pair(row, g2p, seed=seed, epoch=epoch, index=index, noise_rate=noise_rate, dialects=dialects)
        if UNKNOWN in pair["phonemes"] or not pair["phonemes"]:
            left_out += 1
        else:
            yield pair
    if left_out:
        logger.info("left out %d sentences with words that have no pronunciation", left_out)


class P2TPairs(Sequence[P2TPair]):
    """Map-style pairs over a list, a `datasets.Dataset` or a `SentenceStream`; usable as a PyTorch data set.

    A word that nothing can be said for stands as `<unk>` in the phonemes, so that positions stay those of the rows.

    Call `set_epoch` before each epoch; pair i of an epoch does not depend on the order in which pairs are asked for,
    nor on the number of loader workers.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]] | SentenceStream | Any,
        *,
        seed: int = 0,
        register: str = "full",
        separator: bool = False,
        noise_rate: float = 0.0,
        dialects: Sequence[str | None] = (None,),
    ) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0
        self.noise_rate, self.dialects = noise_rate, tuple(dialects)
        self.g2p = G2P(register=register, separator=separator)

    def set_epoch(self, epoch: int) -> None:
        """Other pronunciations and errors from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> P2TPair:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return make_pair(
            self.rows[index],
            self.g2p,
            seed=self.seed,
            epoch=self.epoch,
            index=index,
            noise_rate=self.noise_rate,
            dialects=self.dialects,
        )


def p2t_dataset(
    n: int,
    *,
    seed: int = 0,
    split: str | None = "train",
    code_switched_share: float = 0.5,
    num_shards: int = 16,
    **options: Any,
) -> "IterableDataset":
    """Pairs of the first `n` demo sentences as a streaming `datasets.IterableDataset`, nothing of it held in memory.

    Args:
        n: sentences before the split is taken out of them (a split other than train is 5 % of them).
        seed: sentences, pronunciations and errors.
        split: sentences of this split only, or None.
        code_switched_share: share of sentences with English words.
        num_shards: slices that loader workers and ranks share out among themselves.
        options: epoch, register, separator, noise_rate, dialects as in `p2t_pairs`.
    """
    from datasets import IterableDataset

    edges = [n * k // num_shards for k in range(num_shards + 1)]
    slices = [(start, stop) for start, stop in pairwise(edges) if start < stop]
    arguments = {"slices": slices, "seed": seed, "split": split, "share": code_switched_share, "options": options}
    return IterableDataset.from_generator(_pairs_of_slices, gen_kwargs=arguments)


def _pairs_of_slices(
    slices: list[tuple[int, int]], seed: int, split: str | None, share: float, options: dict[str, Any]
) -> Iterator[P2TPair]:
    stream = SentenceStream(seed, share)
    rows = (stream[index] for start, stop in slices for index in range(start, stop))
    wanted = (row for row in rows if split is None or row["split"] == split)
    options = dict(options)
    g2p = _shared_g2p(options.pop("register", "full"), options.pop("separator", False))
    for row in wanted:
        # The id, which carries the row's index, seeds the pair: slicing does not change it.
        yield make_pair(row, g2p, seed=seed, **options)


@cache
def _shared_g2p(register: str, separator: bool) -> G2P:
    """One converter for all shards of a process: each shard runs the generator anew, and what G2P has learnt stays."""
    return G2P(register=register, separator=separator)
