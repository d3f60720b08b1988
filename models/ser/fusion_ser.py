"""Fusion of several encoders: their features side by side in every frame, or cross attention.

Shape legend: B batch, T frames, S keys of the cross attention, U tokens of the transcript, E width of an encoder's
features, D fused width.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_ser import SERConfig
from .padding import length_mask
from .speechformer_ser import sinusoid_table


def common_lengths(lengths_B: torch.Tensor, rate_hz: float, common_hz: float) -> torch.Tensor:
    """Frames at the common rate that last as long as `lengths_B` frames of `rate_hz`."""
    if rate_hz == common_hz:
        return lengths_B
    return (lengths_B * (common_hz / rate_hz)).round().long().clamp(min=1)


def align(features_BTE: torch.Tensor, lengths_B: torch.Tensor, target_B: torch.Tensor, ratio: float) -> torch.Tensor:
    """Bring the frames of one encoder to those of another: (B, T, E) -> (B, longest target, E).

    Args:
        lengths_B, target_B: true frames of the encoder, and those wanted.
        ratio: frames of this encoder per wanted frame, from the frame rates. 1: frame by frame, the last one repeated
            where an encoder gives one or two fewer. Below 1: linear interpolation between the centres of frames. Above
            1: the mean of the frames that a wanted frame covers.
    """
    wanted_T = torch.arange(int(target_B.max()), device=features_BTE.device)
    last_B1 = (lengths_B - 1)[:, None]
    index_of = lambda positions_BT: positions_BT[..., None].expand(-1, -1, features_BTE.shape[2])  # noqa: E731
    if ratio == 1:
        aligned = features_BTE.gather(1, index_of(torch.minimum(wanted_T[None], last_B1)))
    elif ratio < 1:
        centre_T = ((wanted_T + 0.5) * ratio - 0.5).clamp(min=0)
        centre_BT = torch.minimum(centre_T[None], last_B1.to(centre_T.dtype))
        below_BT = centre_BT.floor().long()
        above_BT = torch.minimum(below_BT + 1, last_B1)
        part_BT1 = (centre_BT - below_BT)[..., None].to(features_BTE.dtype)
        low, high = (features_BTE.gather(1, index_of(one)) for one in (below_BT, above_BT))
        aligned = low * (1 - part_BT1) + high * part_BT1
    else:
        # Sums up to each frame: the mean over a span is a difference of two of them.
        sums = nn.functional.pad(features_BTE.float().cumsum(1), (0, 0, 1, 0))
        start_BT = torch.minimum((wanted_T * ratio).long()[None], last_B1)
        end_BT = torch.minimum(((wanted_T + 1) * ratio).long()[None], last_B1 + 1)
        end_BT = torch.maximum(end_BT, start_BT + 1)
        spans = sums.gather(1, index_of(end_BT)) - sums.gather(1, index_of(start_BT))
        aligned = (spans / (end_BT - start_BT)[..., None]).to(features_BTE.dtype)
    return aligned * length_mask(target_B, len(wanted_T))[..., None].to(aligned.dtype)


class ConcatFusion(nn.Module):
    """The features of all encoders side by side, at the common frame rate and for as long as those of the first."""

    def __init__(self, config: SERConfig, sizes: list[int]):
        super().__init__()
        self.size = sum(sizes)
        self.frame_rate_hz = config.frame_rate_hz

    def forward(
        self,
        features: list[torch.Tensor],
        lengths: list[torch.Tensor],
        rates_hz: list[float],
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, T_i, E_i) of each encoder, their true frames (B,) and frame rates -> (B, T, D), (B,)."""
        if input_ids is not None:
            raise ValueError("fusion='concat' reads no text: leave input_ids out, or use 'cross_attention'")
        target_B = common_lengths(lengths[0], rates_hz[0], self.frame_rate_hz)
        aligned = [
            align(one, length, target_B, rate / self.frame_rate_hz)
            for one, length, rate in zip(features, lengths, rates_hz, strict=True)
        ]
        return torch.cat(aligned, dim=2), target_B


