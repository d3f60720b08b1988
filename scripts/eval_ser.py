r"""Score emotion classifiers on a test set: UAR, F1, calibration with intervals, confusions, speed, what rules bring.

    python scripts/eval_ser.py --model runs/ser/fusion/model --data.path corpora/ravdess --data.split test
    python scripts/eval_ser.py --model runs/ser/fusion/model runs/ser/emotion2vec/model --data.path corpora/visec \
        --rules true --card true --output visec.json
    python scripts/eval_ser.py --model superb/wav2vec2-base-superb-er --data.path corpora/ravdess --data.split test \
        --model_labels '{neu: neutral, ang: negative, sad: negative}'

One column of the table a model, with and without its k-NN datastore, with and without the rules; differences are to
the first. Exit status 2: a model or the data cannot be used, one line says why.
"""

import logging
import sys
from pathlib import Path

from rich.console import Console

from trainers.command_line import SEREvaluationArguments, load_arguments


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write the report, print the table."""
    args = load_arguments(SEREvaluationArguments, argv, usage=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from trainers.ser_evaluation import evaluate
    from trainers.ser_report import report_notes, report_tables

    try:
        report = evaluate(args, show_progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    for table in report_tables(report, console.width):
        console.print(table)
    for line in report_notes(report):
        console.print(line, markup=False)
    page, predictions = (Path(args.output).with_suffix(suffix) for suffix in (".html", ".predictions.jsonl"))
    console.print(f"report: {args.output}, page with audio: {page}, predictions: {predictions}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
