"""The streams of DFAT: the model without classifiers, its tokenizer, and what they make of the rows.

Shape legend: N rows, F acoustic features, S text features.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.dfat import DFATConfig, DFATForAudioClassification, Member
from trainers.checks import ConfigError
from trainers.dfat.arguments import AcousticArguments, DFATArguments
from trainers.dfat.ensemble import FeatureSet
from trainers.dfat.features import acoustic_features, transcripts
from trainers.dfat.text import tokenize, train_tokenizer
from trainers.pins import split_pin
from trainers.recognisers import RecogniserError


@dataclass
class Split:
    """One split of the data: its rows with their classes, and what the streams make of them."""

    rows: Any
    labels_N: np.ndarray
    acoustic_NF: np.ndarray | None
    ids: list[list[int]] | None

    def features(self, text_NS: np.ndarray | None) -> FeatureSet:
        streams = {"acoustic": self.acoustic_NF, "text": text_NS}
        return FeatureSet({name: values for name, values in streams.items() if values is not None})


def encoder_item(acoustic: AcousticArguments) -> dict[str, Any]:
    """`DFATConfig.encoder` of a config."""
    if acoustic.encoder is not None:
        path, pin = split_pin(acoustic.encoder)
        try:
            item = DFATForAudioClassification.read_encoder(path, acoustic.layer, **pin)
        except (OSError, ValueError) as error:
            raise ConfigError("model.dfat.acoustic.encoder", str(error)) from error
        try:
            return vars(DFATConfig(encoder=item).encoder_specs[0])
        except ValueError as error:
            raise ConfigError("model.dfat.acoustic.layer", str(error)) from error
    # Normalised columns would all have the mean 0 and the deviation 1.
    return {"kind": "filterbank", "config": vars(acoustic.filterbank), "normalise": False}


def model_config(config: Any, members: Sequence[Member], vocab_size: int | None) -> DFATConfig:
    """The configuration of the finished model."""
    arguments: DFATArguments = config.model.dfat
    text = arguments.text
    return DFATConfig(
        encoder=encoder_item(arguments.acoustic) if "acoustic" in arguments.streams else None,
        pooling=arguments.acoustic.pooling,
        text_vocab_size=vocab_size,
        text_network=text.network,
        text_embedding_size=text.embedding_size,
        text_num_layers=text.num_layers,
        text_num_heads=text.num_heads,
        text_size=text.size,
        text_dropout=text.dropout,
        text_max_tokens=text.max_tokens,
        fusion=arguments.fusion,
        members=[vars(member) for member in members],
        id2label=dict(enumerate(config.labels)),
    )


def read_streams(
    config: Any, folder: Path, train_rows: Any, validation_rows: Any, device: str
) -> tuple[DFATForAudioClassification, Any, Split, Split | None]:
    """A model without classifiers, its tokenizer, and what its streams read of the rows."""
    arguments: DFATArguments = config.model.dfat
    splits = {"train": train_rows} | ({} if validation_rows is None else {"validation": validation_rows})
    texts = {}
    if "text" in arguments.streams:
        for name, rows in splits.items():
            path = folder / f"transcripts-{name}.jsonl"
            try:
                texts[name] = transcripts(rows, arguments.text.recogniser, path, device)
            except RecogniserError as error:
                raise ConfigError("model.dfat.text.recogniser", str(error)) from error
    tokenizer = train_tokenizer(texts["train"], arguments.text) if texts else None
    base: Any = DFATForAudioClassification(
        model_config(config, candidates(arguments), len(tokenizer) if tokenizer else None)
    ).eval()
    encoder = arguments.acoustic.encoder if "acoustic" in arguments.streams else None
    if encoder is not None:
        path, pin = split_pin(encoder)
        try:
            base.load_encoder(path, **pin)
        except (OSError, ValueError) as error:
            raise ConfigError("model.dfat.acoustic.encoder", str(error)) from error
    base.to(device)
    made = {}
    for name, rows in splits.items():
        acoustic_NF = None
        if base.encoder is not None:
            key = f"{base.config.encoder} {base.config.pooling} {digest_of(base.encoder)}"
            acoustic_NF = acoustic_features(base, rows, folder / f"acoustic-{name}.npy", key)
        ids = tokenize(tokenizer, texts[name]) if tokenizer else None
        made[name] = Split(rows, np.array(rows["label"], dtype=np.int64), acoustic_NF, ids)
    return base, tokenizer, made["train"], made.get("validation")


def digest_of(module: Any) -> str:
    """Changes with any weight of a module."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def candidates(arguments: DFATArguments) -> list[Member]:
    """Every classifier that is fitted out of fold."""
    streams = arguments.streams if arguments.fusion == "late_streams" else ["joint"]
    return [Member(kind, stream) for stream in streams for kind in arguments.classifiers]
