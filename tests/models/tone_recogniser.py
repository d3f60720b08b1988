"""A recogniser that hears pure tones as syllables: the protocol of our models without anything to train."""

import math

import numpy as np
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from models.zipformer.ctc_decoding import ctc_beam, ctc_greedy

RATE = 16_000
HOP = 160
PIECES = ["<blank>", "<unk>", "▁ba", "▁bốn", "n", "▁mơ", "▁tê", "m"]
SOUNDS = {piece: 400.0 * (2 + index) for index, piece in enumerate(PIECES[2:])}
NUM_PIECES, NUM_TONES = len(PIECES), len(SOUNDS)


def tokenizer():
    backend = Tokenizer(BPE({piece: index for index, piece in enumerate(PIECES)}, [], unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<blank>", unk_token="<unk>")


def tone(piece, duration_s=0.2, level=0.3):
    times = np.arange(int(duration_s * RATE)) / RATE
    return (level * np.sin(2 * np.pi * SOUNDS[piece] * times)).astype(np.float32)


def pause(duration_s):
    return np.zeros(int(duration_s * RATE), np.float32)


def say(*pieces, gap_s=0.1):
    """Tones with pauses around them."""
    return np.concatenate([part for piece in pieces for part in (pause(gap_s), tone(piece))] + [pause(gap_s)])


class ToneFeatureExtractor(SequenceFeatureExtractor):
    """Log power at each tone in frames of 10 ms: (B, T, tones)."""

    model_input_names = ["input_features", "attention_mask"]

    def __init__(self, feature_size=NUM_TONES, sampling_rate=RATE, padding_value=-23.0, **kwargs):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(self, waveforms, sampling_rate=RATE, padding="longest", return_attention_mask=True, **_):
        assert sampling_rate == RATE and padding == "longest" and return_attention_mask
        angles = 2 * math.pi * np.outer(np.arange(HOP) / RATE, list(SOUNDS.values()))
        filters = np.exp(-1j * angles) / HOP
        frames = [np.asarray(one[: len(one) // HOP * HOP]).reshape(-1, HOP) @ filters for one in waveforms]
        longest = max(map(len, frames))
        features = np.full((len(frames), longest, self.feature_size), self.padding_value, np.float32)
        mask = np.zeros((len(frames), longest), np.int64)
        for row, one in enumerate(frames):
            features[row, : len(one)] = np.log(np.maximum(np.abs(one) ** 2, 1e-10))
            mask[row, : len(one)] = 1
        return BatchFeature({"input_features": torch.from_numpy(features), "attention_mask": torch.from_numpy(mask)})


class ToneConfig(PreTrainedConfig):
    model_type = "tones"

    def __init__(self, vocab_size=NUM_PIECES, blank_token_id=0, **kwargs):
        self.vocab_size, self.blank_token_id = vocab_size, blank_token_id
        super().__init__(**kwargs)


class ToneModel(PreTrainedModel):
    """Each second frame: the loudest tone, or blank where none is loud."""

    config_class = ToneConfig
    main_input_name = "input_features"
    frame_s = 2 * HOP / RATE

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches = []
        self.post_init()

    def recognise(self, input_features, attention_mask=None, *, search="ctc_greedy", beam_size=15, nbest=1, **options):
        self.batches.append((tuple(input_features.shape), search, beam_size, nbest))
        logits = torch.full((*input_features.shape[:2], self.config.vocab_size), -5.0)
        logits[..., 2:] = self.scale * (input_features.float() + 6)
        logits[..., 0] = 0.0
        log_probs, lengths = logits[:, ::2].log_softmax(-1), (attention_mask.sum(1) + 1) // 2
        if search.endswith("greedy"):
            return ctc_greedy(log_probs, lengths, blank=0)
        return ctc_beam(log_probs, lengths, blank=0, beam_size=beam_size, nbest=nbest, **options)
