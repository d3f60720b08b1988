"""Statistics: parts put together are the whole, figures agree with numpy's, memory is bounded, advice is right."""

import io
import json
import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.drop_report import DropReport
from data_scripts.engines import make_engine
from data_scripts.files import write_json
from data_scripts.readers import SourceError
from data_scripts.report.cells import Number
from data_scripts.stats import (
    Stats,
    advice,
    collect,
    corpus_stats,
    drop_reports,
    figures,
    stats_of_folder,
    tables,
    write_page,
)
from data_scripts.stats.counting import Distinct, Histogram, TopCounter

WORDS = ["tôi", "đã", "ngã", "hoà", "meeting", "wifi", "vtv", "123", "東京", "đắk", "quốc", "xyzzq"]
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
rows_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        "text": st.none() | texts | st.text(max_size=12),
        "duration_s": st.none() | st.floats(0, 1e5) | st.sampled_from([float("nan"), float("inf"), -1.0, 1e-310]),
        "speaker": st.none() | st.sampled_from(["a", "b", "c"]),
        "dialect": st.none() | st.sampled_from(["north", "south"]),
        "emotion": st.none() | st.sampled_from(["angry", "sad"]),
        "corpus": st.sampled_from(["one", "two"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of_any_kind, max_size=12), st.integers(0, 12))
def test_parts_put_together_are_the_whole(rows, cut):
    whole = corpus_stats(rows)
    for first, second in ((rows[:cut], rows[cut:]), (rows[cut:], rows[:cut])):
        merged = corpus_stats(first)
        merged.merge(pickle.loads(pickle.dumps(corpus_stats(second))))  # our own, as it comes from a worker
        assert merged.to_dict() == whole.to_dict()
    read_back = Stats.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert read_back.to_dict() == whole.to_dict()


