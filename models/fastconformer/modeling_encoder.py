"""FastConformer encoder (Rekesh et al. 2023; VLSP 2025 paper, section 3.3): that of transformers' Parakeet.

Beside the attention (`modeling_attention.py`) it differs from `ParakeetEncoder` in what padding does: nothing. Frames
beyond an utterance enter neither the convolutions nor the batch statistics of training.

Shape legend: B batch, L input frames, F mel bins, T output frames, D width.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderBlock,
    ParakeetEncoderConvolutionModule,
    ParakeetEncoderSubsamplingConv2D,
)

from .configuration_fastconformer import FastConformerConfig
from .modeling_attention import FastConformerAttention, FastConformerPositions, relative_range

# Longer inputs go through the subsampling in pieces: its first convolution makes channels * F / 4 numbers a frame.
FRAMES_PER_PIECE = 4096


def init_weights_as_nemo(module: nn.Module) -> bool:
    """Initial values of one module's own tensors, torch's defaults: with a fixed 0.02 the subsampling would start out
    almost silent. False: the module is of no kind that is treated so."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        bound = module.weight[0].numel() ** -0.5
        init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, FastConformerAttention):
        init.zeros_(module.bias_u)
        init.zeros_(module.bias_v)
    elif isinstance(module, FastConformerPositions):
        init.copy_(module.inv_freq, module.compute_default_relative_positional_parameters(module.config))
    else:
        return False
    return True


class Encoded(NamedTuple):
    """States, zero beyond the utterance, and how many of them are true; none for features that are not finite."""

    states_BTD: torch.Tensor
    lengths_B: torch.Tensor


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation whose training statistics come from true frames only.

    They are taken in float32 over one forward pass; with `synchronised`, over that of all processes. Where fewer than
    two frames are left, the running statistics are used. Gradient checkpointing runs a forward pass twice: the running
    statistics move once, because the encoder sets `to_be_counted` before each pass.
    """

    def __init__(self, channels: int, synchronised: bool = False):
        super().__init__(channels)
        self.synchronised = synchronised
        self.to_be_counted = True

    def forward(self, states_BDT: torch.Tensor, mask_BT: torch.Tensor | None = None) -> torch.Tensor:
        if not self.training:
            return super().forward(states_BDT)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        states = states_BDT.float()
        if mask_BT is None:
            mask_BT = states.new_ones(states.shape[0], states.shape[2], dtype=torch.bool)
        mask = mask_BT[:, None].to(states.dtype)
        count = self._over_processes(mask.sum())
        mean_D = self._over_processes((states * mask).sum((0, 2))) / count.clamp(min=1)
        centred = states - mean_D[:, None]
        variance_D = self._over_processes((centred.square() * mask).sum((0, 2))) / count.clamp(min=1)
        enough = count > 1
        if self.to_be_counted:
            self.to_be_counted = False
            with torch.no_grad():
                momentum = (self.momentum or 0.1) * enough  # with too few frames, nothing moves
                unbiased_D = variance_D * count / (count - 1).clamp(min=1)
                for running, value in ((self.running_mean, mean_D), (self.running_var, unbiased_D)):
                    running.lerp_(value.to(running.dtype), momentum.to(running.dtype))
                self.num_batches_tracked += 1
        mean_D = torch.where(enough, mean_D, self.running_mean.float())
        variance_D = torch.where(enough, variance_D, self.running_var.float())
        scale_D = self.weight.float() * torch.rsqrt(variance_D + self.eps)
        return ((states - mean_D[:, None]) * scale_D[:, None] + self.bias.float()[:, None]).to(states_BDT.dtype)

    def _over_processes(self, total: torch.Tensor) -> torch.Tensor:
        if not self.synchronised or not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return total
        from torch.distributed.nn.functional import all_reduce  # its gradient is summed as well

        return all_reduce(total)


class FastConformerConvolution(ParakeetEncoderConvolutionModule):
    """Parakeet's convolution module, told the true frames as a (B, T) mask."""

    def __init__(self, config: FastConformerConfig):
        super().__init__(config)  # pyright: ignore[reportArgumentType]
        self.masked_batch_norm = config.masked_batch_norm
        self.norm = MaskedBatchNorm1d(config.hidden_size, config.sync_batch_norm)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        states_BDT = nn.functional.glu(self.pointwise_conv1(hidden_states.transpose(1, 2)), dim=1)
        if attention_mask is not None:
            states_BDT = states_BDT.masked_fill(~attention_mask[:, None], 0.0)
        states_BDT = self.norm(self.depthwise_conv(states_BDT), attention_mask if self.masked_batch_norm else None)
        return self.pointwise_conv2(self.activation(states_BDT)).transpose(1, 2)


