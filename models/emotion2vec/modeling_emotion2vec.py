"""emotion2vec (Ma et al., arXiv 2312.15185): the encoder, and the classifier of utterances on top of it.

The states of an utterance do not depend on how far its batch was padded.

Shape legend: B batch, N samples, T frames at 50 Hz, S extra tokens and frames, D width, H heads, C classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_emotion2vec import Emotion2VecConfig
from .emotion2vec_layers import (
    Emotion2VecLayer,
    FeatureEncoder,
    FeatureProjection,
    PositionEncoder,
    alibi_slopes,
    attention_bias,
    block_rows,
)
from .feature_extraction_emotion2vec import Emotion2VecFeatureExtractor  # noqa: F401  (shipped by save_pretrained)
from .pipeline_audio_classification import SpeechClassificationPipeline  # noqa: F401  (shipped by save_pretrained)
from .strict_model import StrictModel, eval_frozen_parts

SAMPLING_RATE = 16_000
# Kernels sum in an order that depends on the sizes, and so would an utterance depend on its batch in the last digits.
# Lengths that are multiples of the vector width, and not tiny, leave all of them in one order.
LENGTH_MULTIPLE = 16
LEAST_FRAMES = 32


@dataclass
class Emotion2VecModelOutput(ModelOutput):
    """Frames and utterance vectors, without the extra tokens.

    Args:
        last_hidden_state: (B, T, D); zero on padding.
        pooler_output: (B, D), the mean over the valid frames: the published "utterance" feature.
        frame_mask: (B, T), 1 on valid frames.
        hidden_states: what enters the first block and what leaves each, (B, T, D); zero on padding. The last one is
            `last_hidden_state`.
        attentions: for each block (B, H, S, S) weights, the extra tokens first; with `attn_implementation="eager"`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class Emotion2VecClassifierOutput(ModelOutput):
    """As `Emotion2VecModelOutput`, with `loss`, `logits` (B, C) and the utterance vectors as `embeddings` (B, D)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


class Emotion2VecPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = Emotion2VecConfig
    config: Emotion2VecConfig
    base_model_prefix = "emotion2vec"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # flash kernels take no bias
    _no_split_modules = ["Emotion2VecLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Emotion2VecModel):
            if module.alibi_scale is not None:
                init.constant_(module.alibi_scale, self.config.alibi_scale)
            tokens = torch.randn_like(module.extra_tokens)
            tokens[:, :1] = 0.0
            # Whole: a slice does not show whether its tensor has been loaded.
            init.copy_(module.extra_tokens, tokens)


class Emotion2VecModel(Emotion2VecPreTrainedModel):
    """The encoder: frames at 50 Hz and one vector for each utterance.

    Example:
        >>> inputs = feature_extractor([waveform], sampling_rate=16_000, return_tensors="pt")
        >>> model(**inputs).pooler_output  # (1, D)
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: Emotion2VecConfig):
        super().__init__(config)
        self.feature_encoder = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.position_encoder = PositionEncoder(config)
        self.extra_tokens = nn.Parameter(torch.zeros(1, config.num_extra_tokens, config.hidden_size))
        layers = config.num_hidden_layers if config.alibi_scale_per_layer else 1
        scale_LH = torch.full((layers, config.num_attention_heads if config.alibi_scale_per_head else 1), 1.0)
        self.alibi_scale = nn.Parameter(scale_LH * config.alibi_scale) if config.use_alibi else None
        norm = {"eps": config.layer_norm_eps, "elementwise_affine": config.norm_affine}
        # One norm outside of the blocks: before them, or behind them where each normalises its input.
        self.norm = nn.LayerNorm(config.hidden_size, **norm)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.layers = nn.ModuleList(Emotion2VecLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.after_loading()
        self.post_init()

    def after_loading(self) -> None:
        if self.alibi_scale is not None:
            self.alibi_scale.requires_grad_(self.config.learned_alibi_scale)

    @property
    def frame_s(self) -> float:
        """Seconds between frames."""
        return self.config.samples_per_frame / SAMPLING_RATE

    def freeze_feature_encoder(self) -> None:
        """Stop training the convolutions on the waveform, as is usual when fine-tuning."""
        self.feature_encoder.requires_grad_(False)

    def freeze_layers(self, count: int) -> None:
        """Stop training everything before block `count`: convolutions, positions, extra tokens, the first blocks.

        Raises:
            ValueError: more blocks than there are.
        """
        if not 0 <= count <= len(self.layers):
            raise ValueError(f"freeze_layers({count}): the model has {len(self.layers)} blocks")
        for part in (self.feature_encoder, self.feature_projection, self.position_encoder, *self.layers[:count]):
            part.requires_grad_(False)
        for tensor in (self.extra_tokens, self.alibi_scale):
            if tensor is not None:
                tensor.requires_grad_(False)
        if not self.config.layer_norm_first:
            self.norm.requires_grad_(False)

    def freeze(self) -> None:
        """Stop training the whole encoder; it then computes features without dropout, also under `.train()`."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Emotion2VecModel":
        super().train(mode)
        if mode:
            eval_frozen_parts(self.feature_encoder, *self.layers, self)
        return self

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """Samples -> frames; an utterance shorter than what one frame sees has one."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=1)

    def _get_feature_vector_attention_mask(self, num_frames: int, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, N) mask of samples -> (B, `num_frames`) mask of frames."""
        lengths_B = self._get_feat_extract_output_lengths(attention_mask.long().sum(1))
        return (torch.arange(num_frames, device=attention_mask.device)[None] < lengths_B[:, None]).long()

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Emotion2VecModelOutput | tuple:
        """(B, N) normalised waveforms and their (B, N) mask (right padding) -> frames and utterance vectors.

        Raises:
            ValueError: input that is not a batch of waveforms, or a mask of another shape.
        """
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        local_BTD, mask_BT, num_frames = self._frames(input_values, attention_mask)
        hidden_BSD = local_BTD + self.position_encoder(local_BTD, mask_BT)
        extra = config.num_extra_tokens
        hidden_BSD = torch.cat([self.extra_tokens.expand(len(hidden_BSD), -1, -1).to(hidden_BSD), hidden_BSD], dim=1)
        if not config.layer_norm_first:
            hidden_BSD = self.norm(hidden_BSD)
        hidden_BSD = self.input_dropout(hidden_BSD)
        key_mask_BS = nn.functional.pad(mask_BT, (extra, 0), value=1)
        bias_BHSS, slopes_LH = None, self._slopes()
        inputs, weights = [], []
        for index, layer in enumerate(self.layers):
            inputs.append(hidden_BSD)
            slopes_H = slopes_LH[index % len(slopes_LH)]
            if index < len(slopes_LH):  # afterwards the blocks share one bias
                bias_BHSS = self._whole_bias(slopes_H, key_mask_BS, hidden_BSD.dtype)
            if self.training and config.layerdrop and torch.rand([]) < config.layerdrop:
                weights.append(None)
                continue
            hidden_BSD, weights_BHSS = layer(hidden_BSD, bias_BHSS, slopes_H, key_mask_BS)
            weights.append(weights_BHSS)
        if config.layer_norm_first:
            hidden_BSD = self.norm(hidden_BSD)
        mask_BT = mask_BT[:, :num_frames].expand(len(hidden_BSD), -1)
        states = [*inputs, hidden_BSD] if output_hidden_states else [hidden_BSD]
        frames = [x[:, extra : extra + num_frames].masked_fill(mask_BT[..., None] == 0, 0.0) for x in states]
        output = Emotion2VecModelOutput(
            last_hidden_state=frames[-1],
            pooler_output=frames[-1].sum(dim=1) / mask_BT.sum(dim=1, keepdim=True).to(hidden_BSD.dtype),
            frame_mask=mask_BT,
            hidden_states=tuple(frames) if output_hidden_states else None,
            attentions=self._attentions(weights, extra + num_frames) if output_attentions else None,
        )
        return output if return_dict is not False else output.to_tuple()

    def _frames(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Projected convolution features (B, T', D), their mask (1 or B, T'), and T: frames from T on are padding."""
        if input_values.ndim != 2:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}; emotion2vec expects waveforms (batch, samples): "
                "use the feature extractor saved with the model"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values[:1], dtype=torch.long)
        elif attention_mask.shape != input_values.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)} but input_values "
                f"{tuple(input_values.shape)}: give one value for each sample"
            )
        waveforms_BN = (input_values * attention_mask).to(self.feature_projection.linear.weight.dtype)
        least = self.config.shortest_input + (LEAST_FRAMES - 1) * self.config.samples_per_frame
        waveforms_BN = nn.functional.pad(waveforms_BN, (0, max(0, least - waveforms_BN.shape[1])))
        local_BTD = self.feature_projection(self.feature_encoder(waveforms_BN))
        num_frames = int(self._get_feat_extract_output_lengths(torch.tensor(input_values.shape[1])))
        spare = -(local_BTD.shape[1] + self.config.num_extra_tokens) % LENGTH_MULTIPLE
        local_BTD = nn.functional.pad(local_BTD, (0, 0, 0, spare))
        return local_BTD, self._get_feature_vector_attention_mask(local_BTD.shape[1], attention_mask), num_frames

    def _attentions(self, weights: list[torch.Tensor | None], size: int) -> tuple[torch.Tensor | None, ...]:
        if all(weights_BHSS is None for weights_BHSS in weights):
            raise ValueError(
                f"output_attentions: {self.config._attn_implementation} attention holds no weights; load the model "
                'with attn_implementation="eager"'
            )
        return tuple(None if weights_BHSS is None else weights_BHSS[..., :size, :size] for weights_BHSS in weights)

    def _slopes(self) -> torch.Tensor:
        """(1 or layers, H) slopes times their scale, in float32; a scale below zero counts as zero."""
        slopes_H = alibi_slopes(self.config.num_attention_heads).to(self.extra_tokens.device)
        if self.alibi_scale is None:
            return torch.zeros_like(slopes_H)[None]
        return slopes_H * self.alibi_scale.float().clamp(min=0)

    def _whole_bias(
        self, slopes_H: torch.Tensor, key_mask_BS: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """The bias for all queries at once, or None where it would be too large."""
        size = key_mask_BS.shape[1]
        if block_rows(self.config, key_mask_BS) < size:
            return None
        return attention_bias(slopes_H, key_mask_BS, self.config.num_extra_tokens, 0, size).to(dtype)


class Emotion2VecForAudioClassification(Emotion2VecPreTrainedModel):
    """One linear layer on the utterance vector, as in the published emotion2vec+ models."""

    def __init__(self, config: Emotion2VecConfig):
        super().__init__(config)
        self.emotion2vec = Emotion2VecModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
        self.post_init()

    def after_loading(self) -> None:
        self.emotion2vec.after_loading()

    @classmethod
    def with_new_head(
        cls, path: str | os.PathLike, labels: Sequence[str], **kwargs: Any
    ) -> "Emotion2VecForAudioClassification":
        """An encoder, of a folder with or without a classifier, under a new, randomly initialised classifier.

        `from_pretrained` refuses a folder without classifier: only this method makes a random one.

        Args:
            path: folder or Hub id. `kwargs` go to `from_pretrained` of the encoder.
            labels: names of the classes, in the order of their ids.

        Raises:
            ValueError: no labels, or one twice.
        """
        encoder = Emotion2VecModel.from_pretrained(path, **kwargs)
        with torch.device("meta"):
            model = cls(encoder.config)
        model.emotion2vec = encoder
        return model.replace_head(labels).eval()

    def replace_head(self, labels: Sequence[str]) -> "Emotion2VecForAudioClassification":
        """Put a new, randomly initialised classifier for `labels` in place of the present one; returns the model.

        Raises:
            ValueError: no labels, or one twice.
        """
        labels = list(labels)
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"labels are {labels}; give the names of the classes, each once")
        self.config.active_labels = None
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {name: index for index, name in enumerate(labels)}
        like = self.emotion2vec.extra_tokens
        self.classifier = nn.Linear(self.config.hidden_size, len(labels), device=like.device, dtype=like.dtype)
        nn.init.normal_(self.classifier.weight, std=self.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)
        return self

    def freeze_base_model(self) -> None:
        """Train the classifier alone."""
        self.emotion2vec.freeze()

    def freeze_feature_encoder(self) -> None:
        """Stop training the convolutions on the waveform, as is usual when fine-tuning."""
        self.emotion2vec.freeze_feature_encoder()

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> Emotion2VecClassifierOutput | tuple:
        """Emotion logits of utterances; those of labels outside `config.active_labels` are -inf.

        Args:
            labels: (B,) ids; -100 leaves an utterance out. The loss is cross entropy among the active labels: its mean
                or, divided by `num_items_in_batch` (utterances of the whole optimiser step), its sum.

        Raises:
            ValueError: a label that is not active or out of range; see also `Emotion2VecModel.forward`.
        """
        encoded = self.emotion2vec(input_values, attention_mask, output_hidden_states, output_attentions)
        logits_BC = self.classifier(self.dropout(encoded.pooler_output)).float()
        active = self.config.active_label_ids()
        if active is not None:
            inactive_C = torch.ones(logits_BC.shape[1], dtype=torch.bool, device=logits_BC.device)
            inactive_C[active] = False
            logits_BC = logits_BC.masked_fill(inactive_C, float("-inf"))
        loss = None
        if labels is not None:
            allowed = torch.tensor([-100, *(range(logits_BC.shape[1]) if active is None else active)])
            if not torch.isin(labels, allowed.to(labels.device)).all():
                raise ValueError(
                    f"labels hold {sorted(set(labels.tolist()) - set(allowed.tolist()))}; the classes that this model "
                    f"answers are {allowed[1:].tolist()} (config.active_labels, config.id2label), and -100 is ignored"
                )
            total = nn.functional.cross_entropy(logits_BC, labels, reduction="sum")
            count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
            loss = total / (count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1))
        output = Emotion2VecClassifierOutput(
            loss=loss,
            logits=logits_BC,
            embeddings=encoded.pooler_output,
            frame_mask=encoded.frame_mask,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if return_dict is not False else output.to_tuple()


AutoConfig.register("emotion2vec", Emotion2VecConfig, exist_ok=True)
AutoModel.register(Emotion2VecConfig, Emotion2VecModel, exist_ok=True)
AutoModelForAudioClassification.register(Emotion2VecConfig, Emotion2VecForAudioClassification, exist_ok=True)
Emotion2VecModel.register_for_auto_class("AutoModel")
Emotion2VecForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
