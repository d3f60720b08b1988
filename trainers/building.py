"""What every assembly of a run does alike: loading what was trained before, and the audio side of a collator."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from data_scripts.augment import Augmenter, NoiseError
from models import emotion2vec, fastconformer, ser, tspc, zipformer
from trainers.arguments import RunConfig
from trainers.checks import ConfigError
from trainers.collators import SpeechInputs, row_key
from trainers.pins import split_pin

logger = logging.getLogger(__name__)

# Every model folder can be published alone, so each has an error of its own.
CHECKPOINT_ERRORS = tuple(part.CheckpointError for part in (tspc, zipformer, fastconformer, emotion2vec, ser))
# Enough to see what augmentation does.
COUNTED_ROWS = 1000


@dataclass
class Stage:
    """A model with what belongs to it."""

    processor: Any
    """What makes its inputs and reads its outputs, with `save_pretrained`."""
    model: Any
    """A `PreTrainedModel` in float32, frozen as the config says."""


def load_part(kind: Any, path: str, key: str) -> Any:
    """`kind.from_pretrained(path)`, in float32 for models; what goes wrong is said about `key`.

    Raises:
        ConfigError: there is no such thing, or it cannot be loaded.
    """
    options: dict[str, Any] = (
        {"dtype": torch.float32} if isinstance(kind, type) and issubclass(kind, PreTrainedModel) else {}
    )
    if path.startswith((".", "/", "runs/")) and not Path(path).is_dir():
        raise ConfigError(key, f"no such folder: {path}; train that stage first, or name a finished model")
    repo, pin = split_pin(path)
    try:
        return kind.from_pretrained(repo, **options, **pin)
    except (OSError, ValueError, *CHECKPOINT_ERRORS) as error:
        raise ConfigError(key, f"cannot load {path}: {error}") from error


def check_kind(path: str, model_types: Collection[str], key: str) -> None:
    """What a path holds is a model of one of some types; others would be misread.

    Raises:
        ConfigError: there is no model there, or one of another type.
    """
    if path.startswith((".", "/", "runs/")) and not Path(path).is_dir():
        raise ConfigError(key, f"no such folder: {path}; train that model first, or name a finished one")
    repo, pin = split_pin(path)
    try:
        found = PreTrainedConfig.get_config_dict(repo, **pin)[0].get("model_type")
    except (OSError, ValueError) as error:
        raise ConfigError(key, f"cannot load {path}: {error}") from error
    if found not in model_types:
        raise ConfigError(key, f"cannot load {path}: it is a model of type {found!r}, not {' or '.join(model_types)}")


def add_lora(
    stage: Stage, config: RunConfig, base_folder: Path, layers: str, *, save: bool, whole: Sequence[str] = ()
) -> Any:
    """The model of a stage with LoRA adapters as `lora` of the config says.

    Args:
        base_folder: where the model without adapters is kept, for the checkpoints to refer to.
        layers: regular expression of the modules whose layers `lora.target_modules` are adapted.
        save: write the base folder; one process does, unless it is there from an earlier start.
        whole: parts that are trained in full and saved with the adapters.

    Raises:
        ConfigError: no such layer.
    """
    from peft import LoraConfig, get_peft_model

    model: Any = stage.model
    if save and not base_folder.is_dir():
        model.save_pretrained(base_folder)
        stage.processor.save_pretrained(base_folder)
    model.name_or_path = str(base_folder)
    names = "|".join(config.lora.target_modules)
    settings = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=rf"{layers}\.({names})",
        modules_to_save=list(whole) or None,
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        key = "lora.target_modules"
        raise ConfigError(key, f"no layer where adapters belong is called {names}: {error}") from error


def speech_inputs_of(config: RunConfig, feature_extractor: Any, *, augment: bool = True) -> SpeechInputs:
    """The audio side of a collator.

    Args:
        augment: whether training rows are augmented as `data.augmentation` says.

    Raises:
        ConfigError: a folder of noise or rooms without readable audio.
    """
    settings = config.data.augmentation
    try:
        augmenter = Augmenter(settings) if augment and settings.active else None
    except NoiseError as error:
        raise ConfigError(f"data.augmentation.{error.key}", error.detail) from error
    return SpeechInputs(feature_extractor, seed=config.training.seed, augmentation=augmenter)


def log_augmentation(collator: Any, rows: Any) -> None:
    """How many of the first training rows get which change, so that a setting without effect is seen."""
    augmenter = getattr(getattr(collator, "inputs", None), "augmentation", None)
    if augmenter is None or not hasattr(rows, "__len__"):
        return
    names, emotions = rows["id"][:COUNTED_ROWS], rows["emotion"][:COUNTED_ROWS]
    keys = [row_key(collator.inputs.seed, {"id": name, "epoch": 0}) for name in names]
    counts = augmenter.count(zip(keys, emotions, strict=True))
    logger.info("augmentation of the first %d rows: %s", len(keys), dict(counts))
    if augmenter.settings.emotion_strength > 0 and not any(emotions):
        logger.warning(
            "data.augmentation.emotion_strength is set, but none of the first %d rows has an emotion", len(keys)
        )
