"""Published emotion2vec checkpoints (fairseq and FunASR layout) to the classes of this folder.

A published folder holds a pickle (`model.pt`, `emotion2vec_base.pt`), `config.yaml` and, for emotion2vec+,
`tokens.txt`.
"""

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .configuration_emotion2vec import Emotion2VecConfig
from .feature_extraction_emotion2vec import Emotion2VecFeatureExtractor
from .modeling_emotion2vec import Emotion2VecForAudioClassification, Emotion2VecModel
from .strict_model import copy_weights

WEIGHT_NAMES = ("model.pt", "emotion2vec_base.pt")
UNUSED_LABEL = re.compile(r"unuse")
# Parts that only pre-training uses: decoder, teacher, reconstruction and adversarial heads.
TRAINING_ONLY = re.compile(
    r"(^|\.)_ema|(^|\.)decoder\.|^shared_decoder|^recon_proj|^(cls|adversarial|d2v|chunk|utterance)[\w]*|"
    r"^(target|mask|label)[\w]*_(emb|embedding|proj)|^dataset_embeddings"
)
_AUDIO = r"^modality_encoders\.AUDIO\."
_RENAMES = [
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.0\.", r"feature_encoder.layers.\1.conv."),
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"feature_encoder.layers.\1.norm."),
    (_AUDIO + r"project_features\.1\.", r"feature_projection.norm."),
    (_AUDIO + r"project_features\.2\.", r"feature_projection.linear."),
    (_AUDIO + r"(extra_tokens|alibi_scale)$", r"\1"),
    (_AUDIO + r"context_encoder\.norm\.", r"norm."),
    (_AUDIO + r"context_encoder\.blocks\.(\d+)\.", r"layers.\1."),
    (r"\.attn\.", r".attention."),
    (r"^proj\.", r"classifier."),
]
# What this port has one way of doing; a checkpoint that says otherwise would give other numbers.
_FIXED: dict[str, tuple[Any, ...]] = {
    "modalities.audio.extractor_mode": ("layer_norm",),
    "modalities.audio.conv_pos_pre_ln": (False, None),
    "modalities.audio.learned_alibi": (False, None),
}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a published `.pt` file, without running anything that it holds.

    They are those under "model" or "state_dict" where there is such an entry, without the prefix "d2v_model.".

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged or holds more than tensors, or no tensors of emotion2vec.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.findall(r"GLOBAL ([\w.]+)", str(error)) or ["something else"]
        raise ValueError(
            f"{path} holds more than tensors ({refused[0]}), and reading that would run code of whoever wrote it; "
            "nothing was run. On a machine where you trust the file, save its weights alone: "
            "torch.save({'model': torch.load(PATH, weights_only=False)['model']}, 'weights.pt')"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is truncated or no PyTorch checkpoint ({error}); download it again") from error
    for key in ("model", "state_dict"):
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping):
        raise ValueError(f"{path} holds a {type(stored).__name__}; expected tensors by name")
    tensors = {str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    state = {name.removeprefix("d2v_model."): value for name, value in tensors.items()}
    state = {name: value for name, value in state.items() if not TRAINING_ONLY.search(name)}
    if not any(name.startswith("modality_encoders.AUDIO.") for name in state):
        raise ValueError(f"{path} holds no tensors named modality_encoders.AUDIO.…: it is not emotion2vec")
    return state


def settings_of(published: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the network: under "model_conf" as FunASR has them, or "model" as fairseq has."""
    sections = (published.get("model_conf"), published.get("model"), published)
    return next(section for section in sections if isinstance(section, Mapping))


def config_of(published: Mapping[str, Any]) -> Emotion2VecConfig:
    """The configuration that a published `config.yaml` (already parsed) describes; nothing is taken for granted.

    Raises:
        ValueError: a field is missing, or asks for something that no published model does (named).
    """
    source = settings_of(published)

    def field(name: str) -> Any:
        value: Any = source
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(f"config.yaml lacks {name}: is it the one published with the checkpoint?")
            value = value[part]
        return value

    for name, allowed in _FIXED.items():
        if field(name) not in allowed:
            raise ValueError(f"config.yaml has {name}: {field(name)!r}; only {allowed[0]!r} is converted")
    if field("modalities.audio.use_alibi_encoder") and field("modalities.audio.num_alibi_heads") != field("num_heads"):
        raise ValueError(
            "config.yaml has another number of ALiBi heads than of attention heads; that is not converted"
        )
    convs = parse_convs(field("modalities.audio.feature_encoder_spec"))
    audio = {
        "num_prenet_layers": "prenet_depth",
        "num_extra_tokens": "num_extra_tokens",
        "input_dropout": "prenet_dropout",
        "use_alibi": "use_alibi_encoder",
        "alibi_scale": "alibi_scale",
        "learned_alibi_scale": "learned_alibi_scale",
        "alibi_scale_per_head": "learned_alibi_scale_per_head",
        "alibi_scale_per_layer": "learned_alibi_scale_per_layer",
        "conv_pos_width": "conv_pos_width",
        "conv_pos_depth": "conv_pos_depth",
        "conv_pos_groups": "conv_pos_groups",
    }
    top = {
        "hidden_size": "embed_dim",
        "num_attention_heads": "num_heads",
        "num_main_layers": "depth",
        "mlp_ratio": "mlp_ratio",
        "layer_norm_first": "layer_norm_first",
        "norm_affine": "norm_affine",
        "hidden_dropout": "encoder_dropout",
        "mlp_dropout": "post_mlp_drop",
        "activation_dropout": "activation_dropout",
        "attention_dropout": "attention_dropout",
    }
    fields = {ours: field(f"modalities.audio.{theirs}") for ours, theirs in audio.items()}
    fields |= {ours: field(theirs) for ours, theirs in top.items()}
    return Emotion2VecConfig(
        **fields,
        layer_norm_eps=float(field("norm_eps")),  # YAML reads 1e-05 as text
        conv_dim=[conv[0] for conv in convs],
        conv_kernel=[conv[1] for conv in convs],
        conv_stride=[conv[2] for conv in convs],
    )


def parse_convs(spec: str | Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """`"[(512, 10, 5)] + [(512, 3, 2)] * 4"` -> (width, kernel, stride) of each convolution, without evaluating it.

    Raises:
        ValueError: another way of writing it.
    """
    if not isinstance(spec, str):
        return [(int(a), int(b), int(c)) for a, b, c in spec]
    triple = r"\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)"
    convs: list[tuple[int, int, int]] = []
    for term in spec.split("+"):
        match = re.fullmatch(rf"\s*\[\s*((?:{triple}\s*,?\s*)+)\]\s*(?:\*\s*(\d+))?\s*", term)
        if match is None:
            raise ValueError(
                f"config.yaml: feature_encoder_spec {spec!r} is not a sum of [(width, kernel, stride)] * n"
            )
        found = [(int(a), int(b), int(c)) for a, b, c in re.findall(triple, match[1])]
        convs += found * int(match[5] or 1)
    return convs


def rename(state: Mapping[str, torch.Tensor], config: Emotion2VecConfig) -> dict[str, torch.Tensor]:
    """Published names -> ours; the classifier, where there is one, under "classifier."."""
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"^blocks\.(\d+)\.", lambda m: f"layers.{int(m[1]) + config.num_prenet_layers}.", name)
        # The encoder of positions counts from 1: its first entry transposes.
        new = re.sub(
            _AUDIO + r"relative_positional_encoder\.(\d+)\.0\.",
            lambda m: f"position_encoder.convs.{int(m[1]) - 1}.",
            new,
        )
        for pattern, replacement in _RENAMES:
            new = re.sub(pattern, replacement, new)
        # Published as (layers, 1, heads, 1, 1); very old files lack the first axis.
        renamed[new] = tensor.float().reshape(-1, tensor.shape[-3]) if new == "alibi_scale" else tensor.float()
    return renamed


def read_labels(path: str | os.PathLike[str]) -> tuple[list[str], list[str] | None]:
    """Names of the classes of a `tokens.txt`, English where a line has two ("生气/angry"), and the active ones.

    Placeholders ("unuse_0") are not active; None where there are none.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    names = [line.strip().rpartition("/")[2] for line in lines if line.strip()]
    active = [name for name in names if not UNUSED_LABEL.match(name)]
    return names, None if len(active) == len(names) else active


def convert(
    state: Mapping[str, torch.Tensor],
    published: Mapping[str, Any],
    labels: Sequence[str] | None = None,
    active_labels: Sequence[str] | None = None,
) -> Emotion2VecModel | Emotion2VecForAudioClassification:
    """Tensors of `read_checkpoint` and a parsed `config.yaml` -> the encoder, or the classifier where they hold one.

    Raises:
        ValueError: a tensor missing, unknown or of another shape than config.yaml says; names of classes that do not
            fit the classifier.
    """
    config = config_of(published)
    weights = rename(state, config)
    head = {name: weights.pop(name) for name in list(weights) if name.startswith("classifier.")}
    if bool(head) != bool(labels):
        raise ValueError(
            "the checkpoint has a classifier but there is no tokens.txt to name its classes"
            if head
            else "there is a tokens.txt, but the checkpoint has no classifier"
        )
    source = "the checkpoint"
    if not labels:
        encoder = Emotion2VecModel(config)
        copy_weights(encoder, weights, source=source)
        return encoder.eval()
    rows = len(head["classifier.weight"])
    if rows != len(labels) or len(set(labels)) < rows:
        raise ValueError(f"tokens.txt names {len(set(labels))} classes but the classifier has {rows}")
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.active_labels = None if active_labels is None else list(active_labels)
    model = Emotion2VecForAudioClassification(config)
    copy_weights(model, {f"emotion2vec.{name}": value for name, value in weights.items()} | head, source=source)
    return model.eval()


def feature_extractor_of(config: Emotion2VecConfig, published: Mapping[str, Any]) -> Emotion2VecFeatureExtractor:
    """The feature extractor that goes with a converted model."""
    source = settings_of(published)
    return Emotion2VecFeatureExtractor(
        do_normalize=bool(source.get("normalize", True)), shortest_input=config.shortest_input
    )
