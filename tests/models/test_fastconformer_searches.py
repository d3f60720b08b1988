"""FastConformer: what its searches find, whatever the batch, and configs that are refused."""

import pytest
import torch
from fastconformer_kit import HEADS, QUIET, TINY, make_inputs, make_model

from models.fastconformer import FastConformerConfig


def test_every_search_and_none_that_the_heads_do_not_allow():
    features, mask = make_inputs()
    for head, allowed in (("ctc", 4), ("rnnt", 2), ("tdt", 1)):
        model = make_model(head)
        found = 0
        for search in ("greedy", "beam", "ctc_greedy", "ctc_beam"):
            try:
                hypotheses = model.recognise(features, mask, search=search, beam_size=3)
            except ValueError as error:
                assert "CTC head" in str(error) or "TDT" in str(error)
                continue
            found += 1
            for readings, frames in zip(hypotheses, (17, 9, 5), strict=True):
                assert len(readings[0].tokens) == len(readings[0].frames) == len(readings[0].confidences)
                assert all(0 <= frame < frames for frame in readings[0].frames)
        assert found == allowed
    hybrid = make_model("tdt", ctc_weight=0.3, default_search="ctc_beam")
    assert [r[0].tokens for r in hybrid.recognise(features, mask)] == [
        r[0].tokens for r in hybrid.recognise(features, mask, search="ctc_beam")
    ]
    with pytest.raises(ValueError, match=r"'best'.*greedy, beam"):
        model.recognise(features, mask, search="best")


@pytest.mark.parametrize("head", HEADS)
def test_what_is_recognised_does_not_depend_on_the_batch(head):
    model = make_model(head, seed=3)
    features, mask = make_inputs()
    searches = {"ctc": ("greedy", "beam"), "rnnt": ("greedy", "beam"), "tdt": ("greedy",)}[head]
    for search in searches:
        together = model.recognise(features, mask, search=search, beam_size=4)
        alone = [
            model.recognise(features[r : r + 1, :n], search=search, beam_size=4)[0]
            for r, n in enumerate((133, 71, 40))
        ]
        assert [r[0].tokens for r in together] == [r[0].tokens for r in alone]
        assert [r[0].frames for r in together] == [r[0].frames for r in alone]


def test_features_that_are_not_finite_give_no_text():
    features, mask = make_inputs()
    features[1] = float("nan")
    for head in HEADS:
        assert make_model(head).recognise(features, mask)[1][0].tokens == []


# Configuration


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head", "aed", "ctc, rnnt, tdt"),
        ("attention_context", [128], r"\[left, right\]"),
        ("attention_context", [-1, 3], r"\[left, right\]"),
        ("global_tokens", 1, "attention_context is None"),
        ("global_attention", "all", "relative, content"),
        ("blank_token_id", 20, "outside of the vocabulary of 20"),
        ("hidden_size", 30, "multiple of num_attention_heads"),
        ("conv_kernel_size", 8, "odd"),
        ("subsampling_factor", 6, "2, 4, 8 or 16"),
        ("num_mel_bins", 20, "multiple of subsampling_factor"),
        ("ctc_weight", 1.0, r"\[0, 1\)"),
        ("layerdrop", -0.1, r"\[0, 1\)"),
        ("durations", [0], "increasing"),
        ("durations", [2, 1], "increasing"),
        ("default_search", "sample", "greedy, beam"),
        ("num_hidden_layers", 0, "at least 1"),
        ("num_hidden_layers", 10**6, "damaged"),
        ("vocab_size", 10**9, "damaged"),
    ],
)
def test_configs_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        FastConformerConfig(**{**TINY, field: value})
    with pytest.raises(ValueError, match="has a CTC head only"):
        FastConformerConfig(head="rnnt", default_search="ctc_beam")
    with pytest.raises(ValueError, match="fastconformer-small"):
        FastConformerConfig.preset("huge")


# Learning


def toy_batch(size, generator):
    """Two to four tokens, each a tone of 140 ms in two bins of its own, every 240 ms."""
    lengths = torch.randint(2, 5, (size,), generator=generator)
    labels = torch.randint(1, 8, (size, 4), generator=generator)
    labels = labels.masked_fill(torch.arange(4) >= lengths[:, None], -100)
    features = 0.1 * torch.randn(size, 104, 16, generator=generator)
    for row, length in enumerate(lengths.tolist()):
        for place, token in enumerate(labels[row, :length].tolist()):
            features[row, 8 + 24 * place : 22 + 24 * place, 2 * token - 2 : 2 * token] += 2
    return features, (torch.arange(104) < (8 + 24 * lengths)[:, None]).long(), labels


@pytest.mark.slow
@pytest.mark.parametrize(("head", "steps"), [("ctc", 90), ("rnnt", 240), ("tdt", 90)])
def test_every_head_learns_tones_it_has_not_heard(head, steps):
    model = make_model(head, vocab_size=8, **QUIET).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        features, mask, labels = toy_batch(16, generator)
        optimizer.zero_grad()
        model(features, mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    features, mask, labels = toy_batch(32, generator)
    wanted = [[token for token in row if token > 0] for row in labels.tolist()]
    found = model.eval().recognise(features, mask)
    assert sum(readings[0].tokens == tokens for readings, tokens in zip(found, wanted, strict=True)) >= 29
