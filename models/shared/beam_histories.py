"""Token histories of beam search as tensors: hashes that tell equal ones, back-pointers to read them off at the end.

Shape legend: B utterances, T frames, K hypotheses (beam), D features, M hypotheses returned.
"""

import torch

from .hypotheses import Hypothesis

NO_TOKEN = -1
# Odd multipliers of splitmix64, as signed 64-bit numbers; integer arithmetic of tensors wraps around.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIXER = 0xBF58476D1CE4E5B9 - 2**64


def extended(hashes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Hashes of histories after one more token each (int64; the empty history is 0).

    Ids are scattered over 64 bits first. Two different histories of one length collide with probability 2**-64 or so:
    ten hours of audio at beam 15 compare about 10**8 pairs.
    """
    mixed = (tokens + 1) * _GOLDEN
    mixed = (mixed ^ (mixed >> 30)) * _MIXER
    return hashes * _GOLDEN + (mixed ^ (mixed >> 27))


def check_outputs(outputs_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """The lengths, on the device of the outputs.

    Raises:
        ValueError: lengths beyond the frames, or true frames that are not finite.
    """
    lengths_B = torch.as_tensor(lengths_B, device=outputs_BTD.device).long()
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    if len(lengths_B) != len(outputs_BTD) or longest > outputs_BTD.shape[1]:
        raise ValueError(f"{len(lengths_B)} lengths, up to {longest}, for outputs of shape {tuple(outputs_BTD.shape)}")
    bad_B = (outputs_BTD.isnan().any(2) & true_frames(outputs_BTD, lengths_B)).any(1)
    if bad_B.any():
        rows = bad_B.nonzero()[:, 0].tolist()
        raise ValueError(f"the model's outputs are NaN in utterances {rows} of the batch; check its weights and dtype")
    return lengths_B


def true_frames(outputs_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(B, T): which frames are no padding."""
    return torch.arange(outputs_BTD.shape[1], device=lengths_B.device) < lengths_B[:, None]


def check_beam(beam_size: int, nbest: int) -> None:
    """ValueError unless 1 ≤ nbest ≤ beam_size."""
    if not 1 <= nbest <= beam_size:
        raise ValueError(f"beam_size is {beam_size} and nbest {nbest}; 1 ≤ nbest ≤ beam_size is needed")


class Backpointers:
    """For each frame and slot of the beam: its slot one frame before, the token it took there and how sure it was."""

    def __init__(self, num_frames: int, num: int, size: int, device: torch.device):
        slots_K = torch.arange(size, device=device)
        # Utterances that have ended keep their slots.
        self.parents_TBK = slots_K.expand(num_frames, num, size).clone()
        self.tokens_TBK = torch.full_like(self.parents_TBK, NO_TOKEN)
        self.log_probs_TBK = torch.zeros((num_frames, num, size), device=device)

    def write(self, frame: int, parents_BK: torch.Tensor, tokens_BK: torch.Tensor, log_probs_BK: torch.Tensor) -> None:
        """One frame of the first utterances; tokens are `NO_TOKEN` where none was taken."""
        num = len(parents_BK)
        self.parents_TBK[frame, :num] = parents_BK
        self.tokens_TBK[frame, :num] = tokens_BK
        self.log_probs_TBK[frame, :num] = log_probs_BK

    def trace(self, slots_BM: torch.Tensor, scores_BM: torch.Tensor) -> list[list[Hypothesis]]:
        """Hypotheses that end in the given slots, without those whose score is -inf (empty slots)."""
        parents_TBK, tokens_TBK, log_probs_TBK, slots_BM = (
            part.cpu() for part in (self.parents_TBK, self.tokens_TBK, self.log_probs_TBK, slots_BM)
        )
        tokens_TBM = torch.full((len(parents_TBK), *slots_BM.shape), NO_TOKEN)
        log_probs_TBM = torch.zeros(tokens_TBM.shape)
        for frame in range(len(parents_TBK) - 1, -1, -1):
            tokens_TBM[frame] = tokens_TBK[frame].gather(1, slots_BM)
            log_probs_TBM[frame] = log_probs_TBK[frame].gather(1, slots_BM)
            slots_BM = parents_TBK[frame].gather(1, slots_BM)
        found: list[list[Hypothesis]] = []
        for row, scores in enumerate(scores_BM.tolist()):
            found.append([])
            for place, score in enumerate(scores):
                if score == -float("inf"):
                    break
                frames = (tokens_TBM[:, row, place] != NO_TOKEN).nonzero()[:, 0]
                tokens, log_probs = tokens_TBM[frames, row, place], log_probs_TBM[frames, row, place]
                found[-1].append(Hypothesis(tokens.tolist(), frames.tolist(), score, log_probs.exp().tolist()))
        return found
