"""DFAT: dual-stage fusion of acoustic and text features (paper, section 3.5).

A frozen speech encoder, pooled over time, beside the features of a small text network; on them logistic regression, a
random forest and XGBoost; their weighted mean, P = w1 P_XGB + w2 P_RF + w3 P_LR.

Shape legend: B batch, N samples, U tokens of the transcript, F features, M members of the ensemble, C classes.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.hub import cached_file

from .classifiers_dfat import Classifiers, Member
from .configuration_dfat import DFATConfig
from .encoders_ser import EncoderBranch
from .loading_ser import load_encoder, read_encoder
from .padding import waveform_mask
from .pipeline_dfat import DFATPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .pooling_dfat import FACTORS, pool
from .strict_model import CheckpointError, StrictModel
from .text_dfat import TextNetwork

logger = logging.getLogger(__name__)
# Below, a probability counts as this in the logits.
SMALLEST = 1e-12


@dataclass
class DFATOutput(ModelOutput):
    """
    Args:
        logits: (B, C), logarithms of `probabilities`, whose softmax they therefore are.
        probabilities: (B, C), of the ensemble.
        features: (B, F), acoustic and text features side by side.
        member_probabilities: (B, M, C), of each member, in the order of `config.members`.
    """

    logits: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None
    features: torch.Tensor | None = None
    member_probabilities: torch.Tensor | None = None


class DFATForAudioClassification(StrictModel, PreTrainedModel):
    """Waveforms and tokens of their transcripts in, emotion probabilities out.

    `scripts/train_ser.py` makes these models; one that is built from a configuration gives features, and answers once
    `set_classifiers` was called.

    Example:
        >>> batch = feature_extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")
        >>> text = tokenizer(transcripts, padding=True, return_tensors="pt")
        >>> model(**batch, input_ids=text.input_ids, text_attention_mask=text.attention_mask).probabilities  # (B, C)
    """

    config_class = DFATConfig
    config: DFATConfig
    base_model_prefix = "dfat"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    _supports_sdpa = True
    _no_split_modules = ["EncoderBranch", "TextNetwork"]

    def __init__(self, config: DFATConfig):
        super().__init__(config)
        if not config.members:
            raise ValueError("DFATConfig.members is empty; name at least one classifier")
        specs = config.encoder_specs
        self.encoder = EncoderBranch(specs[0], config._attn_implementation) if specs else None
        self.text = TextNetwork(config) if "text" in config.streams else None
        self.member_weights = nn.Parameter(torch.full((len(self.members),), 1 / len(self.members)), False)
        self.classifiers: Classifiers | None = None
        self._told_of_empty_text = False
        self.post_init()
        self.after_loading()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: torch's own initialisation stays, encoders initialise themselves."""

    def after_loading(self) -> None:
        """Nothing here is trained by gradients once it is built; the text network is trained before."""
        self.requires_grad_(False)

    @property
    def members(self) -> list[Member]:
        """The classifiers, in the order of `member_weights`."""
        return [Member(**member) for member in self.config.members]

    @property
    def num_features(self) -> dict[str, int]:
        """Width of the features of every stream, and of all side by side."""
        sizes = {}
        if self.encoder is not None:
            sizes["acoustic"] = self.encoder.size * FACTORS[self.config.pooling]
        if self.text is not None:
            sizes["text"] = self.config.text_size
        return {**sizes, "joint": sum(sizes.values())}

    # --- loading and saving ------------------------------------------------------------------------------------------

    @staticmethod
    def read_encoder(path: str, layer: int | None = None, **hub_kwargs: Any) -> dict[str, Any]:
        """`DFATConfig.encoder` for a pre-trained encoder (Hub id or folder); `layer` None is its last."""
        item = read_encoder(path, **hub_kwargs)
        spec = DFATConfig(encoder={**item, "features": 0}).encoder_specs[0]
        return {**item, "features": spec.num_layers if layer is None else layer}

    def load_encoder(self, path: str, **hub_kwargs: Any) -> None:
        """Fill the acoustic encoder from the checkpoint that `read_encoder` read.

        Raises:
            ValueError: there is no acoustic stream, or a tensor is missing or misshapen (named).
        """
        if self.encoder is None:
            raise ValueError("this DFAT has no acoustic stream")
        load_encoder(self.encoder, path, **hub_kwargs)
        self.after_loading()

    def set_classifiers(self, fitted: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        """Complete the model with fitted classifiers and their weights, both by the name of the member.

        Raises:
            ValueError: weights below 0, or whose sum is not 1.
        """
        weights_M = torch.tensor([float(weights[member.name]) for member in self.members], dtype=torch.float64)
        check_weights(weights_M)
        self.member_weights.data = weights_M.float().to(self.member_weights.device)
        self.classifiers = Classifiers(self.members, fitted, self._read_features(), self.config.label_names)

    def _read_features(self) -> dict[str, int]:
        streams = {member.stream for member in self.members}
        return {stream: width for stream, width in self.num_features.items() if stream in streams}

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As `StrictModel.from_pretrained`, classifiers included.

        Raises:
            CheckpointError: damaged or incomplete weights or classifiers, or some that do not belong together.
        """
        loaded = super().from_pretrained(path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        options = ("cache_dir", "token", "revision", "local_files_only", "subfolder", "force_download")
        hub = {key: kwargs[key] for key in options if key in kwargs}
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        try:
            check_weights(model.member_weights.double().cpu())
        except ValueError as error:
            raise CheckpointError(f"{path}: member_weights: {error}") from error
        model.classifiers = Classifiers.load(
            lambda name: cached_file(path, name, **hub, **quiet),
            str(path),
            members=model.members,
            num_features=model._read_features(),
            label_names=model.config.label_names,
        )
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, with the classifiers in their own folder.

        Raises:
            ValueError: there are no classifiers yet; `push_to_hub`, which would upload before they are written.
        """
        if self.classifiers is None:
            raise ValueError("this DFAT has no classifiers yet: set_classifiers comes before save_pretrained")
        if kwargs.get("push_to_hub"):
            raise ValueError("save_pretrained(push_to_hub=True) would leave the classifiers out: use push_to_hub()")
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self.classifiers.save(save_directory)

    # --- computing ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def acoustic_features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, N) waveforms at 16 kHz and the mask of their samples (right padding) -> (B, F) float32.

        Raises:
            ValueError: no acoustic stream, no batch of waveforms, or a mask of another shape.
        """
        if self.encoder is None:
            raise ValueError("this DFAT has no acoustic stream")
        mask_BN = waveform_mask(input_values, attention_mask)
        frames_BTE, lengths_B = self.encoder(input_values, mask_BN)
        return pool(frames_BTE, lengths_B.clamp(min=1), self.config.pooling)

    @torch.no_grad()
    def text_features(self, input_ids: torch.Tensor, text_attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, U) tokens and their mask -> (B, F) float32; a row without tokens is an empty transcript.

        Raises:
            ValueError: no text stream, or tokens outside of the vocabulary.
        """
        if self.text is None:
            raise ValueError("this DFAT has no text stream")
        size = self.text.embedding.num_embeddings
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < size:
            raise ValueError(
                f"input_ids from {int(input_ids.min())} to {int(input_ids.max())}, but the vocabulary has {size} "
                "tokens: the tokenizer belongs to another model"
            )
        mask = torch.ones_like(input_ids) if text_attention_mask is None else text_attention_mask
        return self.text.features(input_ids, mask).float()

    @torch.no_grad()
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> DFATOutput | tuple:
        """Emotion probabilities.

        Args:
            input_values, attention_mask: as in `acoustic_features`; a model without acoustic stream ignores them.
            input_ids, text_attention_mask: (B, U) tokens of the transcripts and their mask; a row of zeros is an empty
                transcript, and without `input_ids` all are empty. A model without text stream ignores them.

        Raises:
            ValueError: no classifiers, or no input of a stream; see also `acoustic_features` and `text_features`.
        """
        if self.classifiers is None:
            raise ValueError("this DFAT has no classifiers: train it with scripts/train_ser.py, or load a trained one")
        features = {}
        if self.encoder is not None:
            if input_values is None:
                raise ValueError("the model hears speech: give input_values")
            features["acoustic"] = self.acoustic_features(input_values, attention_mask)
        if self.text is not None:
            if input_ids is None:
                input_ids = self._empty_transcripts(input_values)
                text_attention_mask = torch.zeros_like(input_ids)
            features["text"] = self.text_features(input_ids, text_attention_mask)
        features_BF = torch.cat(list(features.values()), dim=1)
        arrays = {name: values.cpu().numpy() for name, values in {**features, "joint": features_BF}.items()}
        members_MBC = self.classifiers.predict(arrays)
        weights_M = self.member_weights.double().cpu().numpy()
        probabilities = np.einsum("m,mbc->bc", weights_M / weights_M.sum(), members_MBC)
        probabilities_BC = torch.from_numpy(probabilities).float().to(features_BF.device)
        output = DFATOutput(
            logits=probabilities_BC.clamp(min=SMALLEST).log(),
            probabilities=probabilities_BC,
            features=features_BF,
            member_probabilities=torch.from_numpy(members_MBC).float().transpose(0, 1).to(features_BF.device),
        )
        return output if return_dict is not False else output.to_tuple()

    def _empty_transcripts(self, input_values: torch.Tensor | None) -> torch.Tensor:
        if input_values is None:
            raise ValueError("the model reads transcripts: give input_ids (a masked row is an empty transcript)")
        if not self._told_of_empty_text:
            self._told_of_empty_text = True
            logger.warning("the model reads transcripts and was given none: they count as empty")
        return torch.zeros(len(input_values), 1, dtype=torch.long, device=input_values.device)


def check_weights(weights_M: torch.Tensor) -> None:
    """Raise ValueError unless the weights are at least 0 and their sum is 1."""
    if not bool(weights_M.isfinite().all()) or float(weights_M.min()) < 0 or abs(float(weights_M.sum()) - 1) > 1e-5:
        raise ValueError(f"weights {weights_M.tolist()}; they must be at least 0 and their sum 1")


AutoConfig.register("amvi_dfat", DFATConfig, exist_ok=True)
AutoModelForAudioClassification.register(DFATConfig, DFATForAudioClassification, exist_ok=True)
DFATForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
