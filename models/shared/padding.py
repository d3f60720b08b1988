"""Batches of clips of different lengths: which positions are true, and norms over those alone.

Shape legend: B batch, C channels, N positions.
"""

import torch
from torch import nn


def length_mask(lengths_B: torch.Tensor, size: int) -> torch.Tensor:
    """(B,) lengths -> (B, size) mask of ones on the first `length` positions."""
    return (torch.arange(size, device=lengths_B.device)[None] < lengths_B[:, None]).long()


def waveform_mask(waveforms_BN: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The (B, N) mask over samples, ones where none is given.

    Raises:
        ValueError: no batch of waveforms, or a mask of another shape.
    """
    if waveforms_BN.ndim != 2:
        raise ValueError(f"input_values has shape {tuple(waveforms_BN.shape)}; give waveforms (batch, samples)")
    if attention_mask is None:
        return torch.ones(waveforms_BN.shape, dtype=torch.long, device=waveforms_BN.device)
    if attention_mask.shape != waveforms_BN.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} but input_values "
            f"{tuple(waveforms_BN.shape)}: give one value for each sample"
        )
    return attention_mask.long()


class MaskedChannelNorm(nn.GroupNorm):
    """Group norm with one group a channel, over the true frames of each clip; the stock one counts padding in."""

    def forward(self, hidden_BCN: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        mask_B1N = length_mask(lengths_B, hidden_BCN.shape[2])[:, None].float()
        count_B11 = mask_B1N.sum(2, keepdim=True).clamp(min=1)
        values = hidden_BCN.float()
        centred = values - (values * mask_B1N).sum(2, keepdim=True) / count_B11
        variance = (centred.square() * mask_B1N).sum(2, keepdim=True) / count_B11
        normed = centred * torch.rsqrt(variance + self.eps)
        return (normed * self.weight.float()[:, None] + self.bias.float()[:, None]).to(hidden_BCN.dtype)
