"""The sum over all paths of a transducer's lattice and the posterior of each arc; for `transducer_loss`.

This file stands in `models/shared` and is linked into the folders that use it, so that each of them can be published
by itself.

The lattice is Graves' (2012), k2's "regular" topology: at frame t with u labels emitted, a label leads to (t, u + 1)
and a blank to (t + 1, u).

Letters: B utterances, T frames, N = U + 1 rows (labels emitted so far).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

NEVER = float("-inf")


class Lattice(torch.autograd.Function):
    """Sum over all paths, in double precision, with its gradient: the posterior of each arc.

    Takes the log-probabilities of label and blank arcs (B, T, N), the lengths of frames and labels, and who is to be
    computed, (B,) each. Returns negative log-likelihoods (B,), who is ok, and the posteriors of label and blank arcs.
    Loss and gradient of the others, and of those whose loss is not finite, are zero.
    """

    @staticmethod
    def forward(
        ctx: Any,
        label_BTN: Tensor,
        blank_BTN: Tensor,
        frame_lengths_B: Tensor,
        label_lengths_B: Tensor,
        ok_B: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        B, T, N = label_BTN.shape
        double = torch.float32 if label_BTN.device.type == "mps" else torch.float64
        t, u = torch.arange(T, device=label_BTN.device)[:, None], torch.arange(N, device=label_BTN.device)
        # A length beyond the batch, or zero, belongs to an utterance that is not ok.
        frames = frame_lengths_B.clamp(1, T)[:, None, None]
        labels = label_lengths_B.clamp(0, N - 1)[:, None, None]
        label = torch.where((t < frames) & (u < labels), label_BTN.to(double), NEVER)
        blank = torch.where((t < frames) & (u <= labels), blank_BTN.to(double), NEVER)
        last_B = ((frames - 1) * N + labels).flatten()[:, None]
        final_B11 = blank.flatten(1).gather(1, last_B)[:, :, None]

        def turned(arcs: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
            """Entry (frames - 1 - t, labels - 1 - u) at (t, u)."""
            from_t, from_u = frames - 1 - t, labels - 1 - u
            index = (from_t.clamp(min=0) * N + from_u.clamp(min=0)).flatten(1)
            turned = arcs.flatten(1).gather(1, index).view(B, T, N)
            return torch.where((from_t >= 0) & (from_u >= 0), turned, NEVER)

        # The lattice and, beside it as more utterances, the same walked from its end.
        to_here, from_end = _path_sums(
            torch.cat([label, turned(label, frames, labels)]),
            torch.cat([blank, turned(blank, frames - 1, labels + 1)]),
        ).split(B)
        to_end = turned(from_end, frames, labels + 1) + final_B11
        total_B11 = to_here.flatten(1).gather(1, last_B)[:, :, None] + final_B11
        ok_B = ok_B & torch.isfinite(total_B11.flatten())
        usable = ok_B[:, None, None]
        after_blank = F.pad(to_end[:, 1:], (0, 0, 0, 1), value=NEVER)
        after_blank.view(B, -1).scatter_(1, last_B, 0.0)
        after_label = F.pad(to_end[:, :, 1:], (0, 1), value=NEVER)
        # Posteriors that no sum would notice are zero: as denormal numbers they slow matrix products down fourfold.
        least = torch.finfo(label_BTN.dtype).eps ** 2
        posteriors = ((to_here + rest - total_B11).exp() for rest in (label + after_label, blank + after_blank))
        label_post, blank_post = (
            torch.where(usable & (posterior > least), posterior, 0.0).to(label_BTN.dtype) for posterior in posteriors
        )
        ctx.save_for_backward(label_post, blank_post)
        losses_B = torch.where(ok_B, -total_B11.flatten(), 0.0).to(label_BTN.dtype)
        ctx.mark_non_differentiable(ok_B, label_post, blank_post)
        return losses_B, ok_B, label_post, blank_post

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor, *_: Any) -> Any:
        label_post, blank_post = ctx.saved_tensors
        return -grad_B[:, None, None] * label_post, -grad_B[:, None, None] * blank_post, None, None, None


def _path_sums(label_BTN: Tensor, blank_BTN: Tensor) -> Tensor:
    """Log of the sum over all paths from (0, 0) to each node, (B, T, N): one diagonal of the lattice at a time."""
    B, T, N = label_BTN.shape
    diagonals = T + N - 1
    # Into (t, u) come a label from column u - 1 and a blank from column u, both of the diagonal before.
    label_arcs = F.pad(_skewed(label_BTN)[:, :, :-1], (1, 0), value=NEVER)
    arcs = torch.stack([label_arcs, _skewed(blank_BTN)], dim=2)
    sums = label_BTN.new_full((diagonals, B, N + 1), NEVER)
    sums[0, :, 1] = 0.0
    sources = sums.unfold(2, N, 1)
    for before, arc, here in zip(sources[:-1], arcs[:-1], sums[1:, :, 1:], strict=True):
        reached = before + arc
        torch.logaddexp(reached[:, 0], reached[:, 1], out=here)
    # Undo the skew: (t, u) stands on diagonal t + u.
    columns = F.pad(sums[:, :, 1:].permute(1, 2, 0).flatten(1), (0, N))
    return columns.view(B, N, diagonals + 1)[:, :, :T].transpose(1, 2)


def _skewed(arcs_BTN: Tensor) -> Tensor:
    """Diagonal by diagonal, (T + N - 1, B, N): entry (t, u) at (t + u, u), -inf outside of the lattice."""
    B, T, N = arcs_BTN.shape
    columns = F.pad(arcs_BTN.transpose(1, 2), (0, N), value=NEVER).flatten(1)
    return columns[:, : N * (T + N - 1)].view(B, N, T + N - 1).permute(2, 0, 1)
