"""CTC and transducer searches against textbook implementations written as plainly as possible."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tone_recogniser import PIECES, tokenizer

from models.zipformer.beam_histories import extended
from models.zipformer.ctc_decoding import ctc_beam, ctc_greedy
from models.zipformer.hypotheses import Hypothesis, pieces_of, text_of, words_of
from models.zipformer.transducer_decoding import (
    RecurrentPredictor,
    StatelessPredictor,
    transducer_beam,
    transducer_greedy,
)

BLANK = 0


class TinyTransducer:
    """Random weights: a predictor of two tokens or an LSTM, and a joiner."""

    def __init__(self, seed=0, vocab=5, width=8, recurrent=False, extra_outputs=0):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.embedding, self.mix = draw(vocab + 1, width), draw(2, width)
        self.head = 1.5 * draw(width, vocab + extra_outputs)
        self.recurrent = recurrent
        if recurrent:
            torch.manual_seed(seed)
            self.layer = torch.nn.Embedding(vocab, width), torch.nn.LSTM(width, width, 2, batch_first=True)

    @property
    def predictor(self):
        if self.recurrent:
            return RecurrentPredictor(*self.layer, lambda outputs: 2 * outputs, BLANK)
        return StatelessPredictor(lambda ids_NC: (self.embedding[ids_NC] * self.mix).sum(1), 2, BLANK)

    def join(self, encoder_ND, predictor_ND):
        return (encoder_ND + predictor_ND).tanh() @ self.head

    def outputs_of(self, tokens):
        """(1, D) after a history, from the beginning: the slow and plain way."""
        with torch.no_grad():
            outputs, state = self.predictor.start(1)
            for token in tokens:
                outputs, state = self.predictor.step(torch.tensor([token]), state)
        return outputs


def encoder(seed, batch, frames, width=8):
    return 1.5 * torch.randn(batch, frames, width, generator=torch.Generator().manual_seed(1000 + seed))


def naive_modified_beam(model, encoder_TD, beam, context, lm=None, lm_weight=0.0):
    """{history: score} after the last frame, one frame and one hypothesis at a time."""
    beams = {(): 0.0}
    for frame_D in encoder_TD:
        candidates = []
        for history, score in beams.items():
            log_probs = model.join(frame_D[None], model.outputs_of(history)).log_softmax(1)[0].tolist()
            candidates += [(score + log_prob, history, token) for token, log_prob in enumerate(log_probs)]
        merged = defaultdict(list)
        for score, history, token in sorted(candidates, reverse=True)[:beam]:
            grown = history if token == BLANK else (*history, token)
            merged[grown].append(score + (lm_weight * lm(history, token) if lm and token != BLANK else 0.0))
        beams = {history: torch.tensor(scores).logsumexp(0).item() for history, scores in merged.items()}
    return sorted(beams.items(), key=lambda item: -item[1] / (len(item[0]) + context))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("beam", [1, 3, 15])
def test_modified_beam_search_is_the_naive_one(recurrent, beam):
    for seed in range(3):
        model = TinyTransducer(seed, recurrent=recurrent)
        encoder_BTD, lengths = encoder(seed, 4, 9), torch.tensor([5, 9, 0, 1])
        nbest = min(beam, 3)
        found = transducer_beam(
            encoder_BTD, lengths, model.predictor, model.join, blank=BLANK, beam_size=beam, nbest=nbest
        )
        for row, length in enumerate(lengths):
            expected = naive_modified_beam(model, encoder_BTD[row, :length], beam, model.predictor.context_size)[
                :nbest
            ]
            assert [tuple(one.tokens) for one in found[row]] == [history for history, _ in expected]
            assert [one.score for one in found[row]] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_a_huge_beam_sums_all_alignments():
    # Every way of placing the tokens of a history on frames, at most one a frame.
    model, frames, vocab = TinyTransducer(7, vocab=3), 4, 3
    encoder_BTD = encoder(7, 1, frames)
    totals = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(vocab), repeat=frames):
        history, score = (), 0.0
        for frame, token in enumerate(path):
            logits = model.join(encoder_BTD[0, frame, None], model.outputs_of(history))
            score += logits.log_softmax(1)[0, token].item()
            history = history if token == BLANK else (*history, token)
        totals[history] = torch.logaddexp(torch.tensor(totals[history]), torch.tensor(score)).item()
    found = transducer_beam(
        encoder_BTD, torch.tensor([frames]), model.predictor, model.join, blank=BLANK, beam_size=100, nbest=31
    )[0]
    assert len(totals) == 31 == len({tuple(one.tokens) for one in found})
    assert {tuple(one.tokens): one.score for one in found} == pytest.approx(dict(totals), abs=1e-4)
    assert math.fsum(math.exp(one.score) for one in found) == pytest.approx(1, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_a_batch_is_its_utterances_and_beam_one_is_greedy(seed, lengths):
    model, encoder_BTD = TinyTransducer(seed, recurrent=bool(seed % 2)), encoder(seed, len(lengths), 12)
    options = {"blank": BLANK, "blank_penalty": 0.5, "temperature": 1.3}
    together = {
        beam: transducer_beam(
            encoder_BTD, torch.tensor(lengths), model.predictor, model.join, beam_size=beam, **options
        )
        for beam in (1, 4)
    }
    greedy = transducer_greedy(encoder_BTD, torch.tensor(lengths), model.predictor, model.join, **options)
    for row, length in enumerate(lengths):
        alone = transducer_beam(
            encoder_BTD[row : row + 1, :length],
            torch.tensor([length]),
            model.predictor,
            model.join,
            beam_size=4,
            **options,
        )[0][0]
        assert (alone.tokens, alone.frames) == (together[4][row][0].tokens, together[4][row][0].frames)
        one, best = together[1][row][0], greedy[row][0]
        assert (one.tokens, one.frames) == (best.tokens, best.frames)
        assert one.score == pytest.approx(best.score, abs=1e-4)
        assert one.confidences == pytest.approx(best.confidences, abs=1e-5)
        assert all(0 < value <= 1 for value in one.confidences) and len(one.confidences) == len(one.tokens)


def naive_greedy(model, encoder_TD, max_symbols, durations=None):
    tokens, frames, frame, symbols = [], [], 0, 0
    while frame < len(encoder_TD):
        logits = model.join(encoder_TD[frame, None], model.outputs_of(tokens))[0]
        vocab = len(logits) - len(durations or ())
        token = int(logits[:vocab].argmax())
        jump = durations[int(logits[vocab:].argmax())] if durations else 0
        if token != BLANK:
            tokens.append(token)
            frames.append(frame)
            symbols += 1
        if jump == 0 and (token == BLANK or symbols >= max_symbols):
            jump = 1
        frame += jump
        symbols = 0 if jump else symbols
    return tokens, frames


@pytest.mark.parametrize("durations", [None, (0, 1, 2, 4)])
@pytest.mark.parametrize("max_symbols", [1, 3])
def test_greedy_with_several_symbols_a_frame_and_durations(durations, max_symbols):
    longest = 0
    for seed in range(6):
        model = TinyTransducer(seed, recurrent=True, extra_outputs=len(durations or ()))
        encoder_BTD, lengths = encoder(seed, 3, 10), torch.tensor([10, 4, 7])
        found = transducer_greedy(
            encoder_BTD,
            lengths,
            model.predictor,
            model.join,
            blank=BLANK,
            max_symbols_per_frame=max_symbols,
            durations=durations,
        )
        for row, length in enumerate(lengths):
            expected = naive_greedy(model, encoder_BTD[row, :length], max_symbols, durations)
            assert (found[row][0].tokens, found[row][0].frames) == expected
            longest = max(longest, *(len(list(group)) for _, group in itertools.groupby(expected[1])), 0)
    assert longest == max_symbols  # the limit was met


def test_an_unwritten_token_is_a_blank():
    model, encoder_BTD, lengths = TinyTransducer(3), encoder(3, 2, 10), torch.tensor([10, 6])
    options = {"blank": BLANK, "unwritten": 2}
    for search in (transducer_greedy, transducer_beam):
        plain = search(encoder_BTD, lengths, model.predictor, model.join, blank=BLANK)
        found = search(encoder_BTD, lengths, model.predictor, model.join, **options)
        assert any(2 in one.tokens for (one,) in plain)
        assert not any(2 in one.tokens for (one,) in found) and any(one.tokens for (one,) in found)


# --- CTC ------------------------------------------------------------------------------------------------------------


def naive_prefix_beam(log_probs_TV, beam, lm=None, lm_weight=0.0):
    """[(prefix, score)], best first: the textbook's dictionary of prefixes with two probabilities each."""
    beams = {(): (0.0, -math.inf)}
    add = lambda one, two: torch.logaddexp(torch.tensor(one), torch.tensor(two)).item()  # noqa: E731
    fused = defaultdict(float)
    for log_probs in log_probs_TV.tolist():
        new = defaultdict(lambda: (-math.inf, -math.inf))
        for prefix, (blank, token) in beams.items():
            for label, log_prob in enumerate(log_probs):
                if label == BLANK:
                    new[prefix] = (add(new[prefix][0], add(blank, token) + log_prob), new[prefix][1])
                    continue
                grown = (*prefix, label)
                if prefix and prefix[-1] == label:
                    new[prefix] = (new[prefix][0], add(new[prefix][1], token + log_prob))
                    new[grown] = (new[grown][0], add(new[grown][1], blank + log_prob))
                else:
                    new[grown] = (new[grown][0], add(new[grown][1], add(blank, token) + log_prob))
                if grown not in beams and lm:
                    fused[grown] = fused[prefix] + lm_weight * lm(prefix, label)
        # Pruned by what the parent's language model score makes of it.
        ranks = {prefix: add(*new[prefix]) + fused[prefix if prefix in beams else prefix[:-1]] for prefix in new}
        kept = sorted(new, key=lambda prefix: -ranks[prefix])[:beam]
        beams = {prefix: new[prefix] for prefix in kept if add(*new[prefix]) > -math.inf}
    return sorted(((p, add(*both) + fused[p]) for p, both in beams.items()), key=lambda item: -item[1])


