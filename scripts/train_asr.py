"""Train a recogniser of Vietnamese: zipformer, fastconformer or whisper, from scratch or from a trained model.

    accelerate launch scripts/train_asr.py --config configs/asr/zipformer_30m.yaml                # one GPU
    accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 8 \\
        scripts/train_asr.py --config configs/asr/zipformer_30m.yaml                              # several
    python scripts/train_asr.py --config configs/asr/zipformer_30m.yaml --config configs/smoke.yaml    # seconds, CPU

A later --config wins over an earlier one, and --section.key value over both:

    accelerate launch scripts/train_asr.py --config configs/asr/fastconformer.yaml --config my_data.yaml \\
        --model.fastconformer.head rnnt --training.learning_rate 5e-4

--print_config shows the resolved config, --help every key. A run directory is never written over; --training.resume
auto goes on with it. Exit status: 0 finished, 2 the config, the data or the run directory does not allow the start,
3 trained but not published.
"""

import sys

from trainers.asr_arguments import ASRConfig
from trainers.config import load_config
from trainers.runs import RunError, plan_run, refuse


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train as the command line says; returns the metrics of the finished model."""
    config = load_config(argv, ASRConfig, usage=__doc__)
    try:
        run = plan_run(config)
    except RunError as error:
        refuse(error)
    # Imported here, so that a mistake in a config costs a second and not half a minute.
    from trainers import asr_assembly
    from trainers.training import START_ERRORS, train

    try:
        return train(config, run, sys.argv if argv is None else ["scripts/train_asr.py", *argv], asr_assembly)
    except START_ERRORS as error:
        refuse(error)


if __name__ == "__main__":
    main()
