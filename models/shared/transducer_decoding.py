"""Searches of transducers: greedy (RNN-T, TDT) and modified beam search, over batch and beam at once.

Modified beam search (icefall; section 3.1 of the VLSP 2025 report uses beam 15) emits at most one symbol a frame. In
each frame all continuations of all hypotheses of an utterance compete, equal token histories are merged by adding
their probabilities, and the best `beam_size` go on. Histories live in tensors of back-pointers; equality is that of
64-bit hashes (and lengths), so that a frame is a few dozen tensor operations whatever batch and beam.

Shape legend: B utterances, T frames, K hypotheses (beam), N rows = B * K, V vocabulary, D joint dimension, C tokens of
context, U different contexts, W continuations of a hypothesis, M hypotheses returned.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from .beam_histories import NO_TOKEN, Backpointers, check_beam, check_outputs, extended
from .hypotheses import Hypothesis, LanguageModel

State = tuple[torch.Tensor, ...]
Join = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PredictionNetwork(Protocol):
    """The part of a transducer that reads tokens, one at a time.

    context_size: tokens that stand before the first one; the length of a hypothesis counts them when it is ranked.
    """

    context_size: int

    def start(self, num_rows: int) -> tuple[torch.Tensor, State]:
        """Outputs (N, D) before any token, and the state: tensors with N rows each."""
        ...

    def step(self, tokens_N: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Outputs (N, D) and state after one more token in each row."""
        ...

    def keys(self, state: State, hashes_N: torch.Tensor) -> torch.Tensor:
        """Numbers (N,) that are equal where the outputs are; `hashes_N` tell whole histories apart."""
        ...


