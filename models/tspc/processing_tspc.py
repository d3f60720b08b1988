"""Processors of S2P and TSPC, the phoneme tokenizer, and the check that a processor fits a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from .audio_input import MAX_CHANNELS, to_mono
from .configuration_tspc import S2PConfig, TSPCConfig

SPECIAL_PHONEMES = ("<pad>", "</s>", "<unk>", "<s>")
# Shorter audio is extended with silence: Wav2Vec2's convolutions need 25 ms, stacked fbanks two frames.
SHORTEST_S = 0.05
# Text embeddings are often padded to a round size (T5: 32,100 tokens in 32,128 rows).
SPARE_TEXT_ROWS = 256


def build_phoneme_tokenizer(symbols: Sequence[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of space-joined phonemes ("t i -0" -> ids and `</s>`); it round-trips exactly.

    Args:
        symbols: phoneme symbols in a stable order; they get ids from 4. `<pad>` 0, `</s>` 1, `<unk>` 2, `<s>` 3.

    Raises:
        ValueError: no symbols, duplicates, white space in a symbol or the name of a special token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    symbols = list(symbols)
    if not symbols:
        raise ValueError("the phoneme tokenizer needs at least one symbol")
    repeated = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if repeated:
        raise ValueError(f"phoneme symbols must be unique; repeated: {', '.join(map(repr, repeated))}")
    for symbol in symbols:
        if not symbol or symbol.split() != [symbol] or symbol in SPECIAL_PHONEMES:
            raise ValueError(
                f"{symbol!r} cannot be a phoneme symbol: symbols hold no white space and differ from "
                f"{', '.join(SPECIAL_PHONEMES)}"
            )
    vocabulary = {symbol: index for index, symbol in enumerate([*SPECIAL_PHONEMES, *symbols])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def speech_inputs(
    feature_extractor: Any, waveforms: Sequence[np.ndarray], sampling_rate: int | None = None
) -> dict[str, torch.Tensor]:
    """Waveforms -> what S2P reads: features of the true frames and their mask, padded to the longest.

    The features of an utterance do not depend on its batch. For Whisper they equal the feature extractor's on the full
    30-second window, at a seventh of the cost: only the frames whose window touches the audio are computed (in an even
    number), and `encoder_window="padded"` models fill in the silence themselves.

    Args:
        feature_extractor: of a Whisper, Wav2Vec2 or Wav2Vec2-BERT checkpoint.
        waveforms: mono float arrays in [-1, 1] at the extractor's rate.
        sampling_rate: their rate in Hz, checked when given.

    Returns:
        `{"input_features": (B, F, L) log-mel | (B, N) waveform | (B, L, features), "attention_mask": (B, L)}`.

    Raises:
        ValueError: another rate; audio that is empty, not finite, not one-dimensional or longer than the window.
    """
    rate = feature_extractor.sampling_rate
    if sampling_rate is not None and sampling_rate != rate:
        raise ValueError(f"audio is at {sampling_rate} Hz but the model hears {rate} Hz; resample it first")
    shortest = int(SHORTEST_S * rate)
    audio = []
    for index, waveform in enumerate(waveforms):
        samples = check_waveform(waveform, f"audio {index}")
        audio.append(np.pad(samples, (0, max(0, shortest - len(samples)))))
    if hasattr(feature_extractor, "n_samples"):  # the window of a Whisper
        return _log_mel(feature_extractor, audio)
    # Frames that are stacked: the longest utterance would lose its last few, the others would not.
    stacked = {"pad_to_multiple_of": feature_extractor.stride} if hasattr(feature_extractor, "stride") else {}
    batch = feature_extractor(
        audio, sampling_rate=rate, padding="longest", return_attention_mask=True, return_tensors="pt", **stacked
    )
    features = batch["input_features"] if "input_features" in batch else batch["input_values"]
    return {"input_features": features, "attention_mask": batch["attention_mask"].long()}


def check_waveform(waveform: Any, name: str) -> np.ndarray:
    """One-dimensional float32 samples (integers are scaled to [-1, 1)), or a ValueError that names the audio."""
    samples = np.asarray(waveform)
    if samples.ndim == 1 and samples.dtype.kind in "iu":
        samples = to_mono(samples, name)
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim != 1:
        raise ValueError(f"{name} has shape {samples.shape}; it must be mono, (samples,)")
    if samples.size == 0:
        raise ValueError(f"{name} is empty: it has no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(samples)).sum())} samples that are NaN or infinite")
    return samples


def _log_mel(feature_extractor: Any, audio: list[np.ndarray]) -> dict[str, torch.Tensor]:
    hop, half_window = feature_extractor.hop_length, feature_extractor.n_fft // 2
    window_frames = feature_extractor.n_samples // hop
    window = torch.hann_window(feature_extractor.n_fft)
    filters = torch.from_numpy(np.asarray(feature_extractor.mel_filters)).float()
    features = []
    for index, samples in enumerate(audio):
        if len(samples) > feature_extractor.n_samples:
            rate = feature_extractor.sampling_rate
            raise ValueError(
                f"audio {index} lasts {len(samples) / rate:.1f} s but the encoder's window is "
                f"{feature_extractor.n_samples / rate:g} s; split it (chunk_length_s in the pipeline)"
            )
        # Frame t sees the samples around t * hop, half a window each way; the second convolution has stride 2.
        frames = -(-(len(samples) + half_window) // hop)
        frames = min(frames + frames % 2, window_frames)
        extended = torch.zeros(min(len(samples) + 2 * hop + 2 * half_window, feature_extractor.n_samples))
        extended[: len(samples)] = torch.from_numpy(samples)
        # The operations of `WhisperFeatureExtractor`, to the bit; what it does around them takes a third of its time.
        spectrum = torch.stft(extended, feature_extractor.n_fft, hop, window=window, return_complex=True)
        mel = torch.clamp(filters.T @ (spectrum[..., :-1].abs() ** 2).contiguous(), min=1e-10).log10()
        features.append(((torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0)[:, :frames])
    longest = max(mel.shape[1] for mel in features)
    batch = torch.zeros(len(features), features[0].shape[0], longest)
    mask = torch.zeros(len(features), longest, dtype=torch.long)
    for row, mel in enumerate(features):
        batch[row, :, : mel.shape[1]] = mel
        mask[row, : mel.shape[1]] = 1
    return {"input_features": batch, "attention_mask": mask}


def as_list(value: Any) -> list:
    """One utterance or several -> several. A list of numbers is one waveform, (samples, channels) one recording."""
    if isinstance(value, list | tuple) and value and not np.isscalar(value[0]):
        return list(value)
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 2:
        # As files are read: (16000, 2) is a second in stereo, not 16,000 utterances.
        return [to_mono(value, "audio")] if value.shape[1] <= MAX_CHANNELS < value.shape[0] else list(value)
    return [value]


class _SpeechProcessor(ProcessorMixin):
    """What both processors do with audio and targets."""

    def _encode(
        self, audio: Any, sampling_rate: int | None, targets: dict[str, tuple[PreTrainedTokenizerBase, Any]]
    ) -> dict[str, Any]:
        if audio is None and all(value is None for _, value in targets.values()):
            raise ValueError("the processor got nothing: give audio, text or phonemes")
        encoded: dict[str, Any] = {}
        if audio is not None and sampling_rate is None:
            rate = self.feature_extractor.sampling_rate
            raise ValueError(
                f"sampling_rate is not given: samples alone do not tell their rate; pass that of the recording, which "
                f"must be {rate} Hz (sampling_rate={rate})"
            )
        if audio is not None:
            encoded.update(speech_inputs(self.feature_extractor, as_list(audio), sampling_rate))
        for key, (tokenizer, value) in targets.items():
            if value is None:
                continue
            batch = tokenizer([value] if isinstance(value, str) else list(value), padding=True, return_tensors="pt")
            # -100 is what losses ignore.
            encoded[key] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return encoded


class S2PProcessor(_SpeechProcessor):
    """Feature extractor and phoneme tokenizer (`tokenizer`) of an S2P.

    Example:
        >>> processor(audio=samples, sampling_rate=16_000, phonemes="t i -0")
        {"input_features": ..., "attention_mask": ..., "labels": tensor([[.., .., .., 1]])}
    """

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(feature_extractor, tokenizer, **kwargs)

    def __call__(
        self, audio: Any = None, phonemes: str | list[str] | None = None, *, sampling_rate: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Audio (one array or several) and space-joined phonemes -> batch of tensors; `labels` padded with -100.

        Raises:
            ValueError: audio without its sampling rate, or at another than the model hears; see `speech_inputs`.
        """
        return self._encode(audio, sampling_rate, {"labels": (self.tokenizer, phonemes)})


