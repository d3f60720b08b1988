"""Rows to batches for recognisers that align word pieces with frames: transducers and CTC."""

from collections.abc import Sequence
from typing import Any

import torch

from trainers.collators import IGNORED, Batch, Row, RowError, SpeechInputs, pad_ids


class PieceLabels:
    """Texts as word pieces, without blanks and without a token of the end: what aligned recognisers emit.

    Args:
        tokenizer: of the text.
        vocab_size (`int`): tokens of the model, the blank included.

    Raises:
        RowError: a piece that the model does not have.
    """

    def __init__(self, tokenizer: Any, vocab_size: int):
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        ids = self.tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
        for row, one in zip(rows, ids, strict=True):
            if max(one, default=0) >= self.vocab_size:
                raise RowError(
                    f"row {row['id']!r}: its text has token id {max(one)}, the model has {self.vocab_size} tokens; "
                    "use the tokenizer that the model was built with"
                )
        return pad_ids(ids, IGNORED)


class AlignedCollator:
    """Audio → word pieces, for recognisers that align them with frames.

    Two rows, "ta" (0.03 s) and "xin" (0.05 s):

    ```python
    {
        "input_features": tensor of shape (2, 9, 80),
        "attention_mask": tensor of shape (2, 9),
        "labels": tensor([[50, -100], [61, 72]]),
    }
    ```

    Args:
        inputs (`SpeechInputs`): makes the model inputs.
        labels (`PieceLabels`): makes the targets.
    """

    def __init__(self, inputs: SpeechInputs, labels: PieceLabels):
        self.inputs = inputs
        self.labels = labels

    def __call__(self, rows: Sequence[Row]) -> Batch:
        return {**self.inputs(rows), "labels": self.labels(rows)}
