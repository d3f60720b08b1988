"""Sentences scored a second by the language model, against kenlm's Python module on the same ARPA file.

    python scripts/benchmarks/ngram.py

Sentences come from this package's own grammar; both sides get the same model and the same list, ours in one batch,
kenlm sentence by sentence as its module works. Time is CPU time; rounds alternate, the ratio is the median of theirs.
Training has no peer that pip installs: its seconds stand in the name of the row.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from data_scripts.curation.ngram import NgramModel, train_ngram
from data_scripts.synthesis.sentences import SentenceStream

logger = logging.getLogger(__name__)

NUM_TRAIN, NUM_SCORED = 50_000, 20_000


def cpu_seconds(function: Callable[[], Any]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """One row, or none where kenlm is not installed; ten seconds on one core."""
    try:
        import kenlm
    except ImportError:
        logger.warning("kenlm is not installed (pip install kenlm): nothing to compare the language model with")
        return []
    texts = [row["text"] for row in islice(SentenceStream(seed=0).rows(), NUM_TRAIN + NUM_SCORED)]
    trained: list[NgramModel] = []
    train_s = cpu_seconds(lambda: trained.append(train_ngram(texts[:NUM_TRAIN])))
    model, scored = trained[0], texts[NUM_TRAIN:]
    words = sum(len(text.split()) for text in texts[:NUM_TRAIN])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lm.arpa"
        model.save(path)
        peer = kenlm.Model(str(path))
        seconds = [
            (
                cpu_seconds(lambda: model.score_batch(scored)),
                cpu_seconds(lambda: [peer.score(text) for text in scored]),
            )
            for _ in range(rounds)
        ]
    ours, theirs = (statistics.median(NUM_SCORED / pair[side] for pair in seconds) for side in (0, 1))
    return [
        {
            "name": f"4-gram scoring (training on {words:,} words: {train_s:.1f} s)",
            "peer": "kenlm (C++)",
            "ours": ours,
            "theirs": theirs,
            "unit": "sentences/s",
            "ratio": statistics.median(theirs_s / ours_s for ours_s, theirs_s in seconds),
        }
    ]


if __name__ == "__main__":
    print(run())
