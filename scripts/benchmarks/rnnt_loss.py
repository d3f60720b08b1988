"""The transducer losses, joiner included, forward and backward, against torchaudio's full loss: time and peak memory.

Eight utterances of 200 frames and 40 labels, a joiner of width 512 and 2,048 words. Ours and the peer's take turns in
one process; the memory of each is what one pass adds to the peak of a process of its own.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

B, T, U, V, D, PRUNE_RANGE = 8, 200, 40, 2048, 512, 5
PEER = "torchaudio rnnt_loss with the joiner"
NAMES = {"pruned": "pruned RNN-T (5 rows)", "full": "exact RNN-T in chunks"}


def make_losses() -> dict[str, Callable[[], None]]:
    """One pass of each loss, by name; the same states, joiner and labels."""
    import torchaudio

    from models.zipformer.transducer_loss import Targets, full_loss, prune_starts, pruned_loss, simple_loss

    torch.manual_seed(0)
    encoder = (0.5 * torch.randn(B, T, D)).requires_grad_()
    predictor = (0.5 * torch.randn(B, U + 1, D)).requires_grad_()
    output, am, lm = torch.nn.Linear(D, V), torch.nn.Linear(D, V), torch.nn.Linear(D, V)
    labels = torch.randint(1, V, (B, U))
    frames, lengths = torch.full((B,), T), torch.full((B,), U)
    trained = [encoder, predictor, *output.parameters(), *am.parameters(), *lm.parameters()]

    def joiner(encoder: torch.Tensor, predictor: torch.Tensor) -> torch.Tensor:
        return output(torch.tanh(encoder + predictor))

    def backward(loss: torch.Tensor) -> None:
        for tensor in trained:
            tensor.grad = None
        loss.backward()

    def peer() -> None:
        logits = joiner(encoder[:, :, None], predictor[:, None])
        backward(
            torchaudio.functional.rnnt_loss(
                logits, labels.int(), frames.int(), lengths.int(), blank=0, reduction="sum"
            )
        )

    def full() -> None:
        backward(full_loss(encoder, predictor, joiner, Targets.build(labels, frames, blank=0)).losses_B.sum())

    def pruned() -> None:
        targets = Targets.build(labels, frames, blank=0)
        simple = simple_loss(am(encoder), lm(predictor), targets, lm_scale=0.25)
        starts = prune_starts(simple, targets, PRUNE_RANGE)
        losses = pruned_loss(encoder, predictor, joiner, targets, starts, PRUNE_RANGE)
        backward((0.5 * simple.losses_B + losses.losses_B).sum())

    return {"peer": peer, "full": full, "pruned": pruned}


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    # Not getrusage: there a process begins with the peak of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def print_added_memory(name: str) -> None:
    """What one pass adds to the peak, in a process that has done nothing else."""
    torch.set_num_threads(1)
    losses = make_losses()
    before = peak_mib()
    losses[name]()
    print(peak_mib() - before)


def run(rounds: int = 3) -> list[dict[str, Any]]:
    """Four rows; two minutes on one core, 2.5 GB of memory."""
    torch.set_num_threads(1)
    losses = make_losses()
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(rounds + 1):
        for name, loss in losses.items():
            start = time.process_time()
            loss()
            seconds[name].append(time.process_time() - start)
    memory = {}
    for name in losses:
        command = [sys.executable, __file__, name]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    rows = []
    for key, name in NAMES.items():
        # The first round warms up.
        pairs = list(zip(seconds[key][1:], seconds["peer"][1:], strict=True))
        ours, theirs = (statistics.median(column) * 1000 / B for column in zip(*pairs, strict=True))
        ratio = statistics.median(other / mine for mine, other in pairs)
        rows += [
            {"name": name, "peer": PEER, "ours": ours, "theirs": theirs, "unit": "CPU ms/utterance", "ratio": ratio},
            {"name": f"{name}, memory", "peer": PEER, "ours": memory[key], "theirs": memory["peer"], "unit": "MiB",
             "ratio": memory["peer"] / memory[key]},
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    print_added_memory(sys.argv[1]) if len(sys.argv) > 1 else print(run())
