"""Modified beam search at beam 15 over a batch, against one utterance at a time, and against the `zipformer` package.

    AMVI_ORACLES=<folder of the package> python scripts/benchmarks/decoding.py

Sizes are those of zipformer-30m: 2,048 pieces, decoder and joiner of 512, 25 frames a second. Weights are random, but
as sure of a frame as a trained model (probability 0.7 in the mean) and led by the audio more than by the last tokens,
and the blank leaves about as many tokens a second as speech has. Time is CPU time of the search alone, without the
encoder; rounds alternate, the ratio is the median of theirs. The rows of the package are left out where it is not
installed.
"""

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock, patch

import torch

from models.zipformer.transducer_decoding import StatelessPredictor, transducer_beam, transducer_greedy

logger = logging.getLogger(__name__)
FRAME_S, VOCAB, WIDTH, CONTEXT, BEAM = 0.04, 2048, 512, 2, 15
LENGTHS = (250, 240, 225, 210, 190, 170, 150, 125)


class Transducer(torch.nn.Module):
    """Decoder and joiner alone, with the attribute names that the package looks for."""

    def __init__(self, decoder: Any, joiner: Any):
        super().__init__()
        self.decoder, self.joiner = decoder, joiner


class Decoder(torch.nn.Module):
    blank_id, context_size = 0, CONTEXT

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, WIDTH)
        self.conv = torch.nn.Conv1d(WIDTH, WIDTH, CONTEXT, groups=WIDTH // 4, bias=False)

    def forward(self, ids_NC: torch.Tensor, need_pad: bool = False) -> torch.Tensor:
        embedded = self.embedding(ids_NC.clamp(min=0)) * (ids_NC >= 0)[..., None]
        return self.conv(embedded.transpose(1, 2)).transpose(1, 2).relu()


class Joiner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder_proj, self.decoder_proj = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.output = torch.nn.Linear(WIDTH, VOCAB)

    def forward(self, encoder: torch.Tensor, decoder: torch.Tensor, project_input: bool = False) -> torch.Tensor:
        return self.output((encoder + decoder).tanh())


def cpu_seconds(function: Callable[[], Any]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def run(rounds: int = 3) -> list[dict[str, Any]]:
    """Two rows without the package, four with it; a minute on one core."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Transducer(Decoder(), Joiner()).eval().requires_grad_(False)
    model.joiner.output.weight *= 20
    model.joiner.decoder_proj.weight *= 0.3
    outputs, lengths = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH), torch.tensor(LENGTHS)
    encoder = model.joiner.encoder_proj(outputs)
    predictor = StatelessPredictor(lambda ids: model.joiner.decoder_proj(model.decoder(ids)[:, 0]), CONTEXT, 0)
    # A bias of the blank that leaves about as many tokens a second as speech has.
    logits = model.joiner(encoder[:, ::10], predictor.start(1)[0])
    model.joiner.output.bias[0] += (logits[..., 1:].amax(-1) - logits[..., 0]).quantile(0.8)
    audio_s = FRAME_S * sum(LENGTHS)

    def search(rows: slice, beam: int) -> Any:
        arguments = (encoder[rows], lengths[rows], predictor, model.joiner)
        if beam == 1:
            return transducer_greedy(*arguments, blank=0)
        return transducer_beam(*arguments, blank=0, beam_size=beam)

    def one_by_one(beam: int) -> None:
        for row in range(len(LENGTHS)):
            search(slice(row, row + 1), beam)

    everything = slice(None)
    tokens = sum(len(one.tokens) for (one,) in search(everything, BEAM))
    pairs: dict[tuple[str, str], tuple[Callable[[], Any], Callable[[], Any]]] = {
        (f"beam {BEAM}, batch of 8 ({tokens / audio_s:.1f} tokens/s)", "one by one"): (
            lambda: search(everything, BEAM),
            lambda: one_by_one(BEAM),
        ),
        (f"greedy, batch of 8 (against beam {BEAM})", f"beam {BEAM}, batch of 8"): (
            lambda: search(everything, 1),
            lambda: search(everything, BEAM),
        ),
    }
    if peer := package_search():
        name = f"beam {BEAM}, batch of 8"
        pairs[name, "zipformer package"] = (
            lambda: search(everything, BEAM),
            lambda: peer.modified_beam_search(model, outputs, lengths, beam=BEAM),
        )
        pairs["greedy, batch of 8", "zipformer package"] = (
            lambda: search(everything, 1),
            lambda: peer.greedy_search(model, outputs, lengths),
        )
    return [row(name, peer_name, audio_s, *sides, rounds=rounds) for (name, peer_name), sides in pairs.items()]


def row(
    name: str, peer: str, audio_s: float, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> dict[str, Any]:
    seconds = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(rounds)]
    return {
        "name": name,
        "peer": peer,
        "ours": statistics.median(mine for mine, _ in seconds) / audio_s,
        "theirs": statistics.median(other for _, other in seconds) / audio_s,
        "unit": "CPU s per s of audio",
        "ratio": statistics.median(other / mine for mine, other in seconds),
    }


def package_search() -> Any:
    """The package's module of searches; None where it is not installed."""
    os.environ.setdefault("K2_ONNX_EXPORT", "1")
    sys.path += [path for path in os.environ.get("AMVI_ORACLES", "").split(os.pathsep) if path]
    # Of its dependencies, the searches need none of these.
    stand_ins = {name: MagicMock() for name in ("webdataset", "kaldifst", "atdataset") if name not in sys.modules}
    try:
        with patch.dict(sys.modules, stand_ins):
            import zipformer.decode.search as search  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        logger.warning("the zipformer package is not installed (%s): nothing to compare with", error)
        return None
    return search


if __name__ == "__main__":
    print(run())
