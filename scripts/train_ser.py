"""Train an emotion classifier: fusion of speech encoders, emotion2vec, or dfat.

    accelerate launch scripts/train_ser.py --config configs/ser/speechformer.yaml                 # one GPU
    accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 8 \\
        scripts/train_ser.py --config configs/ser/supcon_knn.yaml                                 # several
    python scripts/train_ser.py --config configs/ser/speechformer.yaml --config configs/smoke.yaml    # seconds, CPU
    python scripts/train_ser.py --config configs/ser/tiny/filterbank.yaml \\
        --data.train '[{path: my/corpus, split: train}]' --data.validation '[{path: my/corpus, split: validation}]'

A later --config wins over an earlier one, and --section.key value over both:

    accelerate launch scripts/train_ser.py --config configs/ser/emotion2vec.yaml --config my_data.yaml \\
        --labels '{neutral: [neutral], angry: [angry], sad: [sad]}' --label_maps '{}'

--print_config shows the resolved config, --help every key. A run directory is never written over; --training.resume
auto goes on with it. Exit status: 0 finished, 2 the config, the data or the run directory does not allow the start,
3 trained but not published.
"""

import sys

from trainers.config import load_config
from trainers.runs import RunError, plan_run, refuse
from trainers.ser_arguments import SERRunConfig


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train as the command line says; returns the metrics of the finished model."""
    config = load_config(argv, SERRunConfig, usage=__doc__)
    try:
        run = plan_run(config)
    except RunError as error:
        refuse(error)
    # Imported here, so that a mistake in a config costs a second and not half a minute.
    from trainers.training import START_ERRORS, train

    command = sys.argv if argv is None else ["scripts/train_ser.py", *argv]
    try:
        if config.system == "dfat":
            from trainers.dfat import train_dfat

            return train_dfat(config, run, command)
        from trainers import ser_assembly

        return train(config, run, command, ser_assembly)
    except START_ERRORS as error:
        refuse(error)


if __name__ == "__main__":
    main()
