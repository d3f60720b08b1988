"""Blocks of emotion2vec: convolutions on the waveform, convolutional positions, attention with learned ALiBi.

Shape legend: B batch, N samples, C channels of the convolutions, T frames, S extra tokens and frames, D width,
H heads, Q queries of a block.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_emotion2vec import Emotion2VecConfig

# Norms outside the transformer blocks have this eps whatever the configuration says.
CONV_NORM_EPS = 1e-5
# The first convolution makes 100 times as many numbers as there are samples: of ten minutes, 4 GB. Frames see 400
# samples and nothing else, so longer audio is convolved piece by piece.
FRAMES_AT_ONCE = 1500


class WaveformConv(nn.Module):
    """Convolution, layer norm over channels in float32, GELU: no statistics over time, so padding reaches no frame."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, bias=False)
        self.norm = nn.LayerNorm(out_dim, eps=CONV_NORM_EPS)

    def forward(self, hidden_BCN: torch.Tensor) -> torch.Tensor:
        hidden_BNC = self.conv(hidden_BCN).transpose(1, 2)
        norm = self.norm
        normed_BNC = nn.functional.layer_norm(
            hidden_BNC.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )
        return nn.functional.gelu(normed_BNC.to(hidden_BNC.dtype).transpose(1, 2))


class FeatureEncoder(nn.Module):
    """The waveform (B, N) to frames (B, T, C): seven convolutions, 320 samples a frame (section 3.1)."""

    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        widths = [1, *config.conv_dim]
        self.layers = nn.ModuleList(
            WaveformConv(widths[i], widths[i + 1], config.conv_kernel[i], config.conv_stride[i])
            for i in range(len(config.conv_dim))
        )
        self.hop, self.seen = config.samples_per_frame, config.shortest_input

    def forward(self, waveforms_BN: torch.Tensor) -> torch.Tensor:
        num_frames = (waveforms_BN.shape[1] - self.seen) // self.hop + 1
        pieces = []
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            # No tiny last piece: its sums would be in another order than those of the same frames elsewhere.
            stop = start + FRAMES_AT_ONCE
            stop = num_frames if stop + FRAMES_AT_ONCE > num_frames else stop
            pieces.append(self._convolve(waveforms_BN[:, start * self.hop : (stop - 1) * self.hop + self.seen]))
            if stop == num_frames:
                break
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _convolve(self, waveforms_BN: torch.Tensor) -> torch.Tensor:
        hidden_BCN = waveforms_BN[:, None]
        for layer in self.layers:
            hidden_BCN = layer(hidden_BCN)
        return hidden_BCN.transpose(1, 2)


class FeatureProjection(nn.Module):
    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.conv_dim[-1], eps=CONV_NORM_EPS)
        self.linear = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, features_BTC: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(features_BTC))


class PositionEncoder(nn.Module):
    """Stacked grouped convolutions over frames, each followed by a norm without weights and GELU."""

    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        self.kernel = max(3, config.conv_pos_width // config.conv_pos_depth)
        self.convs = nn.ModuleList(
            nn.Conv1d(config.hidden_size, config.hidden_size, self.kernel, groups=config.conv_pos_groups)
            for _ in range(config.conv_pos_depth)
        )

    def forward(self, hidden_BTD: torch.Tensor, frame_mask_BT: torch.Tensor) -> torch.Tensor:
        """Positions (B, T, D) of the frames; the mask is (1 or B, T).

        Before each convolution the frames of padding are set to zero, which is what the convolution pads with: an
        utterance gets the positions it has alone.
        """
        num_frames, sides = hidden_BTD.shape[1], (self.kernel // 2, self.kernel // 2)
        for conv in self.convs:
            hidden_BDT = (hidden_BTD * frame_mask_BT[..., None].to(hidden_BTD.dtype)).transpose(1, 2)
            # Padded here: the convolution's own padding sums in an order that depends on the length of the batch. An
            # even kernel gives one frame too many.
            hidden_BTD = conv(nn.functional.pad(hidden_BDT, sides))[:, :, :num_frames].transpose(1, 2)
            normed = nn.functional.layer_norm(hidden_BTD.float(), hidden_BTD.shape[-1:], eps=CONV_NORM_EPS)
            hidden_BTD = nn.functional.gelu(normed.to(hidden_BTD.dtype))
        return hidden_BTD


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """(H,) slopes of ALiBi (Press et al. 2022): powers of two, with every second one of the next power in between."""
    closest = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / closest) for i in range(closest)]
    between = [2 ** (-8 * (i + 1) / (2 * closest)) for i in range(0, 2 * closest, 2)]
    return torch.tensor(slopes + between[: num_heads - closest])