def random_ctc(seed, batch, frames, vocab, sharpness=1.5):
    return (
        (sharpness * torch.randn(batch, frames, vocab, generator=torch.Generator().manual_seed(seed)))
        .double()
        .log_softmax(-1)
        .float()
    )


@pytest.mark.parametrize(("beam", "vocab"), [(1, 4), (2, 3), (4, 12), (15, 4), (5, 40)])
def test_prefix_beam_search_is_the_textbook_one(beam, vocab):
    for seed in range(4):
        log_probs, lengths = random_ctc(seed, 3, 10, vocab), [10, 0, 6]
        nbest = min(beam, 3)
        found = ctc_beam(log_probs, torch.tensor(lengths), blank=BLANK, beam_size=beam, nbest=nbest)
        for row, length in enumerate(lengths):
            expected = naive_prefix_beam(log_probs[row, :length], beam)[:nbest]
            assert [tuple(one.tokens) for one in found[row]] == [prefix for prefix, _ in expected]
            assert [one.score for one in found[row]] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_a_huge_ctc_beam_sums_all_paths():
    log_probs = random_ctc(5, 1, 5, 3)
    totals = defaultdict(float)
    for path in itertools.product(range(3), repeat=5):
        labels = tuple(label for label, _ in itertools.groupby(path) if label != BLANK)
        totals[labels] += math.exp(sum(log_probs[0, frame, label].item() for frame, label in enumerate(path)))
    found = ctc_beam(log_probs, torch.tensor([5]), blank=BLANK, beam_size=100, nbest=len(totals))[0]
    assert {tuple(one.tokens): math.exp(one.score) for one in found} == pytest.approx(dict(totals), abs=1e-5)
    # The best label sequence is not that of the best path.
    peaked = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    assert ctc_greedy(peaked, torch.tensor([2]), blank=BLANK)[0][0].tokens == []
    assert ctc_beam(peaked, torch.tensor([2]), blank=BLANK)[0][0].tokens == [1]


