"""What the Zipformer does in training alone: schedules, gradient shaping, random skipping (arXiv 2310.11230, 3.3-3.5).

Every module here is the identity in evaluation. Gradient modules leave values alone in training too: they change what
flows back. Shape legend: B batch, T frames, C channels (always last), N frames of the batch together.
"""

import math
from typing import Any

import torch
from torch import nn


class Scheduled(nn.Module):
    """A number that changes with the count of training batches, piecewise linearly: `float(module)` is its value.

    Args:
        points: (batch count, value) in order; constant before the first and after the last.
        default: the value outside of training, and where no batch count was ever set.
    """

    def __init__(self, *points: tuple[float, float], default: float = 0.0):
        super().__init__()
        self.points = points
        self.default = default
        self.batch_count: float | None = None

    def __float__(self) -> float:
        if self.batch_count is None or not self.training:
            return float(self.default)
        (left, value), last = self.points[0], self.points[-1]
        if self.batch_count <= left:
            return float(value)
        if self.batch_count >= last[0]:
            return float(last[1])
        for right, right_value in self.points[1:]:
            if self.batch_count <= right:
                return value + (right_value - value) * (self.batch_count - left) / (right - left)
            left, value = right, right_value
        return float(last[1])

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.points))}, default={self.default}"


Number = float | Scheduled


def set_batch_count(model: nn.Module, count: float | None) -> None:
    """Tell every schedule in `model` how many batches have been trained on."""
    for module in model.modules():
        if isinstance(module, Scheduled):
            module.batch_count = count


def chance(probability: float) -> bool:
    """True with that probability. Drawn by torch on the CPU, whose state gradient checkpointing restores."""
    return probability > 0 and torch.rand(()).item() < probability


def keep_mask(x: torch.Tensor, skip_rate: float, shape: tuple[int, ...]) -> torch.Tensor:
    """0 with probability `skip_rate`, else 1; of `shape`, which broadcasts with `x`."""
    return (torch.rand(shape, device=x.device) > skip_rate).to(x.dtype)


class Skip(nn.Module):
    """Zeroes whole utterances of a (B, T, C) tensor at a rate, without scaling up the others."""

    def __init__(self, rate: Number):
        super().__init__()
        self.rate = rate

    def mask(self, x: torch.Tensor) -> torch.Tensor | None:
        """(B, 1, 1) factors, or None where nothing is to be skipped."""
        rate = float(self.rate) if self.training else 0.0
        return keep_mask(x, rate, (x.shape[0], *[1] * (x.ndim - 1))) if rate > 0 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = self.mask(x)
        return x if mask is None else x * mask


class TimeSharedDropout(nn.Module):
    """Dropout of a (B, T, C) tensor that drops a channel in all frames of an utterance, or in none."""

    def __init__(self, rate: Number):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rate = float(self.rate) if self.training else 0.0
        if rate == 0.0:
            return x
        return x * (keep_mask(x, rate, (x.shape[0], 1, x.shape[2])) / (1.0 - rate))


class Balancer(nn.Module):
    """Pushes each channel, through its gradients, towards a share of positive values and a range of magnitude.

    Args:
        min_positive, max_positive: bounds on the share of positive values; they become bounds on mean / stddev.
        min_abs, max_abs: bounds on the mean magnitude; they become bounds on the rms.
        probability: how often it acts; by default from 1/2 falling to 1/8.
    """

    grad_scale = 0.04
    active = True

    def __init__(
        self,
        min_positive: Number = 0.05,
        max_positive: Number = 0.95,
        min_abs: Number = 0.2,
        max_abs: Number = 100.0,
        probability: Number | None = None,
    ):
        super().__init__()
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.probability = Scheduled((0, 0.5), (8000, 0.125), default=0.4) if probability is None else probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.active and self.training and x.requires_grad and chance(float(self.probability))):
            return x
        # An expected magnitude of 1 is an rms of sqrt(pi / 2) where values are normal.
        rms = [math.sqrt(math.pi / 2) * float(bound) for bound in (self.min_abs, self.max_abs)]
        mean = [_mean_of_share(float(bound)) for bound in (self.min_positive, self.max_positive)]
        return _Balance.apply(x, (*mean, *rms), self.grad_scale)  # type: ignore[return-value]


def _mean_of_share(positive: float) -> float:
    """mean / stddev of values of which that share is positive: a coarse inverse of the error function."""
    x, tiny = 2 * positive - 1, 1e-10
    return 0.8139535143 * (math.log(1 + x + tiny) - math.log(1 - x + tiny)) / 2


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bounds: tuple[float, ...], grad_scale: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.bounds, ctx.grad_scale = bounds, grad_scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        min_mean, max_mean, min_rms, max_rms = ctx.bounds
        frames = tuple(range(x.ndim - 1))
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.detach().float().requires_grad_()
            square = x.square().mean(frames, keepdim=True)
            mean = x.mean(frames, keepdim=True)
            ratio = mean / (square - mean * mean).clamp(min=1e-20).sqrt()
            rms = square.clamp(min=1e-20).sqrt()
            penalty = (ratio - ratio.clamp(min_mean, max_mean)).abs()
            penalty = penalty + (rms.clamp(min_rms, max_rms) / rms).log().abs()
            (push,) = torch.autograd.grad(penalty.sum(), x)
        push = push * (ctx.grad_scale / push.square().mean(frames, keepdim=True).sqrt().clamp(min=1e-20))
        # The gradient's own magnitude tells how large a change of an element is.
        changed = gradient.float() + gradient.float().abs() * push
        return changed.to(gradient.dtype), None, None


