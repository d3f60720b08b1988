"""Speech to phonemes (paper, section 2.2): a frozen or trainable speech encoder and a phoneme decoder.

Shape legend: B batch, L input frames (or samples), T encoder frames, E encoder width, U phonemes, D decoder width,
V phoneme vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
from transformers.utils import ModelOutput

from .configuration_tspc import S2PConfig
from .loading_tspc import load_encoder_weights, read_encoder_config
from .modeling_decoders import S2PDecoder
from .modeling_encoders import build_encoder
from .pipeline_tspc import TSPCPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .strict_model import StrictModel, eval_frozen_parts

# Room for the first phonemes of a very short utterance, beside `max_phonemes_per_frame`.
PHONEME_SLACK = 16


@dataclass
class S2POutput(ModelOutput):
    """
    Args:
        loss: scalar, with `labels`; `decoder_loss` and `ctc_loss` are its terms before weighting, detached.
        logits: (B, U, V) of the decoder.
        ctc_logits: (B, T, V), blank = pad id, with `ctc_weight > 0` and `labels`.
        past_key_values: the cache, with `use_cache`.
        decoder_last_hidden_state: (B, U, D), after the final norm: what the bridge attends to.
        encoder_last_hidden_state: (B, T, E) states of the true frames; `encoder_attention_mask` is their mask.
    """

    loss: torch.Tensor | None = None
    decoder_loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    ctc_logits: torch.Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_last_hidden_state: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_attention_mask: torch.Tensor | None = None


class EndAtLimit(LogitsProcessor):
    """Ends each sequence at its own limit, so that what an utterance gets does not depend on its batch.

    Args:
        limits_B: most tokens to generate for each utterance, the end of sequence included.
        eos_token_id: id of the end of sequence.
        prompt_length: tokens already there when generation starts.
    """

    def __init__(self, limits_B: torch.Tensor, eos_token_id: int, prompt_length: int = 1):
        self.limits_B = limits_B
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = input_ids.shape[0] // self.limits_B.shape[0]
        limits = self.limits_B.to(scores.device).repeat_interleave(beams)
        over = input_ids.shape[1] - self.prompt_length + 1 >= limits
        ended = torch.full_like(scores, float("-inf"))
        ended[:, self.eos_token_id] = 0.0
        return torch.where(over[:, None], ended, scores)


def target_count(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """What the summed losses are divided by: the tokens of the whole global batch, or those at hand."""
    if num_items_in_batch is None:
        return (labels != -100).sum().clamp(min=1)
    if torch.is_tensor(num_items_in_batch):
        return num_items_in_batch.to(labels.device)
    return num_items_in_batch


def shift_right(labels: torch.Tensor, start_id: int, pad_id: int) -> torch.Tensor:
    """Decoder inputs for teacher forcing: the start token, then every label but the last."""
    shifted = torch.full_like(labels, start_id)
    shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad_id)
    return shifted


class S2PPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = S2PConfig
    config: S2PConfig
    base_model_prefix = "s2p"
    main_input_name = "input_features"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["WhisperEncoderLayer", "S2PTransformerLayer", "S2PRecurrentLayer"]
    _supports_sdpa = True
    # The Trainer must not divide the loss again: `forward` divides by num_items_in_batch itself.
    accepts_loss_kwargs = True


class S2PForConditionalGeneration(S2PPreTrainedModel, GenerationMixin):
    """Speech in, phoneme ids out. `input_features` is whatever the encoder reads: log-mel or raw waveform."""

    _tied_weights_keys = {"proj_out.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: S2PConfig):
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.decoder = S2PDecoder(config)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.ctc_head = nn.Linear(config.encoder_hidden_size, config.vocab_size) if config.ctc_weight else None
        self.generation_config = GenerationConfig(
            decoder_start_token_id=config.decoder_start_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            num_beams=1,
            do_sample=False,
        )
        self.post_init()
        self.after_loading()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        self.decoder.init_weights(module)

    @classmethod
    def from_pretrained_encoder(
        cls, encoder_id_or_path: str, config_overrides: dict[str, Any] | None = None, **hub_kwargs: Any
    ) -> "S2PForConditionalGeneration":
        """A fresh phoneme decoder on the encoder of a Whisper, Wav2Vec2 or Wav2Vec2-BERT checkpoint.

        Args:
            encoder_id_or_path: Hub id or folder, e.g. `vinai/PhoWhisper-base`; full models with a head load as well.
            config_overrides: fields of `S2PConfig`. `d_model` defaults to the width of the encoder.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ... as in `from_pretrained`.

        Raises:
            ValueError: an encoder of another architecture, or a tensor of it missing in the checkpoint.
        """
        encoder_config = read_encoder_config(encoder_id_or_path, **hub_kwargs)
        fields = {"d_model": encoder_config.hidden_size, **(config_overrides or {})}
        model = cls(S2PConfig(encoder_config=encoder_config, **fields))
        load_encoder_weights(model.encoder, encoder_id_or_path, encoder_config, **hub_kwargs)
        return model

    def after_loading(self) -> None:
        # Whisper's encoder positions are constants.
        positions = getattr(self.encoder, "embed_positions", None)
        if isinstance(positions, nn.Embedding):
            positions.requires_grad_(False)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.encoder

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.proj_out

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.proj_out = value

    def freeze_encoder(self) -> None:
        """Stop training the encoder; it also stays in evaluation mode (no dropout) under `.train()`."""
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "S2PForConditionalGeneration":
        super().train(mode)
        eval_frozen_parts(self.encoder)
        return self

    def encode(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, ...) inputs and their (B, L) mask -> ((B, T, E) states of the true frames, (B, T) mask).

        What a cache of encoder outputs holds: feeding it back as `encoder_states` gives the same logits.
        """
        trained = any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            encoded = self.encoder(input_features, attention_mask)
        return encoded.last_hidden_state, encoded.attention_mask

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_outputs: ModelOutput | tuple | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> S2POutput:
        """Teacher-forced phoneme logits, and the loss when `labels` are given.

        Args:
            input_features: (B, F, L) log-mel, (B, N) waveform or (B, L, features), as the encoder reads.
            attention_mask: (B, L) over input frames; 1 on true ones.
            encoder_states, encoder_attention_mask: in place of the two above, what `encode` returned.
            decoder_input_ids: (B, U); made from `labels` when absent.
            labels: (B, U) phoneme ids ending in `</s>`, -100 on padding.
            num_items_in_batch: target tokens of the global batch; the summed losses are divided by it (by the tokens
                at hand when `None`), which makes them independent of accumulation and world size.

        Raises:
            ValueError: no speech, or neither `labels` nor `decoder_input_ids`.
        """
        if encoder_outputs is not None:
            encoder_states = encoder_outputs[0]
        if encoder_states is None:
            if input_features is None:
                raise ValueError("S2P needs input_features, or encoder_states from encode()")
            encoder_states, encoder_attention_mask = self.encode(input_features, attention_mask)
        encoder_states = encoder_states.to(self.decoder.layer_norm.weight.dtype)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("S2P needs labels (training) or decoder_input_ids; to transcribe, call generate()")
            decoder_input_ids = shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)
        states_BUD, past_key_values = self.decoder(
            decoder_input_ids, encoder_states, encoder_attention_mask, past_key_values, bool(use_cache)
        )
        logits_BUV = self.proj_out(states_BUD)
        loss = decoder_loss = ctc_loss = ctc_logits_BTV = None
        if labels is not None:
            count = target_count(labels, num_items_in_batch)
            loss = decoder_loss = self._decoder_loss(logits_BUV, labels) / count
            if self.ctc_head is not None:
                ctc_logits_BTV = self.ctc_head(encoder_states)
                ctc_loss = self._ctc_loss(ctc_logits_BTV, encoder_attention_mask, labels) / count
                loss = (1 - self.config.ctc_weight) * decoder_loss + self.config.ctc_weight * ctc_loss
        return S2POutput(
            loss=loss,
            decoder_loss=None if decoder_loss is None else decoder_loss.detach(),
            ctc_loss=None if ctc_loss is None else ctc_loss.detach(),
            logits=logits_BUV,
            ctc_logits=ctc_logits_BTV,
            past_key_values=past_key_values,
            decoder_last_hidden_state=states_BUD,
            encoder_last_hidden_state=encoder_states,
            encoder_attention_mask=encoder_attention_mask,
        )

    def _decoder_loss(self, logits_BUV: torch.Tensor, labels_BU: torch.Tensor) -> torch.Tensor:
        """Summed cross entropy."""
        return nn.functional.cross_entropy(
            logits_BUV.float().flatten(0, 1),
            labels_BU.flatten(),
            ignore_index=-100,
            label_smoothing=self.config.label_smoothing,
            reduction="sum",
        )

    def _ctc_loss(
        self, logits_BTV: torch.Tensor, mask_BT: torch.Tensor | None, labels_BU: torch.Tensor
    ) -> torch.Tensor:
        """Summed CTC loss over the phonemes without `</s>`."""
        blank = self.config.pad_token_id
        is_symbol = (labels_BU != -100) & (labels_BU != self.config.eos_token_id) & (labels_BU != blank)
        frames_B = torch.full((len(labels_BU),), logits_BTV.shape[1], device=labels_BU.device)
        return nn.functional.ctc_loss(
            logits_BTV.float().log_softmax(-1).transpose(0, 1),
            labels_BU[is_symbol],  # one row of targets after another
            frames_B if mask_BT is None else mask_BT.sum(1),
            is_symbol.sum(1),
            blank=blank,
            reduction="sum",
            zero_infinity=True,  # fewer frames than phonemes: no alignment exists
        )

    @torch.no_grad()
    def ctc_greedy(self, encoder_states: torch.Tensor, mask: torch.Tensor | None = None) -> list[list[int]]:
        """Best CTC path of each utterance, repeats merged and blanks dropped: B lists of phoneme ids.

        Raises:
            ValueError: the model has no CTC head.
        """
        if self.ctc_head is None:
            raise ValueError("this S2P has no CTC head (config.ctc_weight is 0)")
        best_BT = self.ctc_head(encoder_states.to(self.ctc_head.weight.dtype)).argmax(-1)
        lengths = [best_BT.shape[1]] * len(best_BT) if mask is None else mask.sum(1).long().tolist()
        blank = self.config.pad_token_id
        paths = [torch.unique_consecutive(row[:length]).tolist() for row, length in zip(best_BT, lengths, strict=True)]
        return [[token for token in path if token != blank] for path in paths]

    def phoneme_limits(self, encoder_attention_mask: torch.Tensor) -> torch.Tensor:
        """Most tokens (with `</s>`) that generation may emit for each utterance: (B, T) mask -> (B,)."""
        by_audio = encoder_attention_mask.sum(1).float() * self.config.max_phonemes_per_frame + PHONEME_SLACK
        return by_audio.long().clamp(max=self.config.max_target_positions)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Phoneme ids by greedy or beam search: (B, 1 + U) with the start token, as `GenerationMixin.generate`.

        Takes `input_features` and `attention_mask`, or `encoder_states` and `encoder_attention_mask` from `encode`.
        Every sequence ends within `phoneme_limits`, whatever the model has learned.

        Raises:
            ValueError: no speech given.
        """
        for unused in ("labels", "decoder_attention_mask"):
            kwargs.pop(unused, None)
        if encoder_states is None:
            input_features = inputs if input_features is None else input_features
            if input_features is None:
                raise ValueError("generate() needs input_features, or encoder_states from encode()")
            encoder_states, encoder_attention_mask = self.encode(input_features, attention_mask)
        if encoder_attention_mask is None:
            encoder_attention_mask = torch.ones(
                encoder_states.shape[:2], dtype=torch.long, device=encoder_states.device
            )
        limits_B = self.phoneme_limits(encoder_attention_mask)
        prompt = kwargs.get("decoder_input_ids")
        processors = LogitsProcessorList([*(logits_processor or [])])
        # Padding and the start token are no phonemes; a mask made from ids has to be able to rely on it.
        never = [self.config.pad_token_id, self.config.decoder_start_token_id]
        processors.append(SuppressTokensLogitsProcessor(never, device=str(encoder_states.device)))
        processors.append(
            EndAtLimit(limits_B, self.config.eos_token_id, 1 if prompt is None else max(prompt.shape[1], 1))
        )
        asked = kwargs.pop("max_new_tokens", None) or getattr(generation_config, "max_new_tokens", None)
        longest = int(limits_B.max())
        if not (kwargs.get("max_length") or getattr(generation_config, "max_length", None)):
            kwargs["max_new_tokens"] = min(asked or longest, longest)
        if kwargs.get("use_cache", True):
            kwargs.setdefault("past_key_values", self.decoder.new_cache())
        return super().generate(
            generation_config=generation_config,
            logits_processor=processors,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_states),
            encoder_attention_mask=encoder_attention_mask,
            **kwargs,
        )


AutoConfig.register("tspc_s2p", S2PConfig, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(S2PConfig, S2PForConditionalGeneration, exist_ok=True)
# The stock ASR pipeline calls generate() only for class names listed here.
MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES["tspc_s2p"] = "S2PForConditionalGeneration"  # type: ignore[index]
S2PForConditionalGeneration.register_for_auto_class("AutoModelForSpeechSeq2Seq")
