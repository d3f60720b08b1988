"""The ASR pipeline of TSPC and S2P; it is published with the checkpoint and needs neither ffmpeg nor torchaudio."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

from .audio_input import load_audio, split_at_quiet
from .processing_tspc import check_compatible, speech_inputs

# Longest piece for encoders without a window of their own (Wav2Vec2).
DEFAULT_PIECE_S = 30.0


class TSPCPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribes a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of these.

    Audio longer than the encoder's window (or than `chunk_length_s`) is cut at quiet points without overlap.

    Call parameters:
        chunk_length_s: longest piece in seconds; never more than the encoder's window.
        return_phonemes: also give `phonemes`, what S2P heard, space-joined.
        generate_kwargs: options of the text decoder, e.g. `{"num_beams": 4}`.

    Returns (for each input): `{"text": str}`, with `"phonemes": str` when asked for. An S2P model's text is its
    phonemes.
    """

    feature_extractor: Any
    _load_processor = None  # used where it is there: it holds the phoneme tokenizer
    _default_generation_config = None  # greedy, and bounded by the model itself

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        self.type = "seq2seq"
        for part in ("feature_extractor", "tokenizer"):
            if getattr(self, part) is None and self.processor is not None:
                setattr(self, part, getattr(self.processor, part))
            if getattr(self, part) is None:
                raise ValueError(f"the pipeline needs a {part}: none is saved with the model, and none was given")
        check_compatible(
            model.config,
            feature_extractor=self.feature_extractor,
            tokenizer=self.tokenizer,
            phoneme_tokenizer=getattr(self.processor, "phoneme_tokenizer", None),
        )
        self._phoneme_tokenizer = getattr(self.processor, "phoneme_tokenizer", None)

    @property
    def phoneme_tokenizer(self) -> Any:
        """The phoneme tokenizer: of the processor, or from the model's folder."""
        if self.model.config.model_type == "tspc_s2p":
            return self.tokenizer
        if self._phoneme_tokenizer is None:
            source = self.model.name_or_path
            try:
                self._phoneme_tokenizer = AutoTokenizer.from_pretrained(
                    source, subfolder="phoneme_tokenizer", trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"return_phonemes needs the phoneme tokenizer, which is not in {source or 'the model'!r}; pass "
                    "processor=TSPCProcessor.from_pretrained(...) to pipeline()"
                ) from error
            check_compatible(self.model.config, phoneme_tokenizer=self._phoneme_tokenizer)
        return self._phoneme_tokenizer

    def _sanitize_parameters(
        self,
        chunk_length_s: float | None = None,
        stride_length_s: Any = None,
        return_timestamps: Any = None,
        return_language: Any = None,
        decoder_kwargs: Any = None,
        ignore_warning: Any = None,
        return_phonemes: bool | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **more_generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_timestamps:
            raise ValueError("return_timestamps is not supported: TSPC emits text without times")
        if return_language or decoder_kwargs:
            raise ValueError("return_language and decoder_kwargs are not supported by TSPC")
        if stride_length_s:
            raise ValueError(
                "stride_length_s is not supported: TSPC cuts at quiet points without overlap; leave it out"
            )
        if chunk_length_s is not None and chunk_length_s < 0:
            raise ValueError(f"chunk_length_s is {chunk_length_s}; it must be positive")
        generation = {**(generate_kwargs or {}), **more_generate_kwargs}
        if (generation.get("num_return_sequences") or 1) > 1:
            raise ValueError("num_return_sequences above 1 is not supported: the pipeline gives one text an input")
        preprocess = {"chunk_length_s": chunk_length_s} if chunk_length_s else {}
        forward, post = dict(generation), {}
        if return_phonemes is not None:
            forward["return_phonemes"] = post["return_phonemes"] = bool(return_phonemes)
        return preprocess, forward, post

    @property
    def longest_piece_s(self) -> float:
        """The encoder's window in seconds."""
        samples = getattr(self.feature_extractor, "n_samples", None)
        return samples / self.feature_extractor.sampling_rate if samples else DEFAULT_PIECE_S

    def preprocess(self, inputs: Any, chunk_length_s: float | None = None, **_: Any) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        samples, extra = load_audio(inputs, rate)
        longest_s = min(chunk_length_s or self.longest_piece_s, self.longest_piece_s)
        pieces = split_at_quiet(samples, rate, longest_s)
        piece = next(pieces)
        while piece is not None:
            following = next(pieces, None)
            batch = speech_inputs(self.feature_extractor, [piece])
            features = batch["input_features"]
            # The pipeline pads its batches along the second axis: time has to be there.
            features = features.transpose(1, 2) if self._is_log_mel else features
            yield {
                "is_last": following is None,
                "input_features": features,
                "attention_mask": batch["attention_mask"],
                **extra,
            }
            piece = following

    @property
    def _is_log_mel(self) -> bool:
        return hasattr(self.feature_extractor, "n_fft")

    def _forward(
        self, model_inputs: dict[str, Any], return_phonemes: bool = False, **generate_kwargs: Any
    ) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        features = model_inputs.pop("input_features")
        features = features.transpose(1, 2) if self._is_log_mel else features
        options = self._prepare_generate_kwargs(generate_kwargs)
        joint = self.model.config.model_type == "tspc"
        if joint:
            options["return_phonemes"] = True
        model: Any = self.model
        output: Any = model.generate(
            input_features=features, attention_mask=model_inputs.pop("attention_mask"), **options
        )
        tokens = output if isinstance(output, torch.Tensor) else output["sequences"]
        phonemes = tokens if isinstance(output, torch.Tensor) or not joint else output["phoneme_ids"]
        return {"is_last": is_last, "tokens": tokens, "phonemes": phonemes, **model_inputs}

    def postprocess(
        self, model_outputs: list[dict[str, Any]], return_phonemes: bool = False, **_: Any
    ) -> dict[str, Any]:
        result: dict[str, Any] = {"text": self._join(model_outputs, "tokens", self.tokenizer)}
        if return_phonemes:
            result["phonemes"] = self._join(model_outputs, "phonemes", self.phoneme_tokenizer)
        for output in model_outputs:
            for key, value in output.items():
                if key not in ("tokens", "phonemes", "is_last"):
                    result.setdefault(key, []).append(value)
        return result

    @staticmethod
    def _join(outputs: list[dict[str, Any]], key: str, tokenizer: Any) -> str:
        pieces = [tokenizer.decode(output[key][0], skip_special_tokens=True).strip() for output in outputs]
        return " ".join(piece for piece in pieces if piece)
