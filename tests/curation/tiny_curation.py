"""Tiny random recognisers and a small prepared corpus of tones, for the curation tests."""

import io
import json
from pathlib import Path

import numpy as np
import soundfile
import torch

LETTERS = sorted(set("aàáảãạăằắẳẵặâầấẩẫậbcdđeèéẻẽẹêềếểễệghiìíỉĩịklmnoòóỏõọôồốổỗộơờớởỡợpqrstuùúủũụưừứửữựvxyỳýỷỹỵ"))
TEXTS = [
    "bật đèn lên",
    "tắt quạt đi",
    "xin chào",
    "không",
    "đi học về nhà",
    "trời hôm nay đẹp",
    "mở cửa",
    "cảm ơn bạn",
]


def save_ctc(folder: Path, seed: int = 0, letters: list[str] = LETTERS) -> Path:
    """A wav2vec 2.0 with a CTC head over Vietnamese letters."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder.mkdir(parents=True)
    vocab = {symbol: index for index, symbol in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 64), conv_kernel=(10, 64), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0, feat_extract_norm="group",
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))).save_pretrained(
        folder
    )
    return folder


def save_s2p(folder: Path, ctc_weight: float = 0.5) -> Path:
    """An S2P of a tiny conformer, with a CTC head."""
    from trainers.arguments import Config
    from trainers.assembly import build_processor_and_model
    from trainers.config import read_config

    sizes = (
        "{type: wav2vec2-bert, d_model: 16, num_layers: 1, num_heads: 2, ffn_dim: 16, dropout: 0.0, frame_stack: 3}"
    )
    options = {"encoder_sizes": sizes, "d_model": "16", "num_layers": "1", "num_heads": "2", "ffn_dim": "16"}
    options |= {"ctc_weight": str(ctc_weight), "freeze_encoder": "false"}
    words = [word for key, value in options.items() for word in (f"--model.s2p.{key}", value)]
    config = read_config(
        [
            *words,
            "--data.train",
            "[{path: unused}]",
            "--training.eval_strategy",
            "no",
            "--training.load_best_model_at_end",
            "false",
        ],
        Config,
    )
    torch.manual_seed(0)
    stage = build_processor_and_model(config)
    stage.model.save_pretrained(folder)
    stage.processor.save_pretrained(folder)
    return folder


def clip(seconds: float, frequency_hz: float) -> bytes:
    """A FLAC file with a tone that rises."""
    time_N = np.arange(round(seconds * 16_000)) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * frequency_hz * (1 + time_N) * time_N), 16_000, format="FLAC")
    return file.getvalue()


def save_corpus(folder: Path, rows_in_shards: tuple[int, ...] = (5, 4, 3), bad: bool = True) -> Path:
    """A prepared folder of several shards; with `bad`, rows with unreadable audio, no text, and too long a text."""
    from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio
    from data_scripts.schema import FEATURES
    from data_scripts.tables import table_from_rows

    (folder / ".prepared").mkdir(parents=True)
    number = 0
    for shard, count in enumerate(rows_in_shards):
        rows = []
        for _ in range(count):
            seconds = 0.5 + 0.13 * (number * 7 % 11)
            row = {
                "id": f"tones/{number:03d}", "audio": {"bytes": clip(seconds, 200 + 31 * number), "path": None},
                "duration_s": seconds, "text": TEXTS[number % len(TEXTS)], "speaker": f"s{number % 3}",
                "dialect": None, "spans": [], "emotion": None, "corpus": "tones",
            }  # fmt: skip
            if bad and number == 3:
                row["audio"] = {"bytes": b"no audio at all", "path": None}
            if bad and number == 6:
                row["text"] = ""
            if bad and number == 8:
                row["text"] = " ".join(TEXTS * 8)
            rows.append(row)
            number += 1
        table = table_from_rows(rows, FEATURES).cast_column("audio", SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ))
        table.to_parquet(folder / f"train-{shard:05d}.parquet")
    return folder
