"""Publish a finished model folder on the Hugging Face Hub, after checking that strangers can load it.

    python scripts/publish.py runs/tspc/joint/model my-name/tspc-base --private false --metrics metrics.json
    python scripts/publish.py runs/tspc/joint/model my-name/tspc-base --dry_run

The token comes from `hf auth login` or HF_TOKEN. A folder of LoRA adapters is merged into its base model first. Exit
status 2: the folder is incomplete; 3: the Hub refused or could not be reached, so run the same command again later.
"""

import logging
import sys
import tempfile
from pathlib import Path

from trainers.command_line import PublishingArguments, load_arguments


def main(argv: list[str] | None = None) -> int:
    """Check, complete the card, upload; returns the exit status."""
    args = load_arguments(PublishingArguments, argv, positional=["folder", "repo_id"], usage=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from trainers.publishing import PublishError, check_folder, files_to_publish, merge_adapters, publish

    folder = Path(args.folder)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if (folder / "adapter_config.json").is_file():
                print(f"merging the adapters of {folder} into their base model")
                folder = merge_adapters(folder, Path(scratch) / "merged")
            if args.metrics:
                add_metrics(folder, args.metrics, args.folder)
            if args.dry_run:
                problems = check_folder(folder)
                for name in files_to_publish(folder):
                    print(f"{(folder / name).stat().st_size:>12,}  {name}")
                for problem in problems:
                    print(f"problem: {problem}", file=sys.stderr)
                return 2 if problems else 0
            url = publish(
                folder, args.repo_id, private=args.private, commit_message=args.message, deadline_s=args.deadline_s
            )
    except PublishError as error:
        print(f"not published: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"published: {url}")
    return 0


def add_metrics(folder: Path, report_path: str, model: str) -> None:
    """Put the figures of an evaluation report into the card of `folder`."""
    import json

    from trainers import evaluation, ser_evaluation
    from trainers.card import update_model_card

    report = json.loads(Path(report_path).read_text(encoding="utf-8"))
    kind = ser_evaluation if "classes" in report else evaluation
    update_model_card(folder, evaluations=kind.card_evaluations(report, model))


if __name__ == "__main__":
    sys.exit(main())
