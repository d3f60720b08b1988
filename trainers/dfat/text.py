"""The text stream's tokenizer and the training of its network (TEFE of the paper, section 3.5).

Shape legend: B batch, U tokens, N transcripts, S width of the text features, C classes.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from models.dfat import DFATConfig, TextNetwork
from trainers.dfat.arguments import TextArguments
from trainers.dfat.ensemble import row_weights

logger = logging.getLogger(__name__)
PAD, UNKNOWN = "<pad>", "<unk>"
ENCODED_AT_ONCE = 256


def train_tokenizer(texts: Sequence[str], arguments: TextArguments) -> Any:
    """Syllables, or word pieces, of the training transcripts: `<pad>` is 0, `<unk>` 1.

    Case, punctuation and Unicode form do not count, so that any recogniser's transcripts can be read.

    Returns:
        `PreTrainedTokenizerFast`
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, UNKNOWN]
    trainer: Any
    if arguments.tokens == "syllables":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(
            vocab_size=arguments.vocab_size, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=arguments.vocab_size, special_tokens=special, show_progress=False)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}]+"), " "),
        normalizers.Strip(),
    ])  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
        model_max_length=arguments.max_tokens,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each transcript, none of an empty one."""
    return tokenizer(list(texts), truncation=True)["input_ids"] if texts else []


def pad(ids: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, U) tokens and their mask."""
    longest = max(1, *map(len, ids)) if ids else 1
    tokens, mask = torch.zeros(len(ids), longest, dtype=torch.long), torch.zeros(len(ids), longest, dtype=torch.long)
    for row, values in enumerate(ids):
        tokens[row, : len(values)], mask[row, : len(values)] = torch.tensor(values, dtype=torch.long), 1
    return tokens.to(device), mask.to(device)


def train_network(
    config: DFATConfig,
    ids: Sequence[Sequence[int]],
    labels_N: np.ndarray,
    arguments: TextArguments,
    *,
    seed: int,
    device: Any,
    balanced: bool,
) -> TextNetwork:
    """A network fitted to transcripts by cross entropy, in evaluation mode; the same seed gives the same network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TextNetwork(config).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=0.01)
        size = arguments.batch_size
        num_steps = arguments.epochs * -(-len(ids) // size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / num_steps))
        weights_N = torch.from_numpy(row_weights(labels_N) if balanced else np.ones(len(ids))).float().to(device)
        targets_N = torch.from_numpy(labels_N).long().to(device)
        network.train()
        for _ in range(arguments.epochs):
            order = torch.randperm(len(ids))
            for chosen in order.split(size):
                logits_BC = network(*pad([ids[row] for row in chosen.tolist()], device))
                rows = chosen.to(device)
                losses_B = nn.functional.cross_entropy(logits_BC, targets_N[rows], reduction="none")
                optimizer.zero_grad()
                (losses_B * weights_N[rows]).mean().backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    return network.eval()


@torch.no_grad()
def text_features(network: TextNetwork, ids: Sequence[Sequence[int]], device: Any) -> np.ndarray:
    """(N, S) float32 features of transcripts, in their order."""
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), row))
    features_NS = np.zeros((len(ids), network.classifier.in_features), dtype=np.float32)
    for start in range(0, len(order), ENCODED_AT_ONCE):
        rows = order[start : start + ENCODED_AT_ONCE]
        features_NS[rows] = network.features(*pad([ids[row] for row in rows], device)).float().cpu().numpy()
    return features_NS
