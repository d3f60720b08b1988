"""TSPC: the bridge adds nothing before it is trained, caches change nothing, S2P never moves."""

import pytest
import torch
from model_kit import make_inputs, make_labels, make_p2t, make_s2p, make_tspc
from transformers import AutoModelForSpeechSeq2Seq

from models.tspc import TSPCForConditionalGeneration


@pytest.mark.parametrize("p2t_width", [24, 32], ids=["same-width", "projected"])
@pytest.mark.parametrize("tied", [True, False])
def test_right_after_joining_it_is_tspc_zero_bit_for_bit(p2t_width, tied):
    s2p, p2t = make_s2p(), make_p2t(d_model=p2t_width, tie_lm_head=tied)
    model = TSPCForConditionalGeneration.from_stages(s2p, p2t)
    features, mask, _ = make_inputs()
    labels = make_labels(40)
    ids, ids_mask, _ = model.phonemes_and_states(features, mask)
    with torch.no_grad():
        joint = model(features, mask, labels=labels)
        zero = p2t(input_ids=ids, attention_mask=ids_mask, labels=labels)
    assert torch.equal(joint.logits, zero.logits)
    assert torch.equal(joint.loss, zero.loss)
    for beams in (1, 3):
        heard = s2p.generate(input_features=features, attention_mask=mask)[:, 1:]
        assert torch.equal(heard * ids_mask, ids)
        expected = p2t.generate(input_ids=ids, attention_mask=ids_mask, num_beams=beams, max_new_tokens=12)
        got = model.generate(input_features=features, attention_mask=mask, num_beams=beams, max_new_tokens=12)
        assert torch.equal(got, expected)


def test_the_bridge_hears_the_speech_once_trained():
    model = make_tspc(bridge=True)
    features, mask, _ = make_inputs()
    ids, ids_mask, states = model.phonemes_and_states(features, mask)
    labels = make_labels(40)
    with torch.no_grad():
        one = model(phoneme_ids=ids, phoneme_attention_mask=ids_mask, s2p_states=states, labels=labels).logits
        other = model(phoneme_ids=ids, phoneme_attention_mask=ids_mask, s2p_states=-states, labels=labels).logits
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("decoder", ["transformer", "lstm"])
@pytest.mark.parametrize("encoder", ["whisper", "wav2vec2"])
def test_s2p_outputs_do_not_depend_on_the_batch_and_end_in_eos(encoder, decoder):
    model = make_tspc(s2p=make_s2p(encoder, decoder=decoder))
    features, mask, alone = make_inputs(encoder)
    ids, ids_mask, states = model.phonemes_and_states(features, mask)
    single_ids, single_mask, single_states = model.phonemes_and_states(alone)
    length = int(ids_mask[1].sum())
    assert single_mask.shape[1] == length <= ids.shape[1]
    assert torch.equal(ids[1, :length], single_ids[0])
    torch.testing.assert_close(states[1, :length], single_states[0], atol=1e-5, rtol=0)
    for row, last in enumerate(ids_mask.sum(1) - 1):
        assert ids[row, last] == 1
        assert (ids[row, :last] != 1).all()
    assert (ids[1, length:] == 0).all() and (states[1, length:] == 0).all()


def test_states_are_those_that_the_phonemes_were_predicted_from():
    model = make_tspc()
    features, mask, _ = make_inputs()
    ids, ids_mask, states = model.phonemes_and_states(features, mask)
    logits = model.s2p.proj_out(states)
    logits[..., [0, 3]] = float("-inf")  # <pad> and <s> are never emitted
    predicted = logits.argmax(-1)
    true = ids_mask.bool()
    true[torch.arange(2), ids_mask.sum(1) - 1] = False  # </s> was forced at the limit
    assert torch.equal(predicted[true], ids[true])


def test_cached_s2p_outputs_give_the_same_as_speech():
    model = make_tspc(bridge=True)
    features, mask, _ = make_inputs()
    labels = make_labels(40)
    ids, ids_mask, states = model.phonemes_and_states(features, mask)
    cached = {"phoneme_ids": ids, "phoneme_attention_mask": ids_mask, "s2p_states": states}
    with torch.no_grad():
        loop, fed = model(features, mask, labels=labels), model(**cached, labels=labels)
    assert torch.equal(loop.logits, fed.logits) and torch.equal(loop.loss, fed.loss)
    options = {"num_beams": 2, "max_new_tokens": 10}
    assert torch.equal(
        model.generate(input_features=features, attention_mask=mask, **options), model.generate(**cached, **options)
    )
    # More padding than the cache had, and no mask: <pad> tells.
    padded = {
        "phoneme_ids": torch.nn.functional.pad(ids, (0, 3)),
        "s2p_states": torch.nn.functional.pad(states, (0, 0, 0, 3)),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**padded, labels=labels).logits, loop.logits, atol=1e-5, rtol=0)


