"""Searches of CTC outputs: greedy, and prefix beam search over batch and beam at once.

Prefix beam search (Graves 2012; Hannun et al., 2014): each prefix has the probability of its paths that end in blank
and of those that end in its last token. Within a frame, a prefix can only be reached by staying or by extension, so
that the two meet in a (K, K) comparison of 64-bit hashes and nothing else has to be merged.

Shape legend: B utterances, T frames, K prefixes (beam), V vocabulary, N tokens considered in a frame, M hypotheses
returned.
"""

import math

import torch

from .beam_histories import NO_TOKEN, Backpointers, check_beam, check_outputs, extended, true_frames
from .ctc_alignment import Alignment, align
from .hypotheses import Hypothesis, LanguageModel


@torch.no_grad()
def ctc_greedy(log_probs_BTV: torch.Tensor, lengths_B: torch.Tensor, *, blank: int) -> list[list[Hypothesis]]:
    """The best label of every frame, repeats merged, blanks dropped.

    Args:
        log_probs_BTV: log-softmax outputs. lengths_B: true frames.

    Returns:
        One hypothesis for each utterance, in a list of its own. A token's frame is the first of its run, its
        confidence the highest probability in the run; the score is that of the path.

    Raises:
        ValueError: lengths beyond the frames, or outputs that are not finite.
    """
    lengths_B = check_outputs(log_probs_BTV, lengths_B)
    true_BT = true_frames(log_probs_BTV, lengths_B)
    values_BT, labels_BT = log_probs_BTV.float().max(2)
    labels_BT = labels_BT.masked_fill(~true_BT, blank)
    scores = (values_BT * true_BT).sum(1).tolist()
    begins_BT = torch.ones_like(true_BT)
    begins_BT[:, 1:] = labels_BT[:, 1:] != labels_BT[:, :-1]
    runs_BT = begins_BT.long().cumsum(1) - 1
    peaks_BT = torch.full_like(values_BT, -torch.inf).scatter_reduce(1, runs_BT, values_BT, "amax")
    begins, labels, runs, peaks = (part.cpu() for part in (begins_BT, labels_BT, runs_BT, peaks_BT.exp()))
    found = []
    for row, score in enumerate(scores):
        frames = (begins[row] & (labels[row] != blank)).nonzero()[:, 0]
        confidences = peaks[row, runs[row, frames]].tolist()
        found.append([Hypothesis(labels[row, frames].tolist(), frames.tolist(), score, confidences)])
    return found


@torch.no_grad()
def ctc_beam(
    log_probs_BTV: torch.Tensor,
    lengths_B: torch.Tensor,
    *,
    blank: int,
    beam_size: int = 15,
    nbest: int = 1,
    lm: LanguageModel | None = None,
    lm_weight: float = 0.0,
) -> list[list[Hypothesis]]:
    """Prefix beam search; arguments and errors as of `ctc_greedy`.

    A token's language-model score joins the prefix after the frame's pruning. Frames and confidences of tokens are
    those of the best path of the hypothesis.

    Returns:
        Up to `nbest` hypotheses for each utterance, best first by score.
    """
    check_beam(beam_size, nbest)
    lengths_B = check_outputs(log_probs_BTV, lengths_B)
    log_probs_BTV = log_probs_BTV.float()
    num, _, vocabulary = log_probs_BTV.shape
    longest = int(lengths_B.max()) if num else 0
    # The K best extensions of a prefix are among the 2K + 2 best labels: blank is none, K of them can be prefixes
    # of the beam already, and the last token scores less than others that are as probable.
    _, best_BTN = log_probs_BTV.topk(min(vocabulary, 2 * beam_size + 2), 2)
    prefixes = Prefixes(num, longest, beam_size, log_probs_BTV.device, lm, lm_weight)
    for frame in range(longest):
        prefixes.advance(frame, log_probs_BTV[:, frame], best_BTN[:, frame], frame < lengths_B, blank)
    found = prefixes.best(nbest)
    # A prefix may enter the beam long before it is likely, so that the back-pointers tell no times.
    for place in range(nbest):
        rows = [row for row, hypotheses in enumerate(found) if len(hypotheses) > place]
        chosen = [found[row][place] for row in rows]
        paths = align(log_probs_BTV[rows], lengths_B[rows].tolist(), [one.tokens for one in chosen], blank)
        for one, path in zip(chosen, paths, strict=True):
            if path is not None:
                one.frames, one.confidences = _emissions(path, blank)
    return found