class StatelessPredictor:
    """A prediction network that sees the last `context_size` tokens only.

    Args:
        decoder: (N, C) token ids -> (N, D), projected to the joint dimension; -1 stands for "no token".
    """

    def __init__(
        self,
        decoder: Callable[[torch.Tensor], torch.Tensor],
        context_size: int,
        blank: int,
        device: torch.device | str = "cpu",
    ):
        self.decoder, self.context_size, self.blank, self.device = decoder, context_size, blank, device

    def start(self, num_rows: int) -> tuple[torch.Tensor, State]:
        context_NC = torch.full((num_rows, self.context_size), NO_TOKEN, dtype=torch.long, device=self.device)
        context_NC[:, -1] = self.blank
        return self.decoder(context_NC), (context_NC,)

    def step(self, tokens_N: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        context_NC = torch.cat([state[0][:, 1:], tokens_N[:, None]], dim=1)
        return self.decoder(context_NC), (context_NC,)

    def keys(self, state: State, hashes_N: torch.Tensor) -> torch.Tensor:
        keys_N = torch.zeros_like(hashes_N)
        for tokens_N in state[0].unbind(1):
            keys_N = extended(keys_N, tokens_N)
        return keys_N


class RecurrentPredictor:
    """A prediction network with an LSTM (batch first), such as Parakeet's; it starts from the blank.

    Args:
        project: (N, D) outputs of the LSTM -> (N, D) of the joint dimension.
    """

    context_size = 1

    def __init__(
        self,
        embedding: torch.nn.Embedding,
        lstm: torch.nn.LSTM,
        project: Callable[[torch.Tensor], torch.Tensor],
        blank: int,
    ):
        self.embedding, self.lstm, self.project, self.blank = embedding, lstm, project, blank

    def start(self, num_rows: int) -> tuple[torch.Tensor, State]:
        weight = self.embedding.weight
        zeros = weight.new_zeros(num_rows, self.lstm.num_layers, self.lstm.hidden_size)
        blanks = torch.full((num_rows,), self.blank, device=weight.device)
        return self.step(blanks, (zeros, zeros))

    def step(self, tokens_N: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        outputs, (hidden, cell) = self.lstm(self.embedding(tokens_N[:, None]), (hidden, cell))
        return self.project(outputs[:, 0]), (hidden.transpose(0, 1), cell.transpose(0, 1))

    def keys(self, state: State, hashes_N: torch.Tensor) -> torch.Tensor:
        return hashes_N


@torch.no_grad()
def transducer_greedy(
    encoder_BTD: torch.Tensor,
    lengths_B: torch.Tensor,
    predictor: PredictionNetwork,
    join: Join,
    *,
    blank: int,
    max_symbols_per_frame: int = 1,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    durations: Sequence[int] | None = None,
    unwritten: int | None = None,
) -> list[list[Hypothesis]]:
    """The most probable symbol at every step, for all utterances at once.

    Args:
        encoder_BTD: encoder outputs as `join` takes them, projected. lengths_B: true frames.
        join: (N, D) of the encoder and (N, D) of the predictor -> (N, V) logits (TDT: V + number of durations).
        max_symbols_per_frame: then the next frame is forced; 1 is icefall's variant, which matches the beam search.
        blank_penalty: subtracted from the blank's logit. temperature: divides the logits.
        durations: frames that the outputs of a TDT model stand for; None is RNN-T.
        unwritten: a token that is taken for a blank, such as `<unk>`.

    Returns:
        One hypothesis for each utterance, in a list of its own; its score is that of the path.

    Raises:
        ValueError: lengths beyond the frames, or outputs that are not finite.
    """
    lengths_B = check_outputs(encoder_BTD, lengths_B)
    options: dict[str, Any] = {"blank": blank, "blank_penalty": blank_penalty, "temperature": temperature}
    if max_symbols_per_frame == 1 and durations is None:
        return _greedy_by_frame(encoder_BTD, lengths_B, predictor, join, unwritten, **options)
    num, device = len(lengths_B), encoder_BTD.device
    outputs_BD, state = predictor.start(num)
    frames_B = torch.zeros(num, dtype=torch.long, device=device)
    symbols_B = torch.zeros_like(frames_B)
    scores_B = torch.zeros(num, device=device)
    found: list[tuple[torch.Tensor, ...]] = []
    jumps = torch.tensor(durations, device=device) if durations is not None else None
    while len(rows := (frames_B < lengths_B).nonzero()[:, 0]):
        logits = join(encoder_BTD[rows, frames_B[rows]], outputs_BD[rows]).float()
        jump_logits = None
        if jumps is not None:
            logits, jump_logits = logits[:, : -len(jumps)], logits[:, -len(jumps) :]
        log_probs = _log_probs(logits, **options)
        values, tokens = log_probs.max(1)
        scores_B[rows] += values
        silent = _is_silent(tokens, blank, unwritten)
        symbols_B[rows] = torch.where(silent, 0, symbols_B[rows] + 1)
        forced = silent | (symbols_B[rows] >= max_symbols_per_frame)
        if jumps is None or jump_logits is None:
            advance = forced.long()
        else:
            advance = jumps[jump_logits.argmax(1)]
            advance = torch.where(forced, advance.clamp(min=1), advance)
        emitting = rows[~silent]
        if len(emitting):
            found.append((emitting, tokens[~silent], frames_B[emitting], values[~silent].exp()))
            outputs, new = predictor.step(tokens[~silent], tuple(part[emitting] for part in state))
            outputs_BD, state = _put(outputs_BD, emitting, outputs), _put_state(state, emitting, new)
        frames_B[rows] += advance
        symbols_B[rows] = torch.where(advance > 0, 0, symbols_B[rows])
    hypotheses = [Hypothesis([], [], score, []) for score in scores_B.tolist()]
    columns = [torch.cat(column).tolist() for column in zip(*found, strict=True)]
    for row, token, frame, confidence in zip(*columns, strict=True):
        hypotheses[row].tokens.append(token)
        hypotheses[row].frames.append(frame)
        hypotheses[row].confidences.append(confidence)
    return [[hypothesis] for hypothesis in hypotheses]


def _greedy_by_frame(
    encoder_BTD: torch.Tensor,
    lengths_B: torch.Tensor,
    predictor: PredictionNetwork,
    join: Join,
    unwritten: int | None,
    **options: Any,
) -> list[list[Hypothesis]]:
    """One symbol a frame: all utterances walk in step, and nothing has to be looked up."""
    order_B, running_T = _running(lengths_B)
    encoder_BTD = encoder_BTD[order_B]
    outputs_BD, state = predictor.start(len(lengths_B))
    pointers = Backpointers(len(running_T), len(lengths_B), 1, encoder_BTD.device)
    scores_B = torch.zeros(len(lengths_B), device=encoder_BTD.device)
    for frame, running in enumerate(running_T):
        logits_BV = join(encoder_BTD[:running, frame], outputs_BD[:running]).float()
        values_B, tokens_B = _log_probs(logits_BV, **options).max(1)
        scores_B[:running] += values_B
        silent_B = _is_silent(tokens_B, options["blank"], unwritten)
        pointers.write(
            frame,
            torch.zeros_like(tokens_B)[:, None],
            tokens_B.masked_fill(silent_B, NO_TOKEN)[:, None],
            values_B[:, None],
        )
        rows = (~silent_B).nonzero()[:, 0]
        if len(rows):
            outputs, new = predictor.step(tokens_B[rows], tuple(part[rows] for part in state))
            outputs_BD, state = _put(outputs_BD, rows, outputs), _put_state(state, rows, new)
    found = pointers.trace(torch.zeros_like(order_B)[:, None], scores_B[:, None])
    return [found[row] for row in order_B.argsort().tolist()]


def _running(lengths_B: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Utterances in falling order of length, and how many, the first ones, are still running in each frame."""
    frames_T = torch.arange(int(lengths_B.max()) if len(lengths_B) else 0, device=lengths_B.device)
    return lengths_B.argsort(descending=True, stable=True), (lengths_B[:, None] > frames_T).sum(0).tolist()


@torch.no_grad()
def transducer_beam(
    encoder_BTD: torch.Tensor,
    lengths_B: torch.Tensor,
    predictor: PredictionNetwork,
    join: Join,
    *,
    blank: int,
    beam_size: int = 15,
    nbest: int = 1,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    unwritten: int | None = None,
    lm: LanguageModel | None = None,
    lm_weight: float = 0.0,
) -> list[list[Hypothesis]]:
    """Modified beam search, see the module; arguments and errors as of `transducer_greedy`.

    A token's language-model score joins the hypothesis after the frame's pruning, as in icefall.

    Returns:
        Up to `nbest` hypotheses for each utterance, best first by score / (tokens + context_size).
    """
    check_beam(beam_size, nbest)
    lengths_B = check_outputs(encoder_BTD, lengths_B)
    order_B, running_T = _running(lengths_B)
    encoder_BTD = encoder_BTD[order_B]
    beam = Beam(encoder_BTD, len(running_T), predictor, beam_size, lm, lm_weight)
    for frame, running in enumerate(running_T):
        beam.shrink(running)
        rows_U, places_N = beam.distinct()
        logits_UV = join(encoder_BTD[rows_U // beam_size, frame], beam.outputs_ND[rows_U]).float()
        log_probs_UV = _log_probs(logits_UV, blank, blank_penalty, temperature)
        # The K best continuations of an utterance are among the K best of each of its hypotheses.
        best_UW, tokens_UW = log_probs_UV.topk(min(beam_size, log_probs_UV.shape[1]), 1)
        shape = (running, beam_size, -1)
        beam.advance(frame, best_UW[places_N].view(shape), tokens_UW[places_N].view(shape), blank, unwritten)
    found = beam.best(nbest)
    return [found[row] for row in order_B.argsort().tolist()]


class Beam:
    """Hypotheses of all utterances: scores, hashes and lengths (B, K), predictor rows (N, …), back-pointers (T, B, K).

    A slot whose score is -inf is empty.
    """

    def __init__(
        self,
        encoder_BTD: torch.Tensor,
        num_frames: int,
        predictor: PredictionNetwork,
        size: int,
        lm: LanguageModel | None,
        lm_weight: float,
    ):
        num, device = len(encoder_BTD), encoder_BTD.device
        self.predictor, self.size, self.lm, self.lm_weight = predictor, size, lm, lm_weight
        outputs_BD, state = predictor.start(num)
        self.outputs_ND = outputs_BD.repeat_interleave(size, 0)
        self.state = tuple(part.repeat_interleave(size, 0) for part in state)
        self.scores_BK = torch.full((num, size), -torch.inf, device=device)
        self.scores_BK[:, 0] = 0.0
        self.hashes_BK = torch.zeros((num, size), dtype=torch.long, device=device)
        self.lengths_BK = torch.zeros_like(self.hashes_BK)
        self.lm_states_BK = torch.full_like(self.hashes_BK, lm.begin() if lm else 0)
        self.first_BK = torch.arange(num, device=device)[:, None] * size
        self.backpointers = Backpointers(num_frames, num, size, device)
        self.final: list[tuple[torch.Tensor, ...]] = []

    def shrink(self, num: int) -> None:
        """Put utterances that have ended aside; the first `num` go on."""
        if num < len(self.scores_BK):
            self.final.append((self.scores_BK[num:], self.lengths_BK[num:], self.lm_states_BK[num:]))
            for name in ("scores_BK", "hashes_BK", "lengths_BK", "lm_states_BK", "first_BK"):
                setattr(self, name, getattr(self, name)[:num])
            self.outputs_ND = self.outputs_ND[: num * self.size]
            self.state = tuple(part[: num * self.size] for part in self.state)

    def distinct(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (U,) with all the different outputs of the predictor, and the place (N,) of each slot among them.

        Many hypotheses of a beam end in the same tokens, and a joiner costs more than anything else here.
        """
        keys_BK = self.predictor.keys(self.state, self.hashes_BK.flatten()).view_as(self.hashes_BK)
        keys_BK = extended(keys_BK, self.first_BK)
        # The first slot is never empty: it stands in for those that are.
        full_BK = self.scores_BK.isfinite()
        keys_BK = torch.where(full_BK, keys_BK, keys_BK[:, :1])
        slots_K = torch.arange(self.size, device=full_BK.device)
        rows_N = torch.where(full_BK, self.first_BK + slots_K, self.first_BK).flatten()
        different_U, places_N = keys_BK.flatten().unique(return_inverse=True)
        return torch.empty_like(different_U).scatter_(0, places_N, rows_N), places_N

    def advance(
        self,
        frame: int,
        log_probs_BKW: torch.Tensor,
        tokens_BKW: torch.Tensor,
        blank: int,
        unwritten: int | None,
    ) -> None:
        """One frame: the best of W continuations of each hypothesis, equal ones merged."""
        scores_BK, index_BK = (self.scores_BK[:, :, None] + log_probs_BKW).flatten(1).topk(self.size, 1)
        log_probs_BK, tokens_BK = (part.flatten(1).gather(1, index_BK) for part in (log_probs_BKW, tokens_BKW))
        parents_BK = index_BK.div(log_probs_BKW.shape[2], rounding_mode="floor")
        silent_BK = _is_silent(tokens_BK, blank, unwritten)
        grown = (~silent_BK & scores_BK.isfinite()).flatten().nonzero()[:, 0]
        tokens = tokens_BK.flatten()[grown]
        self.lm_states_BK = self.lm_states_BK.gather(1, parents_BK)
        if self.lm is not None and len(grown):
            # Before merging: one of two equal histories may have been scored in an earlier frame.
            states, added = self.lm.advance(self.lm_states_BK.flatten()[grown].tolist(), tokens.tolist())
            self.lm_states_BK.view(-1)[grown] = torch.tensor(states, device=grown.device)
            scores_BK.view(-1)[grown] += self.lm_weight * torch.tensor(added, device=grown.device)
        hashes_BK = self.hashes_BK.gather(1, parents_BK)
        self.hashes_BK = torch.where(silent_BK, hashes_BK, extended(hashes_BK, tokens_BK))
        self.lengths_BK = self.lengths_BK.gather(1, parents_BK) + ~silent_BK
        repeated_BK = self._merge(scores_BK)
        self.backpointers.write(frame, parents_BK, tokens_BK.masked_fill(silent_BK, NO_TOKEN), log_probs_BK)
        rows_N = (parents_BK + self.first_BK).flatten()
        self.outputs_ND, self.state = self.outputs_ND[rows_N], tuple(part[rows_N] for part in self.state)
        alive = ~repeated_BK.flatten()[grown]
        grown, tokens = grown[alive], tokens[alive]
        if len(grown):
            outputs, new = self.predictor.step(tokens, tuple(part[grown] for part in self.state))
            self.outputs_ND, self.state = _put(self.outputs_ND, grown, outputs), _put_state(self.state, grown, new)

    def _merge(self, scores_BK: torch.Tensor) -> torch.Tensor:
        """Add the probabilities of equal histories up; returns which slots (B, K) became empty by that.

        The most probable of equals stays, and with it the times of its tokens.
        """
        slots_K = torch.arange(self.size, device=scores_BK.device)
        keys_BK = torch.where(scores_BK.isfinite(), self.hashes_BK, -1 - slots_K)
        same_BKK = keys_BK[:, :, None] == keys_BK[:, None]
        same_BKK &= self.lengths_BK[:, :, None] == self.lengths_BK[:, None]
        merged_BK = scores_BK[:, None].masked_fill(~same_BKK, -torch.inf).logsumexp(2)
        repeated_BK = (same_BKK & (slots_K[:, None] > slots_K)).any(2)
        self.scores_BK = merged_BK.masked_fill(repeated_BK, -torch.inf)
        return repeated_BK

    def best(self, nbest: int) -> list[list[Hypothesis]]:
        """The best hypotheses of every utterance."""
        self.shrink(0)
        scores_BK, lengths_BK, lm_states_BK = (torch.cat(part) for part in zip(*reversed(self.final), strict=True))
        if self.lm is not None:
            ends = torch.tensor(self.lm.finish(lm_states_BK.flatten().tolist()), device=scores_BK.device)
            scores_BK = scores_BK + self.lm_weight * ends.view_as(scores_BK)
        _, slots_BM = (scores_BK / (lengths_BK + self.predictor.context_size)).topk(nbest, 1)
        return self.backpointers.trace(slots_BM, scores_BK.gather(1, slots_BM))


def _log_probs(logits_NV: torch.Tensor, blank: int, blank_penalty: float, temperature: float) -> torch.Tensor:
    if blank_penalty:
        logits_NV[:, blank] -= blank_penalty
    return (logits_NV / temperature if temperature != 1 else logits_NV).log_softmax(1)


def _is_silent(tokens: torch.Tensor, blank: int, unwritten: int | None) -> torch.Tensor:
    silent = tokens == blank
    return silent if unwritten is None else silent | (tokens == unwritten)


def _put(target: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return target.index_copy(0, rows, values.to(target.dtype))


def _put_state(state: State, rows: torch.Tensor, new: State) -> State:
    return tuple(_put(part, rows, values) for part, values in zip(state, new, strict=True))
