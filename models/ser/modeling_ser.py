"""Speech emotion recognition: encoders, fusion, head; cross entropy and supervised contrastive loss; k-NN.

The winner's system is Wav2Vec2 convolutions (512) beside emotion2vec (768) in every frame, under SpeechFormer++
(paper, section 3.1); the runner-up's is cross attention over several encoders, a mixed loss and k-NN interpolation
(section 3.2).

Shape legend: B batch, N samples, T frames, E width of an encoder's features, K mixed layers, D fused width,
X frames or states that the head pools, C classes, U tokens of the transcript.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.hub import cached_file

from .configuration_ser import SERConfig
from .encoders_ser import EncoderBranch
from .fusion_ser import ConcatFusion, CrossAttentionFusion
from .heads_ser import EmotionHead
from .knn_ser import SETTINGS_FILE, TENSORS_FILE, KNNDatastore, find_in, weights_digest
from .loading_ser import load_encoder, read_encoders
from .losses_ser import IGNORED, cross_entropy_sum, supervised_contrastive_sum
from .padding import length_mask, waveform_mask
from .pipeline_ser import SERPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .speechformer_ser import SpeechFormer
from .strict_model import StrictModel, eval_frozen_parts

logger = logging.getLogger(__name__)


@dataclass
class SEROutput(ModelOutput):
    """
    Args:
        loss: scalar, with `labels`: `(1 - a) * ce_loss + a * supcon_loss`.
        ce_loss, supcon_loss: its terms before weighting, detached; each divided like `loss`.
        num_skipped: utterances of the batch that the contrastive loss left out (no other of their class, or one class
            in the whole batch), with `labels` and `supcon_weight > 0`.
        logits: (B, C), of the model alone.
        probabilities: (B, C), outside of training: the softmax, interpolated with the neighbours where the model has a
            datastore.
        embedding: (B, E), what the last layer reads: the keys of a datastore.
        last_hidden_state: (B, T, D) fused frames, 0 on padding; `attention_mask` (B, T) is their mask.
    """

    loss: torch.Tensor | None = None
    ce_loss: torch.Tensor | None = None
    supcon_loss: torch.Tensor | None = None
    num_skipped: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None
    embedding: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


class SERPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = SERConfig
    config: SERConfig
    base_model_prefix = "ser"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["EncoderBranch", "SpeechFormerLayer", "CrossAttentionLayer"]
    # The Trainer must not divide the loss again: `forward` divides by num_items_in_batch itself.
    accepts_loss_kwargs = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, SpeechFormer | CrossAttentionFusion):
            module.init_own_tensors()
        elif isinstance(module, EncoderBranch) and module.layer_weights is not None:
            init.zeros_(module.layer_weights)


class SERForAudioClassification(SERPreTrainedModel):
    """Waveforms (or cached features of frozen encoders) in, emotion logits out.

    Example:
        >>> batch = feature_extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")
        >>> model(**batch).probabilities  # (B, C)
    """

    def __init__(self, config: SERConfig):
        super().__init__(config)
        specs = config.encoder_specs
        self.encoders = nn.ModuleDict({spec.name: EncoderBranch(spec, config._attn_implementation) for spec in specs})
        sizes = [branch.size for branch in self.branches]
        self.fusion = {"concat": ConcatFusion, "cross_attention": CrossAttentionFusion}[config.fusion](config, sizes)
        self._check_heads(self.fusion.size)
        self.head = EmotionHead(config, self.fusion.size)
        embedding_size = self.head.embedding_size
        self.projection = None
        if config.supcon_weight:
            self.projection = nn.Sequential(
                nn.Linear(embedding_size, embedding_size), nn.ReLU(), nn.Linear(embedding_size, config.supcon_size)
            )
        self.datastore: KNNDatastore | None = None
        self.post_init()
        self.after_loading()

    @property
    def branches(self) -> list[EncoderBranch]:
        """The encoders in the order of the configuration."""
        return [branch for branch in self.encoders.values() if isinstance(branch, EncoderBranch)]

    @property
    def cacheable(self) -> list[str]:
        """Names of the frozen encoders, whose features can be computed once; adapters inside make one trainable."""
        trained = {branch for branch in self.branches if any(one.requires_grad for one in branch.model.parameters())}
        return [branch.spec.name for branch in self.branches if branch.spec.frozen and branch not in trained]

    def _check_heads(self, size: int) -> None:
        config = self.config
        width = config.speechformer_projection or size
        if config.head == "speechformer" and (width % config.speechformer_heads or width < 4):
            raise ValueError(
                f"SpeechFormer of width {width} and {config.speechformer_heads} heads: the width must be a multiple "
                "of speechformer_heads, and 4 or more; set speechformer_projection"
            )

    def after_loading(self) -> None:
        """Freeze what the configuration says is frozen."""
        for branch in self.branches:
            if branch.spec.frozen:
                branch.model.requires_grad_(False)
            branch.freeze_constants()
        if self.head.speechformer is not None:
            self.head.speechformer.freeze_positions()
        self.train(self.training)

    def train(self, mode: bool = True) -> "SERForAudioClassification":
        super().train(mode)
        eval_frozen_parts(*(branch.model for branch in self.branches))
        return self

    # --- loading and saving ------------------------------------------------------------------------------------------

    @classmethod
    def from_encoders(
        cls,
        encoders: Sequence[Mapping[str, Any]],
        config_overrides: Mapping[str, Any] | None = None,
        **hub_kwargs: Any,
    ) -> "SERForAudioClassification":
        """A fresh head on pre-trained encoders.

        Args:
            encoders: for each encoder a mapping with `path` (Hub id or folder; models with a head load as well) and
                fields of `EncoderSpec` other than `kind` and `config`, e.g. `{"path": "facebook/wav2vec2-base",
                "features": 9}`. Its `revision` may be given too. `normalise` follows the checkpoint's feature
                extractor. Without a path it is built anew: `{"kind": "filterbank", "config": {"num_cepstra": 40}}`.
            config_overrides: fields of `SERConfig`.
            hub_kwargs: `token`, `cache_dir`, `local_files_only`, … as in `from_pretrained`.

        Raises:
            ValueError: an encoder of another architecture, or a tensor of it missing in the checkpoint.
        """
        items, sources = read_encoders(encoders, **hub_kwargs)
        model = cls(SERConfig(encoders=items, **(config_overrides or {})))
        for branch, source in zip(model.branches, sources, strict=True):
            if source is not None:
                load_encoder(branch, source[0], **source[1])
        return model.eval()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, *args: Any, knn: bool = True, **kwargs: Any) -> Any:
        """As `StrictModel.from_pretrained`; a k-NN datastore in the folder is loaded too unless `knn=False`.

        Raises:
            CheckpointError: damaged or incomplete weights, or a datastore that was made by other weights.
        """
        loaded = super().from_pretrained(path, *args, **kwargs)
        if knn:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            hub = {
                key: kwargs[key]
                for key in ("cache_dir", "token", "revision", "local_files_only", "subfolder", "force_download")
                if key in kwargs
            }
            model._load_datastore(path, hub)
        return loaded

    def _load_datastore(self, path: str | os.PathLike, hub: dict[str, Any]) -> None:
        def find(name: str) -> str | None:
            quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
            return cached_file(path, name, **hub, **quiet)

        settings = find(SETTINGS_FILE)
        if settings is None:
            return
        self.datastore = KNNDatastore.load(
            settings,
            find(TENSORS_FILE),
            embedding_size=self.head.embedding_size,
            label_names=self.label_names,
            weights_digest=lambda: weights_digest(find),
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`; the k-NN datastore goes into the folder, and an outdated one out.

        Raises:
            ValueError: `push_to_hub`, which would upload before the datastore is written.
        """
        if self.datastore is not None and kwargs.get("push_to_hub"):
            raise ValueError("save_pretrained(push_to_hub=True) would leave the k-NN datastore out: use push_to_hub()")
        super().save_pretrained(save_directory, *args, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        folder = Path(save_directory)
        for name in (SETTINGS_FILE, TENSORS_FILE):
            (folder / name).unlink(missing_ok=True)
        if self.datastore is not None:
            self.datastore.save(folder, weights_digest(lambda name: find_in(folder, name)))

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their ids."""
        names: Any = self.config.id2label
        return [names[index] for index in range(len(names))]

    # --- computing ---------------------------------------------------------------------------------------------------

    def encode(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Features of encoders (default: all), as a cache holds them: by name (B, T, E) or (B, T, K, E), zero on
        padding, and (B, T) masks.

        Args:
            input_values: (B, N) waveforms at 16 kHz as they were recorded: each encoder normalises for itself.
            attention_mask: (B, N), 1 on true samples (right padding).

        Raises:
            ValueError: no batch of waveforms, a mask of another shape, a name that is not there.
        """
        mask_BN = waveform_mask(input_values, attention_mask)
        wanted = list(self.encoders.keys()) if names is None else list(names)
        if unknown := sorted(set(wanted) - set(self.encoders.keys())):
            raise ValueError(f"no encoder {', '.join(unknown)}; there are: {', '.join(self.encoders.keys())}")
        features, masks = {}, {}
        for branch in self.branches:
            name = branch.spec.name
            if name in wanted:
                trained = any(parameter.requires_grad for parameter in branch.model.parameters())
                with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                    features[name], lengths_B = branch(input_values, mask_BN)
                masks[name] = length_mask(lengths_B, features[name].shape[1])
        return features, masks

    def fuse(
        self,
        features: Mapping[str, torch.Tensor],
        masks: Mapping[str, torch.Tensor],
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `encode` returned -> (B, T, D) frames, zero on padding, and their (B, T) mask."""
        dtype = self.head.classifier.weight.dtype
        values, lengths = [], []
        for branch in self.branches:
            name = branch.spec.name
            mask_BT = masks[name]
            hidden = features[name].to(dtype)
            hidden = hidden.masked_fill(mask_BT[(..., *[None] * (hidden.ndim - 2))] == 0, 0.0)
            values.append(branch.mix(hidden))
            lengths.append(mask_BT.long().sum(1).clamp(min=1))
        rates_hz = [branch.frame_rate_hz for branch in self.branches]
        fused_BTD, target_B = self.fusion(values, lengths, rates_hz, input_ids, text_attention_mask)
        mask_BT = length_mask(target_B, fused_BTD.shape[1])
        return fused_BTD.masked_fill(mask_BT[..., None] == 0, 0.0), mask_BT

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_features: Mapping[str, torch.Tensor] | None = None,
        encoder_masks: Mapping[str, torch.Tensor] | None = None,
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> SEROutput | tuple:
        """Emotion logits, and the loss when `labels` are given.

        Args:
            input_values, attention_mask: as in `encode`; may be left out where `encoder_features` has every encoder.
            labels: (B,) class ids; -100 leaves an utterance out of the loss.
            encoder_features, encoder_masks: cached features by the name of their encoder, as `encode` returns them
                (any float type); encoders that are not named are computed.
            input_ids, text_attention_mask: (B, U) tokens of the transcripts and their mask; a row of zeros is an empty
                transcript.
            num_items_in_batch: labelled utterances of the global batch; the summed losses are divided by it (by those
                at hand when `None`), which makes them independent of accumulation and world size.

        Raises:
            ValueError: no speech, features without their mask, a label out of range; see also `encode`.
        """
        features, masks = dict(encoder_features or {}), dict(encoder_masks or {})
        if missing := sorted(set(features) - set(masks)):
            raise ValueError(f"encoder_features without encoder_masks: {', '.join(missing)}")
        if unknown := sorted(set(features) - set(self.encoders.keys())):
            raise ValueError(f"no encoder {', '.join(unknown)}; there are: {', '.join(self.encoders.keys())}")
        absent = [name for name in self.encoders if name not in features]
        if absent:
            if input_values is None:
                raise ValueError(
                    f"the model needs input_values, or cached encoder_features of: {', '.join(absent)} (missing)"
                )
            new_features, new_masks = self.encode(input_values, attention_mask, absent)
            features.update(new_features)
            masks.update(new_masks)
        fused_BTD, mask_BT = self.fuse(features, masks, input_ids, text_attention_mask)
        embedding_BE, logits_BC = self.head(fused_BTD, mask_BT)
        losses = {} if labels is None else self._losses(logits_BC, embedding_BE, labels, num_items_in_batch)
        probabilities_BC = None
        if not self.training:
            probabilities_BC = logits_BC.float().softmax(1)
            if self.datastore is not None:
                probabilities_BC = self.datastore.interpolate(probabilities_BC, embedding_BE)
        elif self.datastore is not None and labels is not None:
            logger.warning("the k-NN datastore is dropped: training changes the embeddings that it holds")
            self.datastore = None
        output = SEROutput(
            **losses,
            logits=logits_BC,
            probabilities=probabilities_BC,
            embedding=embedding_BE,
            last_hidden_state=fused_BTD,
            attention_mask=mask_BT,
        )
        return output if return_dict is not False else output.to_tuple()

    def _losses(
        self,
        logits_BC: torch.Tensor,
        embedding_BE: torch.Tensor,
        labels_B: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> dict[str, torch.Tensor]:
        config, names = self.config, self.label_names
        labels_B = labels_B.long().flatten()
        if ((labels_B != IGNORED) & ((labels_B < 0) | (labels_B >= len(names)))).any():
            raise ValueError(
                f"labels hold {sorted(set(labels_B.tolist()))}; the classes are 0 to {len(names) - 1} "
                f"({', '.join(names)}), and {IGNORED} is ignored"
            )
        count = (labels_B != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        count = count.to(logits_BC.device).clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)
        ce_loss = cross_entropy_sum(logits_BC, labels_B, config.class_weights, config.label_smoothing) / count
        if self.projection is None:
            return {"loss": ce_loss, "ce_loss": ce_loss.detach()}
        projections = nn.functional.normalize(self.projection(embedding_BE).float(), dim=1)
        # In evaluation ranks may run out of batches at different times; there each rank looks at its own.
        total, num_skipped = supervised_contrastive_sum(
            projections, labels_B, config.supcon_temperature, gather=self.training
        )
        supcon_loss = total / count
        return {
            "loss": (1 - config.supcon_weight) * ce_loss + config.supcon_weight * supcon_loss,
            "ce_loss": ce_loss.detach(),
            "supcon_loss": supcon_loss.detach(),
            "num_skipped": num_skipped,
        }


AutoConfig.register("amvi_ser", SERConfig, exist_ok=True)
AutoModelForAudioClassification.register(SERConfig, SERForAudioClassification, exist_ok=True)
SERForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
