"""Pre-trained encoders of the Hub for emotion classifiers, whole or refused."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, FeatureExtractionMixin, PreTrainedConfig

from .configuration_emotion2vec import Emotion2VecConfig
from .configuration_fastconformer import PARAKEET_HEADS
from .configuration_ser import ENCODER_KINDS, recogniser_fields
from .encoders_ser import EncoderBranch
from .modeling_emotion2vec import Emotion2VecModel
from .recognisers_ser import PARAKEET_FRONT_END, RECOGNISERS, SAMPLING_RATE, ZIPFORMER_FRONT_END
from .strict_model import OPTIONAL_ENCODER_TENSORS, copy_weights, plain_weights, refuse_missing, whole_tensors

# What a saved config says about the file that it was read from, not about the encoder.
FILE_FIELDS = {
    "_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "id2label", "label2id", "torch_dtype",
    "transformers_version",
}  # fmt: skip


Source = tuple[str, dict[str, Any]]


def read_encoders(
    encoders: Iterable[Mapping[str, Any]], **hub_kwargs: Any
) -> tuple[list[dict[str, Any]], list[Source | None]]:
    """Fields of `SERConfig.encoders`, and where each encoder is loaded from (with which Hub options); `None`: it is
    described by its kind and config instead, as a filter bank is, and has fresh weights.

    Raises:
        ValueError: an encoder with neither path nor kind, or of an architecture that the classifiers do not have.
    """
    items, sources = [], []
    for item in encoders:
        fields = dict(item)
        path, revision = fields.pop("path", None), fields.pop("revision", None)
        if path is None and fields.get("kind") is not None:
            items.append(fields)
            sources.append(None)
            continue
        if path is None:
            raise ValueError(f"encoder {fields}: give its `path`, a Hub id or a folder, or its `kind`")
        options = {**hub_kwargs, **({} if revision is None else {"revision": revision})}
        items.append({**read_encoder(path, **options), **fields})
        sources.append((path, options))
    return items, sources


def read_encoder(path: str, **hub_kwargs: Any) -> dict[str, Any]:
    """`kind`, `config` and `normalise` of a checkpoint.

    Raises:
        ValueError: an architecture that the classifiers have no encoder for.
    """
    declared = PreTrainedConfig.get_config_dict(path, **hub_kwargs)[0].get("model_type")
    if declared in PARAKEET_HEADS or declared in RECOGNISERS:
        return _read_recogniser(path, "zipformer" if declared == "zipformer" else "fastconformer", hub_kwargs)
    config: Any = AutoConfig.from_pretrained(path, **hub_kwargs)
    if config.model_type not in ENCODER_KINDS:
        raise ValueError(
            f"{path} is a {config.model_type!r} checkpoint; emotion classifiers take encoders of: "
            f"{', '.join(ENCODER_KINDS)}"
        )
    nested = {key: value for key, value in config.to_dict().items() if key not in FILE_FIELDS}
    return {"kind": config.model_type, "config": nested, "normalise": _normalises(path, config, hub_kwargs)}


def _read_recogniser(path: str, kind: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """A recogniser's encoder; its log-mel front end must be the one that is computed here."""
    config = RECOGNISERS[kind][0].from_pretrained(path, **hub_kwargs)
    nested = {key: value for key, value in config.to_dict().items() if key in config.__dataclass_fields__}
    expected = PARAKEET_FRONT_END if kind == "fastconformer" else ZIPFORMER_FRONT_END
    front_end = _front_end(path, hub_kwargs)
    for field, value in {**expected, "feature_size": config.num_mel_bins, "sampling_rate": SAMPLING_RATE}.items():
        if front_end.get(field, value) != value:
            raise ValueError(
                f"{path}: {field} of its feature extractor is {front_end[field]}, but the classifiers compute its "
                f"log-mel with {value}; use another encoder"
            )
    return {"kind": kind, "config": recogniser_fields(path, kind, nested), "normalise": False}


def _front_end(path: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The settings of the feature extractor beside a checkpoint, if there are any."""
    try:
        fields = FeatureExtractionMixin.get_feature_extractor_dict(path, **hub_kwargs)[0]
    except (OSError, ValueError):
        return {}
    return fields.get("feature_extractor", fields)


def _normalises(path: str, config: Any, hub_kwargs: dict[str, Any]) -> bool:
    """Whether the encoder was trained on waveforms of zero mean and unit variance."""
    if config.model_type in ("whisper", "emotion2vec"):
        return config.model_type == "emotion2vec"
    try:
        extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False, **hub_kwargs)
    except (OSError, ValueError):
        # Encoders with a norm over each frame were trained on normalised waveforms, those with a group norm not.
        return config.feat_extract_norm == "layer"
    return bool(getattr(extractor, "do_normalize", True))


def load_encoder(branch: EncoderBranch, path: str, **hub_kwargs: Any) -> None:
    """Fill an encoder from a Hub id or folder, with or without heads around it.

    Raises:
        ValueError: the checkpoint lacks a tensor that the model uses, or has one of another shape (named).
    """
    spec = branch.spec
    hub_kwargs = {"dtype": torch.float32, **hub_kwargs}
    with whole_tensors(), plain_weights(str(path)):
        if spec.kind == "emotion2vec":
            # Ours, whoever registered the name last; it refuses incomplete checkpoints by itself.
            own_config = Emotion2VecConfig.from_pretrained(path)
            source, missing = Emotion2VecModel.from_pretrained(path, config=own_config, **hub_kwargs), set()
        elif spec.kind in RECOGNISERS:
            config_class, model_class = RECOGNISERS[spec.kind]
            source, missing = (
                model_class.from_pretrained(path, config=config_class(**spec.config), **hub_kwargs),
                set(),
            )
        else:
            source, info = AutoModel.from_pretrained(
                path, config=branch.config, output_loading_info=True, **hub_kwargs
            )
            prefix = "encoder." if spec.kind == "whisper" else ""
            missing = {key.removeprefix(prefix) for key in info["missing_keys"] if key.startswith(prefix)}
            source = source.get_encoder() if spec.kind == "whisper" else source
    own = branch.model.state_dict()
    name = f"the checkpoint {os.fspath(path)}"
    refuse_missing((missing & set(own)) - OPTIONAL_ENCODER_TENSORS, name, f"the encoder {spec.name}")
    state = {key: value for key, value in source.state_dict().items() if key in own}
    copy_weights(branch.model, state, source=str(path))
