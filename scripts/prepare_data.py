"""Prepare data for training: named corpora or any source → checked parquet shards with the audio inside.

    python scripts/prepare_data.py list
    python scripts/prepare_data.py show vivos
    python scripts/prepare_data.py prepare vivos vlsp2020=~/corpora/vlsp --output_dir data --num_workers 8
    python scripts/prepare_data.py validate --source.path org/corpus --source.columns '{text: sentence}' \
        --output_dir data/corpus --limits.max_duration_s 20 --limits.max_drop_fraction 0.01
    python scripts/prepare_data.py stats data/vivos data/vlsp2020 --output page.html

`prepare` takes every split, writes numbers and dates as they are read, and adds a card and statistics; `validate` does
one split with every option of a source. Both leave a drop report, and stopped runs continue with the same command.
`--engine ray` spreads the work over a cluster that sees the same paths. CPU only. Exit code 2: bad input, no room on
the disk, or more rows dropped than allowed.
"""

import sys

from jsonargparse import ArgumentParser
from rich.console import Console

from data_scripts.prepare import describe_errors, prepare_validated
from data_scripts.preparing.corpora import prepare_corpora
from data_scripts.preparing.statistics import write_statistics
from data_scripts.validate import TooManyDropped


def parser() -> ArgumentParser:
    top = ArgumentParser(prog="prepare_data.py", description="Prepare data for training.")
    commands = top.add_subcommands()
    commands.add_subcommand("list", ArgumentParser(), help="the corpora that are known by name")
    show = ArgumentParser(description="Facts of a corpus: licence, how to get it, layout, columns, citation.")
    show.add_argument("name", help="a name of the list")
    commands.add_subcommand("show", show, help="everything about one corpus")
    prepare = ArgumentParser(description="Make checked shards of corpora, all their splits.")
    prepare.add_argument("names", nargs="+", help="corpora (NAME=FOLDER for a local copy), folders, Hub ids")
    prepare.add_function_arguments(prepare_corpora, skip={"names"})
    commands.add_subcommand("prepare", prepare, help="corpora to checked shards, with card and statistics")
    validate = ArgumentParser(description="Check every row of a source; write the good ones and a drop report.")
    validate.add_function_arguments(prepare_validated)
    commands.add_subcommand("validate", validate, help="one source to checked shards, with every option")
    stats = ArgumentParser(description="Statistics of prepared folders: tables here, plots in one HTML page.")
    stats.add_argument("paths", nargs="+", help="prepared folders, or other sources, which are read")
    stats.add_function_arguments(write_statistics, skip={"paths", "engine"})
    commands.add_subcommand("stats", stats, help="what is in prepared folders")
    return top


def run(command: str, options: dict, console: Console) -> None:
    if command == "list":
        from data_scripts.corpora import catalogue_table

        console.print(catalogue_table())
    elif command == "show":
        from data_scripts.corpora import describe

        console.print(describe(options["name"]), markup=False, highlight=False, soft_wrap=True)
    elif command == "prepare":
        for report in prepare_corpora(**options).values():
            console.print(report.table() if report.counts else report.summary())
    elif command == "validate":
        report = prepare_validated(**options)
        console.print(report.table() if report.counts else report.summary())
    else:
        from data_scripts.stats import tables

        for table in tables(write_statistics(**options)):
            console.print(table)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().instantiate(parser().parse_args(argv))
    console = Console()
    try:
        run(arguments.subcommand, vars(arguments[arguments.subcommand]), console)
    except describe_errors() as error:
        if isinstance(error, TooManyDropped):
            console.print(error.report.table())
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
