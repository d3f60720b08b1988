"""The aligner against torchaudio's and against every path there is."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.zipformer.ctc_alignment import Alignment, align, shortest_path


def collapse(path, blank=0):
    return [label for label, _ in itertools.groupby(path) if label != blank]


def random_log_probs(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 2), max_size=3), st.integers(1, 5), st.integers(0, 10_000))
def test_equals_the_best_of_all_paths(labels, num_frames, seed):
    log_probs = random_log_probs(seed, 1, num_frames + 2, 3)
    found = align(log_probs, [num_frames], [labels], blank=0)[0]
    paths = [p for p in itertools.product(range(3), repeat=num_frames) if collapse(p) == labels]
    if not paths:
        assert found is None and num_frames < shortest_path(labels)
        return
    best = max(sum(log_probs[0, t, k].item() for t, k in enumerate(path)) for path in paths)
    assert found is not None and collapse(found.frames) == labels
    assert sum(found.log_probs) == pytest.approx(best, abs=1e-5)
    assert found.confidence == pytest.approx(math.exp(best / num_frames), abs=1e-5)


def test_equals_torchaudio_in_a_batch_of_several_lengths():
    from torchaudio.functional import forced_align

    generator = torch.Generator().manual_seed(1)
    labels = [torch.randint(1, 9, (n,), generator=generator).tolist() for n in (1, 12, 5, 20, 7)]
    labels[2] = [3, 3, 3, 4, 4]
    frames = [1, 60, 8, 41, 33]
    log_probs = random_log_probs(2, 5, 60, 9)
    for row, found in enumerate(align(log_probs, frames, labels, blank=0)):
        path, scores = forced_align(log_probs[row : row + 1, : frames[row]], torch.tensor([labels[row]]), blank=0)
        assert found is not None
        assert found.frames == path[0].tolist()
        assert found.log_probs == pytest.approx(scores[0].tolist(), abs=1e-6)


def test_what_cannot_be_aligned():
    log_probs = random_log_probs(3, 4, 6, 5)
    found = align(log_probs, [2, 6, 3, 0], [[1, 1], [], [1, 2, 3, 4], [1]], blank=0)
    assert [one is None for one in found] == [True, False, True, True]
    assert found[1] is not None and found[1].frames == [0] * 6
    assert align(log_probs[:0], [], [], blank=0) == []


def test_wrong_labels_are_refused():
    with pytest.raises(ValueError, match="label 5 cannot be aligned"):
        align(random_log_probs(0, 1, 4, 5), [4], [[5]], blank=0)
    with pytest.raises(ValueError, match="the blank is 2"):
        align(random_log_probs(0, 1, 4, 5), [4], [[2]], blank=2)
    with pytest.raises(ValueError, match="2 frame counts"):
        align(random_log_probs(0, 1, 4, 5), [4, 4], [[2]], blank=0)


def test_the_worst_window():
    path = Alignment([1] * 8, [-0.1, -0.1, -2.0, -2.0, -0.1, -0.1, -0.1, -0.1])
    assert path.min_window_confidence(2) == pytest.approx(math.exp(-2.0))
    assert path.min_window_confidence(4) == pytest.approx(math.exp(-4.2 / 4))
    assert path.min_window_confidence(30) == path.confidence == pytest.approx(math.exp(-4.6 / 8))
