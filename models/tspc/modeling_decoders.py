"""Phoneme decoders of S2P: Transformer, GRU and LSTM over the same attention and cache (paper, table 2).

Shape legend: B batch, U target positions, T encoder frames, D decoder width, H heads, K head width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_tspc import S2PConfig


def sinusoids(length: int, width: int) -> torch.Tensor:
    """(length, width) sine and cosine waves of geometrically spaced periods."""
    periods = torch.exp(-math.log(10_000) / max(width // 2 - 1, 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * periods[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain form of what ALL_ATTENTION_FUNCTIONS offers: (B, H, U, K) queries -> (B, U, H, K)."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class RecurrentStateCache(Cache):
    """States of the recurrent layers during generation, in the place of a key/value cache.

    `states[layer]` is what the layer's GRU (`h`) or LSTM (`h`, `c`) returned, each (1, B, D).
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: dict[int, tuple[torch.Tensor, ...]] = {}
        self.num_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.num_tokens

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        for layer, states in self.states.items():
            self.states[layer] = tuple(state.index_select(1, beam_idx.to(state.device)) for state in states)

    def reset(self) -> None:
        self.states.clear()
        self.num_tokens = 0

    @property
    def is_compileable(self) -> bool:
        return False


class S2PAttention(nn.Module):
    """Multi-head attention: causal over the decoder's own states, or over the encoder's."""

    def __init__(self, config: S2PConfig, layer_idx: int, is_cross: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_cross = is_cross
        self.is_causal = not is_cross
        self.num_heads = config.decoder_attention_heads
        self.head_dim = config.d_model // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.dropout
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        hidden_BUD: torch.Tensor,
        encoder_states_BTD: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        past_key_values: EncoderDecoderCache | None,
    ) -> torch.Tensor:
        batch, length, _ = hidden_BUD.shape
        query_BHUK = self._heads(self.q_proj(hidden_BUD))
        cache: Any = None
        if past_key_values is not None:
            cache = past_key_values.cross_attention_cache if self.is_cross else past_key_values.self_attention_cache
        if self.is_cross and past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            key_BHTK, value_BHTK = cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
        else:
            source = encoder_states_BTD if self.is_cross else hidden_BUD
            key_BHTK, value_BHTK = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
            if cache is not None:
                key_BHTK, value_BHTK = cache.update(key_BHTK, value_BHTK, self.layer_idx)
                if self.is_cross and past_key_values is not None:
                    past_key_values.is_updated[self.layer_idx] = True
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            str(self.config._attn_implementation), eager_attention
        )
        context, _ = attend(
            self,
            query_BHUK,
            key_BHTK,
            value_BHTK,
            attention_mask,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
        )
        return self.out_proj(context.reshape(batch, length, -1))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.view(states.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)


