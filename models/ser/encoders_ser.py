"""Speech encoders of the emotion classifiers behind one interface: waveforms in, 50-Hz features out.

Only what a model uses of an encoder is built: the convolutions for `"conv"`, the first k layers for layer k. The
features of a clip do not depend on how far its batch was padded.

Shape legend: B batch, N samples, T frames, E width of the features, K layers of a mix.
"""

from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
)
from transformers.audio_utils import mel_filter_bank
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .configuration_emotion2vec import Emotion2VecConfig
from .configuration_ser import EncoderSpec
from .filterbank_ser import Filterbank, FilterbankSettings
from .modeling_emotion2vec import Emotion2VecModel
from .padding import MaskedChannelNorm, length_mask
from .recognisers_ser import RECOGNISERS
from .strict_model import InitialisedAsStock

# Below, where transformers' feature extractors and emotion2vec's front end add it to the variance.
NORMALISE_EPS = {"emotion2vec": 1e-5}
DEFAULT_EPS = 1e-7
SAMPLING_RATE = 16_000
WHISPER_HOP, WHISPER_FFT = 160, 400


class StockWhisperEncoder(InitialisedAsStock, WhisperEncoder):
    """Whisper's encoder; built from scratch it gets its sinusoids."""


KINDS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
    "whisper": (WhisperConfig, StockWhisperEncoder),
    "emotion2vec": (Emotion2VecConfig, Emotion2VecModel),
}


def normalise(waveforms_BN: torch.Tensor, mask_BN: torch.Tensor, eps: float) -> torch.Tensor:
    """Zero mean and unit variance over the true samples of each clip, zeros behind them. Silence stays silent."""
    mask_BN = mask_BN.to(waveforms_BN.dtype)
    count_B1 = mask_BN.sum(1, keepdim=True).clamp(min=1)
    centred_BN = (waveforms_BN - (waveforms_BN * mask_BN).sum(1, keepdim=True) / count_B1) * mask_BN
    return centred_BN * torch.rsqrt(centred_BN.square().sum(1, keepdim=True) / count_B1 + eps)


