"""P2T: T5 weights taken over exactly, tied or not; freezing; losses."""

import pytest
import torch
from model_kit import PHONEMES, make_labels, make_p2t
from transformers import (
    AutoModelForSeq2SeqLM,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from models.tspc import P2TForConditionalGeneration

SIZES = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def save_t5(folder, tied=True, gated=False):
    torch.manual_seed(0)
    config = T5Config(**SIZES, feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=tied)
    model = T5ForConditionalGeneration(config).eval()
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 16))
    model.save_pretrained(folder)
    return model


def phoneme_batch():
    ids = torch.tensor([[5, 9, 7, 12, 1], [6, 8, 1, 0, 0]])
    return ids, (ids != 0).long()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_t5_weights_are_taken_over(tmp_path, tied, gated):
    source = save_t5(tmp_path / "t5", tied, gated)
    model = P2TForConditionalGeneration.from_pretrained_t5(str(tmp_path / "t5"), phoneme_vocab_size=30).eval()
    assert model.encoder.embed_tokens.weight.shape == (30, 16)
    assert model.config.tie_lm_head == tied
    assert (model.lm_head.weight is model.shared.weight) == tied
    assert model.decoder.embed_tokens.weight is model.shared.weight
    # With the same embeddings going in, everything else is the T5 it came from.
    _ids, mask = phoneme_batch()
    embeds, labels = torch.randn(2, 5, 16), make_labels(50)
    with torch.no_grad():
        expected = source(inputs_embeds=embeds, attention_mask=mask, labels=labels)
        got = model(inputs_embeds=embeds, attention_mask=mask, labels=labels)
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.loss, expected.loss)
    # ... also after a round trip.
    model.save_pretrained(tmp_path / "p2t")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "p2t", trust_remote_code=False).eval()
    assert isinstance(loaded, P2TForConditionalGeneration)
    assert (loaded.lm_head.weight is loaded.shared.weight) == tied
    with torch.no_grad():
        assert torch.equal(loaded(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits, got.logits)


def test_mt5_loads_too(tmp_path):
    torch.manual_seed(0)
    source = MT5ForConditionalGeneration(MT5Config(**SIZES)).eval()
    source.save_pretrained(tmp_path)
    model = P2TForConditionalGeneration.from_pretrained_t5(str(tmp_path), 30).eval()
    inputs = {"inputs_embeds": torch.randn(2, 5, 16), "labels": make_labels(50)}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, source(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_a_missing_or_misshapen_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    save_t5(tmp_path)
    with pytest.raises(ValueError, match=r"wi.weight has shape \(32, 16\) in .* but \(64, 16\)"):
        P2TForConditionalGeneration.from_pretrained_t5(str(tmp_path), 30, {"d_ff": 64})
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["decoder.block.0.layer.1.EncDecAttention.q.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors of T5: decoder\.block\.0\.layer\.1"):
        P2TForConditionalGeneration.from_pretrained_t5(str(tmp_path), 30)


@pytest.mark.parametrize("tied", [True, False])
def test_resizing_the_text_vocabulary_keeps_the_tying(tied):
    model = make_p2t(tie_lm_head=tied)
    before = model.lm_head.weight[:40].clone()
    model.resize_token_embeddings(48, mean_resizing=False)
    assert model.shared.weight.shape == model.lm_head.weight.shape == (48, 32)
    assert model.decoder.embed_tokens.weight is model.shared.weight
    assert (model.lm_head.weight is model.shared.weight) == tied
    assert torch.equal(model.lm_head.weight[:40], before)
    assert model.encoder.embed_tokens.weight.shape == (len(PHONEMES), 32)
    assert model.config.vocab_size == 48


def test_a_fresh_model_starts_like_a_fresh_t5():
    torch.manual_seed(0)
    stock = T5ForConditionalGeneration(T5Config(**{**SIZES, "d_model": 64}))
    model = make_p2t(**{**SIZES, "d_model": 64})
    expected = {name: tensor.std() for name, tensor in stock.named_parameters() if tensor.ndim == 2}
    for name, tensor in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(tensor.std(), expected[name], atol=0, rtol=0.3)
    torch.testing.assert_close(model.encoder.embed_tokens.weight.std(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_padding_and_batch_mates_do_not_matter():
    model = make_p2t()
    ids, mask = phoneme_batch()
    labels = make_labels(40)
    with torch.no_grad():
        batch = model(input_ids=ids, attention_mask=mask, labels=labels).logits
        single = model(input_ids=ids[1:, :3], labels=labels[1:, :4]).logits
    torch.testing.assert_close(batch[1, :4], single[0], atol=1e-5, rtol=0)


def test_the_loss_does_not_change_with_gradient_accumulation():
    model = make_p2t()
    assert model.accepts_loss_kwargs
    ids, mask = phoneme_batch()
    labels = make_labels(40)
    count = (labels != -100).sum()
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        parts = [
            model(
                input_ids=ids[i : i + 1],
                attention_mask=mask[i : i + 1],
                labels=labels[i : i + 1],
                num_items_in_batch=count,
            ).loss
            for i in range(2)
        ]
    torch.testing.assert_close(sum(parts), whole)


def test_generation_with_and_without_cache_agree():
    model = make_p2t()
    ids, mask = phoneme_batch()
    for beams in (1, 3):
        options = {"input_ids": ids, "attention_mask": mask, "num_beams": beams, "max_new_tokens": 8}
        assert torch.equal(model.generate(**options), model.generate(**options, use_cache=False))


def test_gradient_checkpointing_changes_nothing():
    model = make_p2t(dropout_rate=0.0).train()
    ids, mask = phoneme_batch()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=make_labels(40)).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert model.encoder.block[0].gradient_checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_states_need_a_bridge():
    ids, mask = phoneme_batch()
    with pytest.raises(ValueError, match="without a bridge"):
        make_p2t()(input_ids=ids, attention_mask=mask, labels=make_labels(40), s2p_states=torch.zeros(2, 5, 24))
