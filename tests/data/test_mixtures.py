"""Sources in the shares that were asked for, each row as often as its weight says, by seed and epoch alone."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.mixtures import Passes, load_mixture, mix, replay_weights, temperature_weights
from data_scripts.sources import SourceArguments, SourceError

from .conftest import encode, voice, write_csv


@pytest.fixture
def two(make_folder):
    """Folders of 6 and 4 rows."""
    clip = encode(voice(0.1))
    return [
        SourceArguments(str(make_folder({f"{name}{i}.wav": clip for i in range(number)}, name=name)))
        for name, number in (("a", 6), ("b", 4))
    ]


def test_mixture_repeats_by_weight(two):
    two[0].weight, two[1].weight = 0.5, 2.0
    mixture = load_mixture(two, seed=1)
    assert len(mixture.rows) == 10
    ids = mixture.rows["id"][:]
    epochs = [Counter(ids[row] for row in mixture.select(epoch)) for epoch in range(4)]
    for counts in epochs:
        assert {name: count for name, count in counts.items() if name.startswith("b/")} == {
            f"b/b{i}.wav": 2 for i in range(4)
        }
        assert sum(name.startswith("a/") for name in counts) == counts.total() - 8 == 3
    assert sum(epochs[:2], Counter()) == {name: 1 if name.startswith("a/") else 4 for name in ids}
    assert sum(epochs[2:], Counter()) == sum(epochs[:2], Counter())
    assert load_mixture([two[1]], seed=0).select is not None
    two[1].weight = 1.0
    assert load_mixture([two[1]], seed=0).select is None


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 3.0), st.integers(0, 3))
def test_every_row_gets_its_share_over_the_epochs(size, weight, seed):
    passes = Passes((size,), (weight,), seed)
    whole = int(weight)
    seen = np.zeros(size, dtype=int)
    for epoch in range(30):
        counts = np.bincount(passes(epoch), minlength=size)
        # Within an epoch rows differ by one, and over all of them they never drift apart by more than two.
        assert counts.min() >= whole and counts.max() <= whole + 1
        seen += counts
        assert seen.max() - seen.min() <= 2
    assert passes(17).tolist() == Passes((size,), (weight,), seed)(17).tolist()


def test_the_sample_is_drawn_again():
    passes = Passes((100,), (0.5,), 0)
    halves = [frozenset(passes(epoch).tolist()) for epoch in range(6)]
    assert all(len(half) == 50 for half in halves) and len(set(halves)) == 6
    assert all(not first & second for first, second in zip(halves[::2], halves[1::2], strict=True))


def test_parts_keep_their_places():
    rows = mix([Dataset.from_dict({"id": [f"{n}{i}" for i in range(4)]}) for n in "ab"], [1, 3], 0)
    chosen = [rows.rows["id"][row][0] for row in rows.select(5)]
    assert chosen == ["a"] * 4 + ["b"] * 12


def test_streaming_mixture_draws_by_weight(two):
    two[0].streaming, two[0].weight = True, 3.0
    rows = load_mixture(two, seed=1).rows
    assert isinstance(rows, IterableDataset)
    ids = [row["id"] for row in rows]
    assert set(ids) == {f"a/a{i}.wav" for i in range(6)} | {f"b/b{i}.wav" for i in range(4)}
    assert ids == [row["id"] for row in load_mixture(two, seed=1).rows]
    names = [f"{i:04d}" for i in range(3000)]
    parts = [Dataset.from_dict({"id": [n + i for i in names]}).to_iterable_dataset(num_shards=4) for n in "abc"]
    drawn = Counter(row["id"][0] for row in mix(parts, [1.0, 2.0, 3.0], seed=0).rows.take(3000))
    assert [drawn[name] / 3000 for name in "abc"] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.03)


def test_mixture_finds_repeated_ids(two, make_folder):
    folder = make_folder({"a0.wav": encode(voice(0.1))}, name="more/a")
    other = SourceArguments(str(folder))
    with pytest.raises(SourceError, match=r"1 id\(s\) occur twice.*'a/a0\.wav'.*id_prefix"):
        load_mixture([two[0], other], seed=0)
    other.id_prefix = "more/"
    assert len(load_mixture([two[0], other], seed=0).rows) == 7
    write_csv(folder / "metadata.csv", [{"file_name": "a0.wav", "text": "a"}] * 2)
    with pytest.raises(SourceError, match=r"prepare_data\.py validate"):
        load_mixture([other], seed=0)


def test_mixture_of_speech_and_text_is_refused(two, tmp_path):
    (tmp_path / "lines.txt").write_text("xin chào\n", encoding="utf-8")
    with pytest.raises(SourceError, match="kind: text"):
        load_mixture([two[0], SourceArguments(str(tmp_path / "lines.txt"))], seed=0)
    with pytest.raises(SourceError, match="at least one"):
        load_mixture([], seed=0)


def test_temperature():
    hours = [900.0, 90.0, 10.0]
    for exponent, shares in ((1.0, [0.9, 0.09, 0.01]), (0.0, [1 / 3] * 3), (0.5, [0.698, 0.2207, 0.0736])):
        weights = temperature_weights(hours, exponent)
        heard = [weight * hour for weight, hour in zip(weights, hours, strict=True)]
        assert sum(heard) == pytest.approx(1000)
        assert [one / 1000 for one in heard] == pytest.approx(shares, abs=0.02)
    with pytest.raises(ValueError, match="above 0"):
        temperature_weights([1.0, 0.0], 0.5)


def test_replay():
    # Two corpora of the new domain, 10 h a pass; 900 h and twice 50 h of what was learned before.
    weights = replay_weights([8.0, 4.0, 900.0, 50.0], [1.0, 0.5, 1.0, 2.0], num_replayed=2, share=0.2)
    hours = [weight * hours for weight, hours in zip(weights, [8.0, 4.0, 900.0, 50.0], strict=True)]
    assert hours == pytest.approx([8.0, 2.0, 2.25, 0.25])
    for share, count in ((0.0, 1), (1.0, 1), (0.2, 0), (0.2, 2)):
        with pytest.raises(ValueError, match=r"share must be|are replayed"):
            replay_weights([1.0, 1.0], [1.0, 1.0], count, share)


def test_replay_deals_every_row_before_any_comes_again():
    sizes = (40, 100)
    passes = Passes(sizes, tuple(replay_weights(sizes, [1.0, 1.0], 1, share=0.2)), seed=0)
    epochs = [passes(epoch) for epoch in range(10)]
    assert [len(rows) for rows in epochs] == [50] * 10
    replayed = [row for rows in epochs for row in rows.tolist() if row >= 40]
    assert sorted(replayed) == list(range(40, 140))
