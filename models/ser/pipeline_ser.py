"""The audio-classification pipeline of the emotion classifiers; published with them, it needs no ffmpeg binary."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.pipelines.base import ChunkPipeline

from .audio_input import load_audio, split_at_quiet

# Emotions change within a minute, and encoders take the square of the length.
PIECE_S = 20.0


class SERPipeline(ChunkPipeline):
    """Classifies a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    Recordings with channels are mixed down. Audio longer than a piece is cut at quiet points; the probabilities of the
    pieces are averaged, weighted by their length. Where the model reads transcripts, a dict may hold `text`.

    Call parameters:
        top_k: how many classes to give, best first; default all.
        piece_s: longest piece in seconds.
        knn: False leaves out the neighbours of the model's k-NN datastore.

    Returns (for each input): `[{"label": str, "score": float}, ...]`.
    """

    options = ("top_k", "piece_s", "knn")
    feature_extractor: Any
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = None  # used where it is there: it reads transcripts

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise ValueError(
                "the pipeline needs a feature extractor: none is saved with the model, and none was given "
                "(build_feature_extractor of models.ser makes one)"
            )
        rate = self.model.config.sampling_rate
        if self.feature_extractor.sampling_rate != rate:
            raise ValueError(
                f"the feature extractor works at {self.feature_extractor.sampling_rate} Hz but the model hears {rate} "
                "Hz: they come from different checkpoints"
            )
        if getattr(self.feature_extractor, "do_normalize", False):
            raise ValueError(
                "the feature extractor normalises waveforms (do_normalize), which the encoders of this model do by "
                "themselves: use the one saved with the model"
            )

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        piece_s: float | None = None,
        knn: bool | None = None,
        function_to_apply: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}; there are: {', '.join(self.options)}")
        if function_to_apply not in (None, "softmax"):
            raise ValueError(f"function_to_apply is {function_to_apply!r}; this pipeline gives probabilities")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1")
        if piece_s is not None and piece_s <= 0:
            raise ValueError(f"piece_s is {piece_s}; it must be positive")
        preprocess = {} if piece_s is None else {"piece_s": piece_s}
        forward = {} if knn is None else {"knn": bool(knn)}
        return preprocess, forward, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs: Any, piece_s: float | None = None, **_: Any) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        samples, extra = load_audio(inputs, rate)
        text = self._text(extra)
        longest_s = min(piece_s or PIECE_S, *self._windows())
        pieces = split_at_quiet(samples, rate, longest_s)
        piece = next(pieces)
        while piece is not None:
            following = next(pieces, None)
            batch = self.feature_extractor(
                [piece], sampling_rate=rate, return_attention_mask=True, return_tensors="pt"
            )
            yield {
                "is_last": following is None,
                "input_values": batch["input_values"],
                "attention_mask": batch["attention_mask"].long(),
                **text,
            }
            piece = following

    def _windows(self) -> list[float]:
        """Seconds that encoders and heads with a window of their own can hear."""
        config = self.model.config
        windows = [
            spec.config.get("max_source_positions", 1500) / 50
            for spec in config.encoder_specs
            if spec.kind == "whisper"
        ]
        if config.head == "speechformer" and config.speechformer_exact:
            windows.append(config.speechformer_frames / config.frame_rate_hz)  # it would crop the rest
        return [float("inf"), *windows]

    def _text(self, extra: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Tokens of the transcript; one token that is masked stands for none."""
        if self.model.config.text_vocab_size is None:
            return {}
        if self.tokenizer is None:
            raise ValueError("the model reads transcripts: save its tokenizer in its folder, or pass tokenizer=")
        text = str(extra.get("text") or "").strip()
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"].long() if text else torch.zeros(1, 0).long()
        if not ids.shape[1]:
            return {"input_ids": torch.zeros(1, 1).long(), "text_attention_mask": torch.zeros(1, 1).long()}
        return {"input_ids": ids, "text_attention_mask": torch.ones_like(ids)}

    def _forward(self, model_inputs: dict[str, Any], knn: bool = True) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        output = self.model(**model_inputs)
        probabilities = output.probabilities if knn else output.logits.float().softmax(1)
        return {
            "is_last": is_last,
            "probabilities": probabilities,
            "num_samples": model_inputs["attention_mask"].sum(1),
        }

    def postprocess(self, model_outputs: list[dict[str, Any]], top_k: int | None = None) -> list[dict[str, Any]]:
        weights = torch.cat([output["num_samples"].float() for output in model_outputs])
        probabilities = torch.cat([output["probabilities"].float() for output in model_outputs])
        scores_C = (probabilities * weights[:, None]).sum(0) / weights.sum()
        names: Any = self.model.config.id2label
        scores, ids = scores_C.topk(len(names) if top_k is None else min(top_k, len(names)))
        return [{"label": names[i], "score": score} for score, i in zip(scores.tolist(), ids.tolist(), strict=True)]
