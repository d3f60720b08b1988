"""Speech encoders of S2P: Whisper, Wav2Vec2 and Wav2Vec2-BERT with one interface, independent of padding.

Every encoder maps (input_features, attention_mask over input frames) to the states of the true frames and their mask.
The states of an utterance do not depend on how far its batch was padded.

Shape legend: B batch, N samples, F mel bins, L input frames, T encoder frames, E encoder width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Wav2Vec2BertModel, Wav2Vec2Model
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.utils import ModelOutput

from .configuration_tspc import S2PConfig
from .padding import MaskedChannelNorm, length_mask
from .strict_model import InitialisedAsStock

# Whisper's log-mel is (log10 power clamped to 8 below the utterance's maximum, + 4) / 4, and digital silence has
# log10 power -10: so frames of silence hold the maximum - 2, or (-10 + 4) / 4 where nothing is above that.
WHISPER_DYNAMIC_RANGE = 2.0
WHISPER_SILENCE = -1.5


@dataclass
class SpeechEncoderOutput(ModelOutput):
    """States of the true frames.

    Args:
        last_hidden_state: (B, T, E); zero where `attention_mask` is 0.
        attention_mask: (B, T), 1 on true frames.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


def masked_output(states_BTE: torch.Tensor, lengths_B: torch.Tensor) -> SpeechEncoderOutput:
    """Cut to the longest utterance and blank what lies beyond each one."""
    states_BTE = states_BTE[:, : int(lengths_B.max())]
    mask_BT = length_mask(lengths_B, states_BTE.shape[1])
    return SpeechEncoderOutput(states_BTE.masked_fill(mask_BT[..., None] == 0, 0.0), mask_BT)


