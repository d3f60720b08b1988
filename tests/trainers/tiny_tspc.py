"""Tiny random stages and learnable rows: every letter of the alphabet is a tone of its own, 40 ms long."""

import io
from types import SimpleNamespace

import numpy as np
import soundfile
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor

from models.tspc.configuration_tspc import P2TConfig, S2PConfig
from models.tspc.modeling_p2t import P2TForConditionalGeneration
from models.tspc.modeling_s2p import S2PForConditionalGeneration
from models.tspc.modeling_tspc import TSPCForConditionalGeneration
from trainers.collators import P2TCollator, PhonemeLabels, S2PCollator, SpeechInputs, TextLabels, TSPCCollator

LETTERS = "abcdefgh"
WORDS = ("abc", "cab", "dad", "beg", "fed", "hag", "gab", "ace")


class LetterG2P:
    """Stands in for the G2P: each letter is a phoneme, and a seeded reading may double the first one."""

    def phonemise(self, text, spans=(), seed=None, dialect=None):
        phonemes = [letter for letter in text if letter in LETTERS]
        if seed is not None and seed % 2 and phonemes:
            phonemes.insert(0, phonemes[0])
        return SimpleNamespace(phonemes=phonemes, unknown=[word for word in text.split() if set(word) - set(LETTERS)])


def word_level(tokens):
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", "<s>", *tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def speech(text, sampling_rate=16_000):
    """Encoded FLAC of a text."""
    time = np.arange(int(0.04 * sampling_rate)) / sampling_rate
    tones = [np.sin(2 * np.pi * (400 + 400 * LETTERS.find(letter)) * time) * (letter != " ") for letter in text]
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.concatenate(tones), sampling_rate, format="FLAC")
    return file.getvalue()


def text_of(index):
    rng = np.random.default_rng([7, index])
    return " ".join(rng.choice(WORDS, 1 + index % 3))


def make_rows(count, start=0):
    texts = [text_of(index) for index in range(start, start + count)]
    return Dataset.from_list(
        [
            {
                "id": f"row-{start + i}",
                "audio": {"path": None, "bytes": speech(text)},
                "text": text,
                "duration_s": 0.04 * len(text),
                "spans": [{"start": 0, "end": 1, "lang": "vi"}],
                "dialect": None,
            }
            for i, text in enumerate(texts)
        ]
    )


PHONEME_TOKENIZER = word_level(LETTERS)
TEXT_TOKENIZER = word_level(WORDS)


def feature_extractor():
    return WhisperFeatureExtractor(feature_size=16, chunk_length=1, hop_length=160, n_fft=400)


def make_s2p(window="trimmed", dropout=0.0, ctc_weight=0.0, **changes):
    encoder = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=16,
        max_source_positions=50,
        dropout=dropout,
    )
    sizes = {"vocab_size": len(PHONEME_TOKENIZER), "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
    config = S2PConfig(
        encoder_config=encoder,
        encoder_window=window,
        decoder_ffn_dim=32,
        dropout=dropout,
        max_target_positions=32,
        ctc_weight=ctc_weight,
        **sizes,
        **changes,
    )
    return S2PForConditionalGeneration(config)


def make_p2t(dropout=0.0):
    config = P2TConfig(
        phoneme_vocab_size=len(PHONEME_TOKENIZER),
        vocab_size=len(TEXT_TOKENIZER),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=dropout,
    )
    return P2TForConditionalGeneration(config)


def make_tspc(decoder="freeze", **changes):
    model = TSPCForConditionalGeneration.from_stages(make_s2p(**changes), make_p2t())
    model.freeze(decoder)
    # An untrained S2P may end at once.
    model.s2p.generation_config.min_new_tokens = 8
    return model


def speech_inputs(augmentation=None):
    return SpeechInputs(feature_extractor(), seed=5, augmentation=augmentation)


def s2p_collator(augmentation=None):
    return S2PCollator(speech_inputs(augmentation), PhonemeLabels(LetterG2P(), PHONEME_TOKENIZER))


def p2t_collator(**changes):
    return P2TCollator(PhonemeLabels(LetterG2P(), PHONEME_TOKENIZER), TextLabels(TEXT_TOKENIZER), seed=5, **changes)


def tspc_collator():
    return TSPCCollator(speech_inputs(), TextLabels(TEXT_TOKENIZER))
