"""Rows of emotional speech to batches of the classifiers: waveforms or cached features, transcripts, classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainers.collators import Row, SpeechInputs, pad_ids
from trainers.ser_cache import pad_features


class SERCollator:
    """Audio (and transcript) → class.

    Two rows of 0.1 s and 0.15 s, one with the transcript "ta", `labels` in the order of the model's classes:

    ```python
    {
        "input_values": tensor of shape (2, 2400),
        "attention_mask": tensor of shape (2, 2400),
        "input_ids": tensor([[9, 12], [0, 0]]),
        "text_attention_mask": tensor([[1, 1], [0, 0]]),
        "labels": tensor([1, 0]),
    }
    ```

    Rows of `trainers.ser_cache.FeatureCache` have `encoder_features` by the name of an encoder; they come padded, in
    half precision, with `encoder_masks`, and waveforms only where an encoder is left that is not cached. Everything
    random is drawn by `inputs` from (seed, epoch, row).

    Args:
        inputs (`SpeechInputs`): reads and augments the audio; its features are waveforms.
        class_ids (`Sequence[int]`): the model's id of each class of the rows.
        encoders (`Sequence[str]`): names of the encoders, for rows from a cache.
        tokenizer (*optional*): of the transcripts, where the model reads them.
        max_tokens (`int`): longer transcripts are cut.
    """

    def __init__(
        self,
        inputs: SpeechInputs,
        class_ids: Sequence[int],
        *,
        encoders: Sequence[str] = (),
        tokenizer: Any = None,
        max_tokens: int = 256,
    ):
        self.inputs = inputs
        self.class_ids = list(class_ids)
        self.encoders = list(encoders)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        cached: Mapping[str, Any] = rows[0].get("encoder_features") or {}
        if cached:
            features, masks = pad_features([row["encoder_features"] for row in rows])
            batch |= {"encoder_features": features, "encoder_masks": masks}
        if not cached or set(self.encoders) - set(cached):
            read = self.inputs(rows)
            batch |= {"input_values": read["input_features"], "attention_mask": read["attention_mask"]}
        if self.tokenizer is not None:
            batch |= self._transcripts(rows)
        labels = np.array([self.class_ids[row["label"]] for row in rows], dtype=np.int64)
        return {**batch, "labels": torch.from_numpy(labels)}

    def _transcripts(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Tokens of each row's text; of an empty one none, and at least one column."""
        texts = [(row.get("text") or "").strip() for row in rows]
        ids = [self.tokenizer(text)["input_ids"][: self.max_tokens] if text else [] for text in texts]
        width = max(1, max(map(len, ids)))
        padded = pad_ids([*ids, [0] * width], 0)[:-1]
        mask = pad_ids([*([1] * len(one) for one in ids), [0] * width], 0)[:-1]
        return {"input_ids": padded, "text_attention_mask": mask}
