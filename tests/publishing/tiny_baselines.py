"""Random speech recognisers of other makers' architectures, small enough for a test."""

import json
from pathlib import Path

import torch


def save_tiny_whisper(folder: Path) -> Path:
    """A Whisper with a 1 s window and a byte vocabulary."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    specials = ["endoftext", "startoftranscript", "en", "vi", "translate", "transcribe", "startoflm", "startofprev"]
    specials += ["nospeech", "notimestamps", *(f"{step * 0.02:.2f}" for step in range(51))]
    symbols = [*bytes_to_unicode().values(), *(f"<|{special}|>" for special in specials)]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[])
    end, start = vocab["<|endoftext|>"], vocab["<|startoftranscript|>"]
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=80,
            max_source_positions=50,
            max_target_positions=64,
            **sizes,
            **heads,
            **ids,
        )
    )
    model.generation_config = GenerationConfig(
        **ids,
        max_new_tokens=6,
        is_multilingual=True,
        lang_to_id={"<|en|>": vocab["<|en|>"], "<|vi|>": vocab["<|vi|>"]},
        task_to_id={"transcribe": vocab["<|transcribe|>"], "translate": vocab["<|translate|>"]},
        no_timestamps_token_id=vocab["<|notimestamps|>"],
        forced_decoder_ids=None,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80, chunk_length=1), tokenizer).save_pretrained(folder)
    return folder


def save_tiny_ctc(folder: Path) -> Path:
    """A wav2vec 2.0 with a CTC head over a few letters."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder.mkdir(parents=True)
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, **{c: 5 + i for i, c in enumerate("abchiomnt")}}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 64), conv_kernel=(10, 64), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0, feat_extract_norm="group",
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
