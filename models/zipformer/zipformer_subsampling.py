"""The convolutional front-end: log-mel features at 100 frames per second -> states at 50 (arXiv 2310.11230, 3.1).

Shape legend: B batch, L input frames, T = (L - 7) // 2 frames, M mel bins, F = ((M - 1) // 2 - 1) // 2 bins,
C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .zipformer_layers import SWOOSH_L, SWOOSH_R, BiasNorm, lean, lean_bottleneck
from .zipformer_training import Balancer, Scheduled, Skip, TimeSharedDropout, Whiten, scale_gradient

# Frames that the convolutions consume, and the fewest that give a frame of output.
CONTEXT_FRAMES, FEWEST_FRAMES = 7, 9


class ScaledConv2d(nn.Conv2d):
    """A pointwise convolution whose initial weights are `initial_scale` times as large."""

    initial_scale = 0.01


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7 convolution and an inverted bottleneck, beside the identity; channels last."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = 3 * channels
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, hidden, 1)
        self.hidden_balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.pointwise_conv2 = ScaledConv2d(hidden, channels, 1)
        self.skip = Skip(Scheduled((0, 0.2), (20000, 0.015)))
        self.out_balancer = Balancer(0.4, 0.6, 1.0, 6.0)
        self.out_whiten = Whiten(5.0)

    def forward(self, x_BTFC: torch.Tensor) -> torch.Tensor:
        conv = self.depthwise_conv
        y_BCTF = F.conv2d(x_BTFC.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=3, groups=conv.groups)
        y_BTFC = y_BCTF.permute(0, 2, 3, 1)
        weight1, weight2 = self.pointwise_conv1.weight[:, :, 0, 0], self.pointwise_conv2.weight[:, :, 0, 0]
        bias1, bias2 = self.pointwise_conv1.bias, self.pointwise_conv2.bias
        assert bias1 is not None and bias2 is not None
        if lean(self):
            return lean_bottleneck(y_BTFC, weight1, bias1, weight2, bias2).add_(x_BTFC)
        hidden = SWOOSH_L(self.hidden_balancer(F.linear(y_BTFC, weight1, bias1)))
        x_BTFC = x_BTFC + self.skip(F.linear(hidden, weight2, bias2))
        return self.out_whiten(self.out_balancer(x_BTFC))


class Subsampling(nn.Module):
    """Three convolutions and a ConvNeXt layer; half the frames, a fourth of the mel bins, then a projection.

    `out` reads its inputs as (bin, channel), which is how they lie in memory.
    """

    def __init__(self, num_mel_bins: int, conv_channels: Sequence[int], channels: int):
        super().__init__()
        first, second, third = conv_channels
        self.conv1 = nn.Conv2d(1, first, 3, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=(1, 2))
        self.balancers = nn.ModuleList([Balancer(max_abs=1.0), Balancer(max_abs=4.0), Balancer(max_abs=4.0)])
        self.convnext = ConvNeXt(third)
        self.out = nn.Linear(third * (((num_mel_bins - 1) // 2 - 1) // 2), channels)
        self.out_whiten = Whiten(Scheduled((0, 4.0), (20000, 8.0), default=4.0), grad_scale=0.02)
        self.out_norm = BiasNorm(channels)
        self.dropout = TimeSharedDropout(Scheduled((0, 0.3), (20000, 0.1)))

    def forward(self, features_BLM: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """(B, L, M) log-mel -> (B, T, C).

        Args:
            lengths_B: frames of T that are true. Given, the ConvNeXt layer sees zeros behind them, as it does at the
                end of an utterance that is not padded; `None`: it sees what the padding became.
        """
        x = features_BLM.unsqueeze(1)
        for index, conv in enumerate((self.conv1, self.conv2, self.conv3)):
            x = self._conv(x, conv, index)
        x_BTFC = x.permute(0, 2, 3, 1).contiguous()
        if lengths_B is not None:
            beyond_BT = torch.arange(x_BTFC.shape[1], device=x.device) >= lengths_B.unsqueeze(1)
            x_BTFC = x_BTFC.masked_fill(beyond_BT[:, :, None, None], 0.0)
        x_BTC = self.out(self.convnext(x_BTFC).flatten(2))
        return self.dropout(self.out_norm(self.out_whiten(x_BTC)))

    def _conv(self, x_BCTF: torch.Tensor, conv: nn.Conv2d, index: int) -> torch.Tensor:
        x_BCTF = x_BCTF.contiguous(memory_format=torch.channels_last)
        bias = conv.bias
        assert bias is not None
        if lean(self):
            h = F.conv2d(x_BCTF, conv.weight, bias - SWOOSH_R.shift, conv.stride, conv.padding)
            return SWOOSH_R.of_shifted(h)
        x_BCTF = conv(x_BCTF)
        if index == 0 and self.training:
            # The first layer's gradients are so large that they would overflow in half precision.
            x_BCTF = scale_gradient(x_BCTF, 0.2)
        x_BTFC = self.balancers[index](x_BCTF.permute(0, 2, 3, 1))
        return SWOOSH_R(x_BTFC).permute(0, 3, 1, 2)
