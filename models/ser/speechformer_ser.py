"""SpeechFormer++ (Chen et al., IEEE/ACM TASLP 2023, doi 10.1109/TASLP.2023.3235194): the winner's emotion classifier.

Four stages read speech at the grain of frames, phones, words and the utterance; between two of them neighbouring units
merge. The first three attend within short windows, and to learnable word tokens that summarise about a second each.

Two modes, one code:

- `exact`: the published semantics. Every clip is cropped or zero-padded to `num_frames`, and nothing is masked: what
  is padded takes part in every softmax and mean. Positions are a frozen table.
- mask-aware (the default): any length; padding takes part in nothing, so a clip gets the same states alone and in any
  batch. Each second of a clip has its word token; clips with more words than tokens use them again from the first.

Shape legend: B batch, T frames or units of a stage, K word tokens, S units in a word's segment, D width, H heads,
P head width, N blocks of C units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

# Of a phone, of a word, and how far a unit of each stage looks, in ms (section III-B).
MERGED_MS = (50, 250, 1000)
WINDOWS_MS = (50, 400, 2000)
POSITION_TABLE = 2000
# Local attention works on blocks of queries with the keys that they can see: memory is linear in the length.
BLOCK = 32


@dataclass(frozen=True)
class Stage:
    """`window` units are attended to (None: all), then `merge` units become one (None: the last stage)."""

    window: int | None
    merge: int | None


def stage_schedule(hop_s: float) -> tuple[Stage, ...]:
    """Windows and merges in units of each stage, for frames of `hop_s`.

    >>> [(stage.window, stage.merge) for stage in stage_schedule(0.02)]
    [(3, 2), (11, 6), (9, 4), (None, None)]
    """
    merged = [max(int(ms / (hop_s * 1000) + 1e-6), 1) for ms in MERGED_MS]
    windows = [max(int(ms / (hop_s * 1000) + 1e-6), 1) for ms in WINDOWS_MS]
    stages, so_far = [], 1
    for total, window in zip(merged, windows, strict=True):
        width = max(window // so_far, 1)
        stages.append(Stage(width + 1 - width % 2, max(total // so_far, 1)))
        so_far = total
    return (*stages, Stage(None, None))


def frames_per_word(hop_s: float) -> int:
    """Frames that one word token stands for: a second of them."""
    return max(int(MERGED_MS[-1] / (hop_s * 1000) + 1e-6), 1)


def sinusoid_table(length: int, width: int, device: torch.device | None = None, step: float = 1.0) -> torch.Tensor:
    """(length, width) positions 0, step, …: sines in even, cosines in odd columns, of geometrically spaced periods."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * step * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def take(values_BTX: torch.Tensor, index_BI: torch.Tensor) -> torch.Tensor:
    """Row `index_BI[b, i]` of utterance b: (B, T, ...) -> (B, I, ...)."""
    batch, length = values_BTX.shape[:2]
    start_B1 = torch.arange(batch, device=index_BI.device)[:, None] * length
    return values_BTX.flatten(0, 1).index_select(0, (start_B1 + index_BI).flatten()).unflatten(0, index_BI.shape)


@dataclass
class Layout:
    """Where the words of a batch lie among the units of a stage.

    Args:
        lengths_B: true units; words_B: word tokens; segment_B: units of each word, ceil(lengths / words).
        exact: nothing is masked.
    """

    lengths_B: torch.Tensor
    words_B: torch.Tensor
    num_units: int
    num_words: int
    exact: bool

    def __post_init__(self) -> None:
        self.segment_B = torch.div(self.lengths_B + self.words_B - 1, self.words_B, rounding_mode="floor")
        device = self.lengths_B.device
        size = int(self.segment_B.max())
        word_1K1 = torch.arange(self.num_words, device=device)[None, :, None]
        offset_11S = torch.arange(size, device=device)[None, None]
        index_BKS = word_1K1 * self.segment_B[:, None, None] + offset_11S
        # Units that the word really has, and the unit at each place (0 where there is none).
        self.there_BKS = (index_BKS < self.lengths_B[:, None, None]) & (offset_11S < self.segment_B[:, None, None])
        self.index_BKS = index_BKS.masked_fill(~self.there_BKS, 0)
        unit_1T = torch.arange(self.num_units, device=device)[None]
        self.unit_mask_BT = unit_1T < self.lengths_B[:, None]
        self.word_mask_BK = torch.arange(self.num_words, device=device)[None] < self.words_B[:, None]
        # The place of each unit in (K, S), flattened; padding shares a place that is never read.
        word_BT = torch.div(unit_1T, self.segment_B[:, None], rounding_mode="floor").clamp(max=self.num_words - 1)
        self.place_BT = word_BT * size + (unit_1T - word_BT * self.segment_B[:, None]).clamp(max=size - 1)

    def segments(self, values_BTX: torch.Tensor) -> torch.Tensor:
        """(B, T, ...) -> (B, K, S, ...): the units of each word, zeros where it has none."""
        taken = take(values_BTX, self.index_BKS.flatten(1)).unflatten(1, self.index_BKS.shape[1:])
        return taken.masked_fill(~self.there_BKS[(..., *[None] * (taken.ndim - 3))], 0.0)

    def units(self, values_BKSX: torch.Tensor) -> torch.Tensor:
        """The inverse of `segments`: (B, K, S, ...) -> (B, T, ...)."""
        return take(values_BKSX.flatten(1, 2), self.place_BT)


