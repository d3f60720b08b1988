"""Phonemes to text (paper, section 2.2): a T5 with a phoneme embedding of its own and, in TSPC, the bridge.

The encoder reads phonemes through `encoder.embed_tokens`; the decoder and the output layer use the text embedding
`shared`. So freezing the decoder with its text embedding never freezes the phoneme embedding.

Shape legend: B batch, U phonemes, S text positions, D T5 width, P width of the S2P states, V text vocabulary.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig, T5ForConditionalGeneration
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5Block, T5LayerCrossAttention, T5Stack

from .configuration_tspc import P2TConfig
from .loading_tspc import read_t5
from .modeling_s2p import target_count
from .strict_model import InitialisedAsStock, StrictModel, copy_weights

TIED_TO_TEXT_EMBEDDING = {"decoder.embed_tokens.weight": "shared.weight"}


class P2TBridge(T5LayerCrossAttention):
    """Cross-attention of an encoder block: Q = its states, K = V = the final S2P decoder states (section 2.2).

    The output projection starts at zero: before the first joint step the block computes what it did without a bridge.
    """


class P2TBridgeProjection(nn.Linear):
    """S2P states of another width -> T5's width."""


class P2TEncoderBlock(T5Block, GradientCheckpointingLayer):
    """Self-attention, bridge, feed-forward. `bridge` stands beside T5's `layer` list, whose names stay as they are."""

    def __init__(self, config: P2TConfig, has_relative_attention_bias: bool, layer_idx: int):
        super().__init__(config, has_relative_attention_bias=has_relative_attention_bias, layer_idx=layer_idx)
        self.bridge = P2TBridge(config, layer_idx=layer_idx) if config.bridge_hidden_size else None

    def forward(
        self,
        hidden_BUD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        s2p_states_BUD: torch.Tensor | None = None,
        s2p_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden_BUD, position_bias, _ = self.layer[0](
            hidden_BUD, attention_mask=attention_mask, position_bias=position_bias
        )
        if s2p_states_BUD is not None and self.bridge is not None:
            hidden_BUD, _, _ = self.bridge(hidden_BUD, s2p_states_BUD, attention_mask=s2p_mask)
        hidden_BUD = self.layer[-1](clamped(hidden_BUD))
        return clamped(hidden_BUD), position_bias


def clamped(hidden: torch.Tensor) -> torch.Tensor:
    """T5 overflows in fp16; elsewhere nothing is touched."""
    if hidden.dtype != torch.float16:
        return hidden
    limit = torch.finfo(hidden.dtype).max - 1000
    return hidden.clamp(min=-limit, max=limit)


class P2TEncoder(InitialisedAsStock, T5Stack):
    """T5 encoder over phoneme ids whose blocks may attend to S2P states."""

    def __init__(self, config: P2TConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.phoneme_vocab_size, config.d_model)
        self.block = nn.ModuleList(
            [
                P2TEncoderBlock(config, has_relative_attention_bias=i == 0, layer_idx=i)
                for i in range(config.num_layers)
            ]
        )
        width = config.bridge_hidden_size
        self.bridge_projection = None
        if width is not None and width != config.d_model:
            self.bridge_projection = P2TBridgeProjection(width, config.d_model, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_p2t_weights(self, super()._init_weights, module)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        s2p_states: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """(B, U) phoneme ids and mask, with the (B, U, P) S2P states under the same mask -> (B, U, D).

        Raises:
            ValueError: not exactly one of ids and embeddings, or S2P states without a bridge.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("P2T's encoder takes either input_ids or inputs_embeds")
        embeds: Any = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        s2p_mask = None
        if s2p_states is not None:
            if self.config.bridge_hidden_size is None:
                raise ValueError("this P2T was built without a bridge; join it with TSPCForConditionalGeneration")
            s2p_states = s2p_states.to(embeds.dtype)
            if self.bridge_projection is not None:
                s2p_states = self.bridge_projection(s2p_states)
            s2p_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=embeds,
                attention_mask=attention_mask,
                encoder_hidden_states=s2p_states,
            )
        hidden_BUD, position_bias = self.dropout(embeds), None
        for block in self.block:
            hidden_BUD, position_bias = block(hidden_BUD, mask, position_bias, s2p_states, s2p_mask)
        return BaseModelOutput(last_hidden_state=self.dropout(self.final_layer_norm(hidden_BUD)))


def init_p2t_weights(owner: Any, stock: Any, module: nn.Module) -> None:
    """T5's initialisation, then what T5 does not know."""
    stock(module)
    if isinstance(module, P2TBridge):
        init.zeros_(module.EncDecAttention.o.weight)
    elif isinstance(module, P2TBridgeProjection):
        init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Linear) and module is getattr(owner, "lm_head", None) and not owner.config.tie_lm_head:
        init.normal_(module.weight, mean=0.0, std=owner.config.d_model**-0.5)


class P2TForConditionalGeneration(StrictModel, T5ForConditionalGeneration):
    """Phoneme ids in, text ids out; the decoder, its cache and `generate` are T5's own."""

    config_class = P2TConfig
    config: P2TConfig
    input_modalities = ["text"]
    _no_split_modules = ["P2TEncoderBlock", "T5Block"]
    _tied_weights_keys = {**TIED_TO_TEXT_EMBEDDING, "lm_head.weight": "shared.weight"}
    accepts_loss_kwargs = True

    def __init__(self, config: P2TConfig):
        # Before T5's own constructor ties anything: which tensors are one is a matter of this config.
        self._tied_weights_keys = dict(type(self)._tied_weights_keys if config.tie_lm_head else TIED_TO_TEXT_EMBEDDING)
        super().__init__(config)
        encoder_config = copy.deepcopy(config)
        encoder_config.is_decoder = False
        encoder_config.use_cache = False
        self.encoder = P2TEncoder(encoder_config)
        self.generation_config = GenerationConfig(
            decoder_start_token_id=config.decoder_start_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            num_beams=1,
            do_sample=False,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_p2t_weights(self, super()._init_weights, module)

    @classmethod
    def from_pretrained_t5(
        cls,
        id_or_path: str,
        phoneme_vocab_size: int,
        config_overrides: dict[str, Any] | None = None,
        **hub_kwargs: Any,
    ) -> "P2TForConditionalGeneration":
        """The weights of a T5 or mT5, with a fresh phoneme embedding in front of its encoder.

        A checkpoint whose output layer differs from its embedding keeps both (`tie_lm_head=False`).

        Args:
            id_or_path: Hub id or folder, e.g. `google-t5/t5-small`, `VietAI/vit5-base`.
            phoneme_vocab_size: size of the phoneme tokenizer.
            config_overrides: fields of `P2TConfig` that do not change a shape, e.g. `dropout_rate`.
            hub_kwargs: `revision`, `token`, ... as in `from_pretrained`.

        Raises:
            ValueError: another architecture, or tensors missing or of another shape (named).
        """
        source: Any = read_t5(id_or_path, **hub_kwargs)
        fields = source.config.to_dict()
        for name in ("model_type", "architectures", "tie_word_embeddings", "dtype", "auto_map", "_name_or_path"):
            fields.pop(name, None)
        fields["tie_lm_head"] = torch.equal(source.lm_head.weight, source.shared.weight)
        fields["scale_decoder_outputs"] = getattr(source.config, "scale_decoder_outputs", False)  # mT5 never scales
        if fields.get("decoder_start_token_id") is None:
            fields["decoder_start_token_id"] = source.config.pad_token_id
        model = cls(P2TConfig(**{**fields, **(config_overrides or {}), "phoneme_vocab_size": phoneme_vocab_size}))
        state = {name: tensor for name, tensor in source.state_dict().items() if name != "encoder.embed_tokens.weight"}
        copy_weights(model, state, source=id_or_path, fresh=("encoder.embed_tokens", "bridge"))
        return model

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.shared = value
        self.decoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the text vocabulary; an output layer of its own is resized too and stays its own."""
        self.config.tie_word_embeddings = self.config.tie_lm_head
        try:
            resized = super().resize_token_embeddings(*args, **kwargs)
        finally:
            self.config.tie_word_embeddings = True
        self.tie_weights()
        return resized

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        s2p_states: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """T5's forward over phoneme ids, with the loss summed and divided by `num_items_in_batch`.

        Args:
            input_ids: (B, U) phoneme ids ending in `</s>`; `attention_mask` (B, U) covers it.
            s2p_states: (B, U, P) final S2P decoder states aligned with the ids, for the bridge.
            labels: (B, S) text ids, -100 on padding.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, s2p_states=s2p_states
            )
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        output: Any = super().forward(
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            **kwargs,
        )
        if labels is not None:
            total = nn.functional.cross_entropy(
                output.logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            )
            output.loss = total / target_count(labels, num_items_in_batch)
        return output


AutoConfig.register("tspc_p2t", P2TConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(P2TConfig, P2TForConditionalGeneration, exist_ok=True)
P2TForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
