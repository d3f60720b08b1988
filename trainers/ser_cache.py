"""Features of the frozen encoders of an emotion classifier on disk, computed once: then only the head is trained.

Each encoder has a store of its own (`trainers.cache.StateStore`), named by a digest of its weights, of what is read
from it and of the front end, so models that share an encoder share its features, whatever stands beside it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trainers.cache import CacheError, RowsWithOutputs, StateStore, audio_key, fill, front_end, model_digest


class Stored(NamedTuple):
    """The features of one encoder; `shape` is that of a frame, (E,), or (K, E) where layers are mixed afterwards."""

    store: StateStore
    shape: tuple[int, ...]


class CachedFeatures(RowsWithOutputs):
    """Rows with `encoder_features`: name of the encoder -> (T, E) or (T, K, E) float16.

    Their audio is left out where every encoder is cached.
    """

    def __init__(self, rows: Any, stored: Mapping[str, Stored], keys: Sequence[bytes], keep_audio: bool):
        self.rows = rows if keep_audio else rows.remove_columns("audio")
        self.stored = dict(stored)
        self.entries = {name: [one.store.entries[key] for key in keys] for name, one in self.stored.items()}

    def outputs(self, index: int) -> dict[str, Any]:
        features = {
            name: one.store.read(self.entries[name][index])[0].reshape(-1, *one.shape)
            for name, one in self.stored.items()
        }
        return {"encoder_features": features}


class FeatureCache:
    """Cached features for `models.ser.SERForAudioClassification`.

    Example:
        >>> rows = FeatureCache("runs/cache").attach(rows, model, SpeechInputs(feature_extractor))
        >>> features, masks = pad_features([rows[3]["encoder_features"], rows[5]["encoder_features"]])
        >>> model(encoder_features=features, encoder_masks=masks)
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def digest(self, model: Any, name: str, inputs: Any) -> str:
        """Folder key of an encoder: its weights, its config, what is read from it, and the front end."""
        branch = model.encoders[name]
        spec = branch.spec
        return model_digest(branch.model, spec.kind, spec.config, spec.features, spec.normalise, front_end(inputs))

    def attach(self, rows: Any, model: Any, inputs: Any, *, batch_duration_s: float = 120.0) -> CachedFeatures:
        """The rows with the features of all encoders that are frozen, computing those that are missing.

        Encoders that are trained are left out, and the audio for them stays in the rows. With several ranks each
        computes its share and waits for the others; a build that was stopped goes on where it was. The model is used
        on its device, in evaluation mode and in its own precision.

        Args:
            rows (`datasets.Dataset` or `LabelledRows`): schema rows.
            model (`SERForAudioClassification`): with at least one frozen encoder.
            inputs (`trainers.collators.SpeechInputs`): the front end, without augmentation.
            batch_duration_s (`float`): padded seconds of audio encoded at once.

        Raises:
            CacheError: the front end augments; every encoder is trained; audio that cannot be read; features that
                half precision cannot hold; a folder that holds something else.
        """
        names = model.cacheable
        if not names:
            raise CacheError(
                "no encoder is frozen, so there is nothing to cache: turn the cache off, or freeze an encoder"
            )
        stored, stores = {}, {}
        for name in names:
            branch = model.encoders[name]
            shape = (branch.size,) if branch.layer_weights is None else (len(branch.layer_weights), branch.size)
            folder = self.folder / f"features-{self.digest(model, name, inputs)}"
            # Encoders that are the same under two names share a store, and are computed once.
            store = stores.setdefault(folder, StateStore(folder, int(np.prod(shape)), with_ids=False))
            stored[name] = Stored(store, shape)
        keys = [audio_key(audio) for audio in rows["audio"]]
        computed = {id(one.store): name for name, one in reversed(stored.items())}

        def compute(batch: list[int], waveforms: dict[str, torch.Tensor]) -> None:
            lacking = {
                name: rows_of
                for name in computed.values()
                if (rows_of := [i for i, index in enumerate(batch) if keys[index] not in stored[name].store.entries])
            }
            # `SpeechInputs` calls whatever a model hears its features.
            audio = waveforms["input_values" if "input_values" in waveforms else "input_features"]
            features, masks = model.encode(audio, waveforms["attention_mask"], list(lacking))
            for name, positions in lacking.items():
                values, lengths = features[name].flatten(2).float().cpu().numpy(), masks[name].sum(1).tolist()
                for position in positions:
                    stored[name].store.write(keys[batch[position]], values[position, : lengths[position]])

        distinct = list({id(one.store): one.store for one in stored.values()}.values())
        fill(distinct, rows, keys, model, inputs, compute, batch_duration_s=batch_duration_s)
        return CachedFeatures(rows, stored, keys, keep_audio=len(names) < len(model.encoders))


def pad_features(
    features: Sequence[Mapping[str, np.ndarray]],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """`encoder_features` of some rows -> by name (B, T, E) or (B, T, K, E) in half precision, zero on padding, and
    (B, T) masks: `encoder_features` and `encoder_masks` of the model."""
    padded, masks = {}, {}
    for name in features[0]:
        many = [one[name] for one in features]
        longest = max(map(len, many))
        values = np.zeros((len(many), longest, *many[0].shape[1:]), dtype=np.float16)
        mask = torch.zeros(len(many), longest, dtype=torch.long)
        for row, one in enumerate(many):
            values[row, : len(one)] = one
            mask[row, : len(one)] = 1
        padded[name], masks[name] = torch.from_numpy(values), mask
    return padded, masks
