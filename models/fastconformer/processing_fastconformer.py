"""Processor of FastConformer: feature extractor and tokenizer, saved and loaded together."""

import os
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, ProcessorMixin

from .configuration_fastconformer import PARAKEET_HEADS, FastConformerConfig
from .feature_extraction_fastconformer import FastConformerFeatureExtractor


class FastConformerProcessor(ProcessorMixin):
    """Audio to features, text to labels.

    Example:
        >>> processor(audio=samples, text="xin chào", sampling_rate=16_000)
        {"input_features": (1, T, 80), "attention_mask": (1, T), "labels": (1, U)}
    """

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(feature_extractor, tokenizer, **kwargs)

    @classmethod
    def from_parakeet(cls, id_or_path: str | os.PathLike, **hub_kwargs: Any) -> "FastConformerProcessor":
        """The processor of a stock Parakeet checkpoint (a Hub id or folder) for the same model as a FastConformer.

        Raises:
            ValueError: a checkpoint of another kind.
        """
        config = FastConformerConfig.from_pretrained(id_or_path, **hub_kwargs)
        if config.model_type not in (FastConformerConfig.model_type, *PARAKEET_HEADS):
            raise ValueError(f"{id_or_path} is a {config.model_type!r} checkpoint, not a Parakeet or FastConformer")
        extractor = FastConformerFeatureExtractor.from_pretrained(id_or_path, **hub_kwargs)
        tokenizer = AutoTokenizer.from_pretrained(id_or_path, trust_remote_code=False, **hub_kwargs)
        return cls(extractor, plain_tokenizer(tokenizer))

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        audio: Any = None,
        text: str | list[str] | None = None,
        *,
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        **_: Any,
    ) -> dict[str, torch.Tensor]:
        """Audio (one array or several) and text -> batch of tensors; `labels` are padded with -100.

        Raises:
            ValueError: nothing given, audio without its sampling rate, or at another than the model hears.
        """
        if audio is None and text is None:
            raise ValueError("the processor got nothing: give audio, text or both")
        encoded: dict[str, torch.Tensor] = {}
        if audio is not None:
            if sampling_rate is None:
                rate = self.feature_extractor.sampling_rate
                raise ValueError(
                    f"sampling_rate is not given: samples alone do not tell their rate; pass that of the recording, "
                    f"which must be {rate} Hz (sampling_rate={rate})"
                )
            encoded.update(
                self.feature_extractor(audio, sampling_rate=sampling_rate, padding=padding, return_tensors="pt")
            )
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            batch = self.tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
            # -100 is what losses ignore.
            encoded["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return encoded


def plain_tokenizer(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer whose `decode` keeps repeated tokens. Parakeet's merges them, as if they were frames of CTC."""
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, clean_up_tokenization_spaces=False, **specials
    )


def check_compatible(config: Any, *, feature_extractor: Any = None, tokenizer: Any = None) -> None:
    """Refuse a processor that was not made for the model; parts given as `None` are not checked.

    Raises:
        ValueError: vocabularies or features of different sizes; both sizes are named.
    """
    if tokenizer is not None and len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {config.vocab_size}: they come from different "
            "checkpoints; load both from one folder"
        )
    if feature_extractor is not None and feature_extractor.feature_size != config.num_mel_bins:
        raise ValueError(
            f"the feature extractor makes {feature_extractor.feature_size} mel bins but the model reads "
            f"{config.num_mel_bins}"
        )


AutoProcessor.register(FastConformerConfig, FastConformerProcessor, exist_ok=True)
FastConformerProcessor.register_for_auto_class("AutoProcessor")