class Whiten(nn.Module):
    """Pushes the covariance of each group of channels, through gradients, towards a multiple of the identity.

    Args:
        limit: acts where the whitening metric, 1 for perfectly white features, exceeds it.
        groups: the channels are divided into so many groups.
        grad_scale: norm of what is added, relative to the gradient's.
    """

    # How often it looks: rarely while the metric is within the limit.
    min_probability, max_probability = 0.025, 0.25
    active = True

    def __init__(self, limit: Number, groups: int = 1, grad_scale: float = 0.01):
        super().__init__()
        self.limit, self.groups, self.grad_scale = limit, groups, grad_scale
        self.probability = self.max_probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.active and self.training and x.requires_grad and chance(self.probability)):
            return x
        return _Whitening.apply(x, self)  # type: ignore[return-value]


class _Whitening(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: Whiten) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), (x,), module = gradients, ctx.saved_tensors, ctx.module
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.detach().float().requires_grad_()
            metric = whitening_metric(x, module.groups)
            if metric.item() < float(module.limit):
                module.probability = module.min_probability
                return gradient, None
            module.probability = module.max_probability
            (push,) = torch.autograd.grad(metric, x)
        push = push * (module.grad_scale * gradient.float().norm() / (push.norm() + 1e-20))
        return gradient + push.to(gradient.dtype), None


def whitening_metric(x: torch.Tensor, groups: int) -> torch.Tensor:
    """1 where all eigenvalues of the centred covariances of (..., C) features are equal, else more."""
    x_GNC = x.reshape(-1, groups, x.shape[-1] // groups).transpose(0, 1)
    x_GNC = x_GNC - x_GNC.mean(1, keepdim=True)
    covariance_GCC = x_GNC.transpose(1, 2) @ x_GNC
    mean_eigenvalue = covariance_GCC.diagonal(dim1=1, dim2=2).mean()
    return covariance_GCC.square().sum() / x.shape[-1] / (mean_eigenvalue**2 + 1e-20)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.scale, None


def scale_gradient(x: torch.Tensor, scale: float) -> torch.Tensor:
    """`x`, whose gradient is multiplied by `scale`."""
    return _ScaleGradient.apply(x, scale)  # type: ignore[return-value]


class _LimitValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
        ctx.save_for_backward(parameter)
        ctx.bounds = lowest, highest
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,), (value,), (lowest, highest) = gradients, ctx.saved_tensors, ctx.bounds
        gradient = torch.where((gradient > 0) & (value < lowest), -gradient, gradient)
        return torch.where((gradient < 0) & (value > highest), -gradient, gradient), None, None


def limit_value(parameter: torch.Tensor, lowest: float, highest: float, probability: float = 0.6) -> torch.Tensor:
    """`parameter`, whose gradient never drives it further out of [lowest, highest]."""
    if not chance(probability):
        return parameter
    return _LimitValue.apply(parameter, lowest, highest)  # type: ignore[return-value]


class _PenaliseLarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, limit: float, penalty: Any) -> torch.Tensor:
        ctx.save_for_backward(x.abs().gt(limit) * x.sign().to(torch.int8))
        ctx.penalty = penalty
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0] + ctx.saved_tensors[0] * ctx.penalty, None, None


def penalise_large(x: torch.Tensor, limit: float, penalty: float | torch.Tensor) -> torch.Tensor:
    """`x`, as if `penalty` times the excess of every magnitude over `limit` were part of the loss."""
    return _PenaliseLarge.apply(x, limit, penalty)  # type: ignore[return-value]


def feature_masks(x: torch.Tensor, dims: list[int], unmasked_dims: list[int], rate: float = 0.125) -> list:
    """Factors (B, 1, C) per stack that hide, in some utterances, the channels above `unmasked_dims`.

    The masks of all stacks agree; half of the hideable channels are hidden about twice as often as the others.
    """
    outer = torch.rand((x.shape[0], 1, 1), device=x.device) > rate
    inner = outer & (torch.rand((x.shape[0], 1, 1), device=x.device) > rate)
    masks = []
    for dim, unmasked in zip(dims, unmasked_dims, strict=True):
        channel = torch.arange(dim, device=x.device)
        middle = unmasked + (dim - unmasked) // 2
        masks.append(((channel < unmasked) | ((channel < middle) & outer) | inner).to(x.dtype))
    return masks
