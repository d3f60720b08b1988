"""Frames of an acoustic encoder to one vector a clip; padding takes part in nothing.

Shape legend: B batch, T frames, E width of the frames, Q quantiles.
"""

import torch

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# How many numbers each column of the frames becomes.
FACTORS = {"mean": 1, "statistics": 2, "functionals": 3 + len(QUANTILES)}


def pool(frames_BTE: torch.Tensor, lengths_B: torch.Tensor, pooling: str) -> torch.Tensor:
    """(B, T, E) frames and their (B,) true counts, at least 1 -> (B, E * FACTORS[pooling]) float32.

    `"mean"`; `"statistics"`: mean and standard deviation; `"functionals"`: these, the quantiles of `QUANTILES` and
    the slope of the regression line over the clip, whose time runs from -1 to 1.
    """
    frames_BTE = frames_BTE.float()
    mask_BT = torch.arange(frames_BTE.shape[1], device=frames_BTE.device) < lengths_B[:, None]
    mask_BT1, count_B1 = mask_BT[..., None].float(), lengths_B[:, None].float()
    frames_BTE = frames_BTE.masked_fill(~mask_BT[..., None], 0.0)
    mean_BE = frames_BTE.sum(1) / count_B1
    if pooling == "mean":
        return mean_BE
    centred_BTE = (frames_BTE - mean_BE[:, None]) * mask_BT1
    deviation_BE = (centred_BTE.square().sum(1) / count_B1).sqrt()
    parts = [mean_BE, deviation_BE]
    if pooling == "functionals":
        parts += [*quantiles(frames_BTE, mask_BT), slope(centred_BTE, mask_BT, lengths_B)]
    return torch.cat(parts, dim=1)


def quantiles(frames_BTE: torch.Tensor, mask_BT: torch.Tensor) -> list[torch.Tensor]:
    """(B, E) for each of `QUANTILES`, between two frames by a straight line, as numpy does."""
    sorted_BTE = frames_BTE.masked_fill(~mask_BT[..., None], torch.inf).sort(dim=1).values
    last_B = mask_BT.sum(1) - 1
    found = []
    for quantile in QUANTILES:
        place_B = last_B.double() * quantile
        below_B = place_B.floor().long()
        above_B = torch.minimum(below_B + 1, last_B)
        low_BE, high_BE = (
            sorted_BTE.gather(1, index_B[:, None, None].expand(-1, 1, frames_BTE.shape[2])).squeeze(1)
            for index_B in (below_B, above_B)
        )
        found.append(low_BE + (place_B - below_B).float()[:, None] * (high_BE - low_BE))
    return found


def slope(centred_BTE: torch.Tensor, mask_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(B, E) change over half a clip; a single frame has none."""
    frame_T = torch.arange(centred_BTE.shape[1], device=centred_BTE.device).float()
    half_B1 = (lengths_B[:, None].float() - 1) / 2
    time_BT = (frame_T - half_B1) / half_B1.clamp(min=0.5) * mask_BT.float()
    variance_B1 = time_BT.square().sum(1, keepdim=True)
    return (centred_BTE * time_BT[..., None]).sum(1) / variance_B1.clamp(min=1e-6)
