"""Adam whose steps are relative to the size of each tensor, and which learns that size (Yao et al., 2024).

A tensor of root mean square r moves by lr * r where Adam moves by lr; every few steps it also grows or shrinks as a
whole, at a tenth of that rate. Gradients are clipped at a multiple of their median norm over the last hundred steps,
so there is no norm to choose: leave `max_grad_norm` at 0.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Steps at which the median norm is taken before there are `clipping_period` of them, with twice the room.
EARLY_CLIPPING_STEPS = (10, 20, 40)
# A tensor grows or shrinks by no more than this share at a time.
LARGEST_SIZE_STEP = 0.1
# icefall's 1e-8 is for the gradient of a sum over a batch, ours is divided by its target tokens, some thousands.
EPS_PER_TOKEN = 1e-12
SHARDED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}


def create_scaled_adam(model: torch.nn.Module, lr: float = 0.045, **options: Any) -> "ScaledAdam":
    """ScaledAdam for the trainable parameters of a model whose loss is a mean over target tokens.

    Args:
        lr: peak rate; 0.045 for 30 M to 150 M parameters, 0.04 for smaller models. Ten times that of AdamW and more:
            it is relative to the size of each tensor.
        options: of `ScaledAdam`.

    Raises:
        ValueError: the launch shards the model (DeepSpeed, FSDP), or nothing is trainable.
    """
    for variable, backend in SHARDED.items():
        if os.environ.get(variable, "").lower() == "true":
            raise ValueError(
                f"ScaledAdam looks at whole tensors and {backend} trains pieces of them: set training.optim to "
                "adamw_torch_fused, or launch without it (one process, or several with torchrun)"
            )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return ScaledAdam(parameters, lr, **{"eps": EPS_PER_TOKEN, **options})


class ScaledAdam(torch.optim.Optimizer):
    """As icefall's optimiser of that name.

    A step without any gradient changes nothing. Neither does one whose gradients are not finite; it is logged.

    Args:
        params: parameters or groups of them, in float32 (or float64).
        lr: step of a tensor relative to its root mean square.
        clipping_scale: gradients above this multiple of the median norm are scaled down; None does not clip. Norms are
            of gradients times the size of their tensors, which is what a step depends on.
        betas: decay of the steps and of the squared gradients.
        scalar_lr_scale: rate of single numbers and of the size of tensors, as a share of `lr`.
        eps: added to the root of the squared gradients: to be far below the gradients that matter.
        min_rms, max_rms: between these the size of a tensor is learned; below the first, steps do not get smaller.
        scalar_max: largest magnitude of single numbers.
        size_period: steps between two changes of size.
        clipping_period: steps between two medians, and norms that one is taken of.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        *,
        clipping_scale: float | None = 2.0,
        betas: tuple[float, float] = (0.9, 0.98),
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        min_rms: float = 1e-5,
        max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_period: int = 4,
        clipping_period: int = 100,
    ):
        if lr < 0 or eps < 0 or not 0 <= betas[0] < 1 or not 0 <= betas[1] < 1:
            raise ValueError(f"lr and eps must not be negative and betas in [0, 1), got {lr}, {eps} and {betas}")
        if clipping_scale is not None and clipping_scale <= 0:
            raise ValueError(f"clipping_scale must be above 0, or None for no clipping; got {clipping_scale}")
        if size_period < 1 or clipping_period < 1:
            raise ValueError(f"periods must be at least 1, got {size_period} and {clipping_period}")
        options = {"lr": lr, "clipping_scale": clipping_scale, "betas": betas, "scalar_lr_scale": scalar_lr_scale}
        options |= {"eps": eps, "min_rms": min_rms, "max_rms": max_rms, "scalar_max": scalar_max}
        super().__init__(params, {**options, "size_period": size_period, "clipping_period": clipping_period})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for parameter in group["params"]:
            if parameter.dtype not in (torch.float32, torch.float64) or hasattr(parameter, "device_mesh"):
                raise ValueError(
                    "ScaledAdam needs whole parameters in float32, as they are outside of DeepSpeed and FSDP and with "
                    f"bf16 autocast; got {type(parameter).__name__} in {parameter.dtype}"
                )
        # Of the group as a whole, and in its state: steps done, clipping threshold, last norms, shapes.
        group |= {"step": 0, "threshold": None, "norms": [], "shapes": [list(p.shape) for p in group["params"]]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update, in stacks of parameters of the same shape: a few operations for hundreds of small tensors.

        Raises:
            ValueError: the parameters are no longer those that the optimiser was made for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if [list(p.shape) for p in group["params"]] != group["shapes"]:
                raise ValueError(
                    "the parameters changed shape since ScaledAdam was made or saved: it works neither on pieces of "
                    "tensors (DeepSpeed, FSDP) nor on the state of another model"
                )
            if any(p.grad is not None for p in group["params"]):
                self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        stacks: dict[Any, list[Tensor]] = {}
        for parameter in group["params"]:
            stacks.setdefault((parameter.dtype, parameter.device, parameter.shape), []).append(parameter)
        # The state of a stack is kept with its first parameter. A parameter that took no part has gradient zero.
        work = [
            (members, torch.stack(members), torch.stack([_gradient(p) for p in members]), self.state[members[0]])
            for members in stacks.values()
        ]
        for _, values, _, state in work:
            if not state:
                state.update(_initial_state(values, group["size_period"]))
        scale = _clip(group, [(values, gradients, state) for _, values, gradients, state in work])
        if scale is None:
            logger.warning("step %d left out: its gradients are not finite", group["step"])
            return
        for members, values, gradients, state in work:
            if scale < 1:
                gradients *= scale
            values += _momentum(group, values, gradients, state)
            if _is_scalar(values):
                values.clamp_(-group["scalar_max"], group["scalar_max"])
            torch._foreach_copy_(members, list(values.unbind()))
        group["step"] += 1


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _is_scalar(values: Tensor) -> bool:
    """Whether a stack is of single numbers."""
    return values.numel() == len(values)


def _rms(values: Tensor) -> Tensor:
    """Root mean square of each tensor of a stack, ready to be multiplied with it."""
    return values.square().mean(dim=list(range(1, values.ndim)), keepdim=True).sqrt()


def _initial_state(values: Tensor, size_period: int) -> dict[str, Tensor]:
    state = {"squares": torch.zeros_like(values), "delta": torch.zeros_like(values)}
    if not _is_scalar(values):
        rms = _rms(values)
        size_gradients = rms.new_zeros(size_period, *rms.shape)
        state |= {"rms": rms, "size_gradients": size_gradients, "size_squares": torch.zeros_like(rms)}
    return state


def _clip(group: dict[str, Any], stacks: list[tuple[Tensor, Tensor, dict[str, Tensor]]]) -> float | None:
    """What to multiply the gradients with, at most 1; None if they are not finite."""
    total = torch.zeros((), device=stacks[0][0].device)
    for values, gradients, state in stacks:
        weighted = gradients * (group["scalar_lr_scale"] if _is_scalar(values) else state["rms"])
        total += weighted.square().sum().to(total)
    norm = total.sqrt().item()
    if not math.isfinite(norm):
        return None
    step, period = group["step"], group["clipping_period"]
    if group["clipping_scale"] is None or step == 0:
        return 1.0
    norms = group["norms"] = [*group["norms"], norm][-period:]
    early = step in EARLY_CLIPPING_STEPS and step < period
    if early or step % period == 0:
        taken = sorted(norms)[-step:] if early else sorted(norms)
        median = taken[len(taken) // 4 * 2]
        group["threshold"] = group["clipping_scale"] * median * (2.0 if early else 1.0)
    if group["threshold"] is None:
        return 1.0
    return min(1.0, group["threshold"] / (norm + 1e-20))


def _momentum(group: dict[str, Any], values: Tensor, gradients: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The change of a stack: a running mean of what single gradients ask for, so the first steps are small."""
    beta1 = group["betas"][0]
    wanted = _adam(group, values, gradients, state)
    if not _is_scalar(values):
        wanted = _scaled(group, values, gradients, state, wanted)
    return state["delta"].mul_(beta1).add_(wanted, alpha=1 - beta1)


def _adam(group: dict[str, Any], values: Tensor, gradients: Tensor, state: dict[str, Tensor]) -> Tensor:
    beta2 = group["betas"][1]
    squares = state["squares"].mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    correction = 1 - beta2 ** (group["step"] + 1)
    if correction < 0.99:
        squares = squares / correction
    lr = group["lr"] * (group["scalar_lr_scale"] if _is_scalar(values) else 1.0)
    return gradients.div(squares.sqrt().add_(group["eps"])).mul_(-lr)


def _scaled(
    group: dict[str, Any], values: Tensor, gradients: Tensor, state: dict[str, Tensor], wanted: Tensor
) -> Tensor:
    """Adam's step times the size of each tensor and, once in `size_period` steps, a step of the size itself."""
    step, period = group["step"], group["size_period"]
    dims = list(range(1, values.ndim))
    rms, size_gradients = state["rms"], state["size_gradients"]
    # With tensor = size * direction, the derivative by log size is the sum of tensor * gradient.
    size_gradients[step % period] = (values * gradients).sum(dim=dims, keepdim=True)
    due = step % period == period - 1
    if due:
        rms.copy_(_rms(values))
    wanted *= rms.clamp(min=group["min_rms"])
    if due and step > 0:
        decay = group["betas"][1] ** period
        squares = state["size_squares"].mul_(decay).add_(size_gradients.square().mean(dim=0), alpha=1 - decay)
        correction = (1 - decay ** ((step + 1) // period)) ** 0.5
        size_lr = group["lr"] * group["scalar_lr_scale"] * correction
        change = -size_lr * size_gradients.sum(dim=0) / (squares.sqrt() + group["eps"])
        change.masked_fill_(rms < group["min_rms"], 0.0).clamp_(-LARGEST_SIZE_STEP, LARGEST_SIZE_STEP)
        wanted += values * torch.minimum(change, (group["max_rms"] - rms) / rms)
    return wanted