class UnitAttention(nn.Module):
    """Attention of a stage, over word tokens and units together (section III-A).

    Local stages: a word token attends to itself and to the units of its segment; then a unit attends to the updated
    token of its word and to its window. The second step has two softmaxes: the weight of the token is normalised over
    the units of the segment, the weights of the window over the window; both terms are added up.
    The last stage (`window=None`) is full multi-head attention.
    """

    def __init__(self, width: int, num_heads: int, window: int | None, dropout: float):
        super().__init__()
        self.num_heads, self.window, self.dropout = num_heads, window, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def _heads(self, values_BTD: torch.Tensor) -> torch.Tensor:
        return values_BTD.unflatten(-1, (self.num_heads, -1))

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(..., H, queries, P), (..., H, keys, P) twice, mask of allowed keys -> (..., H, queries, P)."""
        dropout = self.dropout if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)

    def forward(
        self, words_BKD: torch.Tensor, units_BTD: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.window is None:
            return self._global(words_BKD, units_BTD, layout)
        q_BTHP, k_BTHP, v_BTHP = (self._heads(proj(units_BTD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        words_BKD = self._update_words(words_BKD, k_BTHP, v_BTHP, layout)
        seen_BTHP = self._from_words(words_BKD, q_BTHP, layout) + self._from_window(q_BTHP, k_BTHP, v_BTHP, layout)
        return words_BKD, self.out_proj(seen_BTHP.flatten(2))

    def _global(
        self, words_BKD: torch.Tensor, units_BTD: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        all_BXD = torch.cat([words_BKD, units_BTD], dim=1)
        mask = None
        if not layout.exact:
            mask = torch.cat([layout.word_mask_BK, layout.unit_mask_BT], dim=1)[:, None, None]
        q, k, v = (self._heads(proj(all_BXD)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        seen_BXD = self.out_proj(self._attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return seen_BXD[:, : words_BKD.shape[1]], seen_BXD[:, words_BKD.shape[1] :]

    def _update_words(
        self, words_BKD: torch.Tensor, k_BTHP: torch.Tensor, v_BTHP: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        """Each word token attends to itself and to its segment."""
        q, own_k, own_v = (self._heads(proj(words_BKD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        key_BKHSP = torch.cat([own_k[:, :, None], layout.segments(k_BTHP)], dim=2).transpose(2, 3)
        value_BKHSP = torch.cat([own_v[:, :, None], layout.segments(v_BTHP)], dim=2).transpose(2, 3)
        mask = None
        if not layout.exact:
            mask = nn.functional.pad(layout.there_BKS, (1, 0), value=True)[:, :, None, None]
        seen_BKHP = self._attend(q[:, :, :, None], key_BKHSP, value_BKHSP, mask).squeeze(3)
        return self.out_proj(seen_BKHP.flatten(2))

    def _from_words(self, words_BKD: torch.Tensor, q_BTHP: torch.Tensor, layout: Layout) -> torch.Tensor:
        """What each unit takes from the token of its word, (B, T, H, P)."""
        k_BKHP, v_BKHP = self._heads(self.k_proj(words_BKD)), self._heads(self.v_proj(words_BKD))
        q_BKSHP = layout.segments(q_BTHP)
        scores_BKSH = torch.einsum("bkshp,bkhp->bksh", q_BKSHP, k_BKHP) * q_BKSHP.shape[-1] ** -0.5
        if not layout.exact:
            scores_BKSH = scores_BKSH.masked_fill(~layout.there_BKS[..., None], torch.finfo(scores_BKSH.dtype).min)
        weights_BKSH = nn.functional.dropout(scores_BKSH.softmax(dim=2), self.dropout, self.training)
        return layout.units(weights_BKSH[..., None] * v_BKHP[:, :, None])

    def _from_window(
        self, q_BTHP: torch.Tensor, k_BTHP: torch.Tensor, v_BTHP: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        """What each unit takes from the units around it, (B, T, H, P)."""
        length = q_BTHP.shape[1]
        reach = (self.window or 1) // 2
        blocks = -(-length // BLOCK)
        spare = blocks * BLOCK - length
        if not layout.exact:
            unseen = ~layout.unit_mask_BT[:, :, None, None]
            k_BTHP, v_BTHP = k_BTHP.masked_fill(unseen, 0.0), v_BTHP.masked_fill(unseen, 0.0)
        q_BNHCP = nn.functional.pad(q_BTHP, (0, 0, 0, 0, 0, spare)).unflatten(1, (blocks, BLOCK)).transpose(2, 3)
        around = (0, 0, 0, 0, reach, reach + spare)
        k_BNHCP, v_BNHCP = (
            nn.functional.pad(x, around).unfold(1, BLOCK + 2 * reach, BLOCK).transpose(3, 4) for x in (k_BTHP, v_BTHP)
        )
        offset = torch.arange(BLOCK + 2 * reach, device=q_BTHP.device)
        ahead = offset[None] - torch.arange(BLOCK, device=q_BTHP.device)[:, None]
        mask = (ahead >= 0) & (ahead <= 2 * reach)
        if not layout.exact:
            key_NC = torch.arange(blocks, device=q_BTHP.device)[:, None] * BLOCK + offset[None] - reach
            true_BNC = (key_NC >= 0) & (key_NC < layout.lengths_B[:, None, None])
            # Every query sees itself, for a softmax over nothing is NaN; padding is read by no one.
            mask = ((mask & true_BNC[:, :, None]) | (ahead == reach))[:, :, None]
        seen_BNHCP = self._attend(q_BNHCP, k_BNHCP, v_BNHCP, mask)
        return seen_BNHCP.transpose(2, 3).flatten(1, 2)[:, :length]


class SpeechFormerLayer(GradientCheckpointingLayer):
    """Post-norm: attention, then a ReLU feed-forward of half the width."""

    def __init__(self, width: int, num_heads: int, window: int | None, dropout: float):
        super().__init__()
        self.attention = UnitAttention(width, num_heads, window, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width)
        self.fc_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words_BKD: torch.Tensor,
        units_BTD: torch.Tensor,
        layout: Layout,
        positions_TD: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The attention reads positions, the residual does not.
        placed_BTD = units_BTD if positions_TD is None else units_BTD + positions_TD
        seen = self.attention(words_BKD, placed_BTD, layout)
        words_BKD, units_BTD = (
            self.attention_norm(x + self.dropout(new)) for x, new in zip((words_BKD, units_BTD), seen, strict=True)
        )
        return self._feed_forward(words_BKD), self._feed_forward(units_BTD)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc_norm(x + self.dropout(self.fc2(self.dropout(nn.functional.relu(self.fc1(x))))))


class Merge(nn.Module):
    """The mean of every `size` units, then a linear layer; word tokens pass the linear layer alone."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.size = size
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, words_BKD: torch.Tensor, units_BTD: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor, Layout]:
        tail = -units_BTD.shape[1] % self.size
        if not layout.exact:
            units_BTD = units_BTD.masked_fill(~layout.unit_mask_BT[..., None], 0.0)
        merged_BTD = nn.functional.pad(units_BTD, (0, 0, 0, tail)).unflatten(1, (-1, self.size)).mean(2)
        lengths_B = torch.div(layout.lengths_B + self.size - 1, self.size, rounding_mode="floor")
        if not layout.exact:  # the last unit may have fewer
            first_T = torch.arange(merged_BTD.shape[1], device=lengths_B.device) * self.size
            count_BT = (layout.lengths_B[:, None] - first_T).clamp(1, self.size)
            merged_BTD = merged_BTD * (self.size / count_BT)[..., None].to(merged_BTD.dtype)
        layout = Layout(lengths_B, layout.words_B, merged_BTD.shape[1], layout.num_words, layout.exact)
        return self.norm(self.linear(words_BKD)), self.norm(self.linear(merged_BTD)), layout