def test_batch_mates_do_not_change_the_text():
    model = make_tspc(bridge=True)
    features, mask, alone = make_inputs()
    labels = make_labels(40)
    with torch.no_grad():
        batch = model(features, mask, labels=labels).logits
        single = model(alone, labels=labels[1:, :4]).logits
    torch.testing.assert_close(batch[1, :4], single[0], atol=1e-5, rtol=0)
    for beams in (1, 3):
        texts = model.generate(input_features=features, attention_mask=mask, num_beams=beams, max_new_tokens=12)
        text = model.generate(input_features=alone, num_beams=beams, max_new_tokens=12)[0]
        assert torch.equal(texts[1, : len(text)], text)


def test_reference_phonemes_are_no_input():
    model = make_tspc()
    with pytest.raises(ValueError, match="phoneme_ids without s2p_states"):
        model(phoneme_ids=torch.ones(1, 3, dtype=torch.long), labels=make_labels(40)[:1])
    with pytest.raises(ValueError, match="needs input_features"):
        model(labels=make_labels(40))
    # What a trainer passes along does not matter.
    features, mask, _ = make_inputs()
    plain = model.generate(input_features=features, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(
        plain, model.generate(input_features=features, attention_mask=mask, max_new_tokens=5, labels=make_labels(40))
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("decoder", ["freeze", "unfreeze"])
def test_what_is_frozen_does_not_move_and_the_rest_does(decoder, tied):
    model = make_tspc(p2t=make_p2t(tie_lm_head=tied))
    model.freeze(decoder)
    model.train()
    assert not model.s2p.training and not model.s2p.decoder.layers[0].training
    assert model.p2t.encoder.training
    assert model.p2t.decoder.training == (decoder == "unfreeze")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    text_side = ("p2t.decoder.", "p2t.shared.", "p2t.lm_head.")
    for name, _ in model.named_parameters():
        expected = name.startswith("p2t.") and (decoder == "unfreeze" or not name.startswith(text_side))
        assert (name in trainable) == expected, name
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    features, mask, _ = make_inputs()
    for _ in range(5):
        model(features, mask, labels=make_labels(40)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trainable


def test_other_freezing_modes_are_refused():
    with pytest.raises(ValueError, match="must be one of: freeze, unfreeze"):
        make_tspc().freeze("frozen")


def test_the_loss_does_not_change_with_gradient_accumulation():
    model = make_tspc(bridge=True)
    features, mask, _ = make_inputs()
    labels = make_labels(40)
    count = (labels != -100).sum()
    with torch.no_grad():
        whole = model(features, mask, labels=labels).loss
        parts = [
            model(features[i : i + 1], mask[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=count).loss
            for i in range(2)
        ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_reload(tmp_path, tied):
    model = make_tspc(bridge=True, p2t=make_p2t(tie_lm_head=tied))
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSpeechSeq2Seq.from_pretrained(
        tmp_path, trust_remote_code=False, output_loading_info=True
    )
    assert isinstance(loaded, TSPCForConditionalGeneration)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not any(p.requires_grad for p in loaded.s2p.parameters())
    assert (loaded.p2t.lm_head.weight is loaded.p2t.shared.weight) == tied
    features, mask, _ = make_inputs()
    labels = make_labels(40)
    with torch.no_grad():
        assert torch.equal(
            loaded.eval()(features, mask, labels=labels).logits, model(features, mask, labels=labels).logits
        )
    assert {path.name for path in tmp_path.glob("*.py")} >= {"modeling_tspc.py", "pipeline_tspc.py", "audio_input.py"}


def test_gradient_checkpointing_changes_nothing():
    model = make_tspc(bridge=True, p2t=make_p2t(dropout_rate=0.0))
    model.freeze("freeze")
    model.train()
    features, mask, _ = make_inputs()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(features, mask, labels=make_labels(40)).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_text_is_bounded_by_the_phonemes():
    model = make_tspc(max_text_tokens_per_phoneme=0.5)
    features, mask, _ = make_inputs()
    # 31 and 25 phonemes: 16 + half of them
    text = model.generate(input_features=features, attention_mask=mask)
    assert text.shape[1] <= 1 + 31
    with_phonemes = model.generate(input_features=features, attention_mask=mask, return_phonemes=True)
    assert torch.equal(with_phonemes.sequences, text)
    assert with_phonemes.phoneme_ids.shape == with_phonemes.phoneme_attention_mask.shape == (2, 32 - 1)


def test_phoneme_beams_are_an_option():
    model = make_tspc()
    features, mask, _ = make_inputs()
    wide = model.generate(input_features=features, attention_mask=mask, s2p_num_beams=3, return_phonemes=True)
    ids, ids_mask, _ = model.phonemes_and_states(features, mask, num_beams=3)
    assert torch.equal(wide.phoneme_ids, ids)
    assert ((ids == 1).sum(1) == 1).all()
    assert torch.equal(ids_mask.sum(1), (ids != 0).sum(1))
