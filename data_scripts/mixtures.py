"""Several sources as one data set, mixed by weight: the one place where the shares of corpora are decided.

    mixture = load_mixture([SourceArguments("a"), SourceArguments("b", weight=0.5)], seed=0)
    mixture.rows            # every row of every source, once
    mixture.select(7)       # numbers of the rows of epoch 7: all of a, and half of b (another half in epoch 8)

Which rows an epoch has is a function of (seed, epoch) alone, so a resumed run needs no other state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_scripts.readers import SourceError
from data_scripts.sources import SourceArguments, load_source

STREAM_SHARDS = 64
# First word of the seeds of packs, so that no other generator of a run draws the same numbers.
PACKS = 0x7061636B


@dataclass(frozen=True)
class Passes:
    """Numbers of the rows of an epoch, for sources that were concatenated.

    Every row of a source comes `floor(weight)` times, and a share of them, the rest of the weight, once more. That
    share is dealt from a shuffled pack that is used up before it is shuffled again: with weight 0.5 every row comes
    once in two epochs, with other company each time.

    Args:
        sizes (`tuple[int, ...]`): rows of each source.
        weights (`tuple[float, ...]`): passes over each source per epoch, above 0.
        seed (`int`): seed of the packs.

    Example:

    ```python
    >>> Passes((2, 4), (1, 0.5), seed=0)(epoch=0)
    array([0, 1, 3, 4])
    ```
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __call__(self, epoch: int) -> np.ndarray:
        chosen, offset = [], 0
        for number, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            whole, share = divmod(weight, 1)
            count = round(share * size)
            if not whole and size:
                count = max(count, 1)  # a tiny source is never left out for good
            chosen += [offset + np.arange(size)] * int(whole)
            chosen.append(offset + np.sort(_deal(size, count, epoch, [PACKS, self.seed, number])))
            offset += size
        return np.concatenate(chosen)


class Mixture(NamedTuple):
    """Mixed rows, each of them there once; `select` tells which make up an epoch, None: all of them."""

    rows: Any
    select: Passes | None = None


def load_mixture(sources: Sequence[SourceArguments], seed: int) -> Mixture:
    """Read several sources and `mix` them.

    Raises:
        SourceError: no sources, an id that occurs twice (map-style; a stream cannot be searched), or speech mixed with
            text alone.
    """
    if not sources:
        raise SourceError("a mixture needs at least one source")
    parts = [load_source(source) for source in sources]
    with_audio = ["audio" in (part.column_names or []) for part in parts]
    if len(set(with_audio)) > 1:
        speech, text = sources[with_audio.index(True)].path, sources[with_audio.index(False)].path
        raise SourceError(
            f"{speech} has audio and {text} has text alone: they cannot be mixed; kind: text drops audio"
        )
    return mix(parts, [source.weight for source in sources], seed, [source.path for source in sources])


