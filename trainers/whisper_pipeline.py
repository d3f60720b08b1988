"""The ASR pipeline of Whisper under guard, for evaluation and transcription; published folders work without it."""

from collections.abc import Iterator
from typing import Any

from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

from models.tspc.audio_input import load_audio, split_at_quiet
from trainers.whisper_guards import GuardCounts, Guards, guarded_generate


class GuardedWhisperPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribes as the stock pipeline does, with `trainers.whisper_guards` between it and the model.

    Audio longer than the window (or than `chunk_length_s`) is cut at quiet points without overlap, piece by piece, so
    memory does not grow with it. Settings that the model's folder does not make are made: Vietnamese, transcribed.

    Attributes:
        guards: None decodes without.
        counts: what the guards did since the pipeline was made.

    Call parameters:
        chunk_length_s: longest piece in seconds; never more than the window.
        return_timestamps: True gives the time of each piece, "word" of each word.
        generate_kwargs: options of `generate`, e.g. `{"num_beams": 4}`.

    Returns (for each input): `{"text": str}`, with `"chunks": [{"text", "timestamp": (start, end)}]` when asked for.
    """

    feature_extractor: Any
    tokenizer: Any
    _default_generation_config = None  # greedy, and bounded by the guards and the model itself

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.guards: Guards | None = Guards()
        self.counts = GuardCounts()
        settings: Any = model.generation_config
        if not hasattr(settings, "lang_to_id") or not hasattr(settings, "no_timestamps_token_id"):
            from trainers.whisper import fix_generation

            fix_generation(model, self.tokenizer, "vi")
        # Otherwise guessed for each clip.
        settings.language = getattr(settings, "language", None) or "<|vi|>"
        settings.task = getattr(settings, "task", None) or "transcribe"

    def _sanitize_parameters(  # type: ignore[override]
        self,
        chunk_length_s: float | None = None,
        return_timestamps: bool | str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **more_generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_timestamps not in (None, False, True, "word"):
            raise ValueError(f"return_timestamps is True or 'word' for Whisper, got {return_timestamps!r}")
        if chunk_length_s is not None and chunk_length_s < 0:
            raise ValueError(f"chunk_length_s is {chunk_length_s}; it must be positive")
        forward = {**(generate_kwargs or {}), **more_generate_kwargs}
        post: dict[str, Any] = {}
        if return_timestamps:
            forward["word_times"] = return_timestamps == "word"
            post["return_timestamps"] = return_timestamps
        return {"chunk_length_s": chunk_length_s} if chunk_length_s else {}, forward, post

    @property
    def window_s(self) -> float:
        """Seconds that the encoder reads."""
        return self.feature_extractor.n_samples / self.feature_extractor.sampling_rate

    def preprocess(self, inputs: Any, chunk_length_s: float | None = None, **_: Any) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        samples, extra = load_audio(inputs, rate)
        start_s = 0.0
        pieces = split_at_quiet(samples, rate, min(chunk_length_s or self.window_s, self.window_s))
        piece = next(pieces)
        while piece is not None:
            following = next(pieces, None)
            batch = self.feature_extractor(piece, sampling_rate=rate, return_tensors="pt", return_attention_mask=True)
            length_s = len(piece) / rate
            features = batch["input_features"] if self.dtype is None else batch["input_features"].to(self.dtype)
            yield {
                "is_last": following is None,
                "input_features": features,
                "attention_mask": batch["attention_mask"],
                "span_s": (start_s, start_s + length_s),
                **extra,
            }
            start_s, piece = start_s + length_s, following

    def _forward(self, model_inputs: dict[str, Any], word_times: bool = False, **options: Any) -> dict[str, Any]:
        features, mask = model_inputs.pop("input_features"), model_inputs.pop("attention_mask")
        options = self._prepare_generate_kwargs(options)
        model: Any = self.model
        if self.guards is None:
            output = model.generate(
                features, attention_mask=mask, return_token_timestamps=word_times or None, **options
            )
        else:
            guarded = {"guards": self.guards, "counts": self.counts, "return_token_timestamps": word_times}
            output = guarded_generate(model, features, mask, **guarded, **options)
        times = {"token_timestamps": output["token_timestamps"]} if word_times else {}
        return {"tokens": output["sequences"] if word_times else output, **times, **model_inputs}

    def postprocess(  # type: ignore[override]
        self, model_outputs: list[dict[str, Any]], return_timestamps: bool | str = False, **_: Any
    ) -> dict[str, Any]:
        chunks, texts = [], []
        for output in model_outputs:
            start, end = map(float, output["span_s"])
            words = self._read(output, return_timestamps == "word")
            text = "".join(word["text"] for word in words).strip()
            if not text:
                continue
            texts.append(text)
            if return_timestamps == "word":
                chunks += [
                    {"text": word["text"], "timestamp": tuple(min(start + t, end) for t in word["timestamp"])}
                    for word in words
                ]
            else:
                chunks.append({"text": text, "timestamp": (start, end)})
        result: dict[str, Any] = {"text": " ".join(texts)}
        if return_timestamps:
            result["chunks"] = chunks
        for output in model_outputs:
            for key, value in output.items():
                if key not in ("tokens", "token_timestamps", "is_last", "span_s"):
                    result.setdefault(key, []).append(value)
        return result

    def _read(self, output: dict[str, Any], by_word: bool) -> list[dict[str, Any]]:
        """The words of a piece with their times in it; without, its text as one."""
        ids = output["tokens"]
        if not by_word:
            return [{"text": self.tokenizer.decode(ids[0], skip_special_tokens=True)}]
        part = {"tokens": ids.numpy(), "token_timestamps": output["token_timestamps"].float()}
        precision = self.feature_extractor.chunk_length / self.model.config.max_source_positions
        _, found = self.tokenizer._decode_asr(
            [part], return_timestamps="word", return_language=None, time_precision=precision
        )
        return found["chunks"]
