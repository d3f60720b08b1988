"""Processor of a Zipformer, and the check that a processor fits a model."""

from typing import Any

import torch
from transformers import AutoProcessor, ProcessorMixin

from .configuration_zipformer import ZipformerConfig
from .features_zipformer import ZipformerFeatureExtractor  # noqa: F401  (the import makes save_pretrained ship it)


class ZipformerProcessor(ProcessorMixin):
    """Feature extractor and BPE tokenizer.

    Example:
        >>> processor(audio=samples, sampling_rate=16_000, text="xin chào")  # "hello"
        {"input_features": ..., "attention_mask": ..., "labels": tensor([[..., ...]])}
    """

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(feature_extractor, tokenizer, **kwargs)

    def __call__(
        self, audio: Any = None, text: str | list[str] | None = None, *, sampling_rate: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Audio (one array or several) and text -> batch of tensors; `labels` padded with -100, without a blank.

        Raises:
            ValueError: nothing given, or audio without its sampling rate or at another than the model hears.
        """
        if audio is None and text is None:
            raise ValueError("the processor got nothing: give audio, text or both")
        encoded: dict[str, Any] = {}
        if audio is not None:
            if sampling_rate is None:
                rate = self.feature_extractor.sampling_rate
                raise ValueError(
                    "sampling_rate is not given: samples alone do not tell their rate; pass that of the recording, "
                    f"which must be {rate} Hz (sampling_rate={rate})"
                )
            encoded.update(self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors="pt"))
        if text is not None:
            batch = self.tokenizer([text] if isinstance(text, str) else list(text), padding=True, return_tensors="pt")
            # -100 is what losses ignore.
            encoded["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return encoded


def check_compatible(config: ZipformerConfig, *, feature_extractor: Any = None, tokenizer: Any = None) -> None:
    """Refuse a processor that was not made for the model; parts given as `None` are not checked.

    Raises:
        ValueError: vocabularies of different sizes, another blank, or features of another width or rate.
    """
    if tokenizer is not None:
        if len(tokenizer) != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens but the model emits {config.vocab_size}: they come from "
                "different checkpoints; load both from one folder"
            )
        if tokenizer.pad_token_id != config.blank_token_id:
            raise ValueError(
                f"the tokenizer's pad token, which stands for the blank, has id {tokenizer.pad_token_id} but the "
                f"model's blank is {config.blank_token_id}; load both from one folder"
            )
    if feature_extractor is None:
        return
    if feature_extractor.feature_size != config.num_mel_bins:
        raise ValueError(
            f"the feature extractor makes {feature_extractor.feature_size} mel bins but the encoder expects "
            f"{config.num_mel_bins}"
        )
    shift_s = getattr(feature_extractor, "frame_shift_s", None)
    if shift_s is None or abs(shift_s - config.frame_shift_s) > 1e-9:
        raise ValueError(
            f"{type(feature_extractor).__name__} does not make a frame every {config.frame_shift_s:g} s; use a "
            "ZipformerFeatureExtractor"
        )


AutoProcessor.register(ZipformerConfig, ZipformerProcessor, exist_ok=True)
ZipformerProcessor.register_for_auto_class("AutoProcessor")
