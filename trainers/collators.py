"""Rows to batches: audio is decoded, phonemes looked up and augmentation drawn here, in the data loader's workers.

Everything random is a function of (seed, epoch, row id), never of a global generator, so a resumed run, another number
of workers or of ranks sees the same batches. Rows carry `epoch` in training only (`trainers.datasets_map.EpochRows`):
rows without it are neither augmented nor given sampled pronunciations.

Rows from a cache (`trainers.cache`) hold `encoder_states` or `phoneme_ids` and `s2p_states` instead of audio and go
through the same collators.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import torch

from data_scripts.audio import AudioError, read_audio
from data_scripts.augment import Augmenter, NoiseError
from data_scripts.spans import shuffle_words
from data_scripts.synthesis.confusions import PhonemeNoise
from models.tspc import speech_inputs

logger = logging.getLogger(__name__)

IGNORED = -100
SAMPLING_RATE_HZ = 16_000
MAX_REMEMBERED = 50_000
Row = Mapping[str, Any]
Batch = dict[str, torch.Tensor]


class RowError(ValueError):
    """A row that cannot become part of a batch; the message names the row, its file and what to do."""


def row_key(seed: int, row: Row) -> list[int]:
    """What the chances of one row in one epoch follow from; the same on every rank, worker and resumed run."""
    name = hashlib.blake2b(str(row["id"]).encode(), digest_size=8).digest()
    return [seed, row["epoch"], int.from_bytes(name, "little")]


def row_rng(seed: int, row: Row) -> np.random.Generator:
    """The generator of one row in one epoch."""
    return np.random.default_rng(row_key(seed, row))


def pad_ids(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Id sequences of several lengths as one (B, longest) tensor, padded on the right with `value`."""
    # copies: ids from a cache are read-only views of a memory map
    tensors = [torch.from_numpy(np.array(ids, dtype=np.int64)) for ids in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def pad_states(states: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """(num_frames, D) arrays as one float32 (B, longest, D) tensor, zero-padded, and its (B, longest) mask."""
    tensors = [torch.from_numpy(np.array(one, dtype=np.float32)) for one in states]
    mask = pad_ids([[1] * len(one) for one in states], 0)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), mask


class PhonemeLabels:
    """Texts as phoneme ids ending in `</s>`, remembered by text and language spans.

    Args:
        g2p: `data_scripts.text.g2p.G2P`, or anything with its `phonemise(text, spans, seed=, dialect=)`.
        tokenizer: the phoneme tokenizer.

    Raises:
        RowError: a symbol is not in the tokenizer, or a text has no phonemes at all.
    """

    def __init__(self, g2p: Any, tokenizer: Any):
        self.g2p = g2p
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.eos_token_id: int = tokenizer.eos_token_id
        self._remembered: dict[tuple, list[int]] = {}
        self._reported: set[str] = set()

    def __call__(self, row: Row, seed: int | None = None, dialect: str | None = None) -> list[int]:
        spans = [(span["start"], span["end"], span["lang"]) for span in row.get("spans") or ()]
        key = (row["text"], *spans)
        plain = seed is None and dialect is None
        if plain and key in self._remembered:
            return self._remembered[key]
        read = self.g2p.phonemise(row["text"], spans, seed=seed, dialect=dialect)
        if read.unknown:
            self._report(row, read.unknown)
        if not read.phonemes:
            raise RowError(f"row {row['id']!r}: no phonemes for text {row['text']!r}; validate the data to drop it")
        try:
            ids = [self.vocabulary[symbol] for symbol in read.phonemes]
        except KeyError as error:
            raise RowError(
                f"row {row['id']!r}: phoneme {error.args[0]!r} is not in the phoneme tokenizer; "
                "use the phoneme register that the model was built with"
            ) from None
        ids.append(self.eos_token_id)
        if plain and len(self._remembered) < MAX_REMEMBERED:
            self._remembered[key] = ids
        return ids

    def _report(self, row: Row, unknown: Sequence[str]) -> None:
        new = [word for word in unknown if word not in self._reported]
        self._reported.update(new)
        if new:
            logger.warning("row %r: no pronunciation for %s; left out of its phonemes", row["id"], new)


class SpeechInputs:
    """Audio of rows as model inputs: `input_features` and `attention_mask`, or cached `encoder_states` and their mask.

    The features are those that the processor and the pipeline compute.

    Args:
        feature_extractor: of a Whisper, Wav2Vec2, Wav2Vec2-BERT, Zipformer or FastConformer model.
        seed (`int`): seed of the augmentation.
        augmentation (`data_scripts.augment.Augmenter`, *optional*): changes training rows.

    Raises:
        RowError: audio that cannot be read, or is longer than the feature extractor's window.
    """

    def __init__(self, feature_extractor: Any, *, seed: int = 0, augmentation: Augmenter | None = None):
        self.feature_extractor = feature_extractor
        self.seed = seed
        self.augmentation = augmentation
        # Only Whisper's extractor has a window, and features with the bins before the frames.
        self.is_whisper = hasattr(feature_extractor, "n_samples")
        self.max_samples: int | None = feature_extractor.n_samples if self.is_whisper else None
        # Wav2Vec2-BERT's puts `stride` mel frames into one; the 10 ms between them are written into its code.
        self.frame_stack: int = getattr(feature_extractor, "stride", 1)
        hop = getattr(feature_extractor, "hop_length", SAMPLING_RATE_HZ // 100)
        self.frame_s = self.frame_stack * hop / SAMPLING_RATE_HZ

    def __call__(self, rows: Sequence[Row]) -> Batch:
        if "encoder_states" in rows[0]:
            states, mask = pad_states([row["encoder_states"] for row in rows])
            return {"encoder_states": states, "encoder_attention_mask": mask}
        # Only training rows are changed.
        keys = [row_key(self.seed, row) if "epoch" in row else None for row in rows]
        audio = [self._read(row, key) for row, key in zip(rows, keys, strict=True)]
        batch = speech_inputs(self.feature_extractor, audio, SAMPLING_RATE_HZ)
        # A waveform has no bins to mask.
        if self.augmentation is not None and batch["input_features"].ndim == 3:
            self._mask(self.augmentation, batch["input_features"], batch["attention_mask"], keys)
        return batch

    def _read(self, row: Row, key: Sequence[int] | None) -> np.ndarray:
        try:
            audio = read_audio(row["audio"], SAMPLING_RATE_HZ)
        except (AudioError, OSError) as error:
            raise RowError(f"row {row['id']!r}: {error}; validate the data to drop such rows") from error
        if self.max_samples is not None and len(audio) > self.max_samples:
            # The extractor would cut it silently and train on text that was never spoken.
            raise RowError(
                f"row {row['id']!r} lasts {len(audio) / SAMPLING_RATE_HZ:.1f} s, but the encoder's window is "
                f"{self.max_samples / SAMPLING_RATE_HZ:.1f} s; lower data.max_duration_s"
            )
        if self.augmentation is None or key is None:
            return audio
        try:
            return self.augmentation.waveform(audio, key, row.get("emotion"), self.max_samples)
        except NoiseError as error:
            raise RowError(f"row {row['id']!r}: data.augmentation.{error}") from error

    def _mask(
        self, augmentation: Augmenter, features: torch.Tensor, mask: torch.Tensor, keys: Sequence[Sequence[int] | None]
    ) -> None:
        """Masks the true frames of training rows in place."""
        by_time = features.transpose(1, 2) if self.is_whisper else features
        for index, key in enumerate(keys):
            if key is not None:
                frames = by_time[index, : int(mask[index].sum())]
                masked = augmentation.features(frames.numpy(), key, frame_s=self.frame_s, frame_stack=self.frame_stack)
                frames.copy_(torch.from_numpy(masked))


class S2PCollator:
    """Audio → phonemes.

    Two rows, "ta" (0.03 s) and "xin" (0.05 s), `</s>` = 1, a Whisper extractor (frames of 10 ms, an even number):

    ```python
    {
        "input_features": tensor of shape (2, 80, 6),
        "attention_mask": tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]),
        "labels": tensor([[9, 30, 7, 1, -100], [11, 34, 15, 7, 1]]),
    }
    ```

    Cached rows give `encoder_states` (B, T, D) and `encoder_attention_mask` (B, T) in place of the first two.

    Args:
        inputs (`SpeechInputs`): makes the model inputs.
        labels (`PhonemeLabels`): makes the target phonemes, the most probable pronunciation.
        max_phonemes (`int`, *optional*): places of the decoder, `</s>` included.

    Raises:
        RowError: a label longer than the decoder.
    """

    def __init__(self, inputs: SpeechInputs, labels: PhonemeLabels, max_phonemes: int | None = None):
        self.inputs = inputs
        self.labels = labels
        self.max_phonemes = max_phonemes

    def __call__(self, rows: Sequence[Row]) -> Batch:
        labels = [self.labels(row) for row in rows]
        for row, one in zip(rows, labels, strict=True):
            if self.max_phonemes is not None and len(one) > self.max_phonemes:
                raise RowError(
                    f"row {row['id']!r}: {len(one)} phonemes with </s>, the decoder has {self.max_phonemes} places; "
                    "take the row out, or train with a higher model.s2p.max_phonemes"
                )
        return {**self.inputs(rows), "labels": pad_ids(labels, IGNORED)}


class TextLabels:
    """Texts as ids ending in `</s>`, by the text tokenizer.

    Args:
        tokenizer: of the text.
        num_embeddings (`int`, *optional*): rows of the model's text embedding, for a check.

    Raises:
        RowError: an id without a row in the embedding.
    """

    def __init__(self, tokenizer: Any, num_embeddings: int | None = None):
        self.tokenizer = tokenizer
        self.num_embeddings = num_embeddings

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        eos = self.tokenizer.eos_token_id
        ids = self.tokenizer([row["text"] for row in rows], add_special_tokens=True)["input_ids"]
        for row, one in zip(rows, ids, strict=True):
            if self.num_embeddings is not None and max(one, default=0) >= self.num_embeddings:
                raise RowError(
                    f"row {row['id']!r}: its text has token id {max(one)}, the model's embedding has "
                    f"{self.num_embeddings} rows; use the tokenizer that the model was built with"
                )
        return pad_ids([one if one and one[-1] == eos else [*one, eos] for one in ids], IGNORED)


class P2TCollator:
    """Phonemes → text.

    Two rows, "ta" and "xin chào", `</s>` = 1, `<pad>` = 0:

    ```python
    {
        "input_ids": tensor([[9, 30, 7, 1, 0, 0, 0, 0], [11, 34, 15, 7, 22, 30, 40, 1]]),
        "attention_mask": tensor([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]),
        "labels": tensor([[50, 1, -100], [61, 72, 1]]),
    }
    ```

    Training rows get a pronunciation sampled by (seed, epoch, row) and, with `noise`, the mistakes of S2P: phonemes
    replaced by their phonetic neighbours, dropped or added (`data_scripts.synthesis.confusions`), in some sentences
    many and in others none. With `shuffle`, that share of them has its words in random order, in input and target
    alike: a decoder that sees sentences only learns to guess what usually follows long before it learns to read.

    Args:
        phonemes (`PhonemeLabels`), text (`TextLabels`): make inputs and targets.
        noise (`float`): mean share of phonemes changed in training, in [0, 1).
        shuffle (`float`): share of training sentences whose words are shuffled, in [0, 1].
        seed (`int`): seed of pronunciations and noise.
        dialect (`str`, *optional*): pronunciation of rows that name no dialect.
    """

    def __init__(
        self,
        phonemes: PhonemeLabels,
        text: TextLabels,
        *,
        noise: float = 0.0,
        shuffle: float = 0.0,
        seed: int = 0,
        dialect: str | None = None,
    ):
        if not 0 <= noise < 1:
            raise ValueError(f"noise must be in [0, 1), got {noise}")
        if not 0 <= shuffle <= 1:
            raise ValueError(f"shuffle must be in [0, 1], got {shuffle}")
        self.phonemes = phonemes
        self.text = text
        self.noise = noise
        self.shuffle = shuffle
        self.seed = seed
        self.dialect = dialect
        self.symbols = {i: symbol for symbol, i in phonemes.vocabulary.items()}
        special = {"<pad>", "</s>", "<unk>", "<s>"}
        self.errors = PhonemeNoise(self.symbols[i] for i in sorted(self.symbols) if self.symbols[i] not in special)

    def __call__(self, rows: Sequence[Row]) -> Batch:
        rows = [self._shuffled(row) for row in rows]
        inputs = [self._read(row) for row in rows]
        mask = pad_ids([[1] * len(ids) for ids in inputs], 0)
        return {"input_ids": pad_ids(inputs, 0), "attention_mask": mask, "labels": self.text(rows)}

    def _shuffled(self, row: Row) -> Row:
        if not self.shuffle or "epoch" not in row:
            return row
        rng = row_rng(self.seed + 1, row)
        if rng.random() >= self.shuffle:
            return row
        text, spans = shuffle_words(row["text"], row.get("spans") or (), rng)
        return {**row, "text": text, "spans": spans}

    def _read(self, row: Row) -> list[int]:
        dialect = row.get("dialect") or self.dialect
        if "epoch" not in row:
            return self.phonemes(row, dialect=dialect)
        rng = row_rng(self.seed, row)
        *ids, eos = self.phonemes(row, seed=int(rng.integers(2**31)), dialect=dialect)
        return [*self._disturb(ids, rng), eos]

    def _disturb(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        if not self.noise:
            return ids
        heard = [self.symbols[i] for i in ids]
        heard = self.errors.corrupt_sentence(heard, Random(int(rng.integers(2**63))), self.noise)
        return [self.phonemes.vocabulary[symbol] for symbol in heard]


class TSPCCollator:
    """Audio → text.

    Two rows, "ta" and "xin chào", with audio:

    ```python
    {
        "input_features": tensor of shape (2, 80, 24),
        "attention_mask": tensor of shape (2, 24),
        "labels": tensor([[50, 1, -100], [61, 72, 1]]),
    }
    ```

    Rows from `trainers.cache.S2POutputCache` instead give what the frozen S2P heard, `</s>` included:

    ```python
    {
        "phoneme_ids": tensor([[9, 30, 7, 1, 0], [11, 34, 15, 7, 1]]),
        "phoneme_attention_mask": tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
        "s2p_states": tensor of shape (2, 5, D),
        "labels": tensor([[50, 1, -100], [61, 72, 1]]),
    }
    ```

    Args:
        inputs (`SpeechInputs`): makes the model inputs.
        text (`TextLabels`): makes the targets.
    """

    def __init__(self, inputs: SpeechInputs, text: TextLabels):
        self.inputs = inputs
        self.text = text

    def __call__(self, rows: Sequence[Row]) -> Batch:
        labels = self.text(rows)
        if "s2p_states" not in rows[0]:
            return {**self.inputs(rows), "labels": labels}
        states, mask = pad_states([row["s2p_states"] for row in rows])
        ids = pad_ids([row["phoneme_ids"] for row in rows], 0)
        return {"phoneme_ids": ids, "phoneme_attention_mask": mask, "s2p_states": states, "labels": labels}
