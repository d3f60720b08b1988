"""Filter banks as encoders: torchaudio and transformers are the oracles; padding, silence, fusion with others."""

import numpy as np
import pytest
import torch
from ser_kit import CONFIGS, make_waveforms, speech
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from models.ser import EncoderSpec, SERConfig, SERForAudioClassification
from models.ser.encoders_ser import EncoderBranch
from models.ser.filterbank_ser import deltas

CASES = {
    "log-mel": {},
    "mfcc": {"num_mel_bins": 40, "num_cepstra": 13, "deltas": 2},
    "plain": {"style": "plain", "num_mel_bins": 64, "hop_ms": 20, "deltas": 1},
}


def branch(normalise=False, **config):
    return EncoderBranch(EncoderSpec("filterbank", "filterbank", config, 0, normalise=normalise)).eval()


def frames_of(audio, **changes):
    part = branch(**changes)
    waveform = torch.from_numpy(audio)[None]
    states, (count,) = part(waveform, torch.ones_like(waveform).long())
    assert states.shape == (1, count, part.size)
    return states[0]


def make_model(encoders=({},), **changes):
    torch.manual_seed(0)
    specs = [one if "kind" in one else {"kind": "filterbank", **one} for one in encoders]
    return SERForAudioClassification(SERConfig(encoders=specs, speechformer_projection=16, **changes)).eval()


def test_log_mel_and_cepstra_are_kaldis():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    audio = speech(0.7)
    wave = torch.from_numpy(audio)[None] * 32768
    expected = kaldi.fbank(wave, num_mel_bins=80, dither=0.0)
    torch.testing.assert_close(frames_of(audio), expected, atol=2e-4, rtol=0)
    expected = kaldi.mfcc(wave, num_mel_bins=23, num_ceps=13, dither=0.0, cepstral_lifter=0.0)
    torch.testing.assert_close(frames_of(audio, num_mel_bins=23, num_cepstra=13), expected, atol=5e-4, rtol=0)


def test_plain_log_mel_is_that_of_transformers():
    audio = speech(0.7)
    filters = mel_filter_bank(257, 64, 0.0, 8000.0, 16_000, "slaney", "slaney")
    expected = spectrogram(
        audio, window_function(400, "hann"), 400, 160, 512, power=2.0, pad_mode="constant", mel_filters=filters,
        log_mel="log", mel_floor=1e-10,
    )  # fmt: skip
    np.testing.assert_allclose(frames_of(audio, style="plain", num_mel_bins=64).numpy(), expected.T, atol=2e-3)


def test_deltas_are_those_of_torchaudio():
    functional = pytest.importorskip("torchaudio.functional")
    frames = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 4])
    ours = deltas(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        expected = functional.compute_deltas(frames[row, :length].T).T
        torch.testing.assert_close(ours[row, :length], expected)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_padding_changes_nothing(case, normalise):
    part = branch(normalise, **CASES[case])
    waveforms, mask = make_waveforms((9_000, 5_003, 450, 130, 3))
    states, lengths = part(waveforms, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone, (count,) = part(waveforms[row : row + 1, :length], mask[row : row + 1, :length])
        assert count == lengths[row] >= 1
        torch.testing.assert_close(states[row, :count], alone[0], atol=1e-5, rtol=1e-5)
        assert not states[row, count:].any()
    if normalise:
        torch.testing.assert_close(states[0].mean(0), torch.zeros(part.size), atol=1e-5, rtol=0)
        torch.testing.assert_close(states[0].std(0, correction=0), torch.ones(part.size), atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_silence_is_finite(case):
    states, _ = branch(True, **CASES[case])(torch.zeros(2, 4_000), torch.ones(2, 4_000).long())
    assert states.isfinite().all() and states.abs().max() < 0.1


def test_half_precision_reaches_no_frame():
    waveforms, mask = make_waveforms((4_000,))
    expected, _ = branch(True)(waveforms, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = branch(True).to(torch.bfloat16)(waveforms, mask)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("head", ["linear", "mlp", "speechformer"])
@torch.no_grad()
def test_alone_and_before_and_behind_other_encoders(head):
    other = {"kind": "hubert", "config": CONFIGS["hubert"], "features": 1}
    bank = {"kind": "filterbank", "config": CASES["mfcc"]}
    waveforms, mask = make_waveforms((16_000, 9_011))
    for encoders in ([bank], [bank, other], [other, bank]):
        for fusion in ("concat", "cross_attention")[: len(encoders)]:
            model = make_model(encoders, head=head, fusion=fusion, speechformer_heads=4, fusion_size=16)
            output = model(waveforms, mask)
            # 100 frames a second become the 50 of the model.
            assert abs(output.last_hidden_state.shape[1] - 49) <= 1
            alone = model(waveforms[1:, :9_011])
            torch.testing.assert_close(output.logits[1], alone.logits[0], atol=1e-5, rtol=0)
            assert model.cacheable == [branch.spec.name for branch in model.branches]
    twice = make_model([bank], head=head, frame_rate_hz=100.0, speechformer_heads=4)
    assert twice(waveforms, mask).last_hidden_state.shape[1] == 98


def test_saved_with_every_number(tmp_path):
    model = SERForAudioClassification.from_encoders([{"kind": "filterbank", "config": {"num_cepstra": 20}}])
    model.save_pretrained(tmp_path)
    again = SERForAudioClassification.from_pretrained(tmp_path)
    assert again.config.encoders[0]["config"] == {
        "style": "kaldi", "num_mel_bins": 80, "frame_ms": 25, "hop_ms": 10, "num_cepstra": 20, "deltas": 0,
    }  # fmt: skip
    waveforms, mask = make_waveforms((4_000,))
    assert torch.equal(again(waveforms, mask).logits, model(waveforms, mask).logits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": "mix"}, r"encoders\[0\]\.features is 'mix'; a filter bank has its frames alone: 0"),
        ({"frozen": False}, "no weights to train"),
        ({"config": {"bins": 3}}, r"encoders\[0\]\.config: no field bins; allowed are: deltas, frame_ms"),
        ({"config": {"num_cepstra": 81}}, "num_cepstra is 81; it must be a whole number from 0 to 80"),
        ({"config": {"style": "htk"}}, "style is 'htk'; it must be one of: 'kaldi', 'plain'"),
        ({"config": {"hop_ms": 0}}, "hop_ms is 0; it must be a number of milliseconds from 1 to 1000"),
    ],
)
def test_refusals_name_the_field(changes, says):
    with pytest.raises(ValueError, match=says):
        SERConfig(encoders=[{"kind": "filterbank", **changes}])
