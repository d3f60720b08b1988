"""Losses of emotion classifiers: weighted cross entropy and the supervised contrastive loss, both as sums.

`SERForAudioClassification` divides the sums by the utterances of the whole optimiser step.

Shape legend: B utterances of a rank, M of all ranks, P width of the contrastive projection, C classes.
"""

from collections.abc import Sequence

import torch
from torch import distributed, nn

IGNORED = -100


def cross_entropy_sum(
    logits_BC: torch.Tensor,
    labels_B: torch.Tensor,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Summed cross entropy in float32; rows labelled -100 are left out. A weight multiplies the loss of its class."""
    weight_C = None
    if class_weights is not None:
        weight_C = torch.tensor(class_weights, dtype=torch.float32, device=logits_BC.device)
    return nn.functional.cross_entropy(
        logits_BC.float(),
        labels_B,
        weight=weight_C,
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def supervised_contrastive_sum(
    projections_BP: torch.Tensor, labels_B: torch.Tensor, temperature: float, gather: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Supervised contrastive loss (Khosla et al., arXiv 2004.11362, equation 2), summed over the anchors of this rank.

    For each anchor: the mean over its positives (other utterances of its class) of -log softmax over all other
    utterances. An anchor without positives is skipped, and so is every anchor of a batch with a single class, which
    has nothing to be told apart from. Rows labelled -100 take part in nothing.

    Args:
        projections_BP: L2-normalised.
        labels_B: class ids, -100 for none.
        gather: compare with the utterances of all ranks. Every rank has to call it together. The value is the share of
            the rank's own anchors, so that the shares of all ranks add up to the loss of the whole batch; the gradient
            is that of the loss of all ranks with respect to the rank's own projections, so that the gradients of all
            ranks add up as well.

    Returns:
        the sum, and how many labelled anchors of this rank were skipped.
    """
    labelled_B = labels_B != IGNORED
    own_BP, own_labels_B = projections_BP[labelled_B].float(), labels_B[labelled_B]
    start, all_MP, all_labels_M = 0, own_BP, own_labels_B
    if gather and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        start, all_MP, all_labels_M = gather_rows(own_BP, own_labels_B)
    terms_M, used_M = anchor_terms(all_MP, all_labels_M, temperature)
    own = slice(start, start + len(own_BP))
    share, total = terms_M[own].sum(), terms_M.sum()
    # Keeps the projection in the graph of a rank without labels: its gradient is then zero, not absent.
    total = total + 0.0 * projections_BP.float().sum()
    return total + (share - total).detach(), (~used_M[own]).sum()


def anchor_terms(
    rows_MP: torch.Tensor, labels_M: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(M,) loss of each anchor, zero where it is skipped, and (M,) whether it is used."""
    if not len(rows_MP):
        return rows_MP.new_zeros(0), torch.zeros(0, dtype=torch.bool, device=rows_MP.device)
    self_MM = torch.eye(len(rows_MP), dtype=torch.bool, device=rows_MP.device)
    scores_MM = (rows_MP @ rows_MP.T / temperature).masked_fill(self_MM, torch.finfo(rows_MP.dtype).min)
    log_share_MM = scores_MM - scores_MM.logsumexp(1, keepdim=True)
    positive_MM = (labels_M[:, None] == labels_M[None]) & ~self_MM
    count_M = positive_MM.sum(1)
    used_M = (count_M > 0) & (labels_M != labels_M[0]).any()
    terms_M = -log_share_MM.masked_fill(~positive_MM, 0.0).sum(1) / count_M.clamp(min=1)
    return terms_M.masked_fill(~used_M, 0.0), used_M


def gather_rows(own_BP: torch.Tensor, labels_B: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Rows of all ranks in the order of ranks, which may hold different numbers; gradients reach the own rows alone.

    Returns:
        where the own rows start, all rows (M, P), all labels (M,).
    """
    world, rank = distributed.get_world_size(), distributed.get_rank()
    size = torch.tensor([len(own_BP)], device=own_BP.device)
    sizes = [torch.zeros_like(size) for _ in range(world)]
    distributed.all_gather(sizes, size)
    counts = [int(one) for one in sizes]
    longest = max(counts)
    padded_BP = nn.functional.pad(own_BP.detach(), (0, 0, 0, longest - len(own_BP))).contiguous()
    padded_labels_B = nn.functional.pad(labels_B, (0, longest - len(labels_B)), value=IGNORED).contiguous()
    rows = [torch.empty_like(padded_BP) for _ in range(world)]
    labels = [torch.empty_like(padded_labels_B) for _ in range(world)]
    distributed.all_gather(rows, padded_BP)
    distributed.all_gather(labels, padded_labels_B)
    parts = [row[:count] for row, count in zip(rows, counts, strict=True)]
    parts[rank] = own_BP
    all_labels_M = torch.cat([label[:count] for label, count in zip(labels, counts, strict=True)])
    return sum(counts[:rank]), torch.cat(parts), all_labels_M
