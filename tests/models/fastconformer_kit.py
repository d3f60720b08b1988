"""Tiny random FastConformers and inputs for them."""

import torch

from models.fastconformer import FastConformerConfig, FastConformerForASR

VOCABULARY = 20
HEADS = ("ctc", "rnnt", "tdt")
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 16,
    "decoder_hidden_size": 24,
}
QUIET = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}


def make_model(head="ctc", seed=0, **changes):
    """In evaluation mode, with running statistics as after some training."""
    torch.manual_seed(seed)
    model = FastConformerForASR(FastConformerConfig(**{**TINY, "head": head, **changes})).eval()
    with torch.no_grad():
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
        for name, tensor in model.named_parameters():
            if name.endswith(("bias_u", "bias_v")):
                tensor.normal_(std=0.5)
    return model


def make_inputs(lengths=(133, 71, 40), seed=1, bins=16):
    """Features with noise in the padding, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), max(lengths), bins, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return features, mask.long()


def make_labels(lengths=(5, 3, 4), seed=2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    return labels.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -100)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
