r"""Score recognition and emotion together, as VLSP 2025 does: SyER, ACC, Score, and the file for the organisers.

    python scripts/score_vlsp.py --reference ref.csv --hypothesis hyp.csv
    python scripts/score_vlsp.py --reference ref.csv --hypothesis metrics.hypotheses.jsonl ser.predictions.jsonl \
        --rules true --leaderboard
    python scripts/score_vlsp.py --asr runs/zipformer/model --ser runs/fusion/model --data.path corpora/test \
        --rules true --submission submission.csv
    python scripts/score_vlsp.py --asr runs/zipformer/model --asr_data.path corpora/test \
        --ser runs/fusion/model --ser_data.path corpora/emotions --ser_data.split test

Files have columns id, text and emotion (or either). ACC is the mean of the recalls of neutral and negative. The
submission is CSV (id,text,emotion; UTF-8, LF), texts normalised. Exit status 2: something cannot be used, one line
says what.
"""

import logging
import sys

from rich.console import Console
from rich.markup import escape

from trainers.command_line import load_arguments
from trainers.vlsp_arguments import VLSPArguments


def main(argv: list[str] | None = None) -> int:
    """Score, write report and submission, print the tables."""
    args = load_arguments(VLSPArguments, argv, usage=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from trainers.vlsp import leaderboard_table, score, score_table, summary_lines

    try:
        report = score(args, show_progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    if report["metrics"]:
        console.print(score_table(report))
    else:
        console.print("no row has a reference: nothing was scored")
    for line in summary_lines(report):
        console.print(escape(line))
    if args.leaderboard:
        console.print(leaderboard_table(report) or "no leaderboard: it ranks by Score, and one half was not scored")
    written = f", submission: {args.submission}" if args.submission else ""
    console.print(escape(f"report: {args.output}{written}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
