r"""Choose training data: listen to every row with models once, then decide as often as you like.

    accelerate launch scripts/curate.py score --config configs/curation/voting.yaml      # GPUs, nodes; resumable
    python scripts/curate.py decide --config configs/curation/voting.yaml                # seconds, nothing is decoded
    python scripts/curate.py decide --config configs/curation/voting.yaml --decide.name same --decide.voting.max_wer 0
    python scripts/curate.py export --config configs/curation/voting.yaml                # kept rows as a source
    python scripts/curate.py report --config configs/curation/voting.yaml                # page of suspicious rows
    python scripts/curate.py loop --config configs/curation/ctc_confidence.yaml --loop.rounds 2 \
        --loop.train_config configs/tspc/s2p.yaml                                        # train, score, filter, again

--engine.name ray scores on a Ray cluster. --help lists every key, --print_config shows the resolved config. Nothing
is written over: a new set of settings needs a new --decide.name. Exit status 2: the config, the data or a model does
not allow the start, or the scores in output_dir are of something else.
"""

import logging
import sys

from rich.console import Console

from trainers.config import load_config
from trainers.curation.arguments import CurationConfig

COMMANDS = ("score", "decide", "export", "report", "loop")


def main(argv: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else None
    config = load_config(words if command or "-h" in words else [*words, "--help"], CurationConfig, __doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    # Imported here, so that a mistake in a config costs a second and not half a minute.
    from trainers.curation import commands

    try:
        result = getattr(commands, f"run_{command}")(config)
    except commands.START_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for shown in result:
        Console().print(shown, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
