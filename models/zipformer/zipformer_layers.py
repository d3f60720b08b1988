"""The modules a Zipformer layer is made of (arXiv 2310.11230, section 3).

In evaluation the same sums are done with fewer passes over memory: depthwise convolutions read channels where they
lie, constants of the activations are folded into the bias before them, nothing of training is called.

Shape legend: B batch, T frames, C channels, H heads, K query and key width of a head, P position width of a head,
S hidden units.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .zipformer_training import (
    Balancer,
    Number,
    Scheduled,
    TimeSharedDropout,
    Whiten,
    chance,
    keep_mask,
    limit_value,
    penalise_large,
)


def growing_limit(limit: float, ratio: float = 2.0) -> Scheduled:
    """Limit of a `Whiten` that loosens as training goes on."""
    return Scheduled((0, limit), (20000, ratio * limit), default=limit)


class Swoosh:
    """log(1 + exp(x - offset)) - 0.08 x - constant (section 3.4); `SWOOSH_L` and `SWOOSH_R` are its two instances.

    With a = exp(constant') and h = x - shift, it equals log(a + exp(h)) - 0.08 h: `of_shifted` needs no constants but
    a, so `shift` can go into the bias of whatever made x.
    """

    def __init__(self, offset: float, constant: float):
        self.offset, self.constant = offset, constant
        log_a = -(constant + 0.08 * offset) / 0.92
        self.a, self.shift = math.exp(log_a), offset - log_a

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _SwooshFunction.apply(x, self)  # type: ignore[return-value]

    def of_shifted(self, h: torch.Tensor) -> torch.Tensor:
        """The activation of `h + shift`, without a gradient; `h` is not changed."""
        # On the CPU exp and log have vector kernels, softplus has not. exp overflows above 88; the comparison is
        # false for NaN, too.
        if h.device.type == "cpu" and h.dtype == torch.float32 and h.numel() and bool(h.amax() < 80):
            return h.exp().add_(self.a).log_().sub_(h, alpha=0.08)
        x = h.to(torch.promote_types(h.dtype, torch.float32)) + self.shift
        return F.softplus(x - self.offset).sub_(x, alpha=0.08).sub_(self.constant).to(h.dtype)


class _SwooshFunction(torch.autograd.Function):
    """Keeps its input alone for the way back, where autograd would keep one more tensor of that size."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, swoosh: Swoosh) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.offset = swoosh.offset
        return swoosh.of_shifted(x - swoosh.shift)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x - ctx.offset).sigmoid_().sub_(0.08), None


# Rows of hidden units that exist at once in evaluation on the CPU.
CACHED_ROWS = 1024
SWOOSH_L, SWOOSH_R = Swoosh(4.0, 0.035), Swoosh(1.0, 0.313261687)


def lean(module: nn.Module) -> bool:
    """Whether the forward pass may leave out all that training needs."""
    return not module.training and not torch.is_grad_enabled()


def lean_bottleneck(
    x: torch.Tensor, weight1: torch.Tensor, bias1: torch.Tensor, weight2: torch.Tensor, bias2: torch.Tensor
) -> torch.Tensor:
    """Linear, SwooshL, linear without a gradient; on the CPU a piece at a time, so that hidden units stay in cache."""
    rows = x.flatten(0, -2)
    bias1 = bias1 - SWOOSH_L.shift
    size = CACHED_ROWS if x.device.type == "cpu" else max(1, len(rows))
    pieces = [
        F.linear(SWOOSH_L.of_shifted(F.linear(part, weight1, bias1)), weight2, bias2) for part in rows.split(size)
    ]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).unflatten(0, x.shape[:-1])


class ScaledLinear(nn.Linear):
    """A linear layer whose initial weights are `initial_scale` times as large."""

    def __init__(self, in_features: int, out_features: int, initial_scale: float, bias: bool = True):
        super().__init__(in_features, out_features, bias=bias)
        self.initial_scale = initial_scale


