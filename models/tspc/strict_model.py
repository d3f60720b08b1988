"""What every model of this project shares: initialisation, strict loading, the rule for frozen parts.

This file stands in `models/shared` and is linked into the folders that use it, so that each of them can be published by
itself.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.integrations import deepspeed as deepspeed_integration

# A vector that only SpecAugment during training uses; several published CTC checkpoints leave it out.
OPTIONAL_ENCODER_TENSORS = {"masked_spec_embed"}


class CheckpointError(Exception):
    """A checkpoint that is damaged or incomplete.

    Neither OSError nor ValueError: `pipeline()` answers those by trying other classes and buries the reason.
    """


class InitialisedAsStock:
    """Mixin: initialise custom classes as transformers does its own.

    For classes outside transformers, `initialize_weights` skips every module that holds no tensor of its own, to spare
    code that writes to tensors directly. That would also skip T5's attention or Whisper's sinusoids, and leave a model
    built from scratch with weights far too large. All our initialisers check tensor by tensor, so none need sparing.
    """

    @classmethod
    def is_custom_code(cls) -> bool:
        return False


class StrictModel(InitialisedAsStock):
    """Mixin: `from_pretrained` refuses damaged and incomplete checkpoints instead of filling gaps at random."""

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As `PreTrainedModel.from_pretrained`.

        Raises:
            CheckpointError: a weight file is truncated or damaged, or tensors are missing, misshapen or too many
                (named).
            OSError: no model.safetensors; weights of these models are never pickles.
        """
        from safetensors import SafetensorError

        kwargs.setdefault("use_safetensors", True)
        accepts_mismatch = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            # Mismatched shapes are reported below, by name: the stock error points to a log.
            with whole_tensors():
                model, info = super().from_pretrained(  # type: ignore[misc]
                    path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
                )
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: model.safetensors is truncated or damaged ({error}); copy or download it again, or use an "
                "older checkpoint"
            ) from error
        if info["mismatched_keys"] and not accepts_mismatch:
            name, stored, expected = min(info["mismatched_keys"])
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(stored)} in the weights but {tuple(expected)} by config.json: the "
                "files belong to different models"
            )
        missing = {name for name in info["missing_keys"] if name.rpartition(".")[2] not in OPTIONAL_ENCODER_TENSORS}
        if missing:
            raise CheckpointError(f"{path}: {len(missing)} tensors are missing: {short(missing)}")
        if info["unexpected_keys"]:
            extra = set(info["unexpected_keys"])
            raise CheckpointError(
                f"{path}: {len(extra)} tensors have no place in the model that config.json describes: {short(extra)}; "
                "the files belong to different models"
            )
        model.after_loading()
        return (model, info) if output_loading_info else model

    def after_loading(self) -> None:
        """Restore what loading does not: it marks every tensor as trainable."""


def eval_frozen_parts(*parts: nn.Module) -> None:
    """A part without a trainable tensor stays in evaluation mode: no dropout, no SpecAugment, nothing random.

    LoRA adapters inside a frozen part make it trainable, and so leave it in training mode.
    """
    for part in parts:
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


@contextlib.contextmanager
def whole_tensors() -> Iterator[None]:
    """Build and load outside ZeRO-3's partitioned construction; DeepSpeed partitions the model when training starts.

    Copying between models needs whole tensors, and Wav2Vec2's weight norm cannot be initialised from partitioned ones.
    The models here fit the memory of one process.
    """
    reference = deepspeed_integration._hf_deepspeed_config_weak_ref
    active = None if reference is None else reference()
    if active is None:
        yield
        return
    deepspeed_integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed_integration.set_hf_deepspeed_config(active)


@contextlib.contextmanager
def plain_weights(source: str) -> Iterator[None]:
    """Say what is wrong with a pytorch_model.bin that holds more than tensors; torch has refused to run it.

    Raises:
        ValueError
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: its weights are damaged, or a pickle that would run code when it is read; nothing of it "
            "was run. Use a version with model.safetensors"
        ) from error


def copy_weights(
    model: nn.Module, state: dict[str, torch.Tensor], *, source: str, fresh: tuple[str, ...] = ()
) -> None:
    """Copy `state` into `model`; only tensors whose name contains one of `fresh` may keep their initial values.

    Raises:
        ValueError: a tensor missing, unknown or of another shape (named, with both shapes).
    """
    own = model.state_dict()
    for name, tensor in state.items():
        if name in own and own[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in {source} but {tuple(own[name].shape)} in the model being "
                "built: the configs differ"
            )
    result = model.load_state_dict(state, strict=False)
    missing = {name for name in result.missing_keys if not any(part in name for part in fresh)}
    refuse_missing(missing, source, type(model).__name__)
    if result.unexpected_keys:
        raise ValueError(
            f"{source} holds tensors that {type(model).__name__} has no place for: {short(result.unexpected_keys)}"
        )


def refuse_missing(missing: set[str], source: str, what: str) -> None:
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} tensors of {what}: {short(missing)}")


def short(names: Any, limit: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
