"""A training step of S2P with the frozen encoder's outputs cached, against the stock fine-tuning recipe.

Peer: transformers' `WhisperForConditionalGeneration` of the same shape and phoneme vocabulary with `freeze_encoder()`,
its log-mel input already computed and padded to 30 seconds. Ours reads cached states from disk and collates them.
"""

from typing import Any

import _training_steps as steps
import torch
from transformers import WhisperForConditionalGeneration

from trainers.cache import EncoderCache
from trainers.collators import S2PCollator


def stock_model() -> WhisperForConditionalGeneration:
    config = steps.encoder_config()
    config.update({"vocab_size": len(steps.phoneme_tokenizer()), "pad_token_id": 0, "eos_token_id": 1})
    config.update({"bos_token_id": 3, "decoder_start_token_id": 3, "suppress_tokens": None})
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.model.freeze_encoder()
    return model.train()


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """One row; a minute on one core."""
    torch.set_num_threads(1)
    rows, inputs, model = steps.make_rows(), steps.speech_inputs(), steps.make_s2p()
    collate = S2PCollator(inputs, steps.phoneme_labels())
    labels = collate([rows[i] for i in range(steps.BATCH_SIZE)])["labels"]
    features = torch.randn(steps.BATCH_SIZE, 80, 3000)
    with steps.cache_folder() as folder:
        cached = EncoderCache(folder).attach(rows, model, inputs, batch_duration_s=16)
        ours = steps.trainer_step(model, steps.batches(cached, collate))
        theirs = steps.trainer_step(stock_model(), lambda: {"input_features": features, "labels": labels})
        name, peer = "S2P training step, encoder cached", "WhisperForConditionalGeneration, frozen encoder"
        return steps.compare(name, peer, ours, theirs, rounds)


if __name__ == "__main__":
    print(run())
