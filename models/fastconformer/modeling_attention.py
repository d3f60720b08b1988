"""Self-attention with relative positions over all frames, or over a window and a few global frames.

Shape legend: B batch, T frames, D width, H heads, d width of a head, L and R frames of context to the left and right,
C queries of a chunk, N chunks, W = C + L + R keys of a chunk, G global frames, P relative positions.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderAttention,
    ParakeetEncoderRelPositionalEncoding,
)

# Chunks shorter than this are overhead: their scores would be smaller than what is done around them.
SHORTEST_CHUNK = 64


class FastConformerPositions(ParakeetEncoderRelPositionalEncoding):
    """Sinusoids of the relative positions `first, first - 1, ..., last` (query minus key): (1, P, D)."""

    @torch.no_grad()
    def forward(self, first: int, last: int, like: torch.Tensor) -> torch.Tensor:
        positions_P = torch.arange(first, last - 1, -1, device=like.device, dtype=torch.float)
        angles = positions_P[:, None] * self.inv_freq.to(device=like.device, dtype=torch.float)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[None].to(like.dtype)


class FastConformerAttention(ParakeetEncoderAttention):
    """Parakeet's attention and weights; `config.attention_context` limits it to a window (see the config).

    With a window, time and memory grow with T * (L + R), and no (T, T) tensor is made.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(B, T, D) -> (B, T, D).

        Args:
            position_embeddings: (1, P, D) of the positions `relative_range` asks for.
            attention_mask: (B, T), True on true frames; `None`: all are.
        """
        shape_BTHd = (*hidden_states.shape[:2], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape_BTHd).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape_BTHd).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape_BTHd).transpose(1, 2)
        assert position_embeddings is not None
        relative = self.relative_k_proj(position_embeddings)
        relative_HPd = relative.view(relative.shape[1], -1, self.head_dim).transpose(0, 1)
        if attends_to_all(self.config, hidden_states.shape[1]):
            attended = self._full(query, key, value, relative_HPd, attention_mask)
        else:
            attended = self._limited(query, key, value, relative_HPd, attention_mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2)), None

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: torch.Tensor | None
    ) -> torch.Tensor:
        """Softmax of `scaling * query @ key + scores`, applied to `value`."""
        dropout = self.attention_dropout if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, dropout_p=dropout, scale=self.scaling
        )

    def _positional(self, query: torch.Tensor, relative_HPd: torch.Tensor) -> torch.Tensor:
        """(..., H, Q, d) queries -> (..., H, Q, P) scaled scores of every relative position."""
        return (query + self.bias_v[:, None]) @ relative_HPd.transpose(-1, -2) * self.scaling

    def _full(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_HPd: torch.Tensor,
        mask_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        scores = self._rel_shift(self._positional(query, relative_HPd))[..., : key.shape[2]]
        if mask_BT is not None:
            scores = scores.masked_fill(~mask_BT[:, None, None], torch.finfo(scores.dtype).min)
        return self._attend(query + self.bias_u[:, None], key, value, scores)

    def _limited(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_HPd: torch.Tensor,
        mask_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """Queries in chunks of C, each against the W frames around it and the G global frames: (B, H, T, d)."""
        left, right = self.config.attention_context
        batch, heads, frames, width = query.shape
        globals_ = min(self.config.global_tokens, frames)
        chunk = max(SHORTEST_CHUNK, left + right)
        window = chunk + left + right
        chunks = -(-frames // chunk)
        tail = chunks * chunk - frames
        if mask_BT is None:
            mask_BT = torch.ones(batch, frames, dtype=torch.bool, device=query.device)

        def windows(states: torch.Tensor) -> torch.Tensor:
            """(B, H, T, d) -> (B, N, H, W, d)"""
            padded = nn.functional.pad(states, (0, 0, left, right + tail))
            return padded.unfold(2, window, chunk).permute(0, 2, 1, 4, 3)

        # The chunks are a batch to the attention itself: (B, N, H, C or W, d).
        queries = nn.functional.pad(query, (0, 0, 0, tail)).view(batch, heads, chunks, chunk, width).transpose(1, 2)
        keys, values = windows(key), windows(value)
        zero, _ = relative_range(self.config, frames)
        lowest = torch.finfo(query.dtype).min
        scores = _skew(self._positional(queries, relative_HPd[:, zero - left : zero + right + 1]), lowest)
        seen_BT = mask_BT
        if globals_ and self.config.global_attention == "relative":  # they have columns of their own, below
            seen_BT = mask_BT & (torch.arange(frames, device=query.device) >= globals_)
        seen_BNW = nn.functional.pad(seen_BT, (left, right + tail)).unfold(1, window, chunk)
        scores = scores.masked_fill(~seen_BNW[:, :, None, None], lowest)
        if globals_:
            columns = self._global_key_scores(query, key[:, :, :globals_], relative_HPd)
            columns = columns.masked_fill(~mask_BT[:, None, None, :globals_], lowest)
            columns = nn.functional.pad(columns, (0, 0, 0, tail)).view(batch, heads, chunks, chunk, globals_)
            scores = torch.cat([columns.transpose(1, 2), scores], dim=-1)
            keys, values = (
                torch.cat([states[:, None, :, :globals_].expand(-1, chunks, -1, -1, -1), in_windows], dim=-2)
                for states, in_windows in ((key, keys), (value, values))
            )
        attended = self._attend(
            (queries + self.bias_u[:, None]).flatten(0, 1),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            scores.flatten(0, 1),
        )
        attended = attended.view(batch, chunks, heads, chunk, width).transpose(1, 2)
        attended = attended.reshape(batch, heads, chunks * chunk, width)[:, :, :frames]
        if not globals_:
            return attended
        of_globals = self._global_queries(query[:, :, :globals_], key, value, relative_HPd, mask_BT)
        return torch.cat([of_globals, attended[:, :, globals_:]], dim=2)

    def _global_key_scores(
        self, query: torch.Tensor, global_key: torch.Tensor, relative_HPd: torch.Tensor
    ) -> torch.Tensor:
        """What is added to `scaling * (query + bias_u) @ global_key`: (B, H, T, G)."""
        frames, globals_ = query.shape[2], global_key.shape[2]
        if self.config.global_attention == "content":  # take the bias away again
            without_bias = -self.scaling * (self.bias_u[:, None] @ global_key.transpose(-1, -2))
            return without_bias.expand(-1, -1, frames, -1)
        zero, _ = relative_range(self.config, frames)
        t = torch.arange(frames, device=query.device)
        positions_TG = zero - (t[:, None] - t[:globals_])
        return self._positional_at(query, relative_HPd[:, positions_TG])

    def _global_queries(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_HPd: torch.Tensor,
        mask_BT: torch.Tensor,
    ) -> torch.Tensor:
        """The first G frames attend to all: (B, H, G, d)."""
        frames, globals_ = key.shape[2], query.shape[2]
        unseen = ~mask_BT[:, None, None]
        if self.config.global_attention == "content":
            scores = torch.zeros(unseen.shape, dtype=query.dtype, device=query.device)
            scores = scores.masked_fill(unseen, torch.finfo(query.dtype).min)
            return self._attend(query, key, value, scores.expand(-1, -1, globals_, -1))
        zero, _ = relative_range(self.config, frames)
        t = torch.arange(frames, device=query.device)
        scores = self._positional_at(query, relative_HPd[:, zero - (t[:globals_, None] - t)])
        scores = scores.masked_fill(unseen, torch.finfo(query.dtype).min)
        return self._attend(query + self.bias_u[:, None], key, value, scores)

    def _positional_at(self, query: torch.Tensor, relative_HQKd: torch.Tensor) -> torch.Tensor:
        """As `_positional`, with relative positions of their own for each of the Q queries: (B, H, Q, K)."""
        return torch.einsum("bhqd,hqkd->bhqk", query + self.bias_v[:, None], relative_HQKd) * self.scaling


def attends_to_all(config: Any, frames: int) -> bool:
    """Whether full attention is what the config asks for on so many frames."""
    if config.attention_context is None:
        return True
    covered = frames <= min(config.attention_context) + 1
    return covered and (config.global_attention == "relative" or not config.global_tokens)


def relative_range(config: Any, frames: int) -> tuple[int, int]:
    """First and last relative position (query minus key) that attention over so many frames reads."""
    if attends_to_all(config, frames):
        return frames - 1, 1 - frames
    left, right = config.attention_context
    if config.global_tokens and config.global_attention == "relative":
        return max(left, frames - 1), -max(right, frames - 1)
    return left, -right


def _skew(scores: torch.Tensor, fill: float) -> torch.Tensor:
    """(..., C, L + 1 + R) scores by relative position -> (..., C, C + L + R) by key: row c moves c to the right."""
    rows, positions = scores.shape[-2:]
    padded = nn.functional.pad(scores, (0, rows), value=fill).flatten(-2)
    return padded[..., :-rows].unflatten(-1, (rows, positions + rows - 1))