def test_times_of_prefix_beam_search_are_those_of_the_best_path():
    # "1" is possible from the first frame on, and likely in frames 6 and 7.
    probs = torch.tensor([[0.9, 0.1]] * 6 + [[0.3, 0.7], [0.2, 0.8]] + [[0.9, 0.1]] * 2)[None]
    best, second = ctc_beam(probs.log(), torch.tensor([10]), blank=BLANK, beam_size=4, nbest=2)[0]
    assert (best.tokens, best.frames) == ([1], [6]) and best.confidences == pytest.approx([0.8])
    assert second.tokens == [1, 1] and second.frames[1] > second.frames[0] + 1
    random = random_ctc(3, 4, 20, 6, sharpness=4.0)
    for (one,) in ctc_beam(random, torch.tensor([20, 15, 3, 0]), blank=BLANK):
        assert len(one.frames) == len(one.tokens) == len(one.confidences)
        assert one.frames == sorted(set(one.frames)) and all(0 < value <= 1 for value in one.confidences)


def test_ctc_greedy_by_hand():
    labels = [[0, 3, 3, 0, 3, 1, 1, 0, 2], [2, 2, 2, 2, 0, 0, 0, 1, 1]]
    probs = torch.full((2, 9, 4), 0.05)
    for row, ids in enumerate(labels):
        probs[row, range(9), ids] = 0.85
    probs[0, 2, 3] = 0.95  # the surest frame of the first run
    found = ctc_greedy(probs.log(), torch.tensor([9, 5]), blank=BLANK)
    assert (found[0][0].tokens, found[0][0].frames) == ([3, 3, 1, 2], [1, 4, 5, 8])
    assert found[0][0].confidences == pytest.approx([0.95, 0.85, 0.85, 0.85])
    assert found[0][0].score == pytest.approx(8 * math.log(0.85) + math.log(0.95), abs=1e-4)
    assert (found[1][0].tokens, found[1][0].frames) == ([2], [0])
    # Another blank: nothing assumes that it is 0.
    swapped = probs[..., [3, 1, 2, 0]].log()
    assert ctc_greedy(swapped, torch.tensor([9, 5]), blank=3)[0][0].tokens == [0, 0, 1, 2]
    assert ctc_beam(swapped, torch.tensor([9, 5]), blank=3)[0][0].tokens == [0, 0, 1, 2]


