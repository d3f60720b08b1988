"""Tiny emotion2vec models, and checkpoints of the published layout with reproducible random weights."""

import re

import numpy as np
import torch

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor

LABELS = ["angry", "happy", "neutral", "sad"]
TINY = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "num_prenet_layers": 1,
    "num_main_layers": 2,
    "conv_dim": [16] * 7,
    "conv_pos_groups": 4,
    "num_extra_tokens": 3,
}
FEATURES = Emotion2VecFeatureExtractor()


def tiny_config(**changes):
    return Emotion2VecConfig(**{**TINY, "id2label": dict(enumerate(LABELS)), **changes})


def make(model_class, seed=0, **changes):
    """A random model in evaluation mode whose every tensor takes part: no norm or scale is at its initial value."""
    torch.manual_seed(seed)
    model = model_class(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias") or "alibi_scale" in name or "extra" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif name.endswith("weight"):
                parameter.mul_(2)
    return model


def waves(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n).astype(np.float32) for n in lengths]


def inputs(waveforms):
    return FEATURES(waveforms, sampling_rate=16_000, return_tensors="pt")


def published_config(channels=8, **changes):
    """`model_conf` of a config.yaml as FunASR publishes it, tiny; dotted names reach into modalities.audio."""
    audio = {
        "type": "AUDIO", "prenet_depth": 2, "prenet_layerdrop": 0.05, "prenet_dropout": 0.1,
        "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "num_extra_tokens": 3, "init_extra_token_zero": True,
        "mask_noise_std": 0.01, "mask_prob_min": None, "mask_prob": 0.5, "inverse_mask": False,
        "mask_prob_adjust": 0.05, "keep_masked_pct": 0.0, "mask_length": 5, "add_masks": False, "remove_masks": False,
        "mask_dropout": 0.0, "encoder_zero_mask": True, "mask_channel_prob": 0.0, "mask_channel_length": 64,
        "ema_local_encoder": False, "local_grad_mult": 1.0, "use_alibi_encoder": True, "alibi_scale": 1.0,
        "learned_alibi": False, "alibi_max_pos": None, "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True, "learned_alibi_scale_per_layer": False, "num_alibi_heads": 6,
        "model_depth": 3, "decoder": {
            "decoder_dim": 16, "decoder_groups": 4, "decoder_kernel": 7, "decoder_layers": 2, "input_dropout": 0.1,
            "add_positions_masked": False, "add_positions_all": False, "decoder_residual": True,
            "projection_layers": 1, "projection_ratio": 2.0,
        },
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8,2,2)] + [(8,2,2)]".replace("8", str(channels)),
        "conv_pos_width": 95, "conv_pos_groups": 4, "conv_pos_depth": 5, "conv_pos_pre_ln": False,
    }  # fmt: skip
    conf = {
        "depth": 3, "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "num_heads": 6, "norm_eps": "1e-05",
        "norm_affine": True, "encoder_dropout": 0.1, "post_mlp_drop": 0.1, "attention_dropout": 0.1,
        "activation_dropout": 0.0, "dropout_input": 0.0, "layerdrop": 0.05, "embed_dim": 24, "mlp_ratio": 4.0,
        "layer_norm_first": False, "end_of_block_targets": False, "clone_batch": 8, "normalize": True,
        "average_top_k_layers": 8, "loss_beta": 0.0, "loss_scale": None,
    }  # fmt: skip
    for name, value in changes.items():
        (audio if name in audio else conf)[name] = value
    audio["num_alibi_heads"], audio["model_depth"] = conf["num_heads"], conf["depth"]
    return {"model": "Emotion2vec", "model_conf": {**conf, "modalities": {"audio": audio}}}


def published_shapes(published, num_labels=0):
    """Names and shapes of the tensors that FunASR's model holds for such a configuration, its decoder left out."""
    conf = published["model_conf"]
    audio, d, hidden = conf["modalities"]["audio"], conf["embed_dim"], int(conf["embed_dim"] * conf["mlp_ratio"])
    root = "modality_encoders.AUDIO."
    channels = int(re.search(r"\((\d+)", audio["feature_encoder_spec"])[1])
    shapes = {}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"{root}local_encoder.conv_layers.{i}.0.weight"] = (channels, channels if i else 1, kernel)
        for kind in ("weight", "bias"):
            shapes[f"{root}local_encoder.conv_layers.{i}.2.1.{kind}"] = (channels,)
    shapes |= {f"{root}project_features.1.{kind}": (channels,) for kind in ("weight", "bias")}
    shapes |= {f"{root}project_features.2.weight": (d, channels), f"{root}project_features.2.bias": (d,)}
    kernel = max(3, audio["conv_pos_width"] // audio["conv_pos_depth"])
    for i in range(1, audio["conv_pos_depth"] + 1):
        shapes[f"{root}relative_positional_encoder.{i}.0.weight"] = (d, d // audio["conv_pos_groups"], kernel)
        shapes[f"{root}relative_positional_encoder.{i}.0.bias"] = (d,)
    layers = audio["prenet_depth"] + conf["depth"] if audio["learned_alibi_scale_per_layer"] else 1
    heads = conf["num_heads"] if audio["learned_alibi_scale_per_head"] else 1
    if audio["use_alibi_encoder"]:
        shapes[f"{root}alibi_scale"] = (layers, 1, heads, 1, 1)
    shapes[f"{root}extra_tokens"] = (1, audio["num_extra_tokens"], d)
    norms = ["norm."] if conf["layer_norm_first"] else [f"{root}context_encoder.norm."]
    blocks = [f"{root}context_encoder.blocks.{i}." for i in range(audio["prenet_depth"])]
    for block in [*blocks, *(f"blocks.{i}." for i in range(conf["depth"]))]:
        norms += [f"{block}norm1.", f"{block}norm2."]
        for name, out, into in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", hidden, d),
            ("mlp.fc2", d, hidden),
        ):
            shapes |= {f"{block}{name}.weight": (out, into), f"{block}{name}.bias": (out,)}
    if conf["norm_affine"]:
        shapes |= {f"{norm}{kind}": (d,) for norm in norms for kind in ("weight", "bias")}
    if num_labels:
        shapes |= {"proj.weight": (num_labels, d), "proj.bias": (num_labels,)}
    return shapes


def published_state(published, num_labels=0, seed=0):
    """Random tensors of the published layout, the same on every machine: from numpy, in the order of their names."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in sorted(published_shapes(published, num_labels).items()):
        values = rng.standard_normal(shape)
        if len(shape) > 1 and name.endswith("weight"):
            values *= 1.5 / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1 + 0.3 * values
        else:
            values *= 0.3
        if name.endswith("alibi_scale"):
            values = 1 + 3 * values  # some below zero, which counts as zero
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state