@given(st.lists(st.floats(0, 50), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_a_bin_of_numpy(values, fraction):
    histogram = Histogram(0.05, 100)
    for value in values:
        histogram.add(value)
    lower = np.quantile(values, fraction, method="lower")
    upper = np.quantile(values, fraction, method="higher")
    around = sorted(values)
    # Definitions of a quantile differ by up to one value on either side.
    low = max((v for v in around if v < lower), default=lower)
    high = min((v for v in around if v > upper), default=upper)
    assert low - 0.051 <= histogram.quantile(fraction) <= high + 0.051
    assert histogram.mean == pytest.approx(np.mean(values), abs=6e-4)
    assert (histogram.minimum, histogram.maximum) == pytest.approx((min(values), max(values)), abs=6e-4)


def test_quantiles_of_many_values_agree_with_numpy():
    values = np.random.default_rng(0).gamma(3, 1.5, 20_000)
    histogram = Histogram(0.05, 36_000)
    for value in values:
        histogram.add(float(value))
    for fraction in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert histogram.quantile(fraction) == pytest.approx(np.quantile(values, fraction), abs=0.05)
    edges = histogram.edges(10.0)
    expected, _ = np.histogram(np.clip(values, 0, edges[-1] - 1e-9), edges)
    assert np.abs(np.array(histogram.shares(edges)) - expected / len(values)).max() < 2e-3
    assert len(edges) <= 41 and edges[-1] >= 10 - 1e-9


def test_a_sketch_estimates_what_it_does_not_keep():
    exact, sketch, other = Distinct(100_000), Distinct(2_000), Distinct(2_000)
    for number in range(20_000):
        exact.add(f"câu {number}", 1 + number % 2)
        sketch.add(f"câu {number}", 1 + number % 2)
        other.add(f"câu {number + 15_000}")
    assert exact.is_exact and exact.number == 20_000 and exact.repeated_share == pytest.approx(1 / 3)
    assert not sketch.is_exact and len(sketch.counts) <= 2_000
    assert sketch.number == pytest.approx(20_000, rel=0.1)
    assert sketch.repeated_share == pytest.approx(1 / 3, abs=0.05)
    assert sketch.shared_with(other) == pytest.approx(5_000, rel=0.2)
    assert exact.shared_with(exact) == 20_000


@given(st.lists(st.integers(0, 60), max_size=150), st.integers(0, 150))
def test_a_full_sketch_still_does_not_depend_on_the_parts(numbers, cut):
    def count(part):
        sketch = Distinct(5)
        for number in part:
            sketch.add(str(number))
        return sketch

    first, second = count(numbers[:cut]), count(numbers[cut:])
    first.merge(second)
    assert first.to_dict() == count(numbers).to_dict()


def test_rare_names_are_let_go_but_counted():
    counter = TopCounter(10)
    for number in range(1000):
        counter.add("tôi")
        counter.add(f"tên{number}")
    assert counter.top(1) == [("tôi", 1000)] and len(counter.counts) <= 20
    assert counter.total == 2000 == sum(counter.counts.values()) + counter.lost


def test_huge_vocabularies_are_bounded(monkeypatch):
    for name in ("MAX_WORDS", "MAX_SPEAKERS", "MAX_TEXTS", "MAX_GROUPS"):
        monkeypatch.setattr(collect, name, 50)
    stats = corpus_stats(
        {"text": f"từ zq{n}x", "speaker": f"s{n}", "duration_s": 1.0, "corpus": f"c{n}"} for n in range(400)
    )
    sizes = [len(stats.other_words.counts), len(stats.speaker_ms.counts), len(stats.texts.counts)]
    assert max(*sizes, len(stats.speakers.counts)) <= 100 and len(stats.groups["corpus"]) <= 51
    assert stats.num_words == 800 and stats.syllables["từ"] == 400
    assert sum(group.rows for group in stats.groups["corpus"].values()) == 400


def test_words_are_told_apart():
    rows = [
        {"text": "hôm nay có meeting lúc ba giờ", "duration_s": 2.0},
        {"text": "son tốt", "spans": [{"start": 0, "end": 3, "lang": "en"}], "duration_s": 1.0},
        {"text": "son tốt", "duration_s": 1.0},
        {"text": "xem vtv 123"},
        {"text": ""},
        {},
    ]
    stats = corpus_stats(rows)
    assert (stats.num_rows, stats.num_without_text, stats.num_without_duration) == (6, 2, 3)
    assert stats.num_words == 14 and stats.kinds == Counter(syllable=10, en=2, rule=1, unknown=1)
    assert stats.num_english_words == 4  # meeting, the labelled son, vtv and 123
    assert (stats.num_labelled, stats.num_mixed, stats.num_switches) == (1, 3, 4)
    assert stats.oov.counts == {"vtv": 1, "123": 1}
    # hôm nay có lúc ba giờ, tốt, son tốt, xem: ngang 5 (hôm nay ba son xem), huyền 1 (giờ), sắc 4.
    assert stats.tones == [5, 1, 0, 0, 4, 0]
    # "meeting" has two syllables: eight in two seconds.
    assert stats.syllables_per_s.maximum == pytest.approx(4.0)
    assert stats.texts.number == 3 and stats.texts.repeated_share == pytest.approx(0.25)


def test_advice_is_about_what_is_wrong_and_nothing_else():
    text = "tôi đã hỏi bạn về những việc này"
    good = [
        {"text": f"{text} {n}".replace(str(n), "và"), "duration_s": 2.5, "speaker": f"s{n % 20}", "emotion": "sad"}
        for n in range(300)
    ]
    said = " | ".join(advice(corpus_stats(good)))
    assert "diacritics" not in said and "speakers" not in said and "syllables a second" not in said
    bad = [{**row, "text": "toi da hoi ban ve nhung viec nay", "duration_s": 0.5} for row in good]
    bad += [{**good[0], "emotion": "angry", "speaker": "s1", "text": "东京 tôi"}] * 3
    said = " | ".join(advice(corpus_stats(bad)))
    for part in (
        "bear no tone mark",
        "tone ngã has 0.0% of the syllables",
        "over 9 syllables a second",
        "emotion angry has 1 speaker",
        "100 times the rows of angry",
        "cannot be pronounced",
        "repeat an earlier one",
    ):
        assert part in said


def test_splits_that_share_speakers_and_sentences_are_found():
    rows = [
        {"text": f"câu {w}", "speaker": f"s{n}", "duration_s": 1.0} for n, w in enumerate(["một", "hai", "ba", "bốn"])
    ]
    train, test = corpus_stats(rows), corpus_stats([*rows[2:], {"text": "mới", "speaker": "t", "duration_s": 1.0}])
    lines = advice({"train": train, "test": test})
    assert "test shares 2 speakers with train (of its 3)" in lines
    assert "test shares 2 sentences with train (of its 3)" in lines
    assert not [line for line in advice({"train": train, "test": corpus_stats([])}) if "shares" in line]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"text": "chỉ có chữ", "corpus": "text"}] * 3,
        [{"duration_s": 1.5, "emotion": "angry", "speaker": "[bold]a"}, {"duration_s": 2.5, "emotion": "sad"}],
        [{"text": "", "duration_s": None}],
        [{"text": "a", "duration_s": 1e-310}, {"text": "a", "duration_s": float("nan")}],
        [{"text": "<script>alert(1)</script>", "duration_s": 0.0, "speaker": "<b>$x_{", "corpus": "\x00[/red]"}],
    ],
)
def test_tables_and_page_of_odd_collections(rows, tmp_path):
    from rich.console import Console

    stats = corpus_stats(rows)
    console = Console(width=100, record=True, file=io.StringIO())
    for table in tables({"train": stats, "test": corpus_stats([])}):
        console.print(table)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 100
    page = write_page(stats, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "nan" not in page.replace("nan-", "")
    assert json.loads((tmp_path / "page.json").read_text())["splits"]["all"]["num_rows"] == len(rows)


def make_shards(folder, split, rows, per_shard):
    folder.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, len(rows), per_shard)):
        pq.write_table(pa.Table.from_pylist(rows[start : start + per_shard]), folder / f"{split}-{number:05d}.parquet")


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "prepared"
    rows = [
        {
            "id": str(n),
            "audio": {"bytes": b"not read", "path": None},
            "duration_s": 1.0 + n / 10,
            "text": f"{WORDS[n % 5]} và {WORDS[n % 3]}",
            "speaker": f"s{n % 7}",
            "spans": [{"start": 0, "end": 3, "lang": "vi"}],
        }
        for n in range(50)
    ]
    make_shards(folder, "train", rows[:40], 15)
    make_shards(folder, "test", rows[40:], 15)
    report = DropReport("source", num_rows=60, seconds_kept=100.0)
    report.add("silent", "a", "a.wav")
    write_json(folder / "drop_report.json", {"train": report.to_dict()})
    return folder, rows