class S2PTransformerLayer(GradientCheckpointingLayer):
    """Pre-LN: self-attention, attention over the encoder, feed-forward."""

    def __init__(self, config: S2PConfig, layer_idx: int):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn_norm = nn.LayerNorm(config.d_model)
        self.self_attn = S2PAttention(config, layer_idx, is_cross=False)
        self.encoder_attn_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = S2PAttention(config, layer_idx, is_cross=True)
        self.ffn_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)
        self.activation = ACT2FN[config.activation_function]

    def forward(
        self,
        hidden_BUD: torch.Tensor,
        encoder_states_BTD: torch.Tensor,
        causal_mask: torch.Tensor | None = None,
        encoder_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> torch.Tensor:
        mixed = self.self_attn(self.self_attn_norm(hidden_BUD), None, causal_mask, past_key_values)
        hidden_BUD = hidden_BUD + self.dropout(mixed)
        heard = self.encoder_attn(
            self.encoder_attn_norm(hidden_BUD), encoder_states_BTD, encoder_mask, past_key_values
        )
        hidden_BUD = hidden_BUD + self.dropout(heard)
        widened = self.dropout(self.activation(self.fc1(self.ffn_norm(hidden_BUD))))
        return hidden_BUD + self.dropout(self.fc2(widened))


class S2PRecurrentLayer(GradientCheckpointingLayer):
    """Pre-LN: GRU or LSTM, then attention over the encoder; both residual.

    The query of a position is the recurrent state after reading the token before it (no input feeding), so a whole
    target sequence is one call of the recurrent kernel.
    """

    def __init__(self, config: S2PConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent_norm = nn.LayerNorm(config.d_model)
        kind = nn.GRU if config.decoder_type == "gru" else nn.LSTM
        self.recurrent = kind(config.d_model, config.d_model, batch_first=True)
        self.encoder_attn_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = S2PAttention(config, layer_idx, is_cross=True)

    def forward(
        self,
        hidden_BUD: torch.Tensor,
        encoder_states_BTD: torch.Tensor,
        causal_mask: torch.Tensor | None = None,
        encoder_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> torch.Tensor:
        cache = None if past_key_values is None else past_key_values.self_attention_cache
        state = None if cache is None else cache.states.get(self.layer_idx)
        if state is not None and len(state) == 1:
            state = state[0]
        mixed, state = self.recurrent(self.recurrent_norm(hidden_BUD), state)
        if cache is not None:
            cache.states[self.layer_idx] = state if isinstance(state, tuple) else (state,)
        hidden_BUD = hidden_BUD + self.dropout(mixed)
        heard = self.encoder_attn(
            self.encoder_attn_norm(hidden_BUD), encoder_states_BTD, encoder_mask, past_key_values
        )
        return hidden_BUD + self.dropout(heard)


class S2PDecoder(nn.Module):
    """Embedding, decoder layers and a final layer norm; `forward` returns the states that the bridge attends to."""

    def __init__(self, config: S2PConfig):
        super().__init__()
        self.config = config
        self.is_recurrent = config.decoder_type != "transformer"
        self.embed_scale = math.sqrt(config.d_model)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        # A recurrent state already knows how far it has read.
        self.embed_positions = None if self.is_recurrent else nn.Embedding(config.max_target_positions, config.d_model)
        same_width = config.encoder_hidden_size == config.d_model
        self.encoder_projection = None if same_width else nn.Linear(config.encoder_hidden_size, config.d_model)
        layer = S2PRecurrentLayer if self.is_recurrent else S2PTransformerLayer
        self.layers = nn.ModuleList([layer(config, index) for index in range(config.decoder_layers)])
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def new_cache(self) -> EncoderDecoderCache:
        """An empty cache of the kind that the layers use."""
        return EncoderDecoderCache(RecurrentStateCache() if self.is_recurrent else DynamicCache(), DynamicCache())

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool = False,
    ) -> tuple[torch.Tensor, EncoderDecoderCache | None]:
        """(B, U) ids and (B, T, E) encoder states -> (B, U, D) states after the final norm, and the cache.

        Raises:
            ValueError: more target positions than `max_target_positions`.
        """
        if use_cache and past_key_values is None:
            past_key_values = self.new_cache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        hidden_BUD = self.embed_tokens(input_ids) * self.embed_scale
        if self.embed_positions is not None:
            hidden_BUD = hidden_BUD + self.embed_positions(self._positions(past, input_ids))
        hidden_BUD = self.dropout(hidden_BUD)
        if self.encoder_projection is not None and (past_key_values is None or not past_key_values.is_updated):
            encoder_states = self.encoder_projection(encoder_states)
        causal_mask = None
        if not self.is_recurrent:
            causal_mask = create_causal_mask(
                config=self.config, inputs_embeds=hidden_BUD, attention_mask=None, past_key_values=past_key_values
            )
        encoder_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_BUD,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_states,
        )
        for layer in self.layers:
            hidden_BUD = layer(hidden_BUD, encoder_states, causal_mask, encoder_mask, past_key_values=past_key_values)
        if past_key_values is not None and self.is_recurrent:
            past_key_values.self_attention_cache.num_tokens += input_ids.shape[1]
        return self.layer_norm(hidden_BUD), past_key_values

    def _positions(self, past: int, input_ids: torch.Tensor) -> torch.Tensor:
        limit = self.config.max_target_positions
        if input_ids.shape[1] > limit:
            raise ValueError(
                f"a target has {input_ids.shape[1]} phonemes but the decoder has {limit} positions; drop utterances "
                "this long or raise S2PConfig.max_target_positions before training"
            )
        positions = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)
        # A process that has finished keeps stepping until its peers have (ZeRO-3): its results are thrown away.
        return positions.clamp(max=limit - 1)

    def init_weights(self, module: nn.Module) -> None:
        """Called for each module with its parameters fresh (`PreTrainedModel._init_weights`)."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.GRU | nn.LSTM):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    init.zeros_(parameter)
                else:
                    init.xavier_uniform_(parameter)
        elif isinstance(module, nn.Embedding) and module is self.embed_tokens:
            # The output layer shares these weights, and inputs are scaled up by sqrt(d_model).
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.Embedding) and module is self.embed_positions:
            init.copy_(module.weight, sinusoids(module.num_embeddings, module.embedding_dim))