def depthwise(x_BTC: torch.Tensor, conv: nn.Conv1d, shift: float = 0.0) -> torch.Tensor:
    """`conv` over time, minus `shift`; the frames stay where they are, which is many times faster than (B, C, T)."""
    bias = None if conv.bias is None else conv.bias - shift if shift else conv.bias
    x_BC1T = x_BTC.transpose(1, 2).unsqueeze(2)
    weight = conv.weight.unsqueeze(2)
    y_BC1T = F.conv2d(x_BC1T, weight, bias, padding=(0, weight.shape[-1] // 2), groups=conv.groups)
    return y_BC1T.squeeze(2).transpose(1, 2)


class BiasNorm(nn.Module):
    """x * exp(log_scale) / rms(x - bias): keeps the length of x, unlike layer norm (section 3.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(x.dtype, self.bias.dtype)
        log_scale = limit_value(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        exact = torch.promote_types(dtype, torch.float32)
        norm = torch.linalg.vector_norm(x - self.bias, dim=-1, keepdim=True, dtype=exact)
        # All-zero frames minus a zero bias: nothing to scale, but no 0 / 0 either.
        scale = log_scale.to(exact).exp() * math.sqrt(x.shape[-1]) / norm.clamp(min=1e-20)
        return (x * scale).to(dtype)


class Bypass(nn.Module):
    """A learned mixture of a module's input and output, per channel; in training some utterances skip the module.

    Args:
        skip_rate: share of utterances whose output is the input.
    """

    def __init__(self, channels: int, skip_rate: Number = 0.0):
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((channels,), 0.5))
        self.skip_rate = skip_rate
        self.scale_min = Scheduled((0, 0.9), (20000, 0.2), default=0.0)

    def forward(self, source: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Both (B, ..., C), or broadcasting with each other."""
        if not self.training:
            if source.dtype == x.dtype == self.bypass_scale.dtype:
                return torch.lerp(source, x, self.bypass_scale)
            return source + (x - source) * self.bypass_scale
        scale = limit_value(self.bypass_scale, float(self.scale_min), 1.0)
        skip_rate = float(self.skip_rate)
        if skip_rate > 0:
            scale = scale * keep_mask(scale, skip_rate, (x.shape[0], *[1] * (x.ndim - 1)))
        return source + (x - source) * scale


class FeedForward(nn.Module):
    """Linear, SwooshL, dropout shared over time, linear."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden)
        self.balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.dropout = TimeSharedDropout(Scheduled((0, 0.3), (20000, 0.1)))
        self.out_proj = ScaledLinear(hidden, channels, initial_scale=0.1)
        self.whiten = Whiten(growing_limit(7.5))

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        if lean(self):
            (weight1, bias1), (weight2, bias2) = self.in_proj.parameters(), self.out_proj.parameters()
            return lean_bottleneck(x_BTC, weight1, bias1, weight2, bias2)
        hidden_BTS = self.dropout(SWOOSH_L(self.balancer(self.in_proj(x_BTC))))
        return self.whiten(self.out_proj(hidden_BTS))


class Convolution(nn.Module):
    """Gated linear unit, depthwise convolution over time, SwooshR, linear."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, 2 * channels)
        # A small share of positive gates and a limited magnitude: peaky gates pass hardly any gradient.
        self.gate_balancer = Balancer(
            Scheduled((0, 0.05), (8000, 0.025)), 1.0, 1.5, Scheduled((0, 5.0), (8000, 10.0), default=1.0)
        )
        self.depthwise_conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.balancer = Balancer(Scheduled((0, 0.1), (8000, 0.05)), 1.0, Scheduled((0, 0.2), (20000, 0.5)), 10.0)
        self.whiten = Whiten(growing_limit(7.5))
        self.out_proj = ScaledLinear(channels, channels, initial_scale=0.05)

    def forward(self, x_BTC: torch.Tensor, padding_BT: torch.Tensor | None) -> torch.Tensor:
        gated_BTC = self.in_proj(x_BTC)
        if not lean(self):
            x_BTC, gate_BTC = gated_BTC.chunk(2, dim=-1)
            x_BTC = x_BTC * self.gate_balancer(gate_BTC).sigmoid()
        else:
            x_BTC = F.glu(gated_BTC, dim=-1)
        if padding_BT is not None:
            x_BTC = x_BTC.masked_fill(padding_BT.unsqueeze(-1), 0.0)
        if lean(self):
            return self.out_proj(SWOOSH_R.of_shifted(depthwise(x_BTC, self.depthwise_conv, SWOOSH_R.shift)))
        x_BTC = self.whiten(self.balancer(depthwise(x_BTC, self.depthwise_conv)))
        return self.out_proj(SWOOSH_R(x_BTC))


@functools.lru_cache(maxsize=8)
def _position_table(half: int, dim: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # Not an inference tensor even if first asked for in inference mode: training may need it later.
    with torch.inference_mode(False), torch.no_grad():
        offset = torch.arange(-half, half, dtype=torch.float32).unsqueeze(1)
        length = dim**0.5
        compressed = length * offset.sign() * ((offset.abs() + length).log() - math.log(length))
        angle = (compressed * (2.0 * math.pi / dim)).atan() * torch.arange(1, dim // 2 + 1)
        table = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
        table[:, -1] = 1.0  # in place of a bias
        return table.to(device=device, dtype=dtype)


def relative_positions(frames: int, dim: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(2T, dim) encodings of the offsets -T .. T - 1, finer for small offsets than for large ones."""
    half = max(1024, 1 << (frames - 1).bit_length())
    return _position_table(half, dim, device, dtype)[half - frames : half + frames]


class AttentionWeights(nn.Module):
    """Multi-head attention weights with relative positions, computed once per layer and used by three modules.

    The usual factor 1 / sqrt(K) is part of the initial weights.
    """

    def __init__(self, channels: int, position_dim: int, heads: int, query_dim: int, position_head_dim: int):
        super().__init__()
        self.heads, self.query_dim, self.position_head_dim = heads, query_dim, position_head_dim
        width = heads * (2 * query_dim + position_head_dim)
        self.in_proj = ScaledLinear(channels, width, initial_scale=query_dim**-0.25)
        self.linear_pos = ScaledLinear(position_dim, heads * position_head_dim, initial_scale=0.05, bias=False)
        # The weights do not depend on a constant in the keys, which rounding would let grow.
        self.key_balancer = Balancer(0.4, 0.6, 0.0, 100.0, probability=0.025)
        self.key_whiten = Whiten(growing_limit(3.0), groups=heads, grad_scale=0.025)
        self.position_skip_rate = Scheduled((0, 0.5), (4000, 0.0))

    def forward(
        self,
        x_BTC: torch.Tensor,
        positions: torch.Tensor,
        padding_BT: torch.Tensor | None,
        penalty: float | torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            x_BTC: states of the layer.
            positions: (2T, position_dim) from `relative_positions`.
            padding_BT: True on padding, which gets no weight.
            penalty: of scores beyond +-25, in training.

        Returns:
            (H, B, T, T) weights; rows sum to 1.
        """
        batch, frames, _ = x_BTC.shape
        heads, width = self.heads, self.heads * self.query_dim
        query, key, place = self.in_proj(x_BTC).split([width, width, heads * self.position_head_dim], dim=-1)
        key = self.key_whiten(self.key_balancer(key))

        def by_head(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3)

        query_NTK = by_head(query).reshape(heads * batch, frames, -1)
        key_NKT = by_head(key).reshape(heads * batch, frames, -1).transpose(1, 2)
        if self.training and chance(float(self.position_skip_rate)):
            # Still part of the graph: distributed training waits for the gradient of every parameter.
            query_NTK = query_NTK + 0.0 * self.linear_pos.weight.sum()
            scores_NTT = torch.bmm(query_NTK, key_NKT)
        else:
            place_HMP = by_head(place).reshape(heads, batch * frames, -1)
            positions_HPR = self.linear_pos(positions).unflatten(-1, (heads, -1)).permute(1, 2, 0)
            by_offset_HMR = torch.bmm(place_HMP, positions_HPR)
            # Row t needs the offsets -t .. T - 1 - t: shorten every row by one element and they stand in columns.
            flat = by_offset_HMR.view(heads * batch, 2 * frames * frames)[:, frames:]
            place_NTT = flat.unflatten(1, (frames, 2 * frames - 1))[:, :, :frames]
            scores_NTT = torch.baddbmm(place_NTT, query_NTK, key_NKT)
        if self.training and chance(0.1):
            scores_NTT = penalise_large(scores_NTT, 25.0, penalty)
        scores_HBTT = scores_NTT.view(heads, batch, frames, frames)
        if padding_BT is not None:
            # Not -inf: a row may be padding alone. exp(-1000) is exactly 0.
            masked_B1T = padding_BT.unsqueeze(1)
            scores_HBTT = (
                scores_HBTT.masked_fill_(masked_B1T, -1000.0)
                if lean(self)
                else scores_HBTT.masked_fill(masked_B1T, -1000.0)
            )
        return scores_HBTT.softmax(dim=-1).to(query.dtype)


class SelfAttention(nn.Module):
    """Values, mixed over time by given weights."""

    def __init__(self, channels: int, heads: int, value_dim: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, heads * value_dim)
        self.out_proj = ScaledLinear(heads * value_dim, channels, initial_scale=0.05)
        self.whiten = Whiten(growing_limit(7.5, ratio=3.0))

    def forward(self, x_BTC: torch.Tensor, weights_HBTT: torch.Tensor) -> torch.Tensor:
        value_HBTV = self.in_proj(x_BTC).unflatten(-1, (weights_HBTT.shape[0], -1)).permute(2, 0, 1, 3)
        mixed_BTHV = torch.matmul(weights_HBTT, value_HBTV).permute(1, 2, 0, 3)
        return self.whiten(self.out_proj(mixed_BTHV.flatten(2)))


class NonlinearAttention(nn.Module):
    """Gated values, mixed over time by the weights of one head, and gated again."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = 3 * channels // 4
        self.in_proj = nn.Linear(channels, 3 * hidden)
        self.balancer = Balancer(Scheduled((0, 0.25), (20000, 0.05)), Scheduled((0, 0.75), (20000, 0.95)), 0.5, 5.0)
        self.out_proj = ScaledLinear(hidden, channels, initial_scale=0.05)
        self.whiten1 = Whiten(growing_limit(5.0))
        self.whiten2 = Whiten(growing_limit(5.0, ratio=3.0))

    def forward(self, x_BTC: torch.Tensor, weights_BTT: torch.Tensor) -> torch.Tensor:
        gate_BTS, x_BTS, out_gate_BTS = self.in_proj(x_BTC).chunk(3, dim=-1)
        x_BTS = self.whiten1(x_BTS) * self.balancer(gate_BTS).tanh()
        return self.whiten2(self.out_proj(torch.bmm(weights_BTT, x_BTS) * out_gate_BTS))


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Initial values of one module's own tensors (`PreTrainedModel._init_weights`)."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        bound = (module.weight[0].numel()) ** -0.5
        scale = getattr(module, "initial_scale", 1.0)
        init.uniform_(module.weight, -bound * scale, bound * scale)
        if module.bias is not None:
            bound = 0.1 * scale if hasattr(module, "initial_scale") else bound
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight)
    elif isinstance(module, BiasNorm):
        init.ones_(module.log_scale)
        init.normal_(module.bias, std=1e-4)
    elif isinstance(module, Bypass):
        init.constant_(module.bypass_scale, 0.5)
