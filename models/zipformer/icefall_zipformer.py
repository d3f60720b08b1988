"""icefall's Zipformers under our names: weights and, read off their shapes, the config.

Differences from icefall's layout: stacks are not wrapped twice; the projection after the front-end reads its inputs as
(bin, channel) in place of (channel, bin); `bypass_scale` of a layer, which nothing uses, is dropped, and so is an
attention decoder.
"""

import os
import re
from typing import Any

import torch

from .configuration_zipformer import PRESETS, ZipformerConfig
from .modeling_zipformer import ZipformerForASR
from .strict_model import copy_weights, plain_weights

# In order: icefall's name -> ours.
RENAMED = (
    (r"^encoder_embed\.conv\.0\.", "encoder_embed.conv1."),
    (r"^encoder_embed\.conv\.4\.", "encoder_embed.conv2."),
    (r"^encoder_embed\.conv\.7\.", "encoder_embed.conv3."),
    (r"^encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.", r"encoder.stacks.\1.layers."),
    (r"^encoder\.encoders\.(\d+)\.", r"encoder.stacks.\1."),
    (r"\.self_attn_weights\.", ".attention_weights."),
    (r"\.self_attn([12])\.", r".self_attention\1."),
    (r"\.nonlin_attention\.", ".nonlinear_attention."),
    (r"\.conv_module([12])\.", r".convolution\1."),
    (r"^ctc_output\.1\.", "ctc_head."),
)
UNUSED = re.compile(r"\.layers\.\d+\.bypass_scale$|^attention_decoder\.")
CONVOLUTIONS = tuple(f"encoder_embed.conv.{index}.weight" for index in (0, 4, 7))


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights of `pretrained.pt` or `epoch-N.pt`; nothing in the file is run.

    Raises:
        ValueError: not a checkpoint with tensors only, or not a Zipformer's.
        OSError: no such file.
    """
    with plain_weights(str(path)):
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or CONVOLUTIONS[0] not in state:
        raise ValueError(
            f'{path} is not a checkpoint of an icefall Zipformer: a dict {{"model": {{name: tensor}}}} with '
            f"{CONVOLUTIONS[0]} is expected (pretrained.pt, not a TorchScript or ONNX export)"
        )
    return state


def convert_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of icefall's `AsrModel` -> one of `ZipformerForASR`."""
    converted = {}
    for name, tensor in state.items():
        if UNUSED.search(name):
            continue
        if name == "encoder_embed.out.weight":
            # (D, C * F) -> (D, F * C)
            tensor = tensor.unflatten(1, (len(state[CONVOLUTIONS[-1]]), -1)).transpose(1, 2).flatten(1)
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[name] = tensor.to(torch.float32, copy=True).contiguous()
    return converted


def infer_config(state: dict[str, torch.Tensor], *, position_head_dim: int = 4, **fields: Any) -> ZipformerConfig:
    """The config of icefall weights: every size from shapes, `mask_padding` off as icefall has it.

    Args:
        position_head_dim: the one size that shapes do not tell; icefall's default.
        fields: of `ZipformerConfig`, on top.

    Raises:
        ValueError: a streaming model, or sizes that no Zipformer has.
    """
    if any(".causal_conv." in name for name in state):
        raise ValueError("these are the weights of a streaming Zipformer (causal convolutions); only others are read")
    found: dict[str, list[int]] = {}
    stack = 0
    while any(name.startswith(f"encoder.encoders.{stack}.") for name in state):
        for field, value in _stack_sizes(state, f"encoder.encoders.{stack}.", position_head_dim).items():
            found.setdefault(field, []).append(value)
        stack += 1
    # Used in training alone, so that no shape tells: that of the preset of the same widths, if there is one.
    same = [preset for preset in PRESETS.values() if list(preset.get("encoder_dim", [])) == found["encoder_dim"]]
    unmasked = same[0]["unmasked_dim"] if same else [min(192, dim) for dim in found["encoder_dim"]]
    transducer, ctc = "joiner.output_linear.weight" in state, "ctc_output.1.weight" in state
    vocabulary = state["joiner.output_linear.weight" if transducer else "ctc_output.1.weight"].shape[0]
    channels = [len(state[name]) for name in CONVOLUTIONS]
    bins = state["encoder_embed.out.weight"].shape[1] // channels[-1]
    sizes: dict[str, Any] = {
        **found,
        "subsampling_channels": channels,
        "unmasked_dim": unmasked,
        "vocab_size": vocabulary,
        # Four widths give as many bins after the front-end; 80, which everybody uses, is one of them.
        "num_mel_bins": 4 * bins + 4,
        "mask_padding": False,
        "ctc_weight": 0.2 if ctc else 0.0,
        "training_loss": "ctc",
    }
    if transducer:
        sizes["training_loss"] = "pruned" if "simple_am_proj.weight" in state else "full"
        sizes["decoder_dim"] = state["decoder.embedding.weight"].shape[1]
        sizes["joiner_dim"] = state["joiner.output_linear.weight"].shape[1]
        sizes["context_size"] = state["decoder.conv.weight"].shape[2] if "decoder.conv.weight" in state else 1
    position_dim = state["encoder.encoders.0.layers.0.self_attn_weights.linear_pos.weight"].shape[1]
    return ZipformerConfig(position_dim=position_dim, **{**sizes, **fields})


def _stack_sizes(state: dict[str, torch.Tensor], stack: str, position_head_dim: int) -> dict[str, int]:
    pattern = re.compile(re.escape(stack) + r"(?:encoder\.)?layers\.(\d+)\.")
    layers = {int(match.group(1)) for name in state if (match := pattern.match(name))}
    layer = f"{stack}encoder.layers.0." if f"{stack}downsample.bias" in state else f"{stack}layers.0."

    def rows(name: str) -> int:
        return state[f"{layer}{name}.weight"].shape[0]

    heads, odd = divmod(rows("self_attn_weights.linear_pos"), position_head_dim)
    query_rows = rows("self_attn_weights.in_proj") - heads * position_head_dim
    if odd or heads == 0 or query_rows % (2 * heads) or rows("self_attn1.in_proj") % heads:
        raise ValueError(
            f"{layer}self_attn_weights has no whole number of heads with a position_head_dim of {position_head_dim}; "
            "give the one that the model was trained with"
        )
    downsample = state.get(f"{stack}downsample.bias")
    return {
        "downsampling": 1 if downsample is None else len(downsample),
        "num_layers": len(layers),
        "encoder_dim": len(state[f"{layer}norm.bias"]),
        "feedforward_dim": rows("feed_forward2.in_proj"),
        "num_heads": heads,
        "query_head_dim": query_rows // (2 * heads),
        "value_head_dim": rows("self_attn1.in_proj") // heads,
        "position_head_dim": position_head_dim,
        "conv_kernel": state[f"{layer}conv_module1.depthwise_conv.weight"].shape[2],
    }


def convert_model(state: dict[str, torch.Tensor], config: ZipformerConfig, *, source: str) -> ZipformerForASR:
    """The model of icefall weights, in evaluation mode.

    Raises:
        ValueError: a tensor that is missing, unknown or of another shape than the config's.
    """
    model = ZipformerForASR(config)
    copy_weights(model, convert_weights(state), source=source)
    return model.eval()
