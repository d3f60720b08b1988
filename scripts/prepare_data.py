"""Prepare data for training.

Check a source and write what passed as parquet shards with the audio inside, plus drop_report.json:

    python scripts/prepare_data.py validate --source.path corpora/vivos --source.split train --output_dir data/vivos
    python scripts/prepare_data.py validate --source.path org/corpus --source.columns '{text: sentence}' \
        --output_dir data/corpus --num_workers 8 --limits.max_duration_s 20 --limits.max_drop_fraction 0.01

Stopped runs continue with the same command. CPU only; `--help` lists every option. Exit code 2: bad input, or more
rows dropped than allowed.
"""

import sys

from jsonargparse import ArgumentParser
from rich.console import Console

from data_scripts.prepare import describe_errors, prepare_validated
from data_scripts.validate import TooManyDropped


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="prepare_data.py", description="Prepare data for training.")
    subcommands = parser.add_subcommands()
    validate = ArgumentParser(description="Check every row of a source; write the good ones and a drop report.")
    validate.add_function_arguments(prepare_validated)
    subcommands.add_subcommand("validate", validate, help="check a source, write clean shards and a drop report")
    arguments = parser.instantiate(parser.parse_args(argv))
    console = Console()
    try:
        report = prepare_validated(**vars(arguments.validate))
    except describe_errors() as error:
        if isinstance(error, TooManyDropped):
            console.print(error.report.table())
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