def test_a_folder_is_counted_by_split_and_by_any_engine_alike(prepared, tmp_path):
    folder, rows = prepared
    splits = stats_of_folder(folder)
    assert list(splits) == ["train", "test"]
    assert splits["train"].to_dict() == corpus_stats(rows[:40]).to_dict()
    assert splits["test"].to_dict() == corpus_stats(rows[40:]).to_dict()
    with make_engine("local", num_workers=2) as engine:
        parallel = stats_of_folder([folder], engine=engine)
    assert {name: stats.to_dict() for name, stats in parallel.items()} == {n: s.to_dict() for n, s in splits.items()}
    pages = [
        write_page(each, tmp_path / "p.html", drops=drop_reports(folder)).read_bytes() for each in (splits, parallel)
    ]
    assert pages[0] == pages[1] and b"What preparing dropped" in pages[0]
    assert stats_of_folder(folder, splits=["test"]).keys() == {"test"}


def test_folders_without_what_was_asked_for(prepared, tmp_path):
    folder, _ = prepared
    with pytest.raises(SourceError, match="no shards of split dev; there are train, test"):
        stats_of_folder(folder, splits=["dev"])
    with pytest.raises(SourceError, match=r"no \*\.parquet shards"):
        stats_of_folder(tmp_path / "nowhere")
    (folder / "train-00001.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(SourceError, match=r"train-00001\.parquet: cannot be read"):
        stats_of_folder(folder)
    (folder / "drop_report.json").write_text("[]")
    with pytest.raises(SourceError, match="is no drop report"):
        drop_reports(folder)


def test_figures_of_real_speech_agree_with_the_manifest(shared_data):
    import csv

    from data_scripts.sources import SourceArguments
    from data_scripts.stats import stats_of_source

    path = shared_data / "vi_asr"
    with (path / "test" / "metadata.csv").open(encoding="utf-8") as file:
        manifest = list(csv.DictReader(file))
    stats = stats_of_source(SourceArguments(str(path), split="test"))
    durations = [float(row["duration"]) for row in manifest]
    assert stats.num_rows == len(manifest) and stats.speakers.number == len({row["speaker"] for row in manifest})
    assert stats.hours == pytest.approx(sum(durations) / 3600, rel=2e-3)
    assert stats.duration_s.quantile(0.5) == pytest.approx(np.median(durations), abs=0.1)
    assert stats.num_words == sum(len(row["text"].split()) for row in manifest)
    shares = [share or 0.0 for share in figures.tone_shares(stats).values()]
    # The shares of running text; see the notes on `data_scripts.text.syllables`.
    assert np.abs(np.array(shares) - [0.259, 0.184, 0.047, 0.106, 0.229, 0.175]).max() < 0.05
    assert str(figures.overview(stats)["rows"]) == str(Number(len(manifest), ",d"))