def check_mask(features: torch.Tensor, frame_axis: int, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The mask over input frames; without one every frame is true."""
    shape = (features.shape[0], features.shape[frame_axis])
    if attention_mask is None:
        return torch.ones(shape, dtype=torch.long, device=features.device)
    if tuple(attention_mask.shape) != shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} but input_features {tuple(features.shape)}: "
            f"expected {shape}, one value for each input frame"
        )
    return attention_mask.long()


class S2PWhisperEncoder(InitialisedAsStock, WhisperEncoder):
    """Whisper's encoder that accepts any number of frames up to its window.

    `padded` extends every utterance to the full window with what the feature extractor computes for silence, so the
    states equal those of the pre-trained encoder on its 30-second input, and keeps the true frames. `trimmed` encodes
    the true frames alone, with a key mask.
    """

    def __init__(self, config, window: str = "padded"):
        super().__init__(config)
        self.window = window

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:  # sizes from the config: ZeRO-3 may hold the tensor flat
            waves = sinusoids(self.config.max_source_positions, self.config.d_model)
            init.copy_(self.embed_positions.weight, waves)
        else:
            super()._init_weights(module)

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SpeechEncoderOutput:
        """(B, F, L) log-mel features and their (B, L) mask -> states at half the frame rate.

        Raises:
            ValueError: wrong number of mel bins, or more frames than the window holds.
        """
        features_BFL = input_features.to(self.conv1.weight.dtype)
        window_frames = 2 * self.max_source_positions
        if features_BFL.ndim != 3 or features_BFL.shape[1] != self.num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(features_BFL.shape)}; this Whisper encoder expects "
                f"(batch, {self.num_mel_bins} mel bins, frames): use the processor saved with the model"
            )
        if features_BFL.shape[2] > window_frames:
            raise ValueError(
                f"input_features has {features_BFL.shape[2]} frames but the encoder's window holds {window_frames} "
                f"({window_frames / 100:g} s); split the audio (chunk_length_s in the pipeline)"
            )
        mask_BL = check_mask(features_BFL, 2, attention_mask)
        lengths_B = (mask_BL.sum(1) + 1) // 2
        if self.window == "padded":
            features_BFL = self._fill_window(features_BFL, mask_BL, window_frames)
            key_mask_BT = None
        else:
            # Zeros are what the convolution itself pads with; an even count makes the stride-2 frames line up.
            features_BFL = features_BFL.masked_fill(mask_BL[:, None] == 0, 0.0)
            features_BFL = nn.functional.pad(features_BFL, (0, features_BFL.shape[2] % 2))
            key_mask_BT = length_mask(lengths_B, features_BFL.shape[2] // 2)
        return masked_output(self._encode(features_BFL, key_mask_BT), lengths_B)

    def _fill_window(self, features_BFL: torch.Tensor, mask_BL: torch.Tensor, window_frames: int) -> torch.Tensor:
        if features_BFL.shape[2] == window_frames:
            return features_BFL  # already padded by the feature extractor
        hidden = features_BFL.masked_fill(mask_BL[:, None] == 0, float("-inf"))
        silence_B = (hidden.amax((1, 2)) - WHISPER_DYNAMIC_RANGE).clamp(min=WHISPER_SILENCE)
        filled_BFL = torch.where(mask_BL[:, None] == 1, features_BFL, silence_B[:, None, None])
        tail = silence_B[:, None, None].expand(-1, self.num_mel_bins, window_frames - features_BFL.shape[2])
        return torch.cat([filled_BFL, tail], dim=2)

    def _encode(self, features_BFL: torch.Tensor, key_mask_BT: torch.Tensor | None) -> torch.Tensor:
        hidden_BET = nn.functional.gelu(self.conv1(features_BFL))
        hidden_BTE = nn.functional.gelu(self.conv2(hidden_BET)).transpose(1, 2)
        # By a call, not by its weight: ZeRO-3 gathers tensors when their module is called.
        hidden_BTE = hidden_BTE + self.embed_positions(torch.arange(hidden_BTE.shape[1], device=hidden_BTE.device))
        hidden_BTE = nn.functional.dropout(hidden_BTE, p=self.dropout, training=self.training)
        attention_mask = None
        if key_mask_BT is not None:
            attention_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden_BTE, attention_mask=key_mask_BT
            )
        for layer in self.layers:
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            hidden_BTE = layer(hidden_BTE, attention_mask)
        return self.layer_norm(hidden_BTE)


class S2PWav2Vec2Encoder(InitialisedAsStock, Wav2Vec2Model):
    """Wav2Vec2 on raw waveforms.

    The stock model normalises its first convolution over time with the padding included (`feat_extract_norm`
    "group"), which makes an utterance depend on its batch; here the statistics are those of the true frames.
    """

    def __init__(self, config):
        super().__init__(config)
        first = self.feature_extractor.conv_layers[0]
        if config.feat_extract_norm == "group":
            first.layer_norm = MaskedChannelNorm(config.conv_dim[0], config.conv_dim[0])
            self.post_init()

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SpeechEncoderOutput:
        """(B, N) waveforms at 16 kHz and their (B, N) mask -> states of 20-ms frames.

        Raises:
            ValueError: input that is not a batch of waveforms.
        """
        if input_features.ndim != 2:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; a Wav2Vec2 encoder expects raw waveforms "
                "(batch, samples): use the processor saved with the model"
            )
        mask_BN = check_mask(input_features, 1, attention_mask)
        waveforms_BN = input_features.to(self.dtype) * mask_BN
        features_BTC, lengths_B = self._convolve(waveforms_BN, mask_BN.sum(1))
        mask_BT = length_mask(lengths_B, features_BTC.shape[1])
        hidden_BTE, _ = self.feature_projection(features_BTC)
        # SpecAugment cannot draw a span longer than the batch.
        if hidden_BTE.shape[1] > self.config.mask_time_length:
            hidden_BTE = self._mask_hidden_states(hidden_BTE, attention_mask=mask_BT)  # pyright: ignore[reportArgumentType]
        states_BTE = self.encoder(hidden_BTE, attention_mask=mask_BT.bool()).last_hidden_state
        return masked_output(states_BTE, lengths_B)

    def _convolve(self, waveforms_BN: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_BCN = waveforms_BN[:, None]
        for index, layer in enumerate(self.feature_extractor.conv_layers):
            kernel, stride = self.config.conv_kernel[index], self.config.conv_stride[index]
            lengths_B = torch.div(lengths_B - kernel, stride, rounding_mode="floor") + 1
            if isinstance(getattr(layer, "layer_norm", None), MaskedChannelNorm):
                block: Any = layer
                hidden_BCN = block.activation(block.layer_norm(block.conv(hidden_BCN), lengths_B))
            else:
                hidden_BCN = layer(hidden_BCN)
        return hidden_BCN.transpose(1, 2), lengths_B.clamp(min=1)


class S2PWav2Vec2BertEncoder(InitialisedAsStock, Wav2Vec2BertModel):
    """Wav2Vec2-BERT on stacked log-mel features; its convolutions are causal and masked, so only the mask is added."""

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SpeechEncoderOutput:
        """(B, L, features) and their (B, L) mask -> states at the same frame rate.

        Raises:
            ValueError: input of another width.
        """
        width = self.config.feature_projection_input_dim
        if input_features.ndim != 3 or input_features.shape[2] != width:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; this Wav2Vec2-BERT encoder expects "
                f"(batch, frames, {width}): use the processor saved with the model"
            )
        mask_BL = check_mask(input_features, 1, attention_mask)
        hidden_BTE, _ = self.feature_projection(input_features.to(self.dtype))
        if hidden_BTE.shape[1] > self.config.mask_time_length:
            hidden_BTE = self._mask_hidden_states(hidden_BTE, attention_mask=mask_BL)  # pyright: ignore[reportArgumentType]
        states_BTE = self.encoder(hidden_BTE, attention_mask=mask_BL).last_hidden_state
        if self.intermediate_ffn:
            states_BTE = states_BTE + 0.5 * self.intermediate_ffn(states_BTE)
        return masked_output(states_BTE, mask_BL.sum(1))


def build_encoder(config: S2PConfig) -> nn.Module:
    """The encoder that `config.encoder_config` describes."""
    encoder_config = config.encoder_config
    if encoder_config.model_type == "whisper":
        return S2PWhisperEncoder(encoder_config, config.encoder_window)
    if encoder_config.model_type == "wav2vec2":
        return S2PWav2Vec2Encoder(encoder_config)
    return S2PWav2Vec2BertEncoder(encoder_config)