class CrossAttentionLayer(GradientCheckpointingLayer):
    """Pre-norm: frames of the first encoder attend to everything else, then a feed-forward of four times the width."""

    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.query_norm, self.key_norm, self.fc_norm = (nn.LayerNorm(width) for _ in range(3))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames_BTD: torch.Tensor, keys_BSD: torch.Tensor, key_mask_BS: torch.Tensor) -> torch.Tensor:
        queries, keys = self.query_norm(frames_BTD), self.key_norm(keys_BSD)
        query, key, value = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys))
        )
        dropout = self.dropout.p if self.training else 0.0
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=key_mask_BS[:, None, None].bool(), dropout_p=dropout
        )
        frames_BTD = frames_BTD + self.dropout(self.out_proj(seen.transpose(1, 2).flatten(2)))
        hidden = self.fc2(self.dropout(nn.functional.gelu(self.fc1(self.fc_norm(frames_BTD)))))
        return frames_BTD + self.dropout(hidden)


class CrossAttentionFusion(nn.Module):
    """Acoustic frames attend to the frames of the other encoders and to the transcript (paper, section 3.2).

    Every source goes through its own linear layer, and is marked by its own learned vector and by positions in time. A
    key that says nothing is always there, for clips without other sources (an empty transcript).
    """

    def __init__(self, config: SERConfig, sizes: list[int]):
        super().__init__()
        width = self.size = config.fusion_size
        self.frame_rate_hz = config.frame_rate_hz
        self.projections = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        text = config.text_vocab_size
        self.text_embedding = nn.Embedding(text, width) if text is not None else None
        self.source_vectors = nn.Parameter(torch.zeros(len(sizes) + 1, width))
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(
            CrossAttentionLayer(width, config.fusion_heads, config.dropout) for _ in range(config.fusion_layers)
        )
        self.norm = nn.LayerNorm(width)

    def init_own_tensors(self) -> None:
        init.normal_(self.source_vectors, std=0.02)
        init.normal_(self.nothing, std=0.02)

    def forward(
        self,
        features: list[torch.Tensor],
        lengths: list[torch.Tensor],
        rates_hz: list[float],
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ConcatFusion`, with (B, U) token ids of the transcripts and their mask."""
        sources = [
            self._placed(projection(one), self.source_vectors[index], rates_hz[0] / rate)
            for index, (projection, one, rate) in enumerate(zip(self.projections, features, rates_hz, strict=True))
        ]
        frames_BTD = sources[0]
        keys = [self.nothing.expand(len(frames_BTD), -1, -1).to(frames_BTD.dtype), *sources[1:]]
        masks = [lengths[0].new_ones(len(frames_BTD), 1)]
        masks += [length_mask(length, one.shape[1]) for length, one in zip(lengths[1:], features[1:], strict=True)]
        if self.text_embedding is None:
            if input_ids is not None:
                raise ValueError("the model reads no text (config.text_vocab_size is None): leave input_ids out")
        else:
            if input_ids is None:  # a masked token, so that every tensor stays in the graph of every rank
                input_ids = lengths[0].new_zeros(len(frames_BTD), 1)
                text_attention_mask = torch.zeros_like(input_ids)
            if text_attention_mask is None:
                text_attention_mask = torch.ones_like(input_ids)
            keys.append(self._placed(self.text_embedding(input_ids), self.source_vectors[-1], 1.0))
            masks.append(text_attention_mask.long())
        keys_BSD, mask_BS = torch.cat(keys, dim=1), torch.cat(masks, dim=1)
        for layer in self.layers:
            frames_BTD = layer(frames_BTD, keys_BSD, mask_BS)
        target_B = common_lengths(lengths[0], rates_hz[0], self.frame_rate_hz)
        return align(self.norm(frames_BTD), lengths[0], target_B, rates_hz[0] / self.frame_rate_hz), target_B

    @staticmethod
    def _placed(states_BTD: torch.Tensor, source_D: torch.Tensor, step: float) -> torch.Tensor:
        """Add the source's vector, and the sinusoids of the time of each frame."""
        length, width = states_BTD.shape[1:]
        table = sinusoid_table(length, width, states_BTD.device, step)
        return states_BTD + (source_D + table).to(states_BTD.dtype)
