"""The emotion classifier that a run starts with: trained before, on pre-trained encoders, or from scratch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor, Emotion2VecForAudioClassification
from models.ser import SERConfig, SERForAudioClassification, build_feature_extractor
from models.ser.strict_model import whole_tensors
from trainers.building import CHECKPOINT_ERRORS, Stage, check_kind, load_part
from trainers.checks import ConfigError
from trainers.pins import split_pin
from trainers.ser_arguments import SERRunConfig
from trainers.ser_model_arguments import EncoderSource
from trainers.tokenizers import train_bpe

logger = logging.getLogger(__name__)

MODEL_ERRORS = (OSError, ValueError, *CHECKPOINT_ERRORS)


@dataclass
class SERProcessor:
    """What is saved beside a classifier: its feature extractor and, where it reads transcripts, their tokenizer."""

    feature_extractor: Any
    tokenizer: Any = None

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Write both."""
        self.feature_extractor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def build(config: SERRunConfig, texts: Sequence[str] = ()) -> Stage:
    """The processor and the model that a run starts with.

    Args:
        texts: training texts, for a tokenizer of transcripts.

    Raises:
        ConfigError: a path that is no such model, classes other than the config's, or sizes that make none.
        TokenizerError: texts of which no tokenizer can be made.
    """
    with whole_tensors():
        return _emotion2vec(config) if config.system == "emotion2vec" else _fusion(config, texts)


# Encoders, fusion and head


def _fusion(config: SERRunConfig, texts: Sequence[str]) -> Stage:
    args, key = config.model.fusion, "model.fusion"
    if args.path is not None:
        check_kind(args.path, [SERConfig.model_type], f"{key}.path")
        model: Any = load_part(SERForAudioClassification, args.path, f"{key}.path")
        model.datastore = None  # of the embeddings before this training
        if model.label_names != list(config.labels):
            found = f"is a model of {', '.join(model.label_names)}; set labels to these, in this order"
            raise ConfigError(f"{key}.path", found)
        tokenizer = None
        if model.config.text_vocab_size is not None:
            tokenizer = load_part(AutoTokenizer, args.path, f"{key}.path")
        return Stage(SERProcessor(build_feature_extractor(), tokenizer), model)
    tokenizer = _tokenizer(config, texts) if args.reads_text else None
    fields = {
        "fusion": args.fusion,
        "fusion_size": args.fusion_size,
        "fusion_layers": args.fusion_layers,
        "fusion_heads": args.fusion_heads,
        "text_vocab_size": None if tokenizer is None else len(tokenizer),
        "pooling": args.pooling,
        "head": args.head,
        "head_size": args.head_size,
        "head_dropout": args.head_dropout,
        "dropout": args.dropout,
        "speechformer_heads": args.speechformer.heads,
        "speechformer_layers": args.speechformer.layers,
        "speechformer_frames": args.speechformer.frames,
        "speechformer_projection": args.speechformer.projection,
        "speechformer_exact": args.speechformer.exact,
        "supcon_weight": args.supcon.weight,
        "supcon_temperature": args.supcon.temperature,
        "supcon_size": args.supcon.size,
        "label_smoothing": args.label_smoothing,
        "id2label": dict(enumerate(config.labels)),
    }
    try:
        model = _on_encoders(args.encoders, fields)
    except MODEL_ERRORS as error:
        raise ConfigError(key, str(error)) from error
    return Stage(SERProcessor(build_feature_extractor(), tokenizer), model)


def _on_encoders(sources: Sequence[EncoderSource], fields: dict[str, Any]) -> SERForAudioClassification:
    """A fresh head on encoders that are loaded, or of which none is."""
    if all(source.path is None for source in sources):
        items = [{"kind": source.kind, "config": source.config, **source.given()} for source in sources]
        for source in sources:
            if source.frozen and source.kind != "filterbank":
                logger.warning("encoder %s keeps random weights: it is frozen", source.name or source.kind)
        return SERForAudioClassification(SERConfig(encoders=items, **fields))
    items = []
    for source in sources:
        if source.path is None:
            items.append({"kind": source.kind, "config": source.config, **source.given()})
        else:
            repo, pin = split_pin(source.path)
            items.append({"path": repo, **pin, **source.given()})
    return SERForAudioClassification.from_encoders(items, fields)


def _tokenizer(config: SERRunConfig, texts: Sequence[str]) -> Any:
    if config.tokenizer.path is not None:
        return load_part(AutoTokenizer, config.tokenizer.path, "tokenizer.path")
    written = [text for text in texts if text.strip()]
    if not written:
        none = "reads transcripts, but no training row has one: name their column in `columns` of the source, or set "
        raise ConfigError("model.fusion.reads_text", none + "it to false")
    return train_bpe(written, config.tokenizer.bpe_vocab_size)


# emotion2vec


def _emotion2vec(config: SERRunConfig) -> Stage:
    args, key, names = config.model.emotion2vec, "model.emotion2vec", list(config.labels)
    if args.path is None:
        try:
            sizes = {**args.config, "id2label": dict(enumerate(names))}
            model: Any = Emotion2VecForAudioClassification(Emotion2VecConfig.of_size(args.size, **sizes))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}.config", str(error)) from error
    else:
        check_kind(args.path, [Emotion2VecConfig.model_type], f"{key}.path")
        if args.new_head:
            repo, pin = split_pin(args.path)
            try:
                model = Emotion2VecForAudioClassification.with_new_head(repo, names, dtype=torch.float32, **pin)
            except MODEL_ERRORS as error:
                raise ConfigError(f"{key}.path", f"cannot load {args.path}: {error}") from error
        else:
            model = load_part(Emotion2VecForAudioClassification, args.path, f"{key}.path")
            _keep_classes(model, names)
    if args.freeze == "backbone":
        model.freeze_base_model()
    elif args.freeze == "feature_encoder":
        model.freeze_feature_encoder()
    try:
        model.emotion2vec.freeze_layers(args.freeze_layers) if args.freeze_layers else None
    except ValueError as error:
        raise ConfigError(f"{key}.freeze_layers", str(error)) from error
    extractor = Emotion2VecFeatureExtractor(shortest_input=model.config.shortest_input)
    return Stage(SERProcessor(extractor), model)


def _keep_classes(model: Any, names: Sequence[str]) -> None:
    """Let a trained classifier answer some of its classes."""
    own = list(model.config.id2label.values())
    if lacking := [name for name in names if name not in own]:
        message = f"false, but the classifier has no class {', '.join(lacking)}; it has {', '.join(own)}"
        raise ConfigError("model.emotion2vec.new_head", message)
    model.config.active_labels = None if len(names) == len(own) else list(names)
