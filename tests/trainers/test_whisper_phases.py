"""Two phases: what the second one makes the model forget, and how replay keeps it."""

import copy

import numpy as np
import pytest
import torch
from tiny_whisper import collator, make_whisper, row

from data_scripts.mixtures import Passes, replay_weights
from trainers.metrics import error_rates
from trainers.whisper_guards import Guards, guarded_generate

# Every letter is a tone of its own, so the domains have no sound in common.
GENERAL, DOMAIN = ("abc", "cab", "dad", "bad"), ("feg", "hef", "geh", "fee")


class Course:
    """Trains and scores tiny models; the features of each utterance are made once."""

    def __init__(self, processor):
        self.processor = processor
        self.collate = collator(processor)
        self.made = {}

    def rows(self, words, count, seed):
        rng = np.random.default_rng(seed)
        return [
            row(" ".join(rng.choice(words, 1 + number % 3)), id=f"{words[0]}-{seed}-{number}")
            for number in range(count)
        ]

    def batch(self, rows):
        for one in rows:
            if one["id"] not in self.made:
                self.made[one["id"]] = {name: value[0] for name, value in self.collate([one]).items()}
        parts = [self.made[one["id"]] for one in rows]
        batch = {name: torch.stack([part[name] for part in parts]) for name in ("input_features", "attention_mask")}
        labels = [part["labels"] for part in parts]
        return {**batch, "labels": torch.nn.utils.rnn.pad_sequence(labels, True, -100)}

    def train(self, model, rows, passes, epochs, learning_rate=3e-3):
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
        orders = [np.random.default_rng(epoch).permutation(passes(epoch)) for epoch in range(epochs)]
        batches = [order[start : start + 8] for order in orders for start in range(0, len(order), 8)]
        model.train()
        for step, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 30) * (1 - step / len(batches))
            optimizer.zero_grad()
            model(**self.batch([rows[number] for number in batch])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return model.eval()

    def wer(self, model, rows):
        batch = self.batch(rows)
        options = {"max_new_tokens": 12, "guards": Guards(temperatures=())}
        ids = guarded_generate(model, batch["input_features"], batch["attention_mask"], **options)
        heard = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return error_rates([one["text"] for one in rows], heard)["wer"]


@pytest.mark.slow
def test_replay_limits_forgetting():
    sizes = {"d_model": 64, "num_heads": 2, "ffn_dim": 128, "encoder_layers": 1, "decoder_layers": 1}
    processor, model = make_whisper(texts=[*GENERAL, *DOMAIN], **sizes)
    course = Course(processor)
    general, domain = course.rows(GENERAL, 160, seed=0), course.rows(DOMAIN, 80, seed=1)
    general_test, domain_test = course.rows(GENERAL, 40, seed=7), course.rows(DOMAIN, 40, seed=8)
    course.train(model, general, Passes((160,), (1.0,), seed=0), epochs=12)
    assert course.wer(model, general_test) < 0.15 and course.wer(model, domain_test) > 0.9

    alone = course.train(copy.deepcopy(model), domain, Passes((80,), (1.0,), seed=0), epochs=16)
    weights = tuple(replay_weights((80.0, 160.0), (1.0, 1.0), num_replayed=1, share=0.2))
    replayed = course.train(copy.deepcopy(model), domain + general, Passes((80, 160), weights, seed=0), epochs=16)
    assert course.wer(alone, domain_test) < 0.3 and course.wer(replayed, domain_test) < 0.3
    assert course.wer(alone, general_test) > 0.7, "phase 2 alone forgets"
    assert course.wer(replayed, general_test) < 0.2, "with a fifth of phase 1 it does not"
