"""Text and emotion from one pass over the audio, against the two pipelines one after the other.

    python scripts/benchmarks/joint_pass.py

Recognisers of PhoWhisper-base's shape, a Whisper and a TSPC, and an emotion classifier with a linear head on the sixth
layer of the same encoder; random weights, a file of four seconds at 44.1 kHz. Both write as much as speech of that
length needs: 20 tokens, or 45 phonemes and 25 tokens. Ratios are given with the shared encoder run once, and with the
sharing switched off, where only reading and resampling are done once.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _training_steps as steps
import joint_step
import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from models.ser import SERConfig, SERForAudioClassification, SERPipeline, build_feature_extractor
from models.tspc import (
    P2TConfig,
    P2TForConditionalGeneration,
    TSPCForConditionalGeneration,
    TSPCPipeline,
    TSPCProcessor,
)
from trainers.classifiers import Classifier
from trainers.recognisers import Recogniser
from trainers.shared_encoder import SharedEncoders
from trainers.tokenizers import train_text_tokenizer
from trainers.understanding import SpeechUnderstandingPipeline
from trainers.whisper_pipeline import GuardedWhisperPipeline

NUM_TOKENS, NUM_TEXT_TOKENS = 20, 25
SPECIALS = (
    "endoftext", "startoftranscript", "vi", "translate", "transcribe", "startoflm", "startofprev", "nospeech",
    "notimestamps", *(f"{step * 0.02:.2f}" for step in range(1501)),
)  # fmt: skip


def whisper() -> tuple[Recogniser, Any]:
    """A Whisper with a vocabulary of bytes, and its encoder."""
    symbols = [*bytes_to_unicode().values(), *(f"<|{special}|>" for special in SPECIALS)]
    tokenizer = WhisperTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[])
    ids = {symbol: tokenizer.convert_tokens_to_ids(f"<|{symbol}|>") for symbol in ("endoftext", "startoftranscript")}
    config = steps.encoder_config()
    config.update({
        "vocab_size": len(tokenizer), "pad_token_id": ids["endoftext"], "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["endoftext"], "decoder_start_token_id": ids["startoftranscript"],
    })  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    pipe = GuardedWhisperPipeline(
        model=model, tokenizer=tokenizer, feature_extractor=WhisperFeatureExtractor(), device="cpu"
    )
    pipe.guards = None  # random weights loop, and would be tried again
    model.generation_config.update(min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS)
    return Recogniser("whisper-base", pipe, "seq2seq"), model.get_encoder()


def tspc() -> tuple[Recogniser, Any]:
    """A TSPC with the second stage of t5-small's shape, and its encoder."""
    text = train_text_tokenizer([steps.TEXT], 200)
    s2p = joint_step.make_tspc().s2p
    sizes: dict[str, Any] = {
        "vocab_size": len(text),
        "phoneme_vocab_size": s2p.config.vocab_size,
        "d_model": 512,
        "d_ff": 2048,
    }
    model = TSPCForConditionalGeneration.from_stages(s2p, P2TForConditionalGeneration(P2TConfig(**sizes))).eval()
    model.s2p.generation_config.min_new_tokens = joint_step.NUM_PHONEMES - 1
    model.generation_config.update(min_new_tokens=NUM_TEXT_TOKENS, max_new_tokens=NUM_TEXT_TOKENS)
    processor = TSPCProcessor(WhisperFeatureExtractor(), text, steps.phoneme_tokenizer())
    pipe = TSPCPipeline(
        model=model, processor=processor, tokenizer=text, feature_extractor=processor.feature_extractor, device="cpu"
    )
    return Recogniser("tspc", pipe, "tspc", "full"), model.s2p.encoder


def classifier(encoder: Any) -> Classifier:
    """A linear head on the last layer of the encoder, whose tensors are copied."""
    spec = {"kind": "whisper", "config": encoder.config.to_dict(), "features": 6, "normalise": False}
    model = SERForAudioClassification(SERConfig(encoders=[spec], head="linear")).eval()
    model.branches[0].model.load_state_dict(encoder.state_dict())
    pipe = SERPipeline(model=model, feature_extractor=build_feature_extractor(), device="cpu")
    return Classifier("linear", pipe, model.label_names)


def compare(name: str, recogniser: Recogniser, encoder: Any, path: str, rounds: int) -> list[dict[str, Any]]:
    """Two rows, CPU milliseconds a file; rounds of the three interleaved, median of their ratios."""
    ser = classifier(encoder)
    shared, alone = (SpeechUnderstandingPipeline(recogniser, ser) for _ in range(2))
    alone.encoders = SharedEncoders({}, {})
    if not shared.shared:
        raise RuntimeError(f"nothing is shared: {shared.encoders.reasons}")

    def separate() -> None:
        recogniser.pipe(path)
        ser.pipe(path)

    ways: list[Callable[[], Any]] = [lambda: shared(path), lambda: alone(path), separate]
    first, second = ways[0](), ways[1]()  # the warm-up of the third too
    if abs(first["scores"]["negative"] - second["scores"]["negative"]) > 1e-5 or first["text"] != second["text"]:
        raise RuntimeError(f"a shared encoder changed the result: {first} and {second}")
    seconds = [[cpu_seconds(way) for way in ways] for _ in range(rounds)]
    rows = []
    for index, what in enumerate(("one encoder pass", "audio read once, encoder twice")):
        rows.append(
            {
                "name": f"{name} and emotion, {what}",
                "peer": "two pipelines",
                "ours": 1000 * statistics.median(times[index] for times in seconds),
                "theirs": 1000 * statistics.median(times[2] for times in seconds),
                "unit": "CPU ms",
                "ratio": statistics.median(times[2] / times[index] for times in seconds),
            }
        )
    return rows


def cpu_seconds(way: Callable[[], Any]) -> float:
    # CPU time and not wall time: other programs on the machine would count on one side or the other.
    start = time.process_time()
    way()
    return time.process_time() - start


def run(rounds: int = 2) -> list[dict[str, Any]]:
    """Four rows; a minute on one core."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "speech.flac")
        noise = 0.1 * np.random.default_rng(0).standard_normal(int(44_100 * steps.UTTERANCE_S))
        soundfile.write(path, noise, 44_100)
        for name, make in (("Whisper-base", whisper), ("TSPC", tspc)):
            rows += compare(name, *make(), path, rounds)
    return rows


if __name__ == "__main__":
    print(run())
