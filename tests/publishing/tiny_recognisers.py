"""Random Zipformers and FastConformers, small enough for a test, with a tokenizer of letters."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdeghiklmnopqrstuvxyáàảãạâấầậăêếềệôốồộơớờợưứừựđíìịóòọúùụéèẹýỳ"


def letter_tokenizer() -> PreTrainedTokenizerFast:
    pieces = ["<blank>", "<unk>", "▁", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
    merges = [("▁", letter) for letter in LETTERS]
    backend = Tokenizer(BPE({piece: index for index, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<blank>", unk_token="<unk>")


def save_tiny_zipformer(folder: Path, **fields) -> Path:
    from models.zipformer import ZipformerConfig, ZipformerFeatureExtractor, ZipformerForASR, ZipformerProcessor

    tokenizer = letter_tokenizer()
    sizes = {
        "downsampling": [1, 2], "num_layers": 1, "encoder_dim": [16, 24], "unmasked_dim": 16, "num_heads": 2,
        "feedforward_dim": [16, 24], "query_head_dim": 8, "value_head_dim": 4, "conv_kernel": [7, 5],
        "decoder_dim": 16, "joiner_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    model = ZipformerForASR(ZipformerConfig(vocab_size=len(tokenizer), **{**sizes, **fields})).eval()
    with torch.no_grad():  # untrained, but it says something
        for name, weight in model.named_parameters():
            if name.startswith(("joiner", "ctc_head", "decoder")) and weight.ndim > 1:
                weight.mul_(12)
    model.save_pretrained(folder)
    ZipformerProcessor(ZipformerFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def save_tiny_fastconformer(folder: Path, **fields) -> Path:
    from models.fastconformer import (
        FastConformerConfig,
        FastConformerFeatureExtractor,
        FastConformerForASR,
        FastConformerProcessor,
    )

    tokenizer = letter_tokenizer()
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "subsampling_conv_channels": 8, "decoder_hidden_size": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    model = FastConformerForASR(FastConformerConfig(vocab_size=len(tokenizer), **{**sizes, **fields})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("joint", "ctc_head", "decoder", "encoder_projector")) and weight.ndim > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