# --- language models, times, errors ---------------------------------------------------------------------------------


class PairModel:
    """Scores a token by the one before it; states are token ids."""

    def __init__(self, vocab, seed=0):
        self.table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)).tolist()
        self.calls = 0

    def begin(self):
        return 0

    def advance(self, states, tokens):
        self.calls += 1
        return list(tokens), [self.table[state][token] for state, token in zip(states, tokens, strict=True)]

    def finish(self, states):
        return [0.0] * len(states)

    def __call__(self, history, token):
        return self.table[history[-1] if history else 0][token]


def test_fusion_adds_the_language_model_where_the_naive_one_does():
    lm = PairModel(5)
    changed = 0
    for seed in range(5):
        model, encoder_BTD, lengths = TinyTransducer(seed), encoder(seed, 2, 8), torch.tensor([8, 5])
        options = {"blank": BLANK, "beam_size": 6}
        found = transducer_beam(encoder_BTD, lengths, model.predictor, model.join, lm=lm, lm_weight=0.7, **options)
        plain = transducer_beam(encoder_BTD, lengths, model.predictor, model.join, **options)
        log_probs = random_ctc(seed, 2, 8, 5)
        ctc = ctc_beam(log_probs, lengths, lm=lm, lm_weight=0.7, **options)
        for row, length in enumerate(lengths):
            history, score = naive_modified_beam(model, encoder_BTD[row, :length], 6, 2, lm, 0.7)[0]
            assert tuple(found[row][0].tokens) == history
            assert found[row][0].score == pytest.approx(score, abs=1e-4)
            prefix, score = naive_prefix_beam(log_probs[row, :length], 6, lm, 0.7)[0]
            assert tuple(ctc[row][0].tokens) == prefix and ctc[row][0].score == pytest.approx(score, abs=1e-4)
            changed += found[row][0].tokens != plain[row][0].tokens
    assert changed


