"""The Zipformer encoder in evaluation, against icefall's (the PyPI package `zipformer`, which needs no k2 for this).

    AMVI_ORACLES=.oracles python scripts/benchmarks/zipformer_encoder.py

`make parity` installs the package into .oracles. Both sides have the same weights and get the same features: 30 M
parameters, batches of four utterances of four seconds and of single ones of ten. The difference of the outputs is in
the name of the row.
"""

import logging
import os
import statistics
import sys
import time
from types import ModuleType
from typing import Any

import torch

from models.zipformer import ZipformerConfig, ZipformerForASR
from models.zipformer.icefall_zipformer import convert_weights

logger = logging.getLogger(__name__)

SHAPES = ((4, 4.0), (1, 10.0))


def peer_model(config: ZipformerConfig) -> torch.nn.Module | None:
    """icefall's model of the same sizes; `None` where the package is not installed."""
    # Otherwise the package compiles its activations with torch.compile at import.
    os.environ["K2_ONNX_EXPORT"] = "1"
    sys.path += [path for path in os.environ.get("AMVI_ORACLES", "").split(os.pathsep) if path]
    # Of these, which the package imports, only its data loading and language models make use.
    for name, attributes in {"atdataset": ("SpecAugment", "time_warp", "fix_random_seed"), "kaldifst": ()}.items():
        stub = ModuleType(name)
        for attribute in (*attributes, "StdVectorFst"):
            setattr(stub, attribute, None)
        sys.modules.setdefault(name, stub)
    try:
        from zipformer.modules.model import AsrModel  # type: ignore[import-not-found]
    except ImportError:
        return None

    def joined(values: list[int]) -> str:
        return ",".join(map(str, values))

    return AsrModel(
        feature_dim=config.num_mel_bins,
        downsampling_factor=joined(config.downsampling),
        encoder_dim=joined(config.encoder_dim),
        num_encoder_layers=joined(config.num_layers),
        encoder_unmasked_dim=joined(config.unmasked_dim),
        query_head_dim=joined(config.query_head_dim),
        pos_head_dim=joined(config.position_head_dim),
        value_head_dim=joined(config.value_head_dim),
        num_heads=joined(config.num_heads),
        feedforward_dim=joined(config.feedforward_dim),
        cnn_module_kernel=joined(config.conv_kernel),
        pos_dim=config.position_dim,
        chunk_size="-1",
        left_context_frames="-1",
        use_ctc=config.has_ctc,
        vocab_size=config.vocab_size,
        decoder_dim=config.decoder_dim,
        joiner_dim=config.joiner_dim,
        context_size=config.context_size,
    )


@torch.no_grad()
def run(rounds: int = 9) -> list[dict[str, Any]]:
    """Two rows, or none where the package is not installed; half a minute on one core."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ZipformerConfig.preset("zipformer-30m", vocab_size=2048, mask_padding=False)
    theirs = peer_model(config)
    if theirs is None:
        logger.warning("the package zipformer is not installed (make parity): nothing to compare the encoder with")
        return []
    theirs.eval()
    ours = ZipformerForASR(config).eval()
    ours.load_state_dict(convert_weights(theirs.state_dict()))
    return [_compare(ours, theirs, batch, duration_s, rounds) for batch, duration_s in SHAPES]


def _compare(ours: Any, theirs: Any, batch: int, duration_s: float, rounds: int) -> dict[str, Any]:
    frames = round(duration_s * 100)
    features, mask = torch.randn(batch, frames, 80), torch.ones(batch, frames, dtype=torch.long)
    lengths = mask.sum(1)
    # The first round is also the warm-up.
    difference = (ours.encode(features, mask)[0] - theirs.forward_encoder(features, lengths)[0]).abs().max().item()
    seconds = []
    for _ in range(rounds):
        # CPU time and not wall time: other programs on the machine would count on one side or the other.
        start = time.process_time()
        ours.encode(features, mask)
        middle = time.process_time()
        theirs.forward_encoder(features, lengths)
        seconds.append((middle - start, time.process_time() - middle))
    per_audio = 1000 / (batch * duration_s)
    return {
        "name": f"Zipformer encoder, {batch} × {duration_s:g} s (outputs differ by {difference:.0e})",
        "peer": "zipformer 0.1.3 (icefall)",
        "ours": per_audio * statistics.median(mine for mine, _ in seconds),
        "theirs": per_audio * statistics.median(other for _, other in seconds),
        "unit": "CPU ms per audio second",
        "ratio": statistics.median(other / mine for mine, other in seconds),
    }


if __name__ == "__main__":
    print(run())