class FastConformerBlock(ParakeetEncoderBlock):
    """Parakeet's block; `attention_mask` is (B, T), True on true frames."""

    def __init__(self, config: FastConformerConfig, layer_idx: int):
        super().__init__(config, layer_idx)  # pyright: ignore[reportArgumentType]
        self.self_attn = FastConformerAttention(config, layer_idx)  # pyright: ignore[reportArgumentType]
        self.conv = FastConformerConvolution(config)


class FastConformerSubsampling(ParakeetEncoderSubsamplingConv2D):
    """Parakeet's subsampling: (B, L, F) features and (B,) lengths -> (B, T, D). Long input is taken in pieces."""

    def forward(self, input_features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        factor = self.stride**self.num_layers
        pieces = []
        for start in range(0, input_features.shape[1], FRAMES_PER_PIECE):
            # An output frame sees up to `factor - 1` frames to both sides of its own: one output frame of margin.
            margin = factor if start else 0
            piece = input_features[:, start - margin : start + FRAMES_PER_PIECE]
            piece_lengths = (lengths - start + margin).clamp(min=0, max=piece.shape[1])
            mask = torch.arange(piece.shape[1], device=piece.device) < piece_lengths[:, None]
            pieces.append(super().forward(piece, mask)[:, margin // factor :])  # pyright: ignore[reportArgumentType]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """True input frames -> true output frames: every convolution halves, rounding up."""
        for _ in range(self.num_layers):
            lengths = (lengths + 1) // 2
        return lengths


class FastConformerEncoder(nn.Module):
    """(B, L, F) log-mel features -> (B, T, D) states, one of them every 80 ms."""

    def __init__(self, config: FastConformerConfig):
        super().__init__()
        self.config = config
        self.input_scale = config.hidden_size**0.5 if config.scale_input else 1.0
        self.subsampling = FastConformerSubsampling(config)  # pyright: ignore[reportArgumentType]
        self.encode_positions = FastConformerPositions(config)  # pyright: ignore[reportArgumentType]
        self.layers = nn.ModuleList([FastConformerBlock(config, index) for index in range(config.num_hidden_layers)])

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layer_states: list[torch.Tensor] | None = None,
    ) -> Encoded:
        """(B, L, F) features -> `Encoded`.

        Args:
            attention_mask: (B, L), 1 on true frames, 0 on the padding after them.
            layer_states: gets what enters the first block and what leaves each of them, (B, T, D).
        """
        config = self.config
        batch, frames, _ = input_features.shape
        if attention_mask is None:
            attention_mask = input_features.new_ones(batch, frames, dtype=torch.bool)
        mask_BL = attention_mask.bool()
        # The first convolution would see what stands in the padding, and NaN would spread by the batch statistics.
        features = input_features.masked_fill(~mask_BL[:, :, None], 0.0)
        finite_B = features.isfinite().flatten(1).all(1)
        features = features.masked_fill(~finite_B[:, None, None], 0.0)
        input_lengths_B = mask_BL.sum(1) * finite_B
        lengths_B = self.subsampling.output_lengths(input_lengths_B)

        states = self.subsampling(features.to(self.subsampling.linear.weight.dtype), input_lengths_B)
        states = nn.functional.dropout(states * self.input_scale, p=config.dropout, training=self.training)
        first, last = relative_range(config, states.shape[1])
        positions = self.encode_positions(first, last, states)
        positions = nn.functional.dropout(positions, p=config.dropout_positions, training=self.training)
        mask_BT = torch.arange(states.shape[1], device=states.device) < lengths_B[:, None]
        padded = not bool(mask_BT.all())
        if layer_states is not None:
            layer_states.append(states)
        for layer in self.layers:
            layer.conv.norm.to_be_counted = True  # pyright: ignore
            if not self.training or not config.layerdrop or torch.rand([]) >= config.layerdrop:
                states = layer(states, attention_mask=mask_BT if padded else None, position_embeddings=positions)
            if layer_states is not None:
                layer_states.append(states)
        return Encoded(states.masked_fill(~mask_BT[:, :, None], 0.0), lengths_B)
