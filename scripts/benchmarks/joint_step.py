"""A step of joint training on cached S2P outputs, against generating them in the loop.

Both train the same TSPC (PhoWhisper-base's shape and a P2T of t5-small's, text decoder frozen) on 45 phonemes per
utterance. Peer: the frozen S2P encodes 30 seconds and generates greedily in every step, features already computed.
"""

from typing import Any

import _training_steps as steps
import torch

from models.tspc import P2TConfig, P2TForConditionalGeneration, TSPCForConditionalGeneration
from models.tspc.modeling_s2p import PHONEME_SLACK
from trainers.cache import S2POutputCache
from trainers.collators import TextLabels, TSPCCollator
from trainers.tokenizers import train_text_tokenizer

NUM_PHONEMES = 45
FRAMES_PER_S = 50


def make_tspc() -> TSPCForConditionalGeneration:
    s2p = steps.make_s2p()
    # Random weights end anywhere: these end where speech of this length would.
    s2p.config.max_phonemes_per_frame = (NUM_PHONEMES - PHONEME_SLACK) / (FRAMES_PER_S * steps.UTTERANCE_S)
    p2t = P2TForConditionalGeneration(
        P2TConfig(phoneme_vocab_size=s2p.config.vocab_size, vocab_size=4096, d_model=512, d_ff=2048)
    )
    model = TSPCForConditionalGeneration.from_stages(s2p, p2t)
    model.s2p.generation_config.min_new_tokens = NUM_PHONEMES - 1
    model.freeze("freeze")
    return model.train()


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """One row; two minutes on one core."""
    torch.set_num_threads(1)
    rows, inputs, model = steps.make_rows(), steps.speech_inputs(), make_tspc()
    collate = TSPCCollator(inputs, TextLabels(train_text_tokenizer([steps.TEXT], 200)))
    computed = collate([rows[i] for i in range(steps.BATCH_SIZE)])
    with steps.cache_folder() as folder:
        cached = S2POutputCache(folder).attach(rows, model, inputs, batch_duration_s=16)
        if {len(cached[i]["phoneme_ids"]) for i in range(len(cached))} != {NUM_PHONEMES}:
            raise RuntimeError(f"S2P did not emit the {NUM_PHONEMES} phonemes that the comparison is about")
        ours = steps.trainer_step(model, steps.batches(cached, collate))
        theirs = steps.trainer_step(model, lambda: computed)
        return steps.compare(
            "Joint training step, S2P outputs cached", "S2P generating in the loop", ours, theirs, rounds
        )


if __name__ == "__main__":
    print(run())
