"""Pooling over frames, and the classifiers on top.

Shape legend: B batch, T frames, D width, C classes.
"""

from itertools import pairwise

import torch
from torch import nn

from .configuration_ser import SERConfig
from .speechformer_ser import SpeechFormer


class AttentiveStatistics(nn.Module):
    """Attentive statistics pooling (Okabe et al. 2018): weighted mean and standard deviation, (B, T, D) -> (B, 2D)."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(width, max(width // 4, 1))
        self.score = nn.Linear(max(width // 4, 1), width)

    def forward(self, frames_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        scores_BTD = self.score(torch.tanh(self.hidden(frames_BTD))).float()
        weights_BTD = scores_BTD.masked_fill(mask_BT[..., None] == 0, float("-inf")).softmax(1)
        values_BTD = frames_BTD.float()
        mean_BD = (weights_BTD * values_BTD).sum(1)
        variance_BD = (weights_BTD * (values_BTD - mean_BD[:, None]).square()).sum(1)
        # The derivative of a square root has no bound at 0, which one frame or silence gives.
        return torch.cat([mean_BD, variance_BD.clamp(min=1e-6).sqrt()], dim=1).to(frames_BTD.dtype)


def masked_mean(frames_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """(B, T, D) -> (B, D), the mean over true frames."""
    weight_BT1 = mask_BT[..., None].to(frames_BTD.dtype)
    return (frames_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


class EmotionHead(nn.Module):
    """Fused frames -> the pre-logit embedding of each clip, and its logits.

    `linear`: pooling, one layer. `mlp`: pooling, a hidden layer, one layer. `speechformer`: SpeechFormer++, the mean
    of its states, D -> D/2 -> D/4 -> classes.
    """

    def __init__(self, config: SERConfig, size: int):
        super().__init__()
        self.speechformer = self.pooling = None
        if config.head == "speechformer":
            self.speechformer = SpeechFormer(
                size,
                num_heads=config.speechformer_heads,
                num_layers=config.speechformer_layers,
                hop_s=1 / config.frame_rate_hz,
                num_frames=config.speechformer_frames,
                projection_size=config.speechformer_projection,
                exact=config.speechformer_exact,
                dropout=config.dropout,
            )
            width = self.speechformer.width
            widths = [width, width // 2, width // 4]
        else:
            if config.pooling == "attentive_statistics":
                self.pooling, size = AttentiveStatistics(size), 2 * size
            widths = [size] if config.head == "linear" else [size, config.head_size]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(config.head_dropout)
        self.embedding_size = widths[-1]
        self.classifier = nn.Linear(widths[-1], len(config.id2label or {}))

    def forward(self, frames_BTD: torch.Tensor, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D) and their mask -> (B, embedding) and (B, C)."""
        if self.speechformer is not None:
            frames_BTD, mask_BT = self.speechformer(frames_BTD, mask_BT)
        pool = masked_mean if self.pooling is None else self.pooling
        embedding = pool(frames_BTD, mask_BT)
        for index, layer in enumerate(self.hidden):
            embedding = nn.functional.relu(layer(embedding if index == 0 else self.dropout(embedding)))
        return embedding, self.classifier(self.dropout(embedding))
