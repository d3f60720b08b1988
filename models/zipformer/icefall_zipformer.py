"""Weights and vocabularies of icefall's Zipformers, under our names.

Differences from icefall's layout: stacks are not wrapped twice; the projection after the front-end reads its inputs as
(bin, channel) in place of (channel, bin); `bypass_scale` of a layer, which nothing uses, is dropped.
"""

import re

import torch

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
UNUSED = re.compile(r"\.layers\.\d+\.bypass_scale$")


def our_name(name: str) -> str | None:
    """Our name of a tensor of icefall's; `None` for one that nothing uses."""
    if UNUSED.search(name):
        return None
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def convert_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of icefall's `AsrModel` -> one of `ZipformerForASR`."""
    converted = {}
    for name, tensor in state.items():
        ours = our_name(name)
        if ours is None:
            continue
        if ours == "encoder_embed.out.weight":
            # (D, C * F) -> (D, F * C); the third convolution makes 128 channels.
            tensor = tensor.unflatten(1, (128, -1)).transpose(1, 2).flatten(1)
        converted[ours] = tensor.contiguous()
    return converted
