"""Random transducers for tests of their losses."""

import torch

from models.zipformer.transducer_loss import Targets

V, D = 7, 5


def make_case(frames, labels, *, seed=0, dtype=torch.float64):
    """Random states, an output layer and labels for utterances of the given lengths; padded labels are nonsense."""
    torch.manual_seed(seed)
    B, T, U = len(frames), max(frames), max(labels)
    encoder = torch.randn(B, T, D, dtype=dtype, requires_grad=True)
    predictor = torch.randn(B, U + 1, D, dtype=dtype, requires_grad=True)
    output = torch.randn(V, D, dtype=dtype, requires_grad=True)
    targets = Targets.build(
        torch.randint(1, V, (B, U)), torch.tensor(frames), blank=0, label_lengths_B=torch.tensor(labels)
    )
    return encoder, predictor, output, targets


def joiner_of(output):
    return lambda encoder, predictor: torch.tanh(encoder + predictor) @ output.T
