"""TSPC (paper, section 2.2): S2P and P2T joined by the bridge, from speech to text in one model.

S2P decodes phonemes greedily; P2T's encoder reads them and attends, in every block, to the final S2P decoder states;
P2T's decoder writes the text. S2P is always frozen. Right after joining, the bridge adds nothing: the model computes
what the two stages do one after the other (TSPC-Zero).

Shape legend: B batch, L input frames, U phonemes with `</s>`, P S2P decoder width, S text positions, D T5 width,
V text vocabulary.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
from transformers.utils import ModelOutput

from .configuration_tspc import TSPCConfig
from .modeling_p2t import P2TForConditionalGeneration
from .modeling_s2p import EndAtLimit, S2PForConditionalGeneration
from .pipeline_tspc import TSPCPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .strict_model import StrictModel, copy_weights, eval_frozen_parts

TEXT_SLACK = 16
DECODER_MODES = ("freeze", "unfreeze")


@dataclass
class TSPCOutput(ModelOutput):
    """
    Args:
        loss: scalar, with `labels`.
        logits: (B, S, V) of the text decoder.
        past_key_values: cache of the text decoder, with `use_cache`.
        phoneme_ids, phoneme_attention_mask: (B, U) what S2P heard.
        s2p_states: (B, U, P) the decoder states behind those phonemes.
        encoder_last_hidden_state: (B, U, D) of P2T's encoder.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    phoneme_ids: torch.Tensor | None = None
    phoneme_attention_mask: torch.Tensor | None = None
    s2p_states: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None


@dataclass
class TSPCGenerateOutput(ModelOutput):
    """`sequences` (B, 1 + S) text ids, `phoneme_ids` and `phoneme_attention_mask` (B, U)."""

    sequences: torch.Tensor | None = None
    phoneme_ids: torch.Tensor | None = None
    phoneme_attention_mask: torch.Tensor | None = None


class TSPCPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = TSPCConfig
    config: TSPCConfig
    base_model_prefix = "tspc"
    main_input_name = "input_features"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "WhisperEncoderLayer",
        "S2PTransformerLayer",
        "S2PRecurrentLayer",
        "P2TEncoderBlock",
        "T5Block",
    ]
    _supports_sdpa = True
    accepts_loss_kwargs = True