class TSPCProcessor(_SpeechProcessor):
    """Feature extractor, text tokenizer (`tokenizer`) and phoneme tokenizer (saved in `phoneme_tokenizer/`)."""

    def __init__(
        self, feature_extractor: Any = None, tokenizer: Any = None, phoneme_tokenizer: Any = None, **kwargs: Any
    ):
        super().__init__(feature_extractor, tokenizer, phoneme_tokenizer, **kwargs)

    def __call__(
        self, audio: Any = None, text: str | list[str] | None = None, *, sampling_rate: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Audio (one array or several) and text -> batch of tensors; `labels` padded with -100.

        Raises:
            ValueError: audio without its sampling rate, or at another than the model hears; see `speech_inputs`.
        """
        return self._encode(audio, sampling_rate, {"labels": (self.tokenizer, text)})

    def decode_phonemes(self, phoneme_ids: Any) -> list[str]:
        """(B, U) ids -> space-joined phonemes of each utterance."""
        return self.phoneme_tokenizer.batch_decode(phoneme_ids, skip_special_tokens=True)


def check_compatible(
    config: Any, *, feature_extractor: Any = None, tokenizer: Any = None, phoneme_tokenizer: Any = None
) -> None:
    """Refuse a processor that was not made for the model; parts given as `None` are not checked.

    Args:
        config: `S2PConfig` (where `tokenizer` is the phoneme tokenizer), `P2TConfig` or `TSPCConfig`.

    Raises:
        ValueError: vocabularies of different sizes, or features of another shape; both sizes are named.
    """
    kind = config.model_type
    s2p_config = config.s2p_config if kind == "tspc" else config
    if kind == "tspc_s2p":
        phoneme_tokenizer = tokenizer
    elif tokenizer is not None and not 0 <= config.vocab_size - len(tokenizer) <= SPARE_TEXT_ROWS:
        raise ValueError(
            f"the text tokenizer has {len(tokenizer)} tokens but the model has {config.vocab_size} text "
            "embeddings: they come from different checkpoints; load both from one folder"
        )
    phonemes, does = (config.phoneme_vocab_size, "reads") if kind == "tspc_p2t" else (s2p_config.vocab_size, "emits")
    if phoneme_tokenizer is not None and len(phoneme_tokenizer) != phonemes:
        raise ValueError(
            f"the phoneme tokenizer has {len(phoneme_tokenizer)} tokens but the model {does} {phonemes}: "
            "they come from different checkpoints; load both from one folder"
        )
    if kind == "tspc_p2t":
        return
    encoder = s2p_config.encoder_config
    if feature_extractor is None:
        return
    makes_log_mel = hasattr(feature_extractor, "n_fft")
    if makes_log_mel != (encoder.model_type == "whisper"):
        raise ValueError(
            f"{type(feature_extractor).__name__} does not make inputs for a {encoder.model_type!r} encoder; use the "
            "feature extractor of the encoder's checkpoint"
        )
    if makes_log_mel and feature_extractor.feature_size != encoder.num_mel_bins:
        raise ValueError(
            f"the feature extractor makes {feature_extractor.feature_size} mel bins but the encoder expects "
            f"{encoder.num_mel_bins}"
        )
    if (
        makes_log_mel
        and feature_extractor.n_samples // feature_extractor.hop_length > 2 * encoder.max_source_positions
    ):
        raise ValueError(
            f"the feature extractor's window is {feature_extractor.chunk_length} s but the encoder holds "
            f"{encoder.max_source_positions / 50:g} s; set chunk_length of the feature extractor to that"
        )


for _config, _processor in ((S2PConfig, S2PProcessor), (TSPCConfig, TSPCProcessor)):
    AutoProcessor.register(_config, _processor, exist_ok=True)
    _processor.register_for_auto_class("AutoProcessor")
