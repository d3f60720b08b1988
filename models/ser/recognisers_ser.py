"""Encoders of speech recognisers for emotion classifiers: FastConformer (stock Parakeet as well) and Zipformer.

Raw waveforms in, as for every encoder here: the log-mel front ends of both are computed in the model, in float32, the
numbers of their feature extractors. What a clip gets does not depend on the padding of its batch.

Shape legend: B batch, N samples, L log-mel frames, W samples of a window, F mel bins, T output frames, D width.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank

from .configuration_fastconformer import FastConformerConfig
from .configuration_zipformer import ZipformerConfig
from .filterbank_ser import KALDI_FLOOR, kaldi_power
from .modeling_encoder import FastConformerEncoder, init_weights_as_nemo
from .strict_model import StrictModel
from .zipformer_encoder import ZipformerEncoder
from .zipformer_layers import init_weights
from .zipformer_subsampling import CONTEXT_FRAMES, FEWEST_FRAMES, Subsampling
from .zipformer_training import Balancer, Whiten

SAMPLING_RATE, HOP, WINDOW, FFT = 16_000, 160, 400, 512
# Parakeet's feature extractor; what it is told otherwise in a checkpoint is refused (`loading_ser`).
PARAKEET_FRONT_END = {"hop_length": HOP, "win_length": WINDOW, "n_fft": FFT, "preemphasis": 0.97}
ZIPFORMER_FRONT_END = {
    "frame_length_s": 0.025, "frame_shift_s": 0.01, "low_frequency_hz": 20.0, "high_frequency_hz": -400.0,
}  # fmt: skip
PARAKEET_GUARD, PARAKEET_EPS = 2.0**-24, 1e-5
# Shorter clips are extended with silence, as by our feature extractors: normalisation needs a few frames.
PARAKEET_SHORTEST, ZIPFORMER_SHORTEST = SAMPLING_RATE // 20, FEWEST_FRAMES * HOP


@cache
def _slaney_filters(num_bins: int) -> torch.Tensor:
    filters = mel_filter_bank(
        FFT // 2 + 1, num_bins, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, "slaney", "slaney", dtype="float32"
    )
    return torch.from_numpy(filters)


@cache
def _kaldi_filters(num_bins: int) -> torch.Tensor:
    filters = mel_filter_bank(
        FFT // 2 + 1, num_bins, 20.0, SAMPLING_RATE / 2 - 400, SAMPLING_RATE, mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )  # fmt: skip
    return torch.from_numpy(filters).float()


def _mask(lengths_B: torch.Tensor, size: int) -> torch.Tensor:
    return torch.arange(size, device=lengths_B.device)[None] < lengths_B[:, None]


def _extended(waveforms_BN: torch.Tensor, samples_B: torch.Tensor, shortest: int) -> tuple[torch.Tensor, torch.Tensor]:
    spare = max(0, shortest - waveforms_BN.shape[1])
    return nn.functional.pad(waveforms_BN.float(), (0, spare)), samples_B.clamp(min=shortest)


def parakeet_log_mel(
    waveforms_BN: torch.Tensor, samples_B: torch.Tensor, num_bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms, zero behind their true samples -> (B, L, F), each bin normalised over the clip, and the true frames
    (B,): those of `FastConformerFeatureExtractor`."""
    waveforms_BN, samples_B = _extended(waveforms_BN, samples_B, PARAKEET_SHORTEST)
    before = nn.functional.pad(waveforms_BN[:, :-1], (1, 0))
    emphasised = waveforms_BN - PARAKEET_FRONT_END["preemphasis"] * before
    emphasised = emphasised.masked_fill(~_mask(samples_B, waveforms_BN.shape[1]), 0.0)
    with torch.autocast(waveforms_BN.device.type, enabled=False):
        window = torch.hann_window(WINDOW, periodic=False, device=waveforms_BN.device)
        spectrum = torch.stft(emphasised, FFT, HOP, WINDOW, window=window, return_complex=True, pad_mode="constant")
        filters = _slaney_filters(num_bins).to(waveforms_BN.device)
        features_BLF = (spectrum.abs().square().transpose(1, 2) @ filters + PARAKEET_GUARD).log()
    lengths_B = torch.div(samples_B, HOP, rounding_mode="floor")
    features_BLF = features_BLF[:, : int(lengths_B.max())]
    mask_BL1 = _mask(lengths_B, features_BLF.shape[1])[..., None]
    count_B11 = lengths_B[:, None, None]
    centred = (features_BLF - (features_BLF * mask_BL1).sum(1, keepdim=True) / count_B11) * mask_BL1
    deviation = (centred.square().sum(1, keepdim=True) / (count_B11 - 1)).sqrt()
    return centred / (deviation + PARAKEET_EPS), lengths_B


