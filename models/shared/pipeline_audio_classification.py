"""The audio-classification pipeline of this project's models; it is published with the checkpoint.

The stock pipeline reads files through the ffmpeg binary, refuses recordings with channels and answers with classes
that the model has switched off. This file stands in `models/shared` and is linked into the folders that use it.
"""

from typing import Any

import torch
from transformers.pipelines.audio_classification import AudioClassificationPipeline

from .audio_input import load_audio


class SpeechClassificationPipeline(AudioClassificationPipeline):
    """Classifies a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    Call parameters:
        top_k: how many classes to give, best first; None, the default: all.
        function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; default by `config.problem_type`.

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
        given = {name: options[name] for name in ("top_k", "function_to_apply") if name in options}
        top_k = given.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}; it must be a positive whole number, or None for all classes")
        if given.get("function_to_apply") not in (None, "softmax", "sigmoid", "none"):
            raise ValueError(
                f"function_to_apply is {given['function_to_apply']!r}; it must be 'softmax', 'sigmoid' or 'none'"
            )
        return {}, {}, given

    def preprocess(self, inputs: Any) -> Any:
        rate = self.feature_extractor.sampling_rate
        samples, _ = load_audio(inputs, rate)
        processed = self.feature_extractor([samples], sampling_rate=rate, return_tensors="pt")
        return processed if self.dtype is None else processed.to(dtype=self.dtype)

    def postprocess(
        self, model_outputs: Any, top_k: int | None = None, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        logits_C = model_outputs["logits"][0].float()
        if function_to_apply is None:
            by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
            function_to_apply = by_problem.get(self.model.config.problem_type or "", "softmax")
        scores_C = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda x: x}[
            function_to_apply
        ](logits_C)
        answers = int((logits_C > float("-inf")).sum())
        scores, ids = scores_C.topk(answers if top_k is None else min(top_k, answers))
        names = self.model.config.id2label or {}
        return [{"score": score, "label": names[i]} for score, i in zip(scores.tolist(), ids.tolist(), strict=True)]
