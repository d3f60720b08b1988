"""The text stream: a small network over the tokens of a transcript, whose pooled states are the text features.

Shape legend: B batch, U tokens, D width of the embeddings, S width of the features, C classes.
"""

import torch
from torch import nn

from .configuration_dfat import DFATConfig

PAD_ID = 0


class TextNetwork(nn.Module):
    """Tokens -> features (the mean of the states over the tokens) and, by one linear layer, the classes.

    An empty transcript reads as one padding token, whose embedding is learned where training has empty transcripts.
    What a transcript gives does not depend on how far its batch was padded.
    """

    def __init__(self, config: DFATConfig):
        super().__init__()
        width, size = config.text_embedding_size, config.text_size
        self.max_tokens = config.text_max_tokens
        self.embedding = nn.Embedding(config.text_vocab_size or 1, width)
        self.dropout = nn.Dropout(config.text_dropout)
        self.gru: nn.GRU | None = None
        if config.text_network == "gru":
            between = config.text_dropout if config.text_num_layers > 1 else 0.0
            self.gru = nn.GRU(width, size // 2, config.text_num_layers, batch_first=True, bidirectional=True,
                              dropout=between)  # fmt: skip
        else:
            self.positions = nn.Embedding(self.max_tokens, width)
            layer = nn.TransformerEncoderLayer(
                width, config.text_num_heads, 4 * width, config.text_dropout, "gelu", batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(layer, config.text_num_layers, enable_nested_tensor=False)
            self.projection = nn.Linear(width, size)
        self.classifier = nn.Linear(size, len(config.label_names))

    def features(self, input_ids_BU: torch.Tensor, mask_BU: torch.Tensor) -> torch.Tensor:
        """(B, U) tokens and their mask (right padding) -> (B, S)."""
        ids_BU, mask_BU = read_empty(input_ids_BU[:, : self.max_tokens], mask_BU[:, : self.max_tokens])
        hidden_BUD = self.dropout(self.embedding(ids_BU))
        if self.gru is not None:
            states_BUS = self._recurrent(hidden_BUD, mask_BU)
        else:
            hidden_BUD = hidden_BUD + self.positions(torch.arange(ids_BU.shape[1], device=ids_BU.device))
            states_BUS = self.projection(self.layers(hidden_BUD, src_key_padding_mask=mask_BU == 0)).tanh()
        mask_BU1 = mask_BU[..., None].to(states_BUS.dtype)
        return (states_BUS * mask_BU1).sum(1) / mask_BU1.sum(1)

    def forward(self, input_ids_BU: torch.Tensor, mask_BU: torch.Tensor) -> torch.Tensor:
        """(B, C) logits."""
        return self.classifier(self.dropout(self.features(input_ids_BU, mask_BU)))

    def _recurrent(self, hidden_BUD: torch.Tensor, mask_BU: torch.Tensor) -> torch.Tensor:
        assert self.gru is not None
        # Packed, so that the backward direction begins at the last true token.
        packed = nn.utils.rnn.pack_padded_sequence(
            hidden_BUD, mask_BU.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=hidden_BUD.shape[1]
        )
        return states


def read_empty(ids_BU: torch.Tensor, mask_BU: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask in which every transcript has a token: an empty one a single padding token."""
    ids_BU, mask_BU = ids_BU.long(), mask_BU.long()
    if ids_BU.shape[1] == 0:
        ids_BU, mask_BU = (torch.zeros(len(ids_BU), 1, dtype=torch.long, device=ids_BU.device) for _ in range(2))
    first_BU = torch.zeros_like(mask_BU)
    first_BU[:, 0] = (mask_BU.sum(1) == 0).long()
    return (ids_BU * mask_BU).masked_fill(mask_BU == 0, PAD_ID), mask_BU + first_BU
