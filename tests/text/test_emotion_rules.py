"""Cues of emotion in text: heard whatever the written form, tone-sensitive, and only ever from neutral to negative."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.text.emotion_rules import LEXICON, EmotionRules, EmotionRulesError
from data_scripts.text.normalize import normalize_text
from data_scripts.text.syllables import all_syllables

RULES = EmotionRules.load()
ENTRIES = json.loads(LEXICON.read_text(encoding="utf-8"))["entries"]
CUES = [entry["cue"] for entry in ENTRIES]
CUE_SYLLABLES = {syllable for cue in CUES for syllable in cue.split()}
PLAIN = [text for text in (each.spell() for each in list(all_syllables())[::37]) if text not in CUE_SYLLABLES]
texts = st.lists(st.sampled_from(PLAIN + CUES * 3), max_size=10).map(" ".join)
plain_texts = st.lists(st.sampled_from(PLAIN), max_size=10).map(" ".join)
probabilities = st.floats(0, 1).map(lambda p: {"neutral": 1 - p, "negative": p})


def heard(text):
    return [cue.text for cue in RULES.cues(text)]


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("tao với mày hết nghĩa", ["tao", "mày"]),
        ("chúng mày cút ngay", ["chúng mày", "cút ngay"]),  # the longest cue at a place
        ("may mắn", []), ("hôm nay may quá", []), ("máy bay", []), ("quả táo", []), ("tạo ra", []),
        ("thanh tao nhã nhặn", []), ("tao ngộ", []), ("mày mò", []), ("lông mày rậm", []), ("thằng bé ngủ", []),
        ("tao mày mò", ["tao"]),  # an exception covers its own syllables
        ("bà mày mò", []),  # and ends a longer cue that reaches into it
        ("mày có lông mày đẹp", ["mày"]),
        ("con chim cút", []), ("tức là thế", []),
        ("Đồ NGU!", ["đồ ngu"]), ("đồ, ngu", ["đồ ngu"]), ("", []), ("!?", []), ("chúng", []),
    ],
)  # fmt: skip
def test_cues(text, cues):
    assert heard(text) == cues


def test_places_are_syllables_of_the_normal_form():
    (cue,) = RULES.cues("Này — CÂM mồm đi!")
    assert (cue.text, cue.kind, cue.start, cue.end, cue.weight) == ("câm mồm", "dismissal", 1, 3, 1.0)


def test_every_entry_is_heard_and_its_exceptions_are_not():
    for entry in ENTRIES:
        cue = normalize_text(entry["cue"])
        assert heard(entry["cue"]) == [cue]
        for phrase in entry.get("exceptions", ()):
            assert cue not in heard(phrase), phrase


@given(texts, probabilities, st.floats(0, 1))
def test_negative_stays_negative(text, scores, threshold):
    revision = RULES.with_threshold(threshold).revise(text, scores)
    before = max(scores, key=lambda name: scores[name])
    assert not (before == "negative" and revision.label == "neutral")
    assert revision.changed == (revision.label != before)
    if revision.changed:
        assert RULES.suffices(revision.cues) and scores["negative"] >= threshold


@given(plain_texts, probabilities)
def test_text_without_cue_never_changes(text, scores):
    revision = RULES.with_threshold(0.0).revise(text, scores)
    assert not revision.changed and not revision.cues


@settings(max_examples=60)
@given(texts, st.sampled_from(["NFC", "NFD", "NFKD"]), probabilities)
def test_written_form_does_not_matter(text, form, scores):
    other = unicodedata.normalize(form, text).upper().replace(" ", ", ")
    assert RULES.cues(other) == RULES.cues(text)
    assert RULES.revise(other, scores) == RULES.revise(text, scores)


def write(tmp_path, **changes):
    data = {"version": "x", "threshold": 0.2, "kinds": {"k": "some"}, "entries": [entry("tao")]} | changes
    path = tmp_path / "lexicon.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), encoding="utf-8")
    return path


def entry(cue, **changes):
    return {"cue": cue, "kind": "k", "weight": 1} | changes


def test_tone_mark_placement(tmp_path):
    for cue, text in (("hòa cả làng", "hoà cả làng"), ("hoà cả làng", "hòa cả làng"), ("lí sự", "lý sự")):
        rules = EmotionRules.load(write(tmp_path, entries=[entry(cue)]))
        assert len(rules.cues(text)) == 1
        assert len(rules.cues(unicodedata.normalize("NFD", text))) == 1


def test_weak_cues_need_company(tmp_path):
    rules = EmotionRules.load(write(tmp_path, entries=[entry("mụ", weight=0.5), entry("chán", weight=0.5)]))
    scores = {"neutral": 0.7, "negative": 0.3}
    assert rules.revise("mụ kia", scores).label == "neutral"
    assert rules.revise("chán mụ kia", scores).label == "negative"
    assert len(rules.revise("mụ kia", scores).cues) == 1
    twice = rules.revise("mụ nào mụ kia", scores)  # saying it again proves no more
    assert len(twice.cues) == 2 and not twice.changed


def test_threshold_is_overridable(tmp_path):
    path = write(tmp_path, threshold=0.4)
    scores = {"neutral": 0.7, "negative": 0.3}
    assert not EmotionRules.load(path).revise("tao", scores).changed
    assert EmotionRules.load(path, threshold=0.3).revise("tao", scores).changed
    with pytest.raises(EmotionRulesError, match="from 0 to 1"):
        EmotionRules.load(path, threshold=1.5)


def test_other_classes_are_left_alone():
    scores = {"neutral": 0.2, "negative": 0.3, "happy": 0.5}
    assert RULES.revise("tao", scores).label == "happy"
    with pytest.raises(ValueError, match="negative is not among the classes neutral, angry"):
        RULES.revise("tao", {"neutral": 0.2, "angry": 0.8})
    with pytest.raises(ValueError, match="from 0 to 1"):
        RULES.revise("tao", {"neutral": float("nan"), "negative": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": []}, "entries is empty"),
        ({"entries": None}, "entries is missing"),
        ({"entry": []}, "unknown key 'entry'; allowed are version"),
        ({"threshold": 1.2}, "threshold must be from 0 to 1, got 1.2"),
        ({"threshold": "0.3"}, "threshold must be a number"),
        ({"threshold": True}, "threshold must be a number"),
        ({"entries": ["tao"]}, "entry 1: must be a mapping"),
        ({"entries": [entry("tao"), entry("mày", weight=0)]}, r"entry 2 \(mày\): weight must be above 0"),
        (
            {"entries": [entry("tao", kind="curse")]},
            r"entry 1 \(tao\): unknown kind 'curse'; kinds of this file are k",
        ),
        ({"entries": [entry("tao", wheight=1)]}, "unknown key 'wheight'"),
        ({"entries": [{"cue": "tao"}]}, "kind, weight is missing"),
        ({"entries": [entry("!")]}, "no syllable left"),
        ({"entries": [entry("hòa"), entry("hoà")]}, r"entry 2 \(hoà\): this cue was listed before"),
        ({"entries": [entry("tao", exceptions=["táo nhã"])]}, "exception 'táo nhã' must be a longer phrase"),
        ({"entries": [entry("tao", exceptions=["tao"])]}, "exception 'tao' must be a longer phrase"),
        ({"entries": [entry("tao", exceptions="tao nhã")]}, "exceptions must be a list of texts"),
    ],
)
def test_bad_lexicons(tmp_path, changes, message):
    with pytest.raises(EmotionRulesError, match=message) as error:
        EmotionRules.load(write(tmp_path, **changes))
    assert "lexicon.json" in str(error.value)


def test_bad_files(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(EmotionRulesError, match=r"x\.json: cannot be read"):
        EmotionRules.load(path)
    path.write_text('{"version": "1",\n oops}', encoding="utf-8")
    with pytest.raises(EmotionRulesError, match=r"x\.json:2: no JSON"):
        EmotionRules.load(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(EmotionRulesError, match="UTF-8"):
        EmotionRules.load(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(EmotionRulesError, match="must hold one mapping"):
        EmotionRules.load(path)


def uar(rules, texts, negative, references):
    said = [rules.revise(t, {"neutral": 1 - p, "negative": p}).label for t, p in zip(texts, negative, strict=True)]
    recalls = []
    for label in ("neutral", "negative"):
        own = [guess == label for guess, reference in zip(said, references, strict=True) if reference == label]
        recalls.append(sum(own) / len(own))
    return sum(recalls) / 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_tuned_threshold_is_the_best_of_a_search(seed):
    rng = np.random.default_rng(seed)
    lines = [str(line) for line in rng.choice(["tao đi", "đi học", "bực mình quá", "mụ"], 24)]
    negative = rng.integers(0, 21, 24) / 20
    references = ["neutral", "negative", *rng.choice(["neutral", "negative"], 22)]
    tuned = RULES.tune_threshold(lines, negative, references)
    grid = {t: uar(RULES.with_threshold(t), lines, negative, references) for t in (*np.arange(0, 21) / 20, 1.0)}
    assert tuned.uar_before == pytest.approx(grid[1.0])
    assert tuned.uar_after == pytest.approx(max(grid.values()))
    assert uar(RULES.with_threshold(tuned.threshold), lines, negative, references) == pytest.approx(tuned.uar_after)
    if tuned.num_changed:
        better = [t for t, value in grid.items() if value >= tuned.uar_after - 1e-9]
        assert tuned.threshold == pytest.approx(max(better))


def test_equal_thresholds_but_for_rounding():
    """Gains that sum to the same in another order differ by 1e-17; the highest threshold is still the one."""
    rng = np.random.default_rng(68)
    lines = [str(line) for line in rng.choice(["tao đi", "đi học", "đi làm", "mụ"], 24)]
    negative = rng.integers(0, 21, 24) / 20
    references = ["neutral", "negative", *rng.choice(["neutral", "negative"], 22)]
    tuned = RULES.tune_threshold(lines, negative, references)
    higher = RULES.with_threshold(tuned.threshold + 0.01)
    assert uar(higher, lines, negative, references) < tuned.uar_after - 1e-6


def test_tuning_says_when_there_is_nothing_to_learn():
    references = ["neutral", "negative"]
    assert RULES.tune_threshold(["đi", "về"], [0.1, 0.2], references).threshold == RULES.threshold
    harmful = RULES.tune_threshold(["tao", "về"], [0.4, 0.9], references)
    assert harmful.threshold == 1.0 and harmful.num_heard == 1 and harmful.num_changed == 0
    for arguments, message in (
        ((["a"], [0.1, 0.2], references), "one text"),
        ((["a", "b"], [0.1, 0.2], ["neutral", "angry"]), "references must hold"),
        ((["a", "b"], [0.1, 1.2], references), "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            RULES.tune_threshold(*arguments)
