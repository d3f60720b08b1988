"""The ASR pipeline of Zipformer and FastConformer; it is published with the checkpoint and needs no ffmpeg."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

from .audio_input import pieces_at_quiet
from .audio_stream import is_silent, stream_audio
from .hypotheses import Hypothesis, pieces_of, text_of, words_of

DEFAULT_PIECE_S = 30.0
# Shorter audio is padded with silence: subsampling needs some frames.
SHORTEST_INPUT_S = 0.25
# The loudest tenth of a second of a piece in which nobody speaks.
SILENCE_DBFS = -60.0
TIMESTAMPS = (True, "word", "char", "token")
SEARCH_OPTIONS = ("search", "beam_size", "nbest", "lm", "lm_weight", "blank_penalty", "temperature")


class SpeechRecogniserPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribes a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    Audio longer than `chunk_length_s` is cut at quiet points without overlap. Files are read as they are transcribed:
    neither their samples nor their features are ever held as a whole.

    Call parameters:
        return_timestamps: `"word"`; `"char"` or `"token"`, for each token; `True`, for each piece of long audio.
        search: `"greedy"`, `"beam"`, `"ctc_greedy"` or `"ctc_beam"`; that of the config if left out.
        beam_size, nbest, lm, lm_weight, blank_penalty, temperature: as of the model's `recognise`. `generate_kwargs`
            may hold the same.
        chunk_length_s: longest piece in seconds, 30 if left out.
        silence_dbfs: pieces that are never louder (RMS of a tenth of a second against full scale) give no text;
            `None` lets the model hear everything.

    Returns (for each input): `{"text": str}`, with timestamps also `"chunks": [{"text", "timestamp": (start, end)}]`
    in seconds, with `nbest` above 1 also `"nbest": [{"text", "score"}]`, the first being the text itself.
    """

    feature_extractor: Any
    tokenizer: Any
    _load_processor = None
    _default_generation_config = None

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        for part in ("feature_extractor", "tokenizer"):
            if getattr(self, part) is None and self.processor is not None:
                setattr(self, part, getattr(self.processor, part))
            if getattr(self, part) is None:
                raise ValueError(f"the pipeline needs a {part}: none is saved with the model, and none was given")
        if len(self.tokenizer) != model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens and the model {model.config.vocab_size}: they do not "
                "belong together; load both from one folder"
            )

    def _sanitize_parameters(
        self,
        return_timestamps: bool | str | None = None,
        chunk_length_s: float | None = None,
        silence_dbfs: float | None = SILENCE_DBFS,
        generate_kwargs: dict[str, Any] | None = None,
        **search: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        search = {**(generate_kwargs or {}), **search}
        if unknown := [name for name in search if name not in SEARCH_OPTIONS]:
            raise ValueError(f"unknown option {unknown[0]!r}; a search takes: {', '.join(SEARCH_OPTIONS)}")
        if return_timestamps and return_timestamps not in TIMESTAMPS:
            allowed = ", ".join(map(repr, TIMESTAMPS))
            raise ValueError(f"return_timestamps is {return_timestamps!r}; it must be one of: {allowed}")
        if chunk_length_s is not None and chunk_length_s < 0:
            raise ValueError(f"chunk_length_s is {chunk_length_s}; it must be positive")
        preprocess: dict[str, Any] = {"silence_dbfs": silence_dbfs} if silence_dbfs != SILENCE_DBFS else {}
        if chunk_length_s:
            preprocess["chunk_length_s"] = chunk_length_s
        post: dict[str, Any] = {}
        if return_timestamps is not None:
            post["return_timestamps"] = return_timestamps
        if "nbest" in search:
            post["nbest"] = search["nbest"]
        return preprocess, search, post

    def preprocess(
        self,
        inputs: Any,
        chunk_length_s: float = DEFAULT_PIECE_S,
        silence_dbfs: float | None = SILENCE_DBFS,
        **_: Any,
    ) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        blocks, extra = stream_audio(inputs, rate)
        pieces = (
            (start, samples)
            for start, samples in pieces_at_quiet(blocks, rate, chunk_length_s)
            if silence_dbfs is None or not is_silent(samples, rate, silence_dbfs)
        )
        start, samples = next(pieces, (0, np.zeros(0, np.float32)))
        while True:
            following = next(pieces, None)
            yield {
                "is_last": following is None,
                "span": (start / rate, (start + len(samples)) / rate),
                "extra": extra,
                **self._features(samples, rate),
            }
            if following is None:
                return
            start, samples = following

    def _features(self, samples: np.ndarray, rate: int) -> dict[str, Any]:
        missing = int(SHORTEST_INPUT_S * rate) - len(samples)
        if missing > 0:
            samples = np.pad(samples, (0, missing))
        batch = self.feature_extractor(
            [samples], sampling_rate=rate, padding="longest", return_attention_mask=True, return_tensors="pt"
        )
        return {"input_features": batch["input_features"], "attention_mask": batch["attention_mask"]}

    def _forward(self, model_inputs: dict[str, Any], **search: Any) -> dict[str, Any]:
        model: Any = self.model
        is_last, spans = model_inputs["is_last"], model_inputs["span"]
        found = model.recognise(
            model_inputs["input_features"].to(model.dtype), model_inputs["attention_mask"], **search
        )
        # Batches are lists, a single input is not; nothing was said in an empty span.
        alone = isinstance(is_last, bool)
        for index, (start_s, end_s) in enumerate([spans] if alone else spans):
            if end_s == start_s:
                found[index] = [Hypothesis([], [], 0.0, [])]
        hypotheses = found[0] if alone else found
        return {"is_last": is_last, "span": spans, "extra": model_inputs["extra"], "hypotheses": hypotheses}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        return_timestamps: bool | str = False,
        nbest: int = 1,
        **_: Any,
    ) -> dict[str, Any]:
        pieces = [output["hypotheses"] for output in model_outputs]
        spans = [output["span"] for output in model_outputs]
        texts = [text_of(self.tokenizer, piece[0].tokens) for piece in pieces]
        result: dict[str, Any] = {"text": " ".join(text for text in texts if text)}
        if return_timestamps is True:
            result["chunks"] = [
                {"text": text, "timestamp": _rounded(span)} for text, span in zip(texts, spans, strict=True) if text
            ]
        elif return_timestamps:
            split = words_of if return_timestamps == "word" else pieces_of
            model: Any = self.model
            result["chunks"] = [
                {"text": word.text, "timestamp": (word.start_s, word.end_s)}
                for piece, (start_s, end_s) in zip(pieces, spans, strict=True)
                for word in split(piece[0], self.tokenizer, model.frame_s, offset_s=start_s, end_s=end_s)
            ]
        if nbest > 1:
            result["nbest"] = self._joined(pieces, nbest)
        for key in model_outputs[0]["extra"]:
            result.setdefault(key, [output["extra"][key] for output in model_outputs])
        return result

    def _joined(self, pieces: Sequence[Sequence[Hypothesis]], nbest: int) -> list[dict[str, Any]]:
        """The n best readings of the whole: the best of each piece, then other combinations by their summed scores."""
        readings: list[tuple[float, list[str]]] = [(0.0, [])]
        for piece in pieces:
            heard = [(hypothesis.score, text_of(self.tokenizer, hypothesis.tokens)) for hypothesis in piece]
            longer = [(score + more, [*texts, text]) for score, texts in readings for more, text in heard]
            readings = [longer[0], *sorted(longer[1:], key=lambda reading: -reading[0])][:nbest]
        return [{"text": " ".join(filter(None, texts)), "score": score} for score, texts in readings]


def _rounded(span: tuple[float, float]) -> tuple[float, float]:
    return round(span[0], 3), round(span[1], 3)