def test_words_and_pieces_with_times():
    ids = [PIECES.index(piece) for piece in ("▁ba", "▁bốn", "n", "<unk>", "▁mơ", "m")]
    hypothesis = Hypothesis(ids, [1, 4, 5, 6, 6, 9], -3.0, [0.9, 0.8, 0.5, 0.7, 0.6, 0.4])
    words = words_of(hypothesis, tokenizer(), 0.04, offset_s=10.0, end_s=10.38)
    assert [(word.text, word.start_s, word.end_s) for word in words] == [
        ("ba", 10.04, 10.08),
        ("bốnn", 10.16, 10.24),  # up to where the next one begins
        ("mơm", 10.24, 10.38),  # up to the end of the audio
    ]
    assert [word.confidence for word in words] == [0.9, 0.5, 0.4]
    assert text_of(tokenizer(), ids) == "ba bốnn mơm"
    assert "".join(piece.text for piece in pieces_of(hypothesis, tokenizer(), 0.04)) == " ba bốnn<unk> mơm"
    assert words_of(Hypothesis([], [], 0.0, []), tokenizer(), 0.04) == []


def test_equal_neighbours_stay_two_syllables():
    assert text_of(tokenizer(), [2, 2, 3]) == "ba ba bốn"


@pytest.mark.parametrize("search", [transducer_greedy, transducer_beam])
def test_what_cannot_be_searched(search):
    model, encoder_BTD = TinyTransducer(), encoder(0, 2, 4)
    with pytest.raises(ValueError, match=r"2 lengths, up to 5, for outputs of shape \(2, 4, 8\)"):
        search(encoder_BTD, torch.tensor([5, 4]), model.predictor, model.join, blank=BLANK)
    encoder_BTD[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"NaN in utterances \[1\]"):
        search(encoder_BTD, torch.tensor([4, 3]), model.predictor, model.join, blank=BLANK)
    # Padding may hold anything.
    assert len(search(encoder_BTD, torch.tensor([4, 2]), model.predictor, model.join, blank=BLANK)) == 2
    with pytest.raises(ValueError, match="beam_size is 4 and nbest 5"):
        transducer_beam(encoder_BTD, torch.tensor([4, 2]), model.predictor, model.join, blank=0, beam_size=4, nbest=5)


def test_hashes_tell_histories_apart():
    # All histories of up to 5 tokens out of 9, and long ones that differ in one place.
    hashes = torch.zeros(1, dtype=torch.long)
    every = [hashes]
    for _ in range(5):
        hashes = extended(hashes[:, None], torch.arange(9)[None]).flatten()
        every.append(hashes)
    assert len(torch.cat(every).unique()) == sum(9**length for length in range(6))
    long = torch.zeros(300, dtype=torch.long)
    for place in range(300):
        long = extended(long, torch.where(torch.arange(300) == place, 5, 4))
    assert len(long.unique()) == 300
