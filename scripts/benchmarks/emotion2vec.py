"""Utterance vectors of emotion2vec base, against the authors' toolkit (PyPI `funasr`), which takes one clip at a time.

    AMVI_ORACLES=FOLDER python scripts/benchmarks/emotion2vec.py

Clips of 1 to 8 seconds, and one of a minute; random weights, one thread. CPU time; rounds alternate, the ratio is the
median of theirs. Ours go one at a time too: on one core a batch saves nothing, and computes its padding.
"""

import importlib
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor, Emotion2VecModel

logger = logging.getLogger(__name__)

NUM_CLIPS, RATE = 16, 16_000
# What the network of the peer is made of; the rest of its settings concern pre-training.
AUDIO = {
    "type": "AUDIO", "prenet_depth": 4, "prenet_layerdrop": 0.0, "prenet_dropout": 0.1, "start_drop_path_rate": 0.0,
    "end_drop_path_rate": 0.0, "num_extra_tokens": 10, "init_extra_token_zero": True, "local_grad_mult": 1.0,
    "use_alibi_encoder": True, "alibi_scale": 1.0, "learned_alibi": False, "learned_alibi_scale": True,
    "learned_alibi_scale_per_head": True, "learned_alibi_scale_per_layer": False, "num_alibi_heads": 12,
    "model_depth": 8, "decoder": None, "extractor_mode": "layer_norm",
    "feature_encoder_spec": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2",
    "conv_pos_width": 95, "conv_pos_groups": 16, "conv_pos_depth": 5, "conv_pos_pre_ln": False,
}  # fmt: skip
PEER = {
    "depth": 8, "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "num_heads": 12, "norm_eps": 1e-5,
    "norm_affine": True, "encoder_dropout": 0.1, "post_mlp_drop": 0.1, "attention_dropout": 0.1,
    "activation_dropout": 0.0, "dropout_input": 0.0, "embed_dim": 768, "mlp_ratio": 4.0, "layer_norm_first": False,
    "end_of_block_targets": False, "normalize": True, "modalities": {"audio": AUDIO},
}  # fmt: skip


def our_vectors(model: Emotion2VecModel, clips: list[np.ndarray]) -> list[torch.Tensor]:
    extract = Emotion2VecFeatureExtractor()
    return [model(**extract([clip], sampling_rate=RATE, return_tensors="pt")).pooler_output for clip in clips]


def peer_vectors(model: Any, clips: list[np.ndarray]) -> list[torch.Tensor]:
    """What its `inference` does, without reading files."""
    sources = [torch.from_numpy(clip) for clip in clips]
    normalised = [torch.nn.functional.layer_norm(source, source.shape)[None] for source in sources]
    return [model.extract_features(source)["x"].mean(1) for source in normalised]


def cpu_seconds(function: Callable[[], Any]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Two rows, or none where funasr is not installed; five minutes on one core."""
    sys.path += [path for path in os.environ.get("AMVI_ORACLES", "").split(os.pathsep) if path]
    try:
        peer_class = importlib.import_module("funasr.models.emotion2vec.model").Emotion2vec
    except ImportError as error:
        logger.warning("funasr cannot be imported (%s): nothing to compare emotion2vec with", error)
        return []
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, theirs = Emotion2VecModel(Emotion2VecConfig.of_size("base")).eval(), peer_class(model_conf=PEER).eval()
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(int(RATE * s)).astype(np.float32) for s in rng.uniform(1, 8, NUM_CLIPS)]
    minute = [rng.standard_normal(60 * RATE).astype(np.float32)]
    rows = []
    for name, audio, repeats in (
        ("clips of 1 to 8 s", clips, rounds),
        ("a clip of a minute", minute, rounds // 2 + 1),
    ):
        with torch.inference_mode():
            timed = [partial(our_vectors, ours, audio), partial(peer_vectors, theirs, audio)]
            pairs = [[cpu_seconds(function) for function in timed] for _ in range(repeats + 1)][1:]
        audio_s = sum(len(clip) for clip in audio) / RATE
        medians = [1000 * statistics.median(pair[side] for pair in pairs) / audio_s for side in (0, 1)]
        rows.append(
            {
                "name": f"emotion2vec base, {name}",
                "peer": "FunASR, one clip at a time",
                "ours": medians[0],
                "theirs": medians[1],
                "unit": "CPU ms per audio second",
                "ratio": statistics.median(other / mine for mine, other in pairs),
            }
        )
    return rows


if __name__ == "__main__":
    print(run())
