"""A tiny Whisper from scratch, and the rows of tiny_tspc, whose letters are tones."""

from types import SimpleNamespace

import torch
from tiny_tspc import WORDS, speech

from trainers.collators import SpeechInputs
from trainers.whisper import WhisperCollator, build_whisper

SIZES = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 2, "ffn_dim": 64, "num_mel_bins": 80}


def arguments(**changes):
    """`WhisperArguments` of a model with a 1 s window."""
    plain = {"path": None, "language": "vi", "freeze_encoder": False, "dropout": 0.0, "timestamp_share": 0.0}
    more = {"ctc_weight": 0.0, "window_s": 1, "vocab_size": 280, **SIZES}
    return SimpleNamespace(**{**plain, **more, **changes})


def make_whisper(seed=0, texts=WORDS, **changes):
    """`(processor, model)` with random weights."""
    torch.manual_seed(seed)
    processor, model = build_whisper(arguments(**changes), list(texts))
    return processor, model.eval()


def collator(processor, **options):
    return WhisperCollator(SpeechInputs(processor.feature_extractor), processor.tokenizer, **options)


def row(text, **changes):
    return {"id": f"id-{text}", "text": text, "audio": {"path": None, "bytes": speech(text)}, "spans": []} | changes


def signs(count, seed):
    """(count, 64) random signs: any two rows are nearly orthogonal."""
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)).sign()


def by_rule(next_token, **changes):
    """A Whisper that writes `next_token[the token before]`, and anything else where that names none.

    Attention and feed-forward layers add nothing, so what comes next depends on the last token alone; where the
    attention looks is left to random weights.
    """
    _, model = make_whisper(d_model=64, num_heads=2, ffn_dim=8, decoder_layers=1, **changes)
    model.config.tie_word_embeddings = False
    decoder = model.model.decoder
    with torch.no_grad():
        for layer in decoder.layers:
            for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                last.weight.zero_()
                last.bias.zero_()
        decoder.embed_positions.weight.zero_()
        decoder.embed_tokens.weight.copy_(signs(model.config.vocab_size, seed=0))
        model.proj_out.weight = torch.nn.Parameter(torch.zeros(model.config.vocab_size, 64))
        for last, following in next_token.items():
            lead(model, last, following)
    return model


def lead(model, last, following, strength=1.0):
    """Let one token follow another: its logit there is 64 times the strength."""
    with torch.no_grad():
        model.proj_out.weight[following] += strength * model.model.decoder.embed_tokens.weight[last]
