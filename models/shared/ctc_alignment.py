"""Forced alignment of known labels with CTC outputs, and what it says about a transcript.

Shape legend: B utterances, T frames, V vocabulary, L labels, S = 2L + 1 states of the CTC topology (blank, label,
blank, label, …, blank).
"""

import itertools
import math
from dataclasses import dataclass

import torch

# Frames of the window whose worst mean is the confidence of CTC segmentation (Kürzinger et al., 2020, section 3).
WINDOW_FRAMES = 30


@dataclass(frozen=True, slots=True)
class Alignment:
    """The most probable path of one utterance.

    frames: label of each of the T frames, blanks included. log_probs: log p of that label at that frame.
    """

    frames: list[int]
    log_probs: list[float]

    @property
    def confidence(self) -> float:
        """exp(mean over t of log p(path_t)): a probability per frame, 1.0 where the model is sure of every frame."""
        return math.exp(sum(self.log_probs) / len(self.log_probs))

    def min_window_confidence(self, window: int = WINDOW_FRAMES) -> float:
        """exp of the lowest mean log p over `window` frames in a row: a local mismatch is not averaged away.

        An utterance shorter than the window is one window.
        """
        if len(self.log_probs) <= window:
            return self.confidence
        total = lowest = sum(self.log_probs[:window])
        for old, new in zip(self.log_probs, self.log_probs[window:], strict=False):
            total += new - old
            lowest = min(lowest, total)
        return math.exp(lowest / window)


def shortest_path(labels: list[int]) -> int:
    """Frames that labels need at least: one each, and a blank between two equal neighbours."""
    return len(labels) + sum(first == second for first, second in itertools.pairwise(labels))


@torch.no_grad()
def align(
    log_probs_BTV: torch.Tensor, num_frames: list[int], labels: list[list[int]], blank: int
) -> list[Alignment | None]:
    """The best path of every utterance through the CTC topology of its labels (batched Viterbi, O(T) steps).

    Args:
        log_probs_BTV: log-softmax outputs, on any device; computed in float32.
        num_frames: true frames of each utterance, at most T.
        labels: label ids without blanks; may be empty, the path is then all blanks.
        blank: id of the blank.

    Returns:
        None where no path exists: fewer frames than `shortest_path`, or no frame at all.

    Raises:
        ValueError: a label that is the blank or outside of the vocabulary, or lists of different lengths.
    """
    num_utterances, longest, vocabulary = log_probs_BTV.shape
    if not num_utterances == len(num_frames) == len(labels):
        raise ValueError(f"{num_utterances} utterances, {len(num_frames)} frame counts, {len(labels)} label lists")
    for ids in labels:
        if wrong := [label for label in ids if label == blank or not 0 <= label < vocabulary]:
            raise ValueError(f"label {wrong[0]} cannot be aligned: the blank is {blank}, the vocabulary {vocabulary}")
    if not num_utterances or not longest:
        return [None] * num_utterances
    possible = [0 < count >= shortest_path(ids) for count, ids in zip(num_frames, labels, strict=True)]
    log_probs_BTV = log_probs_BTV.float()
    device = log_probs_BTV.device
    states_BS, skip_BS = _topology(labels, blank)
    states_BS, skip_BS = states_BS.to(device), skip_BS.to(device)
    emissions_BTS = log_probs_BTV.gather(2, states_BS[:, None].expand(-1, longest, -1))
    frames_B = torch.tensor(num_frames, device=device)
    scores_BS = torch.full(states_BS.shape, -torch.inf, device=device)
    scores_BS[:, :2] = emissions_BTS[:, 0, :2]
    steps_TBS = torch.zeros((longest, *states_BS.shape), dtype=torch.int8, device=device)
    for frame in range(1, longest):
        one_BS = torch.nn.functional.pad(scores_BS, (1, 0), value=-torch.inf)[:, :-1]
        two_BS = torch.nn.functional.pad(scores_BS, (2, 0), value=-torch.inf)[:, : scores_BS.shape[1]]
        two_BS = two_BS.masked_fill(~skip_BS, -torch.inf)
        best_BS, step_BS = torch.stack([scores_BS, one_BS, two_BS]).max(0)
        steps_TBS[frame] = step_BS
        # Scores stop at the last true frame of each utterance.
        scores_BS = torch.where((frame < frames_B)[:, None], best_BS + emissions_BTS[:, frame], scores_BS)
    return _trace(scores_BS, steps_TBS, emissions_BTS, states_BS, num_frames, labels, possible)


def _topology(labels: list[list[int]], blank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S) labels of the states, and whether a state may be entered from two before (over a blank)."""
    width = 2 * max(map(len, labels)) + 1
    states_BS = torch.full((len(labels), width), blank)
    skip_BS = torch.zeros((len(labels), width), dtype=torch.bool)
    for row, ids in enumerate(labels):
        states_BS[row, 1 : 2 * len(ids) : 2] = torch.tensor(ids, dtype=torch.long)
        for index in range(1, len(ids)):
            skip_BS[row, 2 * index + 1] = ids[index] != ids[index - 1]
    return states_BS, skip_BS


def _trace(
    scores_BS: torch.Tensor,
    steps_TBS: torch.Tensor,
    emissions_BTS: torch.Tensor,
    states_BS: torch.Tensor,
    num_frames: list[int],
    labels: list[list[int]],
    possible: list[bool],
) -> list[Alignment | None]:
    """Paths from the better of the last two states (label or blank) back to the first frame."""
    scores, states, steps_TBS = scores_BS.cpu(), states_BS.cpu(), steps_TBS.cpu()
    ends = []
    for row, ids in enumerate(labels):
        last = 2 * len(ids)
        ends.append(last - 1 if ids and scores[row, last - 1] > scores[row, last] else last)
    state_B = torch.tensor(ends)
    frames_B = torch.tensor(num_frames)
    path_BT = torch.zeros((len(labels), len(steps_TBS)), dtype=torch.long)
    for frame in range(len(steps_TBS) - 1, -1, -1):
        path_BT[:, frame] = state_B
        step_B = steps_TBS[frame].gather(1, state_B[:, None])[:, 0].long()
        state_B = torch.where(frame < frames_B, state_B - step_B, state_B).clamp(min=0)
    log_probs_BT = emissions_BTS.cpu().gather(2, path_BT[:, :, None])[:, :, 0]
    labels_BT = states.gather(1, path_BT)
    return [
        Alignment(labels_BT[row, :count].tolist(), log_probs_BT[row, :count].tolist()) if possible[row] else None
        for row, count in enumerate(num_frames)
    ]
