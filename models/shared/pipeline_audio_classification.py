"""The audio-classification pipeline of this project's models; it is published with the checkpoint.

The stock pipeline reads files through the ffmpeg binary, refuses recordings with channels and answers with classes
that the model has switched off. This file stands in `models/shared` and is linked into the folders that use it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.pipelines.audio_classification import AudioClassificationPipeline
from transformers.pipelines.base import ChunkPipeline

from .audio_input import load_audio, split_at_quiet

# Attention takes the square of the length: ten minutes at once cost a minute even a tiny encoder.
CHUNK_LENGTH_S = 30.0
OUTPUT_FUNCTIONS = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


class SpeechClassificationPipeline(ChunkPipeline, AudioClassificationPipeline):
    """Classifies a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    Parameters, of a call or of `pipeline()`:
        top_k: how many classes to give, best first; None, the default: all.
        function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; default by `config.problem_type`.
        chunk_length_s: cut longer audio at quiet points into pieces of at most so many seconds (default 30), and give
            the mean of their scores, each weighing what it lasts. None: audio is classified whole, however long.

    Returns (for each input): `[{"label": str, "score": float}, ...]`; classes with a logit of -inf are left out.
    """

    feature_extractor: Any

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("top_k", None)  # the stock pipeline would make it 5
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise ValueError(
                "the pipeline needs a feature extractor: none is saved with the model, and none was given"
            )

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # What a call does not give stays as it was given to pipeline().
        post = {name: options[name] for name in ("top_k", "function_to_apply") if name in options}
        pre = {name: options[name] for name in ("chunk_length_s",) if name in options}
        top_k, longest_s = post.get("top_k"), pre.get("chunk_length_s")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}; it must be a positive whole number, or None for all classes")
        if post.get("function_to_apply") not in (None, *OUTPUT_FUNCTIONS):
            raise ValueError(
                f"function_to_apply is {post['function_to_apply']!r}; it must be one of: {', '.join(OUTPUT_FUNCTIONS)}"
            )
        if longest_s is not None and not longest_s > 0:
            raise ValueError(f"chunk_length_s is {longest_s!r}; it must be positive, or None to take audio whole")
        return pre, {}, post

    def preprocess(self, inputs: Any, chunk_length_s: float | None = CHUNK_LENGTH_S) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        samples, _ = load_audio(inputs, rate)
        pieces = list(split_at_quiet(samples, rate, chunk_length_s or len(samples) / rate))
        for index, piece in enumerate(pieces):
            features = self.feature_extractor([piece], sampling_rate=rate, return_tensors="pt")
            features = features if self.dtype is None else features.to(dtype=self.dtype)
            yield {"is_last": index == len(pieces) - 1, "duration_s": len(piece) / rate, **features}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        passed = {name: model_inputs.pop(name) for name in ("is_last", "duration_s")}
        return {**passed, "logits": self.model(**model_inputs)["logits"]}

    def postprocess(
        self, model_outputs: list[dict[str, Any]], top_k: int | None = None, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        if function_to_apply is None:
            by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
            function_to_apply = by_problem.get(self.model.config.problem_type or "", "softmax")
        logits_PC = torch.stack([output["logits"][0].float() for output in model_outputs])
        durations_P1 = torch.tensor([[float(output["duration_s"])] for output in model_outputs])
        scores_PC = OUTPUT_FUNCTIONS[function_to_apply](logits_PC)
        scores_C = (scores_PC * durations_P1).sum(0) / durations_P1.sum()
        # A class that is switched off is so in every piece.
        answers = int((logits_PC[0] > float("-inf")).sum())
        scores, ids = scores_C.topk(answers if top_k is None else min(top_k, answers))
        names = self.model.config.id2label or {}
        return [{"score": score, "label": names[i]} for score, i in zip(scores.tolist(), ids.tolist(), strict=True)]
