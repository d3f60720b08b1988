"""Train one stage of TSPC: speech to phonemes (s2p), phonemes to text (p2t), or both together (joint).

    accelerate launch scripts/train_tspc.py --config configs/tspc/s2p.yaml                        # one GPU
    accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 8 \\
        scripts/train_tspc.py --config configs/tspc/s2p.yaml                                      # several
    python scripts/train_tspc.py --config configs/tspc/s2p.yaml --config configs/smoke.yaml       # seconds on a CPU

A later --config wins over an earlier one, and --section.key value over both:

    accelerate launch scripts/train_tspc.py --config configs/tspc/joint.yaml --config my_data.yaml \\
        --training.learning_rate 1e-4 --model.joint.decoder unfreeze

--print_config shows the resolved config, --help every key. A run directory is never written over; --training.resume
auto goes on with it. Exit status: 0 finished, 2 the config, the data or the run directory does not allow the start,
3 trained but not published.
"""

import sys

from trainers.config import load_config
from trainers.runs import RunError, plan_run, refuse


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train as the command line says; returns the metrics of the finished model."""
    config = load_config(argv, usage=__doc__)
    try:
        run = plan_run(config)
    except RunError as error:
        refuse(error)
    # Imported here, so that a mistake in a config costs a second and not half a minute.
    from trainers import assembly
    from trainers.training import START_ERRORS, train

    try:
        return train(config, run, sys.argv if argv is None else ["scripts/train_tspc.py", *argv], assembly)
    except START_ERRORS as error:
        refuse(error)


if __name__ == "__main__":
    main()
