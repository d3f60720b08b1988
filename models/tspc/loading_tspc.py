"""What the stages of TSPC start from: speech encoders and T5 models of the Hub, whole or refused."""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from .configuration_tspc import ENCODER_CONFIGS
from .strict_model import OPTIONAL_ENCODER_TENSORS, copy_weights, plain_weights, refuse_missing, whole_tensors

T5_TYPES = ("t5", "mt5")


def read_encoder_config(encoder_id_or_path: str, **hub_kwargs: Any) -> PreTrainedConfig:
    """The config of a speech encoder's checkpoint.

    Raises:
        ValueError: an architecture that S2P has no encoder for.
    """
    config = AutoConfig.from_pretrained(encoder_id_or_path, **hub_kwargs)
    if config.model_type not in ENCODER_CONFIGS:
        raise ValueError(
            f"{encoder_id_or_path} is a {config.model_type!r} checkpoint; S2P takes the encoder of: "
            f"{', '.join(ENCODER_CONFIGS)}"
        )
    if os.path.isdir(encoder_id_or_path):
        config.name_or_path = ""  # a folder of this machine says nothing to whoever downloads the model
    return config


def load_encoder_weights(
    encoder: nn.Module, encoder_id_or_path: str, encoder_config: PreTrainedConfig, **hub_kwargs: Any
) -> None:
    """Fill `encoder` from a Hub id or folder, with or without heads around it.

    Raises:
        ValueError: the checkpoint lacks a tensor of the encoder (named).
    """
    hub_kwargs = {"dtype": torch.float32, **hub_kwargs}
    with whole_tensors(), plain_weights(encoder_id_or_path):
        source, info = AutoModel.from_pretrained(
            encoder_id_or_path, config=encoder_config, output_loading_info=True, **hub_kwargs
        )
    prefix = "encoder." if encoder_config.model_type == "whisper" else ""
    missing = {key.removeprefix(prefix) for key in info["missing_keys"] if key.startswith(prefix)}
    source = source.get_encoder() if encoder_config.model_type == "whisper" else source
    refuse_missing(missing - OPTIONAL_ENCODER_TENSORS, f"the checkpoint {encoder_id_or_path}", "the speech encoder")
    copy_weights(encoder, source.state_dict(), source=encoder_id_or_path)


def read_t5(id_or_path: str, **hub_kwargs: Any) -> PreTrainedModel:
    """A T5 or mT5 with every tensor from its checkpoint.

    Raises:
        ValueError: another architecture, or a tensor missing (named).
    """
    config = AutoConfig.from_pretrained(id_or_path, **hub_kwargs)
    if config.model_type not in T5_TYPES:
        raise ValueError(f"{id_or_path} is a {config.model_type!r} checkpoint; P2T starts from: {', '.join(T5_TYPES)}")
    with whole_tensors(), plain_weights(id_or_path):
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            id_or_path, config=config, output_loading_info=True, **{"dtype": torch.float32, **hub_kwargs}
        )
    refuse_missing(set(info["missing_keys"]), f"the checkpoint {id_or_path}", "T5")
    return model