@cache
def _mel_filters(num_bins: int) -> torch.Tensor:
    filters = mel_filter_bank(WHISPER_FFT // 2 + 1, num_bins, 0.0, 8000.0, SAMPLING_RATE, "slaney", "slaney")
    return torch.from_numpy(filters).float()


def whisper_log_mel(waveforms_BN: torch.Tensor, num_bins: int, window_samples: int) -> torch.Tensor:
    """(B, N) waveforms, silent behind their end -> (B, bins, frames), as WhisperFeatureExtractor does."""
    padded_BN = nn.functional.pad(waveforms_BN.float(), (0, window_samples - waveforms_BN.shape[1]))
    window = torch.hann_window(WHISPER_FFT, device=waveforms_BN.device)
    # Autocast would multiply in half precision, whose range does not hold a power spectrum.
    with torch.autocast(waveforms_BN.device.type, enabled=False):
        spectrum = torch.stft(padded_BN, WHISPER_FFT, WHISPER_HOP, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        mel = torch.clamp(_mel_filters(num_bins).to(power.device).T @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class Convolutions(nn.Module):
    """What is left of an encoder for `"conv"`, under the names of its tensors in the whole model."""

    def __init__(self, model: Any):
        super().__init__()
        self.feature_extractor = getattr(model, "feature_extractor", None)
        self.feature_encoder = getattr(model, "feature_encoder", None)
        norms = {name: getattr(model.feature_projection, name, None) for name in ("layer_norm", "norm")}
        self.feature_projection = nn.ModuleDict({name: norm for name, norm in norms.items() if norm is not None})

    def normed(self, features_BTE: torch.Tensor) -> torch.Tensor:
        """With the norm in front of the projection, where the encoder has one."""
        for norm in self.feature_projection.values():
            features_BTE = norm(features_BTE)
        return features_BTE


class EncoderBranch(nn.Module):
    """One encoder of the model, trimmed to what `spec.features` needs.

    Attributes:
        size: width E of what `forward` returns.
        frame_rate_hz: its frames per second.
    """

    def __init__(self, spec: EncoderSpec, attn_implementation: str | None = None):
        super().__init__()
        self.spec = spec
        self.layer_weights = nn.Parameter(torch.zeros(spec.num_layers + 1)) if spec.features == "mix" else None
        if spec.kind == "filterbank":
            self.model: Any = Filterbank(FilterbankSettings.of(spec.config), spec.normalise)
            self.size, self.frame_rate_hz = self.model.size, self.model.frame_rate_hz
            return
        if spec.kind in RECOGNISERS:
            config_class, model_class = RECOGNISERS[spec.kind]
            self.model = model_class(config_class(**spec.config))
            if isinstance(spec.features, int):
                self.model.keep_layers(spec.features)
            self.size, self.frame_rate_hz = self.model.size, self.model.frame_rate_hz
            return
        config_class, model_class = KINDS[spec.kind]
        fields = {key: value for key, value in spec.config.items() if key != "model_type"}
        config: Any = config_class(**fields)
        if getattr(config, "add_adapter", False):
            raise ValueError(f"encoder {spec.name}: add_adapter is true; its convolutions would see padding")
        if attn_implementation is not None and spec.kind not in ("wavlm",):
            config._attn_implementation = attn_implementation
        self.model = model_class(config)
        self.config: Any = config
        self.trim()
        self.size = config.conv_dim[-1] if spec.features == "conv" else spec.width
        stride = 2 * WHISPER_HOP if spec.kind == "whisper" else prod(config.conv_stride)
        self.frame_rate_hz = SAMPLING_RATE / stride

    def trim(self) -> None:
        """Drop what the features do not need."""
        model, spec = self.model, self.spec
        is_stacked = spec.kind in ("wav2vec2", "hubert", "wavlm")
        if is_stacked and self.config.feat_extract_norm == "group":
            first = model.feature_extractor.conv_layers[0]
            first.layer_norm = MaskedChannelNorm(self.config.conv_dim[0], self.config.conv_dim[0])
            nn.init.ones_(first.layer_norm.weight)
        if spec.features == "conv":
            self.model = Convolutions(model)
        elif isinstance(spec.features, int) and spec.features < spec.num_layers:
            owner = model.encoder if is_stacked else model
            owner.layers = owner.layers[: spec.features]
            # A norm behind the last layer belongs to the whole stack.
            if (is_stacked and self.config.do_stable_layer_norm) or spec.kind == "whisper":
                owner.layer_norm = nn.Identity()
            if spec.kind == "emotion2vec" and self.config.layer_norm_first:
                model.norm = nn.Identity()

    def freeze_constants(self) -> None:
        """Loading marks every tensor as trainable: also Whisper's positions, and a vector that nothing reads."""
        if self.spec.kind not in KINDS:
            return
        if self.spec.kind == "whisper":
            self.model.embed_positions.requires_grad_(False)
        vector = getattr(self.model, "masked_spec_embed", None)
        if vector is not None and not (self.config.apply_spec_augment and self.config.mask_time_prob):
            vector.requires_grad_(False)

    def forward(self, waveforms_BN: torch.Tensor, mask_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) waveforms at 16 kHz and the mask of their samples -> features and the (B,) count of true frames.

        The features are (B, T, E), or (B, T, K, E) where layers are mixed afterwards by `mix`: what a cache holds.
        """
        waveforms_BN = waveforms_BN.float() * mask_BN
        samples_B = mask_BN.sum(1)
        hears_waveforms = self.spec.kind in KINDS
        # The others normalise their frames.
        if self.spec.normalise and hears_waveforms:
            waveforms_BN = normalise(waveforms_BN, mask_BN, NORMALISE_EPS.get(self.spec.kind, DEFAULT_EPS))
        shortest = self._shortest() if hears_waveforms else 1
        if waveforms_BN.shape[1] < shortest:
            spare = (0, shortest - waveforms_BN.shape[1])
            waveforms_BN, mask_BN = nn.functional.pad(waveforms_BN, spare), nn.functional.pad(mask_BN, spare)
        if not hears_waveforms:
            states, lengths_B = self.model(waveforms_BN, samples_B)
            states = self._keep(states)
        elif self.spec.kind == "whisper":
            states, lengths_B = self._whisper(waveforms_BN, samples_B)
        elif self.spec.kind == "emotion2vec":
            states, lengths_B = self._emotion2vec(waveforms_BN, mask_BN)
        else:
            states, lengths_B = self._stacked(waveforms_BN, samples_B)
        features = states[0] if len(states) == 1 else torch.stack(states, dim=2)
        longest = int(lengths_B.max())
        hidden_BT = length_mask(lengths_B, longest) == 0
        return features[:, :longest].masked_fill(hidden_BT[(..., *[None] * (features.ndim - 2))], 0.0), lengths_B

    def mix(self, features: torch.Tensor) -> torch.Tensor:
        """What `forward` returned -> (B, T, E): the weighted sum of the layers."""
        if self.layer_weights is None:
            return features
        return torch.einsum("btke,k->bte", features, self.layer_weights.softmax(0).to(features.dtype))

    def _shortest(self) -> int:
        """Samples that one frame sees."""
        samples = 1
        kernels, strides = getattr(self.config, "conv_kernel", (1,)), getattr(self.config, "conv_stride", (1,))
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def _frame_counts(self, lengths_B: torch.Tensor, first: int = 0, end: int | None = None) -> torch.Tensor:
        """Frames behind the convolutions from `first` to `end`; clips too short for one have one."""
        for kernel, stride in zip(self.config.conv_kernel[first:end], self.config.conv_stride[first:end], strict=True):
            lengths_B = (torch.div(lengths_B - kernel, stride, rounding_mode="floor") + 1).clamp(min=1)
        return lengths_B

    def _keep(self, states: list[torch.Tensor]) -> list[torch.Tensor]:
        return states if self.spec.features == "mix" else states[-1:]

    def _stacked(self, waveforms_BN: torch.Tensor, samples_B: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Wav2Vec2, HuBERT and WavLM: the same convolutions and positions, each with its own layers."""
        model = self.model
        dtype = next(model.parameters()).dtype
        hidden_BCN, lengths_B = waveforms_BN[:, None].to(dtype), samples_B
        for index, layer in enumerate(model.feature_extractor.conv_layers):
            lengths_B = self._frame_counts(lengths_B, index, index + 1)
            if isinstance(getattr(layer, "layer_norm", None), MaskedChannelNorm):
                hidden_BCN = layer.activation(layer.layer_norm(layer.conv(hidden_BCN), lengths_B))
            else:
                hidden_BCN = layer(hidden_BCN)
        if self.spec.features == "conv":
            return [model.normed(hidden_BCN.transpose(1, 2))], lengths_B
        projected = model.feature_projection(hidden_BCN.transpose(1, 2))
        # HuBERT gives the projection alone.
        hidden_BTE = projected[0] if isinstance(projected, tuple) else projected
        mask_BT = length_mask(lengths_B, hidden_BTE.shape[1])
        # SpecAugment cannot draw a span longer than the batch.
        if self.training and hidden_BTE.shape[1] > self.config.mask_time_length:
            hidden_BTE = model._mask_hidden_states(hidden_BTE, attention_mask=mask_BT)
        return self._layers(hidden_BTE.masked_fill(mask_BT[..., None] == 0, 0.0), mask_BT), lengths_B

    def _layers(self, hidden_BTE: torch.Tensor, mask_BT: torch.Tensor) -> list[torch.Tensor]:
        encoder, config = self.model.encoder, self.config
        hidden_BTE = hidden_BTE + encoder.pos_conv_embed(hidden_BTE)
        if not config.do_stable_layer_norm:
            hidden_BTE = encoder.layer_norm(hidden_BTE)
        hidden_BTE = encoder.dropout(hidden_BTE)
        is_wavlm = self.spec.kind == "wavlm"
        key_mask = mask_BT
        if not is_wavlm:
            key_mask = create_bidirectional_mask(config=config, inputs_embeds=hidden_BTE, attention_mask=mask_BT)
        states, bias = [hidden_BTE], None
        for index, layer in enumerate(encoder.layers):
            # WavLM's first layer makes the bias of all others.
            if self.training and config.layerdrop and index and torch.rand([]) < config.layerdrop:
                states.append(hidden_BTE)
                continue
            if is_wavlm:
                hidden_BTE, bias = layer(hidden_BTE, attention_mask=key_mask, position_bias=bias)
            else:
                hidden_BTE = layer(hidden_BTE, attention_mask=key_mask)
            states.append(hidden_BTE)
        if config.do_stable_layer_norm:
            states[-1] = encoder.layer_norm(states[-1])
        return self._keep(states)

    def _whisper(self, waveforms_BN: torch.Tensor, samples_B: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Whisper on its whole window, silence included, exactly as it was trained; the true frames are kept."""
        model = self.model
        window = 2 * WHISPER_HOP * self.config.max_source_positions
        if waveforms_BN.shape[1] > window:
            raise ValueError(
                f"encoder {self.spec.name}: clips of {waveforms_BN.shape[1] / SAMPLING_RATE:.1f} s, but Whisper's "
                f"window holds {window / SAMPLING_RATE:g} s; split them (the pipeline does so by itself)"
            )
        features_BFL = whisper_log_mel(waveforms_BN, self.config.num_mel_bins, window).to(model.conv1.weight.dtype)
        hidden_BTE = nn.functional.gelu(model.conv2(nn.functional.gelu(model.conv1(features_BFL)))).transpose(1, 2)
        hidden_BTE = hidden_BTE + model.embed_positions(torch.arange(hidden_BTE.shape[1], device=hidden_BTE.device))
        states = [nn.functional.dropout(hidden_BTE, p=model.dropout, training=self.training)]
        for layer in model.layers:
            if self.training and model.layerdrop and torch.rand([]) < model.layerdrop:
                states.append(states[-1])
                continue
            states.append(layer(states[-1], None))
        states[-1] = model.layer_norm(states[-1])
        lengths_B = torch.div(samples_B + 2 * WHISPER_HOP - 1, 2 * WHISPER_HOP, rounding_mode="floor").clamp(min=1)
        return self._keep(states), lengths_B

    def _emotion2vec(
        self, waveforms_BN: torch.Tensor, mask_BN: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        model = self.model
        if self.spec.features == "conv":
            frames_BTE = model.feature_encoder(waveforms_BN.to(next(model.parameters()).dtype))
            return [model.normed(frames_BTE)], self._frame_counts(mask_BN.sum(1))
        output = model(waveforms_BN, mask_BN, output_hidden_states=True)
        return self._keep(list(output.hidden_states)), output.frame_mask.sum(1)
