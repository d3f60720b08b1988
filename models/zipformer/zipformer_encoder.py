"""The Zipformer encoder: stacks of layers at different frame rates (arXiv 2310.11230, section 3.1 and 3.2).

Shape legend: B batch, T frames of the stack at hand, C channels, D channels of the widest stack.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_zipformer import ZipformerConfig
from .zipformer_layers import (
    AttentionWeights,
    BiasNorm,
    Bypass,
    Convolution,
    FeedForward,
    NonlinearAttention,
    SelfAttention,
    growing_limit,
    relative_positions,
)
from .zipformer_training import Balancer, Number, Scheduled, Skip, Whiten, chance, feature_masks


class ZipformerLayer(GradientCheckpointingLayer):
    """Attention weights once; then feed-forward, attentions and convolution, twice over, with bypasses."""

    def __init__(self, config: ZipformerConfig, stack: int, skip_rate: Number):
        super().__init__()
        channels, heads = config.encoder_dim[stack], config.num_heads[stack]
        feedforward, kernel = config.feedforward_dim[stack], config.conv_kernel[stack]
        value_dim = config.value_head_dim[stack]
        self.attention_weights = AttentionWeights(
            channels, config.position_dim, heads, config.query_head_dim[stack], config.position_head_dim[stack]
        )
        self.feed_forward1 = FeedForward(channels, feedforward * 3 // 4)
        self.feed_forward2 = FeedForward(channels, feedforward)
        self.feed_forward3 = FeedForward(channels, feedforward * 5 // 4)
        self.nonlinear_attention = NonlinearAttention(channels)
        self.self_attention1 = SelfAttention(channels, heads, value_dim)
        self.self_attention2 = SelfAttention(channels, heads, value_dim)
        self.convolution1 = Convolution(channels, kernel)
        self.convolution2 = Convolution(channels, kernel)
        self.bypass_mid = Bypass(channels)
        self.bypass = Bypass(channels, skip_rate)
        self.norm = BiasNorm(channels)

        self.attention_skip = Skip(Scheduled((0, 0.2), (4000, 0.05), (16000, 0.0)))
        self.convolution_skip = Skip(Scheduled((0, 0.2), (4000, 0.05), (16000, 0.0)))
        self.feed_forward2_skip = Skip(Scheduled((0, 0.1), (4000, 0.01), (50000, 0.0)))
        self.feed_forward3_skip = Skip(Scheduled((0, 0.1), (4000, 0.01), (50000, 0.0)))
        self.constant_attention_rate = Scheduled((0, 0.25), (4000, 0.025))
        self.nonlinear_balancer = Balancer(0.3, 0.7, Scheduled((0, 0.004), (4000, 0.02)), probability=0.05)
        self.feed_forward2_balancer = Balancer(0.3, 0.7, Scheduled((0, 0.0), (4000, 0.1)), 2.0, probability=0.05)
        self.feed_forward3_balancer = Balancer(0.3, 0.7, Scheduled((0, 0.0), (4000, 0.2)), 4.0, probability=0.05)
        self.norm_balancer = Balancer(0.45, 0.55, 0.2, 4.0)
        self.out_balancer = Balancer(0.45, 0.55, 0.1, 4.0)
        self.out_whiten = Whiten(growing_limit(4.0, ratio=3.0))

    def forward(
        self,
        x_BTC: torch.Tensor,
        positions: torch.Tensor,
        padding_BT: torch.Tensor | None,
        penalty: float | torch.Tensor,
    ) -> torch.Tensor:
        """(B, T, C) -> (B, T, C); the other arguments as in `AttentionWeights`."""
        x = source = x_BTC
        weights = self.attention_weights(x, positions, padding_BT, penalty)
        # One draw for the three attentions of a layer.
        attention_kept = self.attention_skip.mask(x)

        def attended(y: torch.Tensor) -> torch.Tensor:
            return y if attention_kept is None else y * attention_kept

        x = x + self.feed_forward1(x)
        x = x + attended(self.nonlinear_balancer(self.nonlinear_attention(x, self._first_head(weights))))
        x = x + attended(self.self_attention1(x, weights))
        x = x + self.convolution_skip(self.convolution1(x, padding_BT))
        x = x + self.feed_forward2_skip(self.feed_forward2_balancer(self.feed_forward2(x)))
        x = self.bypass_mid(source, x)
        x = x + attended(self.self_attention2(x, weights))
        x = x + self.convolution_skip(self.convolution2(x, padding_BT))
        x = x + self.feed_forward3_skip(self.feed_forward3_balancer(self.feed_forward3(x)))
        x = self.bypass(source, self.norm(self.norm_balancer(x)))
        return self.out_whiten(self.out_balancer(x))

    def _first_head(self, weights_HBTT: torch.Tensor) -> torch.Tensor:
        """(B, T, T) weights of the nonlinear attention; in training now and then a plain average over time."""
        first = weights_HBTT[0]
        if self.training and chance(float(self.constant_attention_rate)):
            allowed = (first > 0).to(first.dtype)
            return allowed / allowed.sum(-1, keepdim=True)
        return first


class Downsample(nn.Module):
    """Weighted mean of every `factor` frames, the weights learned; a last, incomplete group repeats its last frame."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def grouped(self, x_BTC: torch.Tensor) -> torch.Tensor:
        """(B, ceil(T / factor), factor, C)."""
        missing = -x_BTC.shape[1] % self.factor
        if missing:
            x_BTC = torch.cat([x_BTC, x_BTC[:, -1:].expand(-1, missing, -1)], dim=1)
        return x_BTC.unflatten(1, (-1, self.factor))

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        groups = self.grouped(x_BTC).unbind(2)
        weights = self.bias.softmax(0).to(x_BTC.dtype).unbind(0)
        total = groups[0] * weights[0]
        for group, weight in zip(groups[1:], weights[1:], strict=True):
            total = torch.addcmul(total, group, weight)
        return total


