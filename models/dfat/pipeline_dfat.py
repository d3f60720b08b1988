"""The audio-classification pipeline of DFAT: that of the other emotion classifiers, with transcripts."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from .audio_input import load_audio
from .pipeline_ser import SERPipeline

logger = logging.getLogger(__name__)
# Pooled features are of whole clips in training, up to this length.
PIECE_S = 30.0


class DFATPipeline(SERPipeline):
    """Classifies a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    A dict may hold the transcript as `text`. Where the model reads transcripts and there is none, a recogniser makes
    it; without one it counts as empty, which is said once.

    Parameters, of a call or of `pipeline()`:
        top_k: how many classes to give, best first; default all.
        piece_s: longest piece in seconds; longer audio is cut at quiet points, and each piece is classified with the
            whole transcript.
        recogniser: a speech recogniser: a pipeline, or a folder or Hub id that
            `pipeline("automatic-speech-recognition")` loads without remote code.

    Returns (for each input): `[{"label": str, "score": float}, ...]`.
    """

    options = ("top_k", "piece_s", "recogniser")

    def __init__(self, *args: Any, **kwargs: Any):
        self._recognisers: dict[str, Any] = {}
        self._told_of_empty_text = False
        super().__init__(*args, **kwargs)

    def _sanitize_parameters(
        self, recogniser: Any = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if "knn" in options:
            raise ValueError(f"unknown options knn; there are: {', '.join(self.options)}")
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if recogniser is not None:
            if not self._reads_text:
                raise ValueError("recogniser is given, but this model reads no transcripts")
            preprocess["recogniser"] = self._load(recogniser) if isinstance(recogniser, str) else recogniser
        return preprocess, forward, postprocess

    @property
    def _reads_text(self) -> bool:
        return self.model.config.text_vocab_size is not None

    def _load(self, name: str) -> Any:
        if name not in self._recognisers:
            from transformers import pipeline

            self._recognisers[name] = pipeline("automatic-speech-recognition", model=name, device=self.device)
        return self._recognisers[name]

    def preprocess(
        self, inputs: Any, piece_s: float | None = None, recogniser: Any = None, **_: Any
    ) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        samples, extra = load_audio(inputs, rate)
        if self._reads_text and not str(extra.get("text") or "").strip():
            extra["text"] = self._transcript(samples, rate, recogniser)
        heard = {"raw": samples, "sampling_rate": rate, "text": extra.get("text")}
        return super().preprocess(heard, piece_s=piece_s or PIECE_S)

    def _transcript(self, samples: np.ndarray, rate: int, recogniser: Any) -> str:
        if recogniser is not None:
            return str(recogniser({"raw": samples, "sampling_rate": rate})["text"])
        if not self._told_of_empty_text:
            self._told_of_empty_text = True
            logger.warning(
                "the model reads transcripts and was given none: they count as empty. Give a dict with text, or the "
                "option recogniser"
            )
        return ""

    def _windows(self) -> list[float]:
        specs = [spec for spec in self.model.config.encoder_specs if spec.kind == "whisper"]
        return [float("inf"), *(spec.config.get("max_source_positions", 1500) / 50 for spec in specs)]