def attention_bias(
    slopes_H: torch.Tensor, key_mask_BS: torch.Tensor, num_extra: int, start: int, stop: int
) -> torch.Tensor:
    """What is added to the scores of the queries start..stop: -slope x distance, and -inf on keys of padding.

    Args:
        slopes_H: slopes times their learned scale, float32.
        key_mask_BS: (1 or B, S), 1 on the extra tokens and true frames.
        num_extra: extra tokens in front; their distance to everything is 0.

    Returns:
        (1 or B, H, stop - start, S) float32.
    """
    positions_S = torch.arange(key_mask_BS.shape[1], device=slopes_H.device)
    distance_QS = (positions_S[start:stop, None] - positions_S[None]).abs().float()
    if num_extra:
        frames_S = positions_S >= num_extra
        distance_QS = distance_QS * (frames_S[start:stop, None] & frames_S[None])
    bias_BHQS = -slopes_H[None, :, None, None] * distance_QS
    return bias_BHQS.masked_fill(key_mask_BS[:, None, None] == 0, float("-inf"))


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, H, Q, D/H) queries -> ((B, Q, H, D/H), (B, H, Q, S) weights); the softmax is computed in float32."""
    scores_BHQS = torch.matmul(query * scaling, key.transpose(2, 3)) + attention_mask
    weights_BHQS = nn.functional.softmax(scores_BHQS, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped_BHQS = nn.functional.dropout(weights_BHQS, p=dropout, training=module.training)
    return torch.matmul(dropped_BHQS, value).transpose(1, 2), weights_BHQS


class Emotion2VecAttention(nn.Module):
    """Self-attention through the attention interface of transformers, the bias of ALiBi as a float mask."""

    is_causal = False

    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_BSD: torch.Tensor,
        bias_BHSS: torch.Tensor | None,
        slopes_H: torch.Tensor,
        key_mask_BS: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The bias is given whole, or (None) computed here for one block of queries after the other."""
        batch, size, width = hidden_BSD.shape
        qkv = self.qkv(hidden_BSD).view(batch, size, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation or "eager", eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        rows = size if bias_BHSS is not None else block_rows(self.config, key_mask_BS)
        outputs, weights = [], []
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            bias_BHQS = bias_BHSS
            if bias_BHQS is None:
                extra = self.config.num_extra_tokens
                bias_BHQS = attention_bias(slopes_H, key_mask_BS, extra, start, stop).to(query.dtype)
            output_BQHE, weights_BHQS = attend(
                self, query[:, :, start:stop], key, value, bias_BHQS, scaling=self.scaling, dropout=dropout
            )
            outputs.append(output_BQHE)
            weights.append(weights_BHQS)
        attended_BSD = torch.cat(outputs, dim=1).reshape(batch, size, width)
        return self.proj(attended_BSD), None if weights[0] is None else torch.cat(weights, dim=2)


def block_rows(config: Emotion2VecConfig, key_mask_BS: torch.Tensor) -> int:
    """Queries of a block, so that the bias of attention keeps to `attention_block_elements`; at least 16."""
    batch, size = key_mask_BS.shape
    return min(size, max(16, config.attention_block_elements // (batch * config.num_attention_heads * size)))


class Emotion2VecMLP(nn.Module):
    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, inner)
        self.fc2 = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(nn.functional.gelu(self.fc1(hidden_BSD)))))


class Emotion2VecLayer(GradientCheckpointingLayer):
    """A transformer block.

    Post-norm: `x = norm1(x + attention(x)); x = norm2(x + mlp(x))`. With `layer_norm_first`:
    `x = x + attention(norm1(x)); m = mlp(norm2(x)); x = m + m`: the residual around the MLP is the MLP's own output,
    as in the code that trained the published checkpoints, so it must be so here.
    """

    def __init__(self, config: Emotion2VecConfig):
        super().__init__()
        norm = {"eps": config.layer_norm_eps, "elementwise_affine": config.norm_affine}
        self.layer_norm_first = config.layer_norm_first
        self.norm1 = nn.LayerNorm(config.hidden_size, **norm)
        self.attention = Emotion2VecAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, **norm)
        self.mlp = Emotion2VecMLP(config)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout)
        self.mlp_dropout = nn.Dropout(config.mlp_dropout)

    def forward(
        self,
        hidden_BSD: torch.Tensor,
        bias_BHSS: torch.Tensor | None,
        slopes_H: torch.Tensor,
        key_mask_BS: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        inputs_BSD = self.norm1(hidden_BSD) if self.layer_norm_first else hidden_BSD
        attended_BSD, weights_BHSS = self.attention(inputs_BSD, bias_BHSS, slopes_H, key_mask_BS)
        hidden_BSD = hidden_BSD + self.hidden_dropout(attended_BSD)
        if self.layer_norm_first:
            hidden_BSD = self.mlp(self.norm2(hidden_BSD))
            return hidden_BSD + self.mlp_dropout(hidden_BSD), weights_BHSS
        hidden_BSD = self.norm1(hidden_BSD)
        return self.norm2(hidden_BSD + self.mlp_dropout(self.mlp(hidden_BSD))), weights_BHSS