def mix(parts: Sequence[Any], weights: Sequence[float], seed: int, names: Sequence[str] | None = None) -> Mixture:
    """Data sets as one, by weight.

    Map-style parts are concatenated, and weights are passes per epoch (`Passes`); shuffling is left to the sampler.
    Shards that are read in place (`data_scripts.shards.ShardRows`) stay so among their like. If any part streams, all
    do: rows are drawn at random, with probabilities proportional to the weights, until every part was read once.

    Args:
        parts: `datasets.Dataset`, `datasets.IterableDataset` or `ShardRows`, of the same columns.
        weights: one for each part, above 0.
        names: of the parts, for messages.

    Raises:
        SourceError: an id that occurs twice, if no part streams.
    """
    from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets

    from data_scripts.shards import ShardRows

    names = names or [f"source {number}" for number in range(len(parts))]
    searched = [pair for pair in zip(parts, names, strict=True) if not isinstance(pair[0], IterableDataset)]
    _check_ids([part for part, _ in searched], [name for _, name in searched])
    kinds = {type(part) for part in parts}
    if kinds == {ShardRows}:
        rows = ShardRows.joined(parts)
    elif kinds == {Dataset}:
        rows = concatenate_datasets(list(parts)) if len(parts) > 1 else parts[0]
    else:
        streams = [_stream(part) for part in parts]
        if len(streams) == 1:
            return Mixture(streams[0])
        shares = [weight / sum(weights) for weight in weights]
        mixed = interleave_datasets(streams, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")
        return Mixture(mixed)
    if all(weight == 1 for weight in weights):
        return Mixture(rows)
    return Mixture(rows, Passes(tuple(len(part) for part in parts), tuple(map(float, weights)), seed))


def temperature_weights(amounts: Sequence[float], exponent: float) -> list[float]:
    """Weights that give each source a share of an epoch proportional to amount ** exponent.

    An epoch stays as long as all sources together, so small sources are repeated and large ones sampled. 1 keeps the
    natural shares, 0 makes them equal; values between are those of temperature sampling (exponent = 1 / temperature).

    Args:
        amounts: hours, or rows, of each source, above 0.

    Example:

    ```python
    >>> temperature_weights([90.0, 10.0], 0.5)  # shares 3 : 1
    [0.833..., 2.5]
    ```
    """
    if not all(amount > 0 for amount in amounts):
        raise ValueError(f"amounts must be above 0, got {list(amounts)}")
    total = sum(amounts)
    scale = sum(amount**exponent for amount in amounts)
    return [amount**exponent / scale * total / amount for amount in amounts]


def replay_weights(amounts: Sequence[float], weights: Sequence[float], num_replayed: int, share: float) -> list[float]:
    """Weights with which the last `num_replayed` sources together make up `share` of an epoch.

    A model that goes on to another domain forgets the one before, unless some of that comes again. The others keep
    their weights, those that are replayed keep their proportions to each other.

    Args:
        amounts: hours, or rows, of each source, above 0.
        weights: passes over each source per epoch, above 0.
        share: in (0, 1).

    Example:

    ```python
    >>> replay_weights([1.0, 100.0], [1.0, 1.0], num_replayed=1, share=0.2)  # 1 h of the domain, 0.25 h of the rest
    [1.0, 0.0025]
    ```
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share}")
    if not 0 < num_replayed < len(amounts):
        raise ValueError(f"{num_replayed} of {len(amounts)} sources are replayed; at least one is, and one is not")
    passes = [amount * weight for amount, weight in zip(amounts, weights, strict=True)]
    first = len(amounts) - num_replayed
    scale = share / (1 - share) * sum(passes[:first]) / sum(passes[first:])
    return [*weights[:first], *(weight * scale for weight in weights[first:])]


def _stream(part: Any) -> Any:
    from datasets import Dataset, IterableDataset

    if isinstance(part, IterableDataset):
        return part
    if isinstance(part, Dataset):
        return part.to_iterable_dataset(num_shards=max(1, min(STREAM_SHARDS, len(part))))
    return part.to_stream()


def _deal(size: int, count: int, epoch: int, key: list[int]) -> np.ndarray:
    """`count` of `size` rows for an epoch, from packs that are dealt out to the last card; none twice in an epoch."""
    if 2 * count > size:
        # The rows that rest are the fewer ones, and it is they that take turns.
        plays = np.ones(size, dtype=bool)
        plays[_deal(size, size - count, epoch, key)] = False
        return np.flatnonzero(plays)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    pack, first = divmod(epoch * count, size)
    dealt = _pack(size, count, pack, key)[first : first + count]
    return np.concatenate([dealt, _pack(size, count, pack + 1, key)[: count - len(dealt)]])


def _pack(size: int, count: int, number: int, key: list[int]) -> np.ndarray:
    """The order of one pack. An epoch that began with the last pack's end meets none of those rows again in this one.

    No chain of packs is needed for that: with at most half of the rows an epoch, the end of a pack is as it was
    shuffled, and only its beginning is rearranged.
    """
    shuffled = np.random.default_rng([*key, number]).permutation(size)
    from_last = number * size % count
    if not from_last:
        return shuffled
    last = np.random.default_rng([*key, number - 1]).permutation(size)[-from_last:]
    head = shuffled[~np.isin(shuffled, last)][: count - from_last]
    return np.concatenate([head, shuffled[~np.isin(shuffled, head)]])


def _check_ids(parts: Sequence[Any], names: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [_ids(part) for part in parts]
    # Millions of ids: compared in Arrow, and looked at one by one only where some are the same.
    every = pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=pa.string())
    if pc.count_distinct(every).as_py() == len(every):  # type: ignore[attr-defined]
        return
    seen: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    for column, name in zip(columns, names, strict=True):
        for row_id in column.to_pylist():
            if row_id in seen:
                twice.setdefault(row_id, (seen[row_id], name))
            seen.setdefault(row_id, name)
    row_id, (first, second) = next(iter(twice.items()))
    remedy = (
        "run `python scripts/prepare_data.py validate`, which keeps the first of each"
        if first == second
        else "set id_prefix for one of them, or drop one if it is the same data"
    )
    places = first if first == second else f"{first} and {second}"
    raise SourceError(f"{len(twice)} id(s) occur twice, for example {row_id!r} in {places}: {remedy}")


def _ids(part: Any) -> Any:
    """The ids of a part as an Arrow column of strings."""
    import pyarrow as pa
    from datasets import Dataset

    if isinstance(part, Dataset) and part._indices is None:
        return part.data.column("id").cast(pa.string())
    ids = part["id"]
    return pa.chunked_array([pa.array(list(ids), type=pa.string())])