def _emissions(path: Alignment, blank: int) -> tuple[list[int], list[float]]:
    """The first frame of each token's run in a path, and the highest probability in the run."""
    frames: list[int] = []
    confidences: list[float] = []
    previous = blank
    for frame, (label, log_prob) in enumerate(zip(path.frames, path.log_probs, strict=True)):
        if label != blank and label != previous:
            frames.append(frame)
            confidences.append(0.0)
        if label != blank:
            confidences[-1] = max(confidences[-1], math.exp(log_prob))
        previous = label
    return frames, confidences


class Prefixes:
    """Prefixes of all utterances: log-probabilities, hashes, lengths, last tokens (B, K), back-pointers (T, B, K).

    A slot whose probabilities are both -inf is empty.
    """

    def __init__(
        self,
        num: int,
        num_frames: int,
        size: int,
        device: torch.device,
        lm: LanguageModel | None,
        lm_weight: float,
    ):
        self.size, self.lm, self.lm_weight = size, lm, lm_weight
        self.blank_BK = torch.full((num, size), -torch.inf, device=device)
        self.blank_BK[:, 0] = 0.0
        self.token_BK = torch.full_like(self.blank_BK, -torch.inf)
        self.lm_BK = torch.zeros_like(self.blank_BK)
        self.hashes_BK = torch.zeros((num, size), dtype=torch.long, device=device)
        self.lengths_BK = torch.zeros_like(self.hashes_BK)
        self.last_BK = torch.full_like(self.hashes_BK, NO_TOKEN)
        self.lm_states_BK = torch.full_like(self.hashes_BK, lm.begin() if lm else 0)
        self.backpointers = Backpointers(num_frames, num, size, device)

    def advance(
        self,
        frame: int,
        log_probs_BV: torch.Tensor,
        best_BN: torch.Tensor,
        running_B: torch.Tensor,
        blank: int,
    ) -> None:
        """One frame; utterances that have ended stay as they are."""
        total_BK = torch.logaddexp(self.blank_BK, self.token_BK)
        last_BK = self.last_BK.clamp(min=0)
        last_log_probs_BK = log_probs_BV.gather(1, last_BK)
        stay_blank_BK = total_BK + log_probs_BV[:, blank, None]
        stay_token_BK = (self.token_BK + last_log_probs_BK).masked_fill(self.last_BK == NO_TOKEN, -torch.inf)
        # Extensions (B, K parents, N tokens); after its own last token, a prefix grows only over a blank.
        repeats_BKN = best_BN[:, None] == self.last_BK[:, :, None]
        extend_BKN = log_probs_BV.gather(1, best_BN)[:, None] + torch.where(
            repeats_BKN, self.blank_BK[:, :, None], total_BK[:, :, None]
        )
        extend_BKN = extend_BKN.masked_fill((best_BN == blank)[:, None], -torch.inf)
        # reached[b, i, j]: prefix i and the last token of prefix j are prefix j.
        grown_BKK = extended(self.hashes_BK[:, :, None], last_BK[:, None])
        reached_BKK = (
            (grown_BKK == self.hashes_BK[:, None])
            & (self.lengths_BK[:, :, None] + 1 == self.lengths_BK[:, None])
            & total_BK.isfinite()[:, :, None]
            & total_BK.isfinite()[:, None]
        )
        same_last_BKK = self.last_BK[:, :, None] == self.last_BK[:, None]
        into_BKK = last_log_probs_BK[:, None] + torch.where(
            same_last_BKK, self.blank_BK[:, :, None], total_BK[:, :, None]
        )
        into_BK = into_BKK.masked_fill(~reached_BKK, -torch.inf).logsumexp(1)
        stay_token_BK = torch.logaddexp(stay_token_BK, into_BK)
        taken_BKN = (reached_BKK[:, :, :, None] & (self.last_BK[:, None, :, None] == best_BN[:, None, None])).any(2)
        extend_BKN = extend_BKN.masked_fill(taken_BKN, -torch.inf)
        self._keep(frame, stay_blank_BK, stay_token_BK, extend_BKN, log_probs_BV, best_BN, running_B)

    def _keep(
        self,
        frame: int,
        stay_blank_BK: torch.Tensor,
        stay_token_BK: torch.Tensor,
        extend_BKN: torch.Tensor,
        log_probs_BV: torch.Tensor,
        best_BN: torch.Tensor,
        running_B: torch.Tensor,
    ) -> None:
        """Prune to the best K of K stays and K * N extensions."""
        width = best_BN.shape[1]
        stay_BK = torch.logaddexp(stay_blank_BK, stay_token_BK) + self.lm_BK
        ranks = torch.cat([stay_BK, (extend_BKN + self.lm_BK[:, :, None]).flatten(1)], 1)
        index_BK = ranks.topk(self.size, 1).indices
        stays_BK = index_BK < self.size
        grown_BK = (index_BK - self.size).clamp(min=0)
        parents_BK = torch.where(stays_BK, index_BK, grown_BK // width)
        tokens_BK = best_BN.gather(1, grown_BK % width)
        blank_BK = stay_blank_BK.gather(1, parents_BK).masked_fill(~stays_BK, -torch.inf)
        token_BK = torch.where(
            stays_BK, stay_token_BK.gather(1, parents_BK), extend_BKN.flatten(1).gather(1, grown_BK)
        )
        hashes_BK = self.hashes_BK.gather(1, parents_BK)
        new = {
            "blank_BK": blank_BK,
            "token_BK": token_BK,
            "lm_BK": self.lm_BK.gather(1, parents_BK),
            "lm_states_BK": self.lm_states_BK.gather(1, parents_BK),
            "hashes_BK": torch.where(stays_BK, hashes_BK, extended(hashes_BK, tokens_BK)),
            "lengths_BK": self.lengths_BK.gather(1, parents_BK) + ~stays_BK,
            "last_BK": torch.where(stays_BK, self.last_BK.gather(1, parents_BK), tokens_BK),
        }
        for name, values in new.items():
            setattr(self, name, torch.where(running_B[:, None], values, getattr(self, name)))
        grew_BK = ~stays_BK & running_B[:, None] & token_BK.isfinite()
        slots_BK = self.backpointers.parents_TBK[frame]
        parents_BK = torch.where(running_B[:, None], parents_BK, slots_BK)
        log_probs_BK = log_probs_BV.gather(1, tokens_BK)
        self.backpointers.write(frame, parents_BK, tokens_BK.masked_fill(~grew_BK, NO_TOKEN), log_probs_BK)
        if self.lm is not None and grew_BK.any():
            rows = grew_BK.flatten().nonzero()[:, 0]
            states, added = self.lm.advance(
                self.lm_states_BK.flatten()[rows].tolist(), tokens_BK.flatten()[rows].tolist()
            )
            self.lm_states_BK.view(-1)[rows] = torch.tensor(states, device=rows.device)
            self.lm_BK.view(-1)[rows] += self.lm_weight * torch.tensor(added, device=rows.device)

    def best(self, nbest: int) -> list[list[Hypothesis]]:
        """Trace the best prefixes of every utterance back to the first frame."""
        scores_BK = torch.logaddexp(self.blank_BK, self.token_BK) + self.lm_BK
        if self.lm is not None:
            ends = torch.tensor(self.lm.finish(self.lm_states_BK.flatten().tolist()), device=scores_BK.device)
            scores_BK = scores_BK + self.lm_weight * ends.view_as(scores_BK)
        scores_BM, slots_BM = scores_BK.topk(nbest, 1)
        return self.backpointers.trace(slots_BM, scores_BM)