def zipformer_log_mel(
    waveforms_BN: torch.Tensor, samples_B: torch.Tensor, num_bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `parakeet_log_mel`: the filter bank of `ZipformerFeatureExtractor`, which mirrors both ends of a clip."""
    waveforms_BN, samples_B = _extended(waveforms_BN, samples_B, ZIPFORMER_SHORTEST)
    lengths_B = torch.div(samples_B + HOP // 2, HOP, rounding_mode="floor")
    edge = WINDOW // 2 - HOP // 2
    place = torch.arange(int(lengths_B.max()) * HOP + WINDOW - HOP, device=samples_B.device)[None] - edge
    place = torch.where(place < 0, -1 - place, place)
    last_B1 = samples_B[:, None] - 1
    place = torch.where(place > last_B1, 2 * last_B1 + 1 - place, place).clamp(min=0)
    with torch.autocast(waveforms_BN.device.type, enabled=False):
        power = kaldi_power(waveforms_BN.gather(1, place).unfold(1, WINDOW, HOP), FFT)
        filters = _kaldi_filters(num_bins).to(power.device)
        return (power @ filters).clamp(min=KALDI_FLOOR).log(), lengths_B


class FastConformerSpeechEncoder(StrictModel, PreTrainedModel):
    """The encoder of a FastConformer or Parakeet under the names of its tensors there; 12.5 frames a second."""

    config_class = FastConformerConfig
    config: FastConformerConfig
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FastConformerBlock"]
    _keys_to_ignore_on_load_unexpected = [r"^(ctc_head|encoder_projector|decoder|joint)\."]

    def __init__(self, config: FastConformerConfig):
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        self.size = config.hidden_size
        self.frame_rate_hz = SAMPLING_RATE / HOP / config.subsampling_factor
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not init_weights_as_nemo(module):
            super()._init_weights(module)

    def keep_layers(self, count: int) -> None:
        """Drop the blocks behind the first `count`."""
        self.encoder.layers = self.encoder.layers[:count]

    def forward(self, waveforms_BN: torch.Tensor, samples_B: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Waveforms, zero behind their true samples -> what enters the first block and what leaves each, (B, T, D),
        and the true frames (B,)."""
        features, lengths_B = parakeet_log_mel(waveforms_BN, samples_B, self.config.num_mel_bins)
        states: list[torch.Tensor] = []
        output = self.encoder(features, _mask(lengths_B, features.shape[1]), states)
        return states, output.lengths_B


class ZipformerSpeechEncoder(StrictModel, PreTrainedModel):
    """Front-end and stacks of a Zipformer under the names of their tensors there; 25 frames a second.

    A layer here is a stack: the states behind the first k of them are joined as those behind all are, each channel
    from the last stack that has it, then two frames become one. Channels that none of the k has are zero.
    """

    config_class = ZipformerConfig
    config: ZipformerConfig
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ZipformerLayer", "ConvNeXt"]
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|joiner|simple_am_proj|simple_lm_proj|ctc_head)\."]

    def __init__(self, config: ZipformerConfig):
        super().__init__(config)
        self.encoder_embed = Subsampling(config.num_mel_bins, config.subsampling_channels, config.encoder_dim[0])
        self.encoder = ZipformerEncoder(config)
        self.size = config.hidden_size
        self.frame_rate_hz = SAMPLING_RATE / HOP / 4
        self.post_init()
        for module in self.modules():
            if isinstance(module, Balancer | Whiten):
                module.active = config.shape_gradients

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)

    def keep_layers(self, count: int) -> None:
        """Drop the stacks behind the first `count`."""
        self.encoder.stacks = self.encoder.stacks[:count]

    def forward(self, waveforms_BN: torch.Tensor, samples_B: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Waveforms, zero behind their true samples -> what enters the first stack and what leaves each, (B, T, D),
        and the true frames (B,)."""
        config = self.config
        features, lengths_B = zipformer_log_mel(waveforms_BN, samples_B, config.num_mel_bins)
        if config.mask_padding:
            features = features.masked_fill(~_mask(lengths_B, features.shape[1])[..., None], config.padding_value)
        features = features.to(self.encoder_embed.conv1.weight.dtype)
        lengths_B = torch.div(lengths_B - CONTEXT_FRAMES, 2, rounding_mode="floor")
        unpadded = bool((lengths_B == lengths_B.max()).all())
        given = None if unpadded else lengths_B
        embedded = self.encoder_embed(features, given if config.mask_padding else None)
        outputs = self.encoder.stack_outputs(embedded, given)
        states = [self.encoder.joined([embedded], given)]
        states += [self.encoder.joined(outputs[: count + 1], given) for count in range(len(outputs))]
        wide = [nn.functional.pad(one, (0, self.size - one.shape[-1])) for one in states]
        return wide, torch.div(lengths_B + 1, 2, rounding_mode="floor")


RECOGNISERS: dict[str, tuple[Any, Any]] = {
    "fastconformer": (FastConformerConfig, FastConformerSpeechEncoder),
    "zipformer": (ZipformerConfig, ZipformerSpeechEncoder),
}