def repeat_last(x_BTC: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Every utterance's padding becomes its last true frame: what `Downsample` sees without padding."""
    frame_BT = torch.arange(x_BTC.shape[1], device=x_BTC.device).expand(len(x_BTC), -1)
    last_B1C = x_BTC[torch.arange(len(x_BTC), device=x_BTC.device), lengths_B - 1].unsqueeze(1)
    return torch.where((frame_BT < lengths_B.unsqueeze(1)).unsqueeze(-1), x_BTC, last_B1C)


class ZipformerStack(nn.Module):
    """Layers at 1 / `factor` of the frame rate of the encoder, joined to the stack's input by a bypass."""

    def __init__(self, config: ZipformerConfig, index: int):
        super().__init__()
        self.factor, self.channels = config.downsampling[index], config.encoder_dim[index]
        self.position_dim = config.position_dim
        stacks, number = len(config.downsampling), config.num_layers[index]
        # The front-end learns first, then stack after stack, layer after layer.
        length = config.warmup_batches / (stacks + 1)
        begins = [length * (index + 1 + layer / number) for layer in range(number)]
        final = 0.035 * self.factor**0.5
        self.layers = nn.ModuleList(
            ZipformerLayer(config, index, Scheduled((begin, 0.5), (begin + length / number, final)))
            for begin in begins
        )
        self.position_dropout = nn.Dropout(0.15)
        if self.factor > 1:
            self.downsample = Downsample(self.factor)
            self.out_combiner = Bypass(self.channels)

    def forward(
        self,
        x_BTC: torch.Tensor,
        lengths_B: torch.Tensor | None,
        mask_padding: bool,
        feature_mask: torch.Tensor | None,
        penalty: float | torch.Tensor,
    ) -> torch.Tensor:
        """(B, T, C) -> (B, T, C) at the encoder's frame rate; see `ZipformerEncoder`."""
        source = x = x_BTC
        padding = None
        if self.factor > 1:
            if lengths_B is not None and mask_padding:
                x = repeat_last(x, lengths_B)
            x = self.downsample(x)
        if lengths_B is not None:
            first_BT = torch.arange(0, x.shape[1] * self.factor, self.factor, device=x.device)
            padding = first_BT >= lengths_B.unsqueeze(1)
        positions = relative_positions(x.shape[1], self.position_dim, x.device, x.dtype)
        positions = self.position_dropout(positions)
        if feature_mask is not None:
            x = x * feature_mask
        for layer in self.layers:
            x = layer(x, positions, padding, penalty)
            if feature_mask is not None:
                x = x * feature_mask
        if self.factor == 1:
            return x
        # Every frame is repeated `factor` times, by broadcasting.
        frames = source.shape[1]
        return self.out_combiner(self.downsample.grouped(source), x.unsqueeze(2)).flatten(1, 2)[:, :frames]


class ZipformerEncoder(nn.Module):
    """All stacks; 50 frames per second in, 25 out, (T + 1) // 2 of them."""

    def __init__(self, config: ZipformerConfig):
        super().__init__()
        self.dims, self.unmasked_dims = config.encoder_dim, config.unmasked_dim
        self.mask_padding = config.mask_padding
        self.stacks = nn.ModuleList(ZipformerStack(config, index) for index in range(len(self.dims)))
        self.downsample_output = Downsample(2)

    def forward(
        self, x_BTC: torch.Tensor, lengths_B: torch.Tensor | None, penalty: float | torch.Tensor = 1e-4
    ) -> torch.Tensor:
        """
        Args:
            x_BTC: states of the front-end.
            lengths_B: true frames of each utterance; `None`: all are.
            penalty: of attention scores beyond +-25 in training, in units of the loss.

        Returns:
            (B, (T + 1) // 2, D) states.
        """
        return self.joined(self.stack_outputs(x_BTC, lengths_B, penalty), lengths_B)

    def stack_outputs(
        self, x_BTC: torch.Tensor, lengths_B: torch.Tensor | None, penalty: float | torch.Tensor = 1e-4
    ) -> list[torch.Tensor]:
        """What leaves each stack, (B, T, C) with its own C; arguments as in `forward`."""
        x, outputs = x_BTC, []
        masks = feature_masks(x, self.dims, self.unmasked_dims) if self.training else [None] * len(self.dims)
        for stack, dim, mask in zip(self.stacks, self.dims, masks, strict=False):  # the last stacks may be cut off
            # Channels that the next stack lacks are dropped, those that it has more of begin as zeros.
            x = x[..., :dim] if dim <= x.shape[-1] else F.pad(x, (0, dim - x.shape[-1]))
            x = stack(x, lengths_B, self.mask_padding, mask, penalty)
            outputs.append(x)
        return outputs

    def joined(self, outputs: list[torch.Tensor], lengths_B: torch.Tensor | None) -> torch.Tensor:
        """Outputs of the first stacks -> (B, (T + 1) // 2, width of the widest of them)."""
        x = self._widest(outputs)
        if lengths_B is not None and self.mask_padding:
            x = repeat_last(x, lengths_B)
        return self.downsample_output(x)

    def _widest(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """Each channel from the last stack that has it."""
        pieces = [outputs[-1]]
        width = outputs[-1].shape[-1]
        for output in reversed(outputs[:-1]):
            if output.shape[-1] > width:
                pieces.append(output[..., width:])
                width = output.shape[-1]
        return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
