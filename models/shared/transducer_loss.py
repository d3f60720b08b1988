"""RNN-T losses in plain PyTorch: exact in little memory, or pruned to a band around the likely alignments.

This file stands in `models/shared` and is linked into the folders that use it, so that each of them can be published
by itself.

The lattice is Graves' (2012), k2's "regular" topology, see `lattice`. The pruned loss is that of Kuang et al. (2022):
an additive joiner, whose normaliser is one matrix product, says which S rows of each frame matter, and the real joiner
is computed for those only.

    targets = Targets.build(labels, frame_lengths, blank=0)
    simple = simple_loss(am_BTV, lm_BNV, targets, lm_scale=0.25)
    starts_BT = prune_starts(simple, targets, 5)
    pruned = pruned_loss(encoder_BTD, predictor_BND, joiner, targets, starts_BT, 5)
    loss = (0.5 * simple.losses_B + pruned.losses_B).sum() / num_items_in_batch

`joiner(encoder_F1D, predictor_FSD) -> logits_FSV` gets projected states of F frames and of the S rows of each.

Utterances that cannot be computed have loss zero and gradient exactly zero: they never enter a product that could make
NaN of 0 * inf. What the model computes before these functions is the caller's to keep finite, see `keep_finite`.

Letters: B utterances, T frames, U labels of the longest, N = U + 1 rows of the lattice, V vocabulary, D joiner width,
S rows of the band, F frames of several utterances in a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .lattice import NEVER, Lattice

IGNORED = -100
# Logits that exist at once while the joiner is computed in chunks: 36 MiB of float32, just above what the C library
# keeps in its heap, where blocks that come and go leave holes.
CHUNK_ELEMENTS = 9 << 20

Joiner = Callable[[Tensor, Tensor], Tensor]


class Losses(NamedTuple):
    """Negative log-likelihoods in float32, zero where `ok_B` is false: there the utterance could not be computed."""

    losses_B: Tensor
    ok_B: Tensor


class SimpleLosses(NamedTuple):
    """`Losses`, and the posterior probabilities that an alignment takes the label or the blank of each node."""

    losses_B: Tensor
    ok_B: Tensor
    label_BTN: Tensor
    blank_BTN: Tensor


@dataclass(frozen=True)
class Targets:
    """What a batch of encoder outputs is aligned to; make it with `build`."""

    labels_BU: Tensor
    label_lengths_B: Tensor
    frame_lengths_B: Tensor
    ok_B: Tensor
    blank: int

    @classmethod
    def build(
        cls,
        labels_BU: Tensor,
        frame_lengths_B: Tensor,
        *,
        blank: int,
        label_lengths_B: Tensor | None = None,
        ok_B: Tensor | None = None,
    ) -> "Targets":
        """
        Args:
            labels_BU: token ids, padded on the right with anything where lengths are given, else with -100.
            frame_lengths_B: frames of each utterance.
            ok_B: utterances to compute; by default those that are `computable`.
        """
        if label_lengths_B is None:
            label_lengths_B = (labels_BU != IGNORED).sum(dim=1)
        label_lengths_B, frame_lengths_B = label_lengths_B.long(), frame_lengths_B.long()
        inside_BU = torch.arange(labels_BU.shape[1], device=labels_BU.device) < label_lengths_B[:, None]
        labels_BU = torch.where(inside_BU, labels_BU, blank).long()
        possible_B = computable(labels_BU, label_lengths_B, frame_lengths_B)
        return cls(
            labels_BU, label_lengths_B, frame_lengths_B, possible_B if ok_B is None else ok_B & possible_B, blank
        )

    @property
    def lattice(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `Lattice` wants to know."""
        return self.frame_lengths_B, self.label_lengths_B, self.ok_B

    def only(self, ok_B: Tensor) -> "Targets":
        """Without the utterances that are not `ok_B`."""
        return replace(self, ok_B=self.ok_B & ok_B)