class TSPCForConditionalGeneration(TSPCPreTrainedModel, GenerationMixin):
    """Speech in, text ids out."""

    def __init__(self, config: TSPCConfig):
        super().__init__(config)
        self.s2p = S2PForConditionalGeneration(config.s2p_config)
        self.p2t = P2TForConditionalGeneration(config.p2t_config)
        self.generation_config = copy.deepcopy(self.p2t.generation_config)
        self.post_init()
        self._freeze_s2p()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Both stages initialise themselves; this class adds no tensor of its own."""

    @classmethod
    def from_stages(
        cls, s2p: S2PForConditionalGeneration, p2t: P2TForConditionalGeneration, **config_fields: Any
    ) -> "TSPCForConditionalGeneration":
        """Join two trained stages; all their tensors are copied, only the bridge is new (and adds nothing yet).

        Raises:
            ValueError: the stages were trained with different phoneme vocabularies.
        """
        configs = copy.deepcopy(s2p.config), copy.deepcopy(p2t.config)
        for config in configs:
            config.name_or_path = ""  # the stages' folders are no part of the joined model
        model = cls(TSPCConfig(s2p_config=configs[0], p2t_config=configs[1], **config_fields))
        copy_weights(model.s2p, s2p.state_dict(), source="the S2P stage")
        copy_weights(model.p2t, p2t.state_dict(), source="the P2T stage", fresh=("bridge",))
        return model.train(s2p.training)

    def after_loading(self) -> None:
        self._freeze_s2p()

    def _freeze_s2p(self) -> None:
        self.s2p.requires_grad_(False)
        self.s2p.eval()

    def freeze(self, decoder: str) -> None:
        """Choose what joint tuning trains: always P2T's encoder with its phoneme embedding and the bridge.

        Args:
            decoder: `"freeze"` also freezes the text decoder, its embedding `shared` and the output layer (the paper's
                best model); `"unfreeze"` trains them. S2P is frozen either way.

        Raises:
            ValueError: another mode.
        """
        if decoder not in DECODER_MODES:
            raise ValueError(f"decoder is {decoder!r}; it must be one of: {', '.join(DECODER_MODES)}")
        self._freeze_s2p()
        self.p2t.requires_grad_(True)
        if decoder == "freeze":
            for part in (self.p2t.decoder, self.p2t.shared, self.p2t.lm_head):
                part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TSPCForConditionalGeneration":
        super().train(mode)
        self.s2p.eval()
        eval_frozen_parts(self.p2t.decoder)
        return self

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.p2t.encoder

    def get_decoder(self) -> nn.Module:
        return self.p2t.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.p2t.shared

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.p2t.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.p2t.lm_head

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return self.p2t._shift_right(labels)

    @torch.no_grad()
    def phonemes_and_states(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_beams: int = 1,
        synced_gpus: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What S2P hears: greedy phonemes and the decoder states that emitted them.

        What a cache of S2P outputs holds; the outputs of an utterance do not depend on its batch.

        Returns:
            (phoneme_ids (B, U), phoneme_attention_mask (B, U), s2p_states (B, U, P)): every utterance ends in `</s>`,
            which the mask covers; `s2p_states[b, u]` is the state that `phoneme_ids[b, u]` was predicted from. Beyond
            the mask ids are `<pad>` and states zero.
        """
        config = self.config.s2p_config
        encoder_states, encoder_mask = self.s2p.encode(input_features, attention_mask)
        sequences = self.s2p.generate(
            encoder_states=encoder_states,
            encoder_attention_mask=encoder_mask,
            num_beams=num_beams,
            synced_gpus=synced_gpus,
        )
        emitted_BU = sequences[:, 1:]
        is_end = emitted_BU == config.eos_token_id
        mask_BU = (is_end.cumsum(1) - is_end.long() == 0).long()
        phoneme_ids = emitted_BU.masked_fill(mask_BU == 0, config.pad_token_id)
        # Beam search may pad past the longest ending.
        longest = int(mask_BU.sum(1).max())
        phoneme_ids, mask_BU = phoneme_ids[:, :longest], mask_BU[:, :longest]
        output = self.s2p(
            encoder_states=encoder_states,
            encoder_attention_mask=encoder_mask,
            decoder_input_ids=sequences[:, :longest],
        )
        states_BUP = output.decoder_last_hidden_state.masked_fill(mask_BU[..., None] == 0, 0.0)
        return phoneme_ids, mask_BU, states_BUP

    def _heard(
        self,
        input_features: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        phoneme_ids: torch.Tensor | None,
        phoneme_attention_mask: torch.Tensor | None,
        s2p_states: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """S2P outputs: those given (from a cache), or computed from the speech."""
        if phoneme_ids is None and s2p_states is None:
            if input_features is None:
                raise ValueError("TSPC needs input_features, or the cached outputs of phonemes_and_states()")
            return self.phonemes_and_states(input_features, attention_mask, **options)
        if phoneme_ids is None or s2p_states is None:
            given, absent = ("s2p_states", "phoneme_ids") if phoneme_ids is None else ("phoneme_ids", "s2p_states")
            raise ValueError(
                f"TSPC got {given} without {absent}; both come together from phonemes_and_states(). Reference "
                "phonemes are no input of TSPC: it reads what S2P hears"
            )
        mask = phoneme_attention_mask
        if mask is None:
            mask = (phoneme_ids != self.config.s2p_config.pad_token_id).long()
        return phoneme_ids, mask, s2p_states

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        phoneme_ids: torch.Tensor | None = None,
        phoneme_attention_mask: torch.Tensor | None = None,
        s2p_states: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> TSPCOutput:
        """Teacher-forced text logits on S2P's own phonemes, and the loss when `labels` are given.

        Args:
            input_features, attention_mask: speech, as `S2PForConditionalGeneration.forward`.
            phoneme_ids, phoneme_attention_mask, s2p_states: in place of speech, what `phonemes_and_states` returned.
            labels: (B, S) text ids, -100 on padding.
            num_items_in_batch: target tokens of the global batch; the summed loss is divided by it.

        Raises:
            ValueError: no speech and no complete cached outputs.
        """
        phoneme_ids, phoneme_attention_mask, s2p_states = self._heard(
            input_features, attention_mask, phoneme_ids, phoneme_attention_mask, s2p_states
        )
        output = self.p2t(
            input_ids=phoneme_ids,
            attention_mask=phoneme_attention_mask,
            s2p_states=s2p_states,
            labels=labels,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            use_cache=use_cache,
            num_items_in_batch=num_items_in_batch,
        )
        return TSPCOutput(
            loss=output.loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            phoneme_ids=phoneme_ids,
            phoneme_attention_mask=phoneme_attention_mask,
            s2p_states=s2p_states,
            encoder_last_hidden_state=output.encoder_last_hidden_state,
        )

    def text_limits(self, phoneme_attention_mask: torch.Tensor) -> torch.Tensor:
        """Most text tokens (with `</s>`) for each utterance: (B, U) mask -> (B,)."""
        by_phonemes = phoneme_attention_mask.sum(1).float() * self.config.max_text_tokens_per_phoneme
        return by_phonemes.long() + TEXT_SLACK

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        phoneme_ids: torch.Tensor | None = None,
        phoneme_attention_mask: torch.Tensor | None = None,
        s2p_states: torch.Tensor | None = None,
        s2p_num_beams: int = 1,
        return_phonemes: bool = False,
        synced_gpus: bool | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Text ids for speech (or for cached S2P outputs).

        Args:
            s2p_num_beams: beams of the phoneme stage. The bridge is tuned on greedy phonemes, and the paper found
                wider beams to hurt the tuned model (figure 3): keep 1 but for TSPC-Zero.
            return_phonemes: return `TSPCGenerateOutput` instead of the ids alone.
            synced_gpus: passed to both stages (ZeRO-3).
            kwargs: `num_beams`, `max_new_tokens`, ... of the text stage, as `GenerationMixin.generate`.

        Raises:
            ValueError: no speech and no complete cached outputs.
        """
        for unused in ("labels", "decoder_input_ids", "decoder_attention_mask"):
            kwargs.pop(unused, None)
        phoneme_ids, phoneme_attention_mask, s2p_states = self._heard(
            inputs if input_features is None else input_features,
            attention_mask,
            phoneme_ids,
            phoneme_attention_mask,
            s2p_states,
            num_beams=s2p_num_beams,
            synced_gpus=synced_gpus,
        )
        encoded = self.p2t.encoder(input_ids=phoneme_ids, attention_mask=phoneme_attention_mask, s2p_states=s2p_states)
        limits_B = self.text_limits(phoneme_attention_mask)
        processors = LogitsProcessorList([*(logits_processor or [])])
        processors.append(EndAtLimit(limits_B, self.config.eos_token_id))
        asked = kwargs.pop("max_new_tokens", None) or getattr(generation_config, "max_new_tokens", None)
        if not (kwargs.get("max_length") or getattr(generation_config, "max_length", None)):
            kwargs["max_new_tokens"] = min(asked or int(limits_B.max()), int(limits_B.max()))
        self.p2t.generation_config = self.generation_config
        generated = self.p2t.generate(
            generation_config=generation_config,
            logits_processor=processors,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.last_hidden_state),
            attention_mask=phoneme_attention_mask,
            synced_gpus=synced_gpus,
            **kwargs,
        )
        if not return_phonemes:
            return generated
        return TSPCGenerateOutput(
            sequences=generated if torch.is_tensor(generated) else generated.sequences,
            phoneme_ids=phoneme_ids,
            phoneme_attention_mask=phoneme_attention_mask,
        )


AutoConfig.register("tspc", TSPCConfig, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(TSPCConfig, TSPCForConditionalGeneration, exist_ok=True)
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES["tspc"] = "TSPCForConditionalGeneration"  # type: ignore[index]
TSPCForConditionalGeneration.register_for_auto_class("AutoModelForSpeechSeq2Seq")
