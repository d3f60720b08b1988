"""Loss of token-and-duration transducers (TDT, arXiv 2304.06795), exact and in little memory.

The joint network gives every node (frame t, u labels emitted) a distribution over tokens and one over durations. An
arc emits the blank (duration at least 1) or the next label, and moves d frames on; the loss is minus the log of the
summed probability of all paths to the end. transformers and NeMo keep the logits of all nodes; here the joint network
is computed for a few frames at a time, and again in the backward pass.

Shape legend: B utterances, T frames, U labels, N = U + 1 nodes of a frame, J joint width, V vocabulary, D durations, F
frames of several utterances in a row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .transducer_loss import CHUNK_ELEMENTS, Joiner, Losses, Targets

# Log-probability of what cannot be: finite, so that no gradient is the difference of two infinities.
NEVER = -1e30


def tdt_loss(
    encoder_BTJ: Tensor,
    predictor_BNJ: Tensor,
    joiner: Joiner,
    targets: Targets,
    durations: Sequence[int],
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Losses:
    """Negative log-likelihood of each utterance, zero with zero gradient for those that are not `targets.ok_B`.

    An utterance that no path leads through (durations that do not add up to its frames) is not ok either.

    Args:
        encoder_BTJ, predictor_BNJ: projected states of the frames, and after 0 .. U labels.
        joiner: two states that broadcast -> logits of V tokens and, after them, of the durations.
        durations: increasing numbers of frames, one of them at least 1.
        chunk_elements: logits that exist at once.
    """
    states_finite_B = encoder_BTJ.detach().isfinite().flatten(1).all(1) & predictor_BNJ.isfinite().flatten(1).all(1)
    targets = targets.only(states_finite_B)
    kept = targets.ok_B.nonzero(as_tuple=True)[0]
    losses_B = encoder_BTJ.new_zeros(len(targets.ok_B), dtype=torch.float32)
    if len(kept) == 0:
        # Still of the graph, so that every rank of a distributed run has the same gradients to exchange.
        nothing = joiner(encoder_BTJ[kept], predictor_BNJ[kept, :1]).float().sum()
        return Losses(losses_B + nothing, targets.ok_B)
    lengths, label_lengths = targets.frame_lengths_B[kept], targets.label_lengths_B[kept]
    arcs = _arcs(encoder_BTJ[kept], predictor_BNJ[kept], joiner, targets, kept, len(durations), chunk_elements)
    with torch.autocast(encoder_BTJ.device.type, enabled=False):
        losses = -_log_likelihood(*arcs, lengths, label_lengths, list(durations))
    possible = losses < -NEVER / 2
    ok_B = targets.ok_B.index_put((kept,), possible)
    return Losses(losses_B.index_put((kept,), torch.where(possible, losses, 0.0).float()), ok_B)


def _arcs(
    encoder_BTJ: Tensor,
    predictor_BNJ: Tensor,
    joiner: Joiner,
    targets: Targets,
    kept: Tensor,
    num_durations: int,
    chunk_elements: int,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a blank and of the next label with each duration, from every node: two (B, T, N, D)."""
    batch, frames, _ = encoder_BTJ.shape
    nodes = predictor_BNJ.shape[1]
    lengths = targets.frame_lengths_B[kept]
    # Frames of all utterances stand in one row, so that padding is not computed.
    b_F, t_F = (torch.arange(frames, device=kept.device) < lengths[:, None]).nonzero(as_tuple=True)
    next_BN = nn.functional.pad(targets.labels_BU[kept], (0, 1), value=targets.blank)

    def chunk(encoder_FJ: Tensor, predictor_BNJ: Tensor, b_F: Tensor) -> Any:
        logits = joiner(encoder_FJ[:, None], predictor_BNJ[b_F])
        logits = logits if logits.dtype == torch.float64 else logits.float()
        tokens_FNV, durations_FND = logits[..., :-num_durations], logits[..., -num_durations:].log_softmax(-1)
        durations_FND = durations_FND - tokens_FNV.logsumexp(-1, keepdim=True)
        labels_FN1 = tokens_FNV.gather(-1, next_BN[b_F][:, :, None])
        return tokens_FNV[..., targets.blank, None] + durations_FND, labels_FN1 + durations_FND

    with torch.no_grad():
        width = joiner(encoder_BTJ[:1, :1], predictor_BNJ[:1, :1]).shape[-1]
    size = max(1, chunk_elements // (nodes * width))
    parts = [
        checkpoint(chunk, encoder_FJ, predictor_BNJ, of_chunk, use_reentrant=False)
        for encoder_FJ, of_chunk in zip(encoder_BTJ[b_F, t_F].split(size), b_F.split(size), strict=True)
    ]
    blanks_FND, labels_FND = (torch.cat(column) for column in zip(*parts, strict=True))
    empty = blanks_FND.new_full((batch, frames, nodes, num_durations), NEVER)
    return empty.index_put((b_F, t_F), blanks_FND), empty.index_put((b_F, t_F), labels_FND)


def _log_likelihood(
    blanks_BTND: Tensor, labels_BTND: Tensor, lengths_B: Tensor, label_lengths_B: Tensor, durations: list[int]
) -> Tensor:
    """Frame by frame; labels of duration 0 within a frame by a cumulative sum. In float64: (B,)."""
    batch, frames, nodes, _ = blanks_BTND.shape
    blanks_BTND, labels_BTND = blanks_BTND.double(), labels_BTND.double()
    # What leaves the nodes of each frame by a blank and by a label, which arrives one node further.
    blanks_out: list[Tensor] = []
    labels_out: list[Tensor] = []
    for t in range(frames):
        arriving = [
            out[t - d][..., i] for out in (blanks_out, labels_out) for i, d in enumerate(durations) if 0 < d <= t
        ]
        if arriving:
            alpha_BN = torch.stack(arriving).logsumexp(0)
        else:
            alpha_BN = blanks_BTND.new_full((batch, nodes), NEVER)
            if t == 0:
                alpha_BN[:, 0] = 0.0
        if durations[0] == 0:
            path_BN = nn.functional.pad(labels_BTND[:, t, :-1, 0].cumsum(1), (1, 0))
            alpha_BN = path_BN + (alpha_BN - path_BN).logcumsumexp(1)
        blanks_out.append(alpha_BN[..., None] + blanks_BTND[:, t])
        labels_out.append(
            nn.functional.pad((alpha_BN[..., None] + labels_BTND[:, t])[:, :-1], (0, 0, 1, 0), value=NEVER)
        )
    out_BTND = torch.stack(blanks_out, 1)
    rows = torch.arange(batch, device=lengths_B.device)
    endings = []
    for i, d in enumerate(durations):
        if d > 0:
            ending_B = out_BTND[rows, (lengths_B - d).clamp(min=0), label_lengths_B, i]
            endings.append(ending_B.masked_fill(lengths_B < d, NEVER))
    return torch.stack(endings).logsumexp(0)