def computable(
    labels_BU: Tensor,
    label_lengths_B: Tensor,
    frame_lengths_B: Tensor,
    *,
    ctc: bool = False,
    prune_range: int | None = None,
) -> Tensor:
    """Utterances whose loss is defined: (B,) bool.

    All need a frame and a label. CTC needs a frame per label and one more between equal neighbours; a band of
    `prune_range` rows, which climbs by one less per frame, must be able to reach the last row.
    """
    ok_B = (label_lengths_B >= 1) & (frame_lengths_B >= 1)
    if ctc:
        inside = torch.arange(1, max(1, labels_BU.shape[1]), device=labels_BU.device) < label_lengths_B[:, None]
        repeats_B = ((labels_BU[:, 1:] == labels_BU[:, :-1]) & inside).sum(dim=1)
        ok_B = ok_B & (label_lengths_B + repeats_B <= frame_lengths_B)
    if prune_range is not None:
        ok_B = ok_B & (label_lengths_B <= (prune_range - 1) * frame_lengths_B)
    return ok_B


def keep_finite(hidden_BTD: Tensor, lengths_B: Tensor, ok_B: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros in place of utterances that are not ok or hold a value that is not finite, and who is still ok.

    To be used before anything with weights reads `hidden_BTD`: a NaN in its input makes NaN of its weights' gradient,
    whatever the loss ignores later. Padding may hold anything.
    """
    inside_BT = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) < lengths_B[:, None]
    finite_BT = torch.isfinite(hidden_BTD).flatten(2).all(dim=2)
    ok_B = ok_B & (finite_BT | ~inside_BT).all(dim=1)
    keep_BT = finite_BT & ok_B[:, None]
    return torch.where(keep_BT.view(*keep_BT.shape, *[1] * (hidden_BTD.ndim - 2)), hidden_BTD, 0.0), ok_B


# Losses


def full_loss(
    encoder_BTD: Tensor,
    predictor_BND: Tensor,
    joiner: Joiner,
    targets: Targets,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    recompute: bool = True,
) -> Losses:
    """The exact loss, with the joiner computed for a few frames at a time, and again in the backward pass.

    Args:
        predictor_BND: predictor states after 0 .. U labels, projected to the joiner's width as `encoder_BTD` is.
        chunk_elements: logits that exist at once.
        recompute: drop the logits of the forward pass; without, they are all kept: 1.4 times faster for small
            vocabularies, and (B, T, N, V) numbers of memory.
    """
    targets = _finite(targets, encoder_BTD, predictor_BND)
    starts_BT = targets.labels_BU.new_zeros(encoder_BTD.shape[:2])
    rows = predictor_BND.shape[1]
    log_probs = _node_log_probs(
        encoder_BTD, predictor_BND, joiner, targets, starts_BT, rows, chunk_elements, recompute
    )
    losses_B, ok_B, *_ = Lattice.apply(*log_probs, *targets.lattice)
    return Losses(losses_B, ok_B)


def simple_loss(
    am_BTV: Tensor, lm_BNV: Tensor, targets: Targets, *, lm_scale: float = 0.0, am_scale: float = 0.0
) -> SimpleLosses:
    """The loss of the additive joiner `am + lm`, smoothed with the two alone; k2's `rnnt_loss_smoothed`.

    Args:
        am_BTV, lm_BNV: unnormalised log-probabilities of encoder and predictor.
        lm_scale: weight of the predictor alone, normalised by itself; 0.25 in icefall.
        am_scale: weight of the encoder with the predictor's mean distribution, taken over the batch without its
            padding.
    """
    with torch.autocast(am_BTV.device.type, enabled=False):
        am_BTV, lm_BNV = (x if x.dtype == torch.float64 else x.float() for x in (am_BTV, lm_BNV))
        targets = _finite(targets, am_BTV, lm_BNV)
        # Selected and not multiplied: zero times NaN is NaN.
        am_BTV, lm_BNV = (torch.where(targets.ok_B[:, None, None], x, 0.0) for x in (am_BTV, lm_BNV))
        log_probs = _simple_log_probs(am_BTV, lm_BNV, targets, lm_scale, am_scale)
        return SimpleLosses(*Lattice.apply(*log_probs, *targets.lattice))


def prune_starts(simple: SimpleLosses, targets: Targets, prune_range: int) -> Tensor:
    """First row of the band of each frame, (B, T): the `prune_range` rows that an alignment most likely stays in.

    A band starts at row 0, never goes down, climbs by less than its width per frame so that a path fits through, and
    ends at the last row. As k2's `get_rnnt_prune_ranges`.

    Raises:
        ValueError: a band of fewer than two rows cannot climb.
    """
    if prune_range < 2:
        raise ValueError(f"prune_range must be at least 2, got {prune_range}: a band of one row cannot climb")
    _, T, N = simple.blank_BTN.shape
    width = min(prune_range, N)
    # Alignments that leave the frame by a blank of the band, without those that came into the band from below.
    leave_BTM = F.pad(simple.blank_BTN.cumsum(dim=2), (1, 0))
    kept_BTM = leave_BTM[:, :, width:] - leave_BTM[:, :, :-width]
    kept_BTM[:, :, 1:] -= simple.label_BTN[:, :, : N - width]
    t = torch.arange(T, device=kept_BTM.device)
    last_B1 = (targets.label_lengths_B[:, None] + 1 - width).clamp(min=0)
    starts_BT = torch.where(t < targets.frame_lengths_B[:, None] - 1, kept_BTM.argmax(dim=2), last_B1)
    starts_BT = torch.minimum(starts_BT, last_B1)
    starts_BT = starts_BT.flip(1).cummin(dim=1).values.flip(1)
    climb_T = (prune_range - 1) * t
    starts_BT = (starts_BT - climb_T).flip(1).cummax(dim=1).values.flip(1) + climb_T
    return torch.minimum(starts_BT, climb_T)


def pruned_loss(
    encoder_BTD: Tensor,
    predictor_BND: Tensor,
    joiner: Joiner,
    targets: Targets,
    starts_BT: Tensor,
    prune_range: int,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    recompute: bool = False,
) -> Losses:
    """The loss over the paths inside of the band of `prune_starts`: an upper bound of `full_loss`.

    Utterances with more than `prune_range - 1` labels per frame cannot be computed.

    Args:
        recompute: drop the logits of the forward pass, (B, T, S, V), and compute them again: a third more time.
    """
    enough_B = targets.label_lengths_B <= (prune_range - 1) * targets.frame_lengths_B
    targets = _finite(targets.only(enough_B), encoder_BTD, predictor_BND)
    width = min(prune_range, predictor_BND.shape[1])
    log_probs = _node_log_probs(
        encoder_BTD, predictor_BND, joiner, targets, starts_BT, width, chunk_elements, recompute
    )
    losses_B, ok_B, *_ = Lattice.apply(*log_probs, *targets.lattice)
    return Losses(losses_B, ok_B)


def ctc_loss(logits_BTV: Tensor, targets: Targets) -> Losses:
    """CTC of each utterance, from unnormalised logits; impossible ones are left out as everywhere here."""
    targets = targets.only(computable(targets.labels_BU, targets.label_lengths_B, targets.frame_lengths_B, ctc=True))
    targets = _finite(targets, logits_BTV)
    kept = targets.ok_B.nonzero(as_tuple=True)[0]
    with torch.autocast(logits_BTV.device.type, enabled=False):
        logits = logits_BTV.index_select(0, kept)
        log_probs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
        losses_B = log_probs.new_zeros(len(targets.ok_B))
        if len(kept) == 0:
            # Still of the graph, so that every rank of a distributed run has the same gradients to exchange.
            return Losses(losses_B + log_probs.sum(), targets.ok_B)
        losses = F.ctc_loss(
            log_probs.transpose(0, 1),
            targets.labels_BU[kept],
            targets.frame_lengths_B[kept],
            targets.label_lengths_B[kept],
            blank=targets.blank,
            reduction="none",
            zero_infinity=True,
        )
        return Losses(losses_B.index_put((kept,), losses), targets.ok_B)


# Log-probabilities of the arcs


def _finite(targets: Targets, encoder_BTx: Tensor, predictor_BNx: Tensor | None = None) -> Targets:
    """Without utterances whose states are not finite; padding may hold anything."""
    for states, lengths_B in ((encoder_BTx, targets.frame_lengths_B), (predictor_BNx, targets.label_lengths_B + 1)):
        if states is not None:
            inside = torch.arange(states.shape[1], device=states.device) < lengths_B[:, None]
            finite = torch.isfinite(states.detach().sum(dim=2)) | ~inside
            targets = targets.only(finite.all(dim=1))
    return targets


def _node_log_probs(
    encoder_BTD: Tensor,
    predictor_BND: Tensor,
    joiner: Joiner,
    targets: Targets,
    starts_BT: Tensor,
    width: int,
    chunk_elements: int,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next label and of a blank at `width` rows of each frame: two (B, T, N), -inf elsewhere.

    Frames of all utterances stand in one row, so that neither padding nor utterances that are left out are computed.
    """
    B, T, _ = encoder_BTD.shape
    N = predictor_BND.shape[1]
    inside_BT = torch.arange(T, device=encoder_BTD.device) < targets.frame_lengths_B[:, None]
    b_F, t_F = (inside_BT & targets.ok_B[:, None]).nonzero(as_tuple=True)
    rows_FS = starts_BT[b_F, t_F][:, None] + torch.arange(width, device=encoder_BTD.device)
    labels_FS = F.pad(targets.labels_BU, (0, 1))[b_F[:, None], rows_FS]
    encoder_FD = encoder_BTD.flatten(0, 1).index_select(0, b_F * T + t_F)
    nodes_FS = b_F[:, None] * N + rows_FS
    predictor_ED = predictor_BND.flatten(0, 1)

    def chunk(encoder_FD: Tensor, predictor_ED: Tensor, nodes_FS: Tensor, labels_FS: Tensor) -> Any:
        predictor_FSD = predictor_ED.index_select(0, nodes_FS.flatten()).unflatten(0, nodes_FS.shape)
        logits_FSV = joiner(encoder_FD[:, None], predictor_FSD)
        return _ArcLogProbs.apply(logits_FSV, labels_FS, targets.blank)

    with torch.no_grad():
        vocabulary = joiner(encoder_BTD.new_zeros(1, 1, encoder_BTD.shape[2]), predictor_ED[:1, None]).shape[-1]
    frames = max(1, chunk_elements // (width * vocabulary))
    parts = []
    for encoder, nodes, labels in zip(
        encoder_FD.split(frames), nodes_FS.split(frames), labels_FS.split(frames), strict=True
    ):
        if recompute and torch.is_grad_enabled():
            parts.append(checkpoint(chunk, encoder, predictor_ED, nodes, labels, use_reentrant=False))
        else:
            parts.append(chunk(encoder, predictor_ED, nodes, labels))
    place_FS = (b_F * T + t_F)[:, None] * N + rows_FS
    arcs = []
    for log_probs_FS in (torch.cat(column) for column in zip(*parts, strict=True)):
        empty = log_probs_FS.new_full((B * T * N,), NEVER)
        arcs.append(empty.index_put((place_FS,), log_probs_FS).view(B, T, N))
    return arcs[0], arcs[1]


class _ArcLogProbs(torch.autograd.Function):
    """log softmax at two entries of the vocabulary; one exponential each way and no normalised copy of the logits."""

    @staticmethod
    def forward(ctx: Any, logits_FSV: Tensor, labels_FS: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        exact = logits_FSV if logits_FSV.dtype == torch.float64 else logits_FSV.float()
        norm_FS = torch.logsumexp(exact, dim=-1)
        ctx.save_for_backward(logits_FSV, labels_FS, norm_FS)
        ctx.blank = blank
        return exact.gather(-1, labels_FS[..., None]).squeeze(-1) - norm_FS, exact[..., blank] - norm_FS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, label_FS: Tensor, blank_FS: Tensor) -> Any:
        logits_FSV, labels_FS, norm_FS = ctx.saved_tensors
        grad = torch.sub(logits_FSV, norm_FS[..., None]).exp_().mul_(-(label_FS + blank_FS)[..., None])
        grad.scatter_add_(-1, labels_FS[..., None], label_FS[..., None])
        grad[..., ctx.blank] += blank_FS
        # Nodes of a loss that turned out not to be finite: the occupancy is zero, the logits may be anything.
        lost_FS = ~torch.isfinite(norm_FS)
        if lost_FS.any():
            grad.masked_fill_(lost_FS[..., None], 0.0)
        return grad.to(logits_FSV.dtype), None, None


def _simple_log_probs(
    am_BTV: Tensor, lm_BNV: Tensor, targets: Targets, lm_scale: float, am_scale: float
) -> tuple[Tensor, Tensor]:
    """Arcs of the additive joiner, (B, T, N) twice; column U of the label arcs is not used."""
    B, T, _ = am_BTV.shape
    N, blank = lm_BNV.shape[1], targets.blank
    labels_BN = F.pad(targets.labels_BU, (0, 1))
    am_top, lm_top = am_BTV.detach().amax(2, keepdim=True), lm_BNV.detach().amax(2, keepdim=True)
    am_exp, lm_exp = (am_BTV - am_top).exp(), (lm_BNV - lm_top).exp()
    tiny = torch.finfo(am_BTV.dtype).tiny
    norm_BTN = (am_exp @ lm_exp.transpose(1, 2) + tiny).log() + am_top + lm_top.transpose(1, 2)
    am_label_BTN = am_BTV.gather(2, labels_BN[:, None].expand(B, T, N))
    lm_label_B1N = lm_BNV.gather(2, labels_BN[:, :, None]).transpose(1, 2)
    am_blank_BT1, lm_blank_B1N = am_BTV[:, :, blank, None], lm_BNV[:, None, :, blank]
    label_BTN, blank_BTN = am_label_BTN + lm_label_B1N - norm_BTN, am_blank_BT1 + lm_blank_B1N - norm_BTN
    both = 1.0 - lm_scale - am_scale
    label_BTN, blank_BTN = both * label_BTN, both * blank_BTN
    if lm_scale:
        norm_B1N = (lm_exp.sum(2, keepdim=True).log() + lm_top).transpose(1, 2)
        label_BTN = label_BTN + lm_scale * (lm_label_B1N - norm_B1N)
        blank_BTN = blank_BTN + lm_scale * (lm_blank_B1N - norm_B1N)
    if am_scale:
        inside_BN = torch.arange(N, device=lm_exp.device) <= targets.label_lengths_B[:, None]
        weight_BN = (inside_BN & targets.ok_B[:, None]).to(lm_exp.dtype)
        probs_BNV = lm_exp / lm_exp.sum(2, keepdim=True)
        mean_V = (weight_BN[:, :, None] * probs_BNV).sum((0, 1)) / weight_BN.sum().clamp(min=1.0) + tiny
        norm_BT1 = (am_exp @ mean_V[:, None]).log() + am_top
        label_BTN = label_BTN + am_scale * (am_label_BTN + mean_V.log()[labels_BN][:, None] - norm_BT1)
        blank_BTN = blank_BTN + am_scale * (am_blank_BT1 + mean_V.log()[blank] - norm_BT1)
    return label_BTN, blank_BTN
