"""The real thing at full size, with random weights: PhoWhisper-base's exact configuration and a T5-small."""

import pytest
import torch
from model_kit import PHONEMES, speech
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from models.tspc import (
    P2TForConditionalGeneration,
    S2PForConditionalGeneration,
    TSPCForConditionalGeneration,
    speech_inputs,
)


@pytest.mark.slow
def test_one_step_of_each_stage_at_full_size(tmp_path):
    whisper = WhisperConfig(
        vocab_size=51_865,
        num_mel_bins=80,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        max_source_positions=1500,
        max_target_positions=448,
    )
    WhisperForConditionalGeneration(whisper).save_pretrained(tmp_path / "whisper")
    s2p = S2PForConditionalGeneration.from_pretrained_encoder(str(tmp_path / "whisper"), {"vocab_size": len(PHONEMES)})
    assert sum(p.numel() for p in s2p.encoder.parameters()) == pytest.approx(20.6e6, rel=0.01)
    assert sum(p.numel() for p in s2p.decoder.parameters()) == pytest.approx(25.5e6, rel=0.02)
    T5ForConditionalGeneration(T5Config(decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    p2t = P2TForConditionalGeneration.from_pretrained_t5(str(tmp_path / "t5"), len(PHONEMES))

    inputs = speech_inputs(WhisperFeatureExtractor(), [speech(2.0), speech(1.2, seed=1)])
    phonemes = torch.randint(4, len(PHONEMES), (2, 20))
    texts = torch.randint(3, 32_000, (2, 9))
    s2p.freeze_encoder()
    s2p.train()
    s2p(**inputs, labels=phonemes).loss.backward()
    assert s2p.decoder.layers[5].fc1.weight.grad.abs().sum() > 0
    p2t(input_ids=phonemes, labels=texts).loss.backward()

    s2p.config.max_phonemes_per_frame = 0.1  # random weights never end by themselves
    model = TSPCForConditionalGeneration.from_stages(s2p, p2t)
    model.freeze("freeze")
    model.train()
    model(**inputs, labels=texts).loss.backward()
    bridges = [block.bridge.EncDecAttention.o.weight for block in model.p2t.encoder.block]
    assert all(torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0 for weight in bridges)
    assert model.p2t.decoder.block[0].layer[0].SelfAttention.q.weight.grad is None