class SpeechFormer(nn.Module):
    """Frame features to word and utterance states.

    Args:
        input_size: width of the frame features (1,280 in the winner's system).
        num_heads, num_layers: attention heads; layers of the four stages.
        hop_s: seconds from one frame to the next.
        num_frames: length of every clip in exact mode; elsewhere only the number of word tokens follows from it.
        projection_size: width behind a linear layer on the input; None keeps `input_size`.
        exact: the published semantics, see the head of this file.
    """

    def __init__(
        self,
        input_size: int,
        *,
        num_heads: int = 8,
        num_layers: Sequence[int] = (2, 2, 4, 4),
        hop_s: float = 0.02,
        num_frames: int = 326,
        projection_size: int | None = None,
        exact: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        width = projection_size or input_size
        self.width, self.exact, self.num_frames = width, exact, num_frames
        self.frames_per_word = frames_per_word(hop_s)
        stages = stage_schedule(hop_s)
        self.projection = nn.Linear(input_size, width) if projection_size else None
        self.word_tokens = nn.Parameter(torch.randn(-(-num_frames // self.frames_per_word), width))
        self.positions = None
        if exact:
            self.positions = nn.Parameter(sinusoid_table(POSITION_TABLE, width), requires_grad=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in stages)
        self.stages = nn.ModuleList(
            nn.ModuleList(SpeechFormerLayer(width, num_heads, stage.window, dropout) for _ in range(layers))
            for stage, layers in zip(stages, num_layers, strict=True)
        )
        self.merges = nn.ModuleList(Merge(width, stage.merge) for stage in stages if stage.merge)

    def init_own_tensors(self) -> None:
        """Initial values of what no submodule holds."""
        init.normal_(self.word_tokens)
        if self.positions is not None:
            init.copy_(self.positions, sinusoid_table(POSITION_TABLE, self.width))

    def freeze_positions(self) -> None:
        """Loading marks every tensor as trainable; the table is constant."""
        if self.positions is not None:
            self.positions.requires_grad_(False)

    def forward(
        self, frames_BTD: torch.Tensor, attention_mask_BT: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, input_size) frames, 1 on true ones (right padding) -> (B, X, D) states of the word tokens and of the
        utterance's units, and their (B, X) mask, all ones in exact mode."""
        if attention_mask_BT is None:
            attention_mask_BT = torch.ones(frames_BTD.shape[:2], dtype=torch.long, device=frames_BTD.device)
        frames_BTD = frames_BTD.masked_fill(attention_mask_BT[..., None] == 0, 0.0)
        lengths_B = attention_mask_BT.long().sum(1).clamp(min=1)
        if self.exact:
            frames_BTD = nn.functional.pad(frames_BTD, (0, 0, 0, self.num_frames - frames_BTD.shape[1]))
            lengths_B = torch.full_like(lengths_B, self.num_frames)
        words_B = torch.div(lengths_B + self.frames_per_word - 1, self.frames_per_word, rounding_mode="floor")
        units_BTD = frames_BTD if self.projection is None else self.projection(frames_BTD)
        layout = Layout(lengths_B, words_B, units_BTD.shape[1], int(words_B.max()), self.exact)
        token_K = torch.arange(layout.num_words, device=lengths_B.device) % len(self.word_tokens)
        words_BKD = self.word_tokens[token_K].expand(len(units_BTD), -1, -1).to(units_BTD.dtype)
        positions_TD = self._positions(units_BTD)
        for index, (norm, layers) in enumerate(zip(self.norms, self.stages, strict=True)):
            words_BKD, units_BTD = norm(words_BKD), norm(units_BTD)
            for layer in layers:  # pyright: ignore[reportGeneralTypeIssues]
                words_BKD, units_BTD = layer(words_BKD, units_BTD, layout, positions_TD if index == 0 else None)
            if index < len(self.merges):
                words_BKD, units_BTD, layout = self.merges[index](words_BKD, units_BTD, layout)
        states_BXD = torch.cat([words_BKD, units_BTD], dim=1)
        mask_BX = torch.cat([layout.word_mask_BK, layout.unit_mask_BT], dim=1).long()
        return states_BXD * mask_BX[..., None], mask_BX

    def _positions(self, units_BTD: torch.Tensor) -> torch.Tensor:
        length = units_BTD.shape[1]
        if self.positions is not None:
            return self.positions[:length]
        return sinusoid_table(length, self.width, units_BTD.device).to(units_BTD.dtype)
