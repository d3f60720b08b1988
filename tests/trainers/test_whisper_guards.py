"""Guards of Whisper's decoding, on models built to loop, to ramble and to hear what nobody says."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_whisper import by_rule, collator, lead, make_whisper, row, signs

from trainers import whisper_guards
from trainers.whisper_guards import GuardCounts, Guards, guarded_generate, looping, loops_per_1000, without_loop

ROWS = [row("abc dad"), row("beg"), row("cab fed ace")]


@pytest.fixture(scope="module")
def tiny():
    return make_whisper()


def batch(processor, rows=ROWS):
    made = collator(processor)(rows)
    return made["input_features"], made["attention_mask"]


def words(processor, ids):
    return [text.strip() for text in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def stuck(tiny):
    """Writes "abc dad abc dad ..." for ever."""
    tokenizer = tiny[0].tokenizer
    pieces = tokenizer(" abc dad", add_special_tokens=False).input_ids
    chain = [tokenizer.convert_tokens_to_ids("<|notimestamps|>"), *pieces]
    return by_rule(dict(zip(chain, [*pieces, pieces[0]], strict=True))), pieces


def test_a_loop_is_cut(tiny, stuck):
    model, pieces = stuck
    features, mask = batch(tiny[0])
    free = model.generate(features, attention_mask=mask, max_length=150)
    assert free.shape[1] >= 149 and words(tiny[0], free)[0].count("abc") > 20
    counts = GuardCounts()
    ids = guarded_generate(model, features, mask, counts=counts)
    assert words(tiny[0], ids) == ["abc dad"] * 3
    assert ids[0].tolist() == [*pieces, tiny[0].tokenizer.eos_token_id]
    assert counts == GuardCounts(utterances=3, loops=3)
    assert counts.per_1000() == {"silent": 0, "loops": 1000, "mended": 0, "shortened": 0, "no_speech": 0}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_loop_is_cut_with_beams(tiny, stuck, num_beams):
    ids = guarded_generate(stuck[0], *batch(tiny[0]), num_beams=num_beams, guards=Guards(temperatures=()))
    assert words(tiny[0], ids) == ["abc dad"] * 3


def test_another_try_mends_a_loop(tiny):
    """Random weights: the most probable text loops, a random one does not."""
    _, model = make_whisper(seed=1)
    features, mask = batch(tiny[0])
    cut, mended = GuardCounts(), GuardCounts()
    patient = {"max_tokens_per_s": 4000.0}
    guarded_generate(model, features, mask, counts=cut, guards=Guards(temperatures=(), **patient), max_new_tokens=30)
    options = {"guards": Guards(temperatures=(1.5,), **patient), "max_new_tokens": 30}
    first = guarded_generate(model, features, mask, counts=mended, **options)
    assert cut.loops == mended.loops == 3 and cut.mended == 0 and mended.mended == 3
    # The same again, whatever was drawn in between, and in any company.
    torch.rand(7)
    torch.testing.assert_close(guarded_generate(model, features, mask, **options), first)
    alone = guarded_generate(model, features[1:2], mask[1:2], **options)[0]
    assert alone.tolist() == first[1, : len(alone)].tolist()


def test_repetitions_that_are_said_are_left(tiny):
    tokenizer = tiny[0].tokenizer
    piece, *rest = tokenizer(" abc", add_special_tokens=False).input_ids
    assert not rest
    model = by_rule({})
    places = signs(8, seed=1)
    with torch.no_grad():
        # By position: four times the piece, then the end.
        model.model.decoder.embed_positions.weight[:8] = 100 * places
        model.proj_out.weight[piece] = places[3:7].sum(0)
        model.proj_out.weight[tokenizer.eos_token_id] = 3 * places[7]
    counts = GuardCounts()
    ids = guarded_generate(model, *batch(tiny[0]), counts=counts)
    assert ids.tolist() == [[piece] * 4 + [tokenizer.eos_token_id]] * 3 and counts.loops == 0


def test_silence_is_not_shown_to_the_model(tiny, stuck, monkeypatch):
    extractor = tiny[0].feature_extractor
    hiss = 3e-5 * torch.randn(16_000, generator=torch.Generator().manual_seed(0)).numpy()
    features = torch.cat(
        [
            extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
            for samples in (torch.zeros(16_000).numpy(), hiss)
        ]
    )
    counts = GuardCounts()
    monkeypatch.setattr(stuck[0], "get_encoder", None)
    ids = guarded_generate(stuck[0], features, counts=counts, return_token_timestamps=True)
    assert words(tiny[0], ids["sequences"]) == ["", ""] and ids["token_timestamps"].shape == (2, 1)
    assert counts == GuardCounts(utterances=2, silent=2)


def test_soft_speech_is_shown(tiny, stuck):
    """A tone of -50 dBFS is no silence; beside a silent recording it keeps its place."""
    time = torch.arange(8000) / 16_000
    tone = (10 ** (-50 / 20) * torch.sin(2 * torch.pi * 300 * time)).numpy()
    extractor = tiny[0].feature_extractor
    features = [
        extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features for samples in (0 * tone, tone)
    ]
    ids = guarded_generate(stuck[0], torch.cat(features))
    assert words(tiny[0], ids) == ["", "abc dad"]


def test_a_text_is_no_longer_than_its_recording_allows(tiny):
    """One that never ends and never repeats: every piece leads to the next."""
    tokenizer = tiny[0].tokenizer
    start = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    model = by_rule({start: 1, **{token: token + 1 for token in range(1, 270)}})
    counts = GuardCounts()
    ids = guarded_generate(model, *batch(tiny[0]), counts=counts, guards=Guards(max_tokens_per_s=100, spare_tokens=5))
    lengths = [row.index(tokenizer.eos_token_id) for row in ids.tolist()]
    # 0.28, 0.12 and 0.44 s, with the frames that straddle their ends: 30, 14 and 46
    assert lengths == [35, 19, 51] and counts.shortened == 3 and counts.loops == 0


def test_improbable_text_where_nobody_speaks(tiny):
    ids = tiny[0].tokenizer.get_vocab()
    model = by_rule({})
    features, mask = batch(tiny[0])
    for last, following in ((ids["<|notimestamps|>"], 5), (5, ids["<|endoftext|>"])):
        lead(model, last, following, 0.02)  # hardly more probable than anything else
    counts = GuardCounts()
    assert words(tiny[0], guarded_generate(model, features, mask, counts=counts)) == ["&"] * 3
    lead(model, ids["<|startoftranscript|>"], ids["<|nospeech|>"])
    assert words(tiny[0], guarded_generate(model, features, mask, counts=counts)) == [""] * 3
    assert counts.no_speech == 3
    for last, following in ((ids["<|notimestamps|>"], 5), (5, ids["<|endoftext|>"])):
        lead(model, last, following)  # sure of its text: it is kept
    assert words(tiny[0], guarded_generate(model, features, mask, counts=counts)) == ["&"] * 3
    assert counts.no_speech == 3


@pytest.fixture(scope="module")
def calm(tiny):
    """Writes "abc dad" and ends."""
    tokenizer = tiny[0].tokenizer
    pieces = tokenizer(" abc dad", add_special_tokens=False).input_ids
    return by_rule(
        dict(pairwise([tokenizer.convert_tokens_to_ids("<|notimestamps|>"), *pieces, tokenizer.eos_token_id]))
    )


def test_without_need_the_guards_change_nothing(tiny, calm):
    """Where nothing loops and nothing is long, ids and times are those of `generate`."""
    features, mask = batch(tiny[0], ROWS[:1])
    kernel = calm.config._attn_implementation
    guarded = guarded_generate(calm, features, mask, return_token_timestamps=True)
    assert calm.config._attn_implementation == kernel
    free = calm.generate(features, attention_mask=mask, return_token_timestamps=True)
    calm.config._attn_implementation = kernel
    assert words(tiny[0], free["sequences"]) == words(tiny[0], guarded["sequences"]) == ["abc dad"]
    count = free["token_timestamps"].shape[1]
    torch.testing.assert_close(free["token_timestamps"].float(), guarded["token_timestamps"][:, :count])


def test_times_do_not_depend_on_the_batch(tiny):
    """A text that ends early beside one that goes on."""
    _, model = make_whisper(seed=5)
    features, mask = batch(tiny[0])
    options = {"return_token_timestamps": True, "guards": Guards(max_tokens_per_s=60, temperatures=())}
    together = guarded_generate(model, features, mask, **options)
    for number in range(3):
        alone = guarded_generate(model, features[number : number + 1], mask[number : number + 1], **options)
        length = alone["sequences"].shape[1]
        assert alone["sequences"][0].tolist() == together["sequences"][number, :length].tolist()
        torch.testing.assert_close(alone["token_timestamps"][0], together["token_timestamps"][number, :length])


def test_a_time_in_a_text(tiny, calm):
    """A model may write one though it was told not to; the text goes on after it."""
    ids = tiny[0].tokenizer.get_vocab()
    model = by_rule({ids["<|notimestamps|>"]: 5, 5: ids["<|0.04|>"], ids["<|0.04|>"]: 6, 6: ids["<|endoftext|>"]})
    found = guarded_generate(model, *batch(tiny[0]))
    assert words(tiny[0], found) == ["&'"] * 3


def test_longer_features_than_the_window(tiny):
    with pytest.raises(ValueError, match="120 frames, but this Whisper reads windows of 100"):
        guarded_generate(tiny[1], torch.zeros(1, 80, 120))


def test_settings():
    with pytest.raises(ValueError, match="max_repeats must be at least 1"):
        Guards(max_repeats=0)
    with pytest.raises(ValueError, match="max_tokens_per_s must be above 0"):
        Guards(max_tokens_per_s=0)


def loops_at_the_end(ids, max_repeats):
    return any(
        len(ids) >= size * (max_repeats + 1) and ids[-size * (max_repeats + 1) :] == ids[-size:] * (max_repeats + 1)
        for size in range(1, 17)
    )


@given(st.lists(st.integers(0, 2), max_size=24), st.integers(1, 3))
def test_looping_is_what_it_says(ids, max_repeats):
    found = bool(looping(torch.tensor([ids], dtype=torch.long), max_repeats)[0])
    assert found == loops_at_the_end(ids, max_repeats)
    cut = without_loop(ids, max_repeats)
    assert cut == ids[: len(cut)] and (len(cut) < len(ids)) == found
    if found:
        assert not loops_at_the_end(cut, max_repeats) or len(without_loop(cut, max_repeats)) < len(cut)


def test_loops_in_texts():
    texts = ["tr tr tr tr tr", "xin chào", "không không không không", "cảm ơn " * 5]
    assert loops_per_1000(texts) == 500 and loops_per_1000([]) == 0


def test_ranks_that_share_weights_take_the_same_steps(tiny, stuck, monkeypatch):
    """Silence and loops would make one of them run the model more often than the others, which wait for ever."""
    monkeypatch.setattr(whisper_guards, "is_deepspeed_zero3_enabled", lambda: True)
    features, mask = batch(tiny[0])
    found = guarded_generate(stuck[0], features, mask, max_length=30, synced_gpus=False)
    torch.testing.assert_close(found, stuck[0].generate(features, attention_mask=mask, max_length=30))
