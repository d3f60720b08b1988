"""S2P: losses, generation with and without a cache, freezing, and the encoder of a checkpoint."""

import re

import pytest
import torch
from model_kit import DECODERS, ENCODER_CASES, ENCODERS, make_inputs, make_labels, make_s2p
from torch import nn
from transformers import (
    AutoModelForSpeechSeq2Seq,
    T5Config,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from models.tspc import S2PForConditionalGeneration


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("encoder", "window"), ENCODER_CASES)
def test_outputs_do_not_depend_on_batch_mates_and_cached_states_change_nothing(encoder, window, decoder):
    model = make_s2p(encoder, window, decoder, ctc_weight=0.3)
    features, mask, alone = make_inputs(encoder)
    labels = make_labels()
    with torch.no_grad():
        batch = model(features, mask, labels=labels)
        single = model(alone, labels=labels[1:, :4])
        states, frame_mask = model.encode(features, mask)
        cached = model(encoder_states=states, encoder_attention_mask=frame_mask, labels=labels)
    torch.testing.assert_close(batch.logits[1, :4], single.logits[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(batch.logits, cached.logits)
    assert torch.equal(batch.loss, cached.loss)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_generation_with_and_without_cache_agree_and_ignore_batch_mates(decoder, num_beams):
    model = make_s2p(decoder=decoder)
    features, mask, alone = make_inputs()
    options = {"num_beams": num_beams}
    cached = model.generate(input_features=features, attention_mask=mask, **options)
    uncached = model.generate(input_features=features, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached, uncached)
    single = model.generate(input_features=alone, **options)[0]
    assert torch.equal(cached[1, : len(single)], single)
    assert cached[1, len(single) - 1] == 1
    # Beam search fills up with </s>, greedy search with <pad>.
    assert (cached[1, len(single) :] == (0 if num_beams == 1 else 1)).all()
    assert len(cached[0, 1:].unique()) >= 3, "a model that says one thing tests nothing"


def test_greedy_generation_is_the_argmax_of_the_teacher_forced_logits():
    model = make_s2p()
    features, mask, _ = make_inputs()
    ids = model.generate(input_features=features, attention_mask=mask)[:1]
    with torch.no_grad():
        logits = model(features[:1], mask[:1], decoder_input_ids=ids[:, :-1]).logits
    logits[..., [0, 3]] = float("-inf")  # <pad> and <s> are never emitted
    # The last token is forced at the utterance's limit.
    assert torch.equal(logits.argmax(-1)[0, :-1], ids[0, 1:-1])
    assert ids[0, -1] == 1


def test_generation_is_bounded_by_the_audio_and_by_the_positions():
    features, mask, _ = make_inputs()
    model = make_s2p(max_phonemes_per_frame=0.25)
    # 61 and 36 frames: 16 + a quarter of them
    ids = model.generate(input_features=features, attention_mask=mask)
    assert ids.shape[1] == 1 + 31
    assert ids[1, 25] == 1
    model = make_s2p(max_target_positions=10)
    assert model.generate(input_features=features, num_beams=2).shape[1] == 1 + 10
    assert make_s2p().generate(input_features=features, max_new_tokens=3).shape[1] == 1 + 3


def test_training_targets_longer_than_the_positions_are_named():
    model = make_s2p(max_target_positions=5)
    with pytest.raises(ValueError, match="7 phonemes but the decoder has 5 positions"):
        model(make_inputs()[0], labels=make_labels())


def test_speech_or_targets_missing():
    model = make_s2p()
    with pytest.raises(ValueError, match="needs input_features"):
        model(labels=make_labels())
    with pytest.raises(ValueError, match="call generate"):
        model(make_inputs()[0])
    with pytest.raises(ValueError, match="needs input_features"):
        model.generate()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_sum_of_its_terms(smoothing):
    model = make_s2p(ctc_weight=0.25, label_smoothing=smoothing)
    features, mask, _ = make_inputs()
    labels = make_labels()
    with torch.no_grad():
        output = model(features, mask, labels=labels)
    count = int((labels != -100).sum())
    decoder = nn.functional.cross_entropy(
        output.logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction="mean"
    )
    log_probabilities = output.ctc_logits.log_softmax(-1).transpose(0, 1)
    symbols = [labels[0, :6], labels[1, :3]]
    lengths = output.encoder_attention_mask.sum(1)
    ctc = sum(
        nn.functional.ctc_loss(
            log_probabilities[: lengths[i], i], row, (int(lengths[i]),), (len(row),), reduction="sum"
        )
        for i, row in enumerate(symbols)
    )
    torch.testing.assert_close(output.decoder_loss, decoder)
    torch.testing.assert_close(output.ctc_loss, ctc / count)
    torch.testing.assert_close(output.loss, 0.75 * decoder + 0.25 * ctc / count)


def test_the_loss_does_not_change_with_gradient_accumulation():
    model = make_s2p(ctc_weight=0.3)
    features, mask, _ = make_inputs()
    labels = make_labels()
    count = (labels != -100).sum()
    model(features, mask, labels=labels, num_items_in_batch=count).loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    losses = []
    for row in range(2):
        part = model(
            features[row : row + 1], mask[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=count
        )
        part.loss.backward()
        losses.append(part.loss.detach())
    with torch.no_grad():
        torch.testing.assert_close(sum(losses), model(features, mask, labels=labels).loss)
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-4)


def test_more_phonemes_than_frames_do_not_break_ctc():
    model = make_s2p(ctc_weight=0.5, window="trimmed")
    loss = model(torch.randn(1, 80, 6), labels=torch.randint(4, 20, (1, 12))).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_ctc_greedy_merges_repeats_and_stops_at_the_mask():
    model = make_s2p(ctc_weight=0.5)
    path = torch.tensor([[5, 5, 0, 5, 6, 6, 7], [8, 0, 0, 8, 9, 9, 9]])
    model.ctc_head = nn.Identity()
    model.ctc_head.weight = torch.zeros(1)
    one_hot = nn.functional.one_hot(path, 10).float()
    mask = torch.ones(2, 7)
    mask[1, 4:] = 0
    assert model.ctc_greedy(one_hot, mask) == [[5, 5, 6, 7], [8, 8]]
    with pytest.raises(ValueError, match="no CTC head"):
        make_s2p().ctc_greedy(one_hot, mask)


def test_a_frozen_encoder_stays_in_evaluation_mode_and_gets_no_gradient():
    model = make_s2p("wav2vec2")
    model.freeze_encoder()
    model.train()
    assert not model.encoder.training and not model.encoder.encoder.layers[0].training
    assert model.decoder.training
    features, mask, _ = make_inputs("wav2vec2")
    model(features, mask, labels=make_labels()).loss.backward()
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        f"encoder.{name}" for name, _ in model.encoder.named_parameters()
    }
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    model.encoder.requires_grad_(True)
    model.train()
    assert model.encoder.training


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_gradients_reach_every_trainable_tensor(encoder, decoder):
    model = make_s2p(encoder, decoder=decoder, ctc_weight=0.3, encoder_changes={"layerdrop": 0.0}).train()
    features, mask, _ = make_inputs(encoder)
    model(features, mask, labels=make_labels()).loss.backward()
    silent = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert silent <= {"encoder.masked_spec_embed"}


@pytest.mark.parametrize("decoder", ["transformer", "gru"])
def test_gradient_checkpointing_changes_nothing(decoder):
    model = make_s2p(decoder=decoder, dropout=0.0).train()
    features, mask, _ = make_inputs()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(features, mask, labels=make_labels()).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert model.encoder.layers[0].gradient_checkpointing and model.decoder.layers[0].gradient_checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
def test_save_and_reload(tmp_path, decoder, tied):
    model = make_s2p(decoder=decoder, ctc_weight=0.2, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSpeechSeq2Seq.from_pretrained(
        tmp_path, trust_remote_code=False, output_loading_info=True
    )
    assert isinstance(loaded, S2PForConditionalGeneration)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.encoder.embed_positions.weight.requires_grad
    assert (loaded.proj_out.weight is loaded.decoder.embed_tokens.weight) == tied
    features, mask, _ = make_inputs()
    with torch.no_grad():
        assert torch.equal(
            loaded.eval()(features, mask, labels=make_labels()).loss, model(features, mask, labels=make_labels()).loss
        )
    assert loaded.generation_config.decoder_start_token_id == 3


def test_half_precision_generates():
    model = make_s2p("wav2vec2", decoder="lstm").to(torch.bfloat16)
    features, mask, _ = make_inputs("wav2vec2")
    assert model.generate(input_features=features, attention_mask=mask, num_beams=2).shape[0] == 2


def save_whisper(folder):
    torch.manual_seed(5)
    config = WhisperConfig(**{key: value for key, value in ENCODERS["whisper"].items() if key != "model_type"})
    config.decoder_start_token_id = 0
    model = WhisperForConditionalGeneration(config)
    model.save_pretrained(folder)
    return model


def test_encoder_of_a_whisper_checkpoint(tmp_path):
    source = save_whisper(tmp_path)
    model = S2PForConditionalGeneration.from_pretrained_encoder(
        str(tmp_path), {"vocab_size": 30, "decoder_layers": 1, "decoder_attention_heads": 4}, local_files_only=True
    )
    assert (model.config.d_model, model.config.vocab_size) == (32, 30)
    for name, tensor in source.model.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


def test_encoder_of_a_ctc_checkpoint(tmp_path):
    config = Wav2Vec2Config(**{k: v for k, v in ENCODERS["wav2vec2"].items() if k != "model_type"}, vocab_size=12)
    source = Wav2Vec2ForCTC(config)
    source.save_pretrained(tmp_path)
    model = S2PForConditionalGeneration.from_pretrained_encoder(str(tmp_path), {"d_model": 24, "vocab_size": 30})
    for name, tensor in source.wav2vec2.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


def test_a_missing_encoder_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    save_whisper(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.encoder.layers.1.fc2.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape("lacks 1 tensors of the speech encoder: layers.1.fc2.weight")):
        S2PForConditionalGeneration.from_pretrained_encoder(str(tmp_path))


def test_another_architecture_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="'t5' checkpoint; S2P takes the encoder of: whisper, wav2vec2, wav2vec2-bert"
    ):
        S2PForConditionalGeneration.from_pretrained_encoder(str(tmp_path))
