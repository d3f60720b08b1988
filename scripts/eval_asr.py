r"""Score speech recognisers on a test set: error rates with intervals, vi / en / switch-point split, phonemes, speed.

    python scripts/eval_asr.py --model runs/demo/joint/model --data.path corpora/test --num_beams 1 4
    python scripts/eval_asr.py --model vinai/PhoWhisper-base runs/tspc/joint/model --data.path my-name/test-set \
        --data.split test --data.columns '{text: sentence}' --device cuda:0 --batch_size 32
    python scripts/eval_asr.py --zero runs/tspc/s2p/model runs/tspc/p2t/model --data.path corpora/test
    python scripts/eval_asr.py --model runs/zipformer/model --data.path corpora/test --num_beams 15 --nbest 5 \
        --lm lm.arpa.gz --lm_weight 0.3

One column of the table a model and beam size; WER differences are to the first that gives text. Exit status 2: a model
or the data cannot be used, one line says why.
"""

import logging
import string
import sys
from pathlib import Path

from rich.console import Console

from trainers.command_line import EvaluationArguments, load_arguments


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write the report, print the table."""
    args = load_arguments(EvaluationArguments, argv, usage=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from trainers.evaluation import evaluate, report_table

    try:
        report = evaluate(args, show_progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.print(report_table(report))
    skipped = report["skipped"]
    if skipped["num_dropped"]:
        reasons = skipped["counts"]["dropped"]
        console.print(f"{skipped['num_dropped']} rows were skipped, listed in {args.output}: {reasons}")
    for letter, row in zip(string.ascii_uppercase, report["rows"], strict=False):
        if difference := row.get("wer_difference"):
            low, value, high = (100 * difference[key] for key in ("low", "value", "high"))
            console.print(f"{letter}: WER {value:+.2f}, 95 % in [{low:+.2f}, {high:+.2f}], against {difference['to']}")
        if note := row.get("note"):
            console.print(f"{letter}: {note}")
    page, hypotheses = (Path(args.output).with_suffix(suffix) for suffix in (".html", ".hypotheses.jsonl"))
    console.print(f"report: {args.output}, page with audio: {page}, hypotheses: {hypotheses}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
