"""The score of the VLSP 2025 ASR/SER challenge, of files or of models: what `scripts/score_vlsp.py` does.

Section 2 of the paper: Score = 0.7 (100 − SyER) + 0.3 ACC, ACC being the balanced accuracy over neutral and negative.
The linguistic rules of section 3.3 may follow any classifier, and what they gain is part of the report.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_scripts.files import whole_file
from data_scripts.text.emotion_rules import EmotionRules
from data_scripts.text.normalize import NORMALIZER_VERSION

from .card import source_commit
from .metrics.vlsp import apply_rules, composite_score, rule_gain, vlsp_scores
from .secrets import mask_tokens
from .vlsp_arguments import CLASSES, VLSPArguments
from .vlsp_files import VLSPRow, check_new, read_rows, write_submission

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """A row of Table 1 of the paper, in percent."""

    team: str
    syer: float
    accuracy: float
    score: float


# Table 1 of "VLSP 2025 ASR/SER: Vietnamese Speech Recognition and Speech Emotion Recognition Challenge".
TABLE_1 = (
    Published("hynguyenthien", 9.07, 82.21, 88.31),
    Published("ishowspeech", 11.38, 79.13, 85.77),
    Published("dangnguyen-VLSP", 12.66, 80.84, 85.39),
    Published("SoFarSoGood", 19.12, 79.50, 80.47),
    Published("CodeSERSai", 25.22, 85.79, 78.08),
    Published("SoulSound", 20.87, 66.50, 75.34),
    Published("nhitny", 23.56, 71.76, 75.04),
)
LEADERBOARD_NOTE = (
    "The named teams' figures are published ones, on the private test set of VLSP 2025 (Table 1 of its paper). "
    "They are not comparable with this row unless it is of that set."
)
NAMES = {
    "syer": "SyER",
    "balanced_accuracy": "ACC (balanced, the organisers')",
    "accuracy": "plain accuracy",
    "score": "Score = 0.7 (100 - SyER) + 0.3 ACC",
}


def score(args: VLSPArguments, *, show_progress: bool = False) -> dict[str, Any]:
    """Score files, or run models and score them; write the report and, if asked for, the submission.

    Args:
        show_progress: a bar on stderr while models run.

    Returns:
        The report: `{"metrics", "recalls", "counts", "bootstrap"}` of `vlsp_scores` in percent (no metrics where
        nothing has a reference), `"row"` as in Table 1, with rules `"rules"` (their gain, and the threshold that
        would have been best on these rows) and `"without_rules"`, and `"left_out"`, `"missing"`, `"skipped"`,
        `"systems"`, `"sources"`, `"labels"`, `"normalizer_version"`, `"command"`, `"commit"`.

    Raises:
        ValueError, OSError: something that cannot be used; one line says what, where and what to do.
    """
    if args.submission:
        check_new(args.submission)
    rules = None
    if args.rules:
        rules = EmotionRules.load(None if args.rules is True else args.rules, threshold=args.rules_threshold)
    if args.reference:
        rows, facts = read_rows(args)
    else:
        from .vlsp_models import run_models

        rows, facts = run_models(args, show_progress=show_progress)
    # Before anything else can go wrong: running the models may have taken hours.
    before = [row.emotion for row in rows]
    changed = _revise(rows, rules) if rules is not None else 0
    if args.submission:
        write_submission(args.submission, rows)
    report: dict[str, Any] = {"metrics": {}}
    if any(row.reference_text is not None or row.reference_emotion is not None for row in rows):
        report = _scores(rows, [row.emotion for row in rows], args)
        report["row"] = {name: report["metrics"].get(key, {}).get("value") for name, key in _ROW.items()}
    if rules is not None:
        report["rules"] = {"version": rules.version, "threshold": rules.threshold, "changed": changed}
        report["rules"] |= _gain(rows, before, args) | _best_threshold(rows, rules)
        if report["metrics"]:
            report["without_rules"] = _scores(rows, before, args)["metrics"]
    report |= facts | {
        "systems": {name: value for name in ("asr", "ser") if (value := getattr(args, name))},
        "sources": _sources(args),
        "labels": {name: list(emotions) for name, emotions in args.labels.items()},
        "normalizer_version": NORMALIZER_VERSION,
        "command": mask_tokens(" ".join(sys.argv)),
        "commit": source_commit(),
    }
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as file:
        file.write((json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode("utf-8"))
    return report


_ROW = {"syer": "syer", "accuracy": "balanced_accuracy", "score": "score"}


def _scores(rows: Sequence[VLSPRow], emotions: Sequence[str | None], args: VLSPArguments) -> dict[str, Any]:
    return vlsp_scores(
        [row.reference_text for row in rows],
        [row.text for row in rows],
        [row.reference_emotion for row in rows],
        list(emotions),
        labels=CLASSES,
        num_samples=args.bootstrap_samples,
        seed=args.seed,
    )


def _revise(rows: Sequence[VLSPRow], rules: EmotionRules) -> int:
    """Let the rules have their say over each row with words and an emotion; the number of labels they changed."""
    heard = [row for row in rows if row.emotion and row.text is not None]
    without = [row for row in heard if row.scores is None]
    if without and rules.threshold > 0:
        raise ValueError(
            f"{without[0].place}: the rules ask how probable negative was, and id {without[0].id!r} has no "
            "probabilities; give the .predictions.jsonl of eval_ser.py, or --rules_threshold 0, which asks nothing"
        )
    for row in heard:
        row.scores = row.scores or {name: float(name == row.emotion) for name in CLASSES}
    if not heard:
        raise ValueError("the rules need rows with both recognised text and an emotion, and there is none")
    probabilities_NC = np.array([[(row.scores or {})[name] for name in CLASSES] for row in heard])
    labels, _ = apply_rules(rules, [row.text or "" for row in heard], probabilities_NC, CLASSES)
    changed = 0
    for row, label in zip(heard, labels, strict=True):
        # The label that a file states counts, should it differ from its most probable class.
        if row.emotion == "neutral" and label == "negative":
            row.emotion = label
            changed += 1
    return changed


def _gain(rows: Sequence[VLSPRow], before: Sequence[str | None], args: VLSPArguments) -> dict[str, Any]:
    known = [
        (row.reference_emotion, old or "", row.emotion or "")
        for row, old in zip(rows, before, strict=True)
        if row.reference_emotion is not None
    ]
    if not known:
        return {}
    references, old, new = ([each[place] for each in known] for place in range(3))
    return {"gain": rule_gain(references, old, new, CLASSES, num_samples=args.bootstrap_samples, seed=args.seed)}


def _best_threshold(rows: Sequence[VLSPRow], rules: EmotionRules) -> dict[str, Any]:
    """The threshold that would have been best here, in percent what it gives: to be used on other data."""
    known = [row for row in rows if row.reference_emotion and row.scores is not None and row.text is not None]
    references = [row.reference_emotion or "" for row in known]
    if len(set(references)) < 2:
        return {}
    negative_N = [(row.scores or {})["negative"] for row in known]
    best = rules.tune_threshold([row.text or "" for row in known], np.clip(negative_N, 0, 1), references)
    after = {"balanced_accuracy": 100 * best.uar_after, "changed": best.num_changed}
    return {"best": {"threshold": best.threshold} | after}


def _sources(args: VLSPArguments) -> dict[str, Any]:
    if args.reference:
        return {"reference": args.reference, "hypothesis": args.hypothesis}
    named = {name: getattr(args, name) for name in ("data", "asr_data", "ser_data")}
    return {
        name: {key: value for key, value in asdict(source).items() if value not in (None, {}, [], "")}
        for name, source in named.items()
        if source is not None
    }


def score_table(report: Mapping[str, Any]) -> Any:
    """A `rich` table of the report: each figure in percent with its interval, the recalls, what the rules gained."""
    from rich.table import Table

    counts = report.get("counts", {})
    title = f"{counts.get('transcripts', 0)} transcripts, {counts.get('emotions', 0)} emotions, in percent"
    table = Table(title=title)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, label in NAMES.items():
        if metric := report["metrics"].get(name):
            table.add_row(label, f"{metric['value']:.2f}", _interval(metric))
    for label, recall in report.get("recalls", {}).items():
        table.add_row(f"recall of {label} ({recall['total']})", f"{recall['value']:.2f}", _interval(recall))
    if gain := report.get("rules", {}).get("gain"):
        for name in ("balanced_accuracy", "accuracy"):
            change = gain[name]
            table.add_row(f"rules: {NAMES[name]}", f"{change['value']:+.2f}", _interval(change, "+"))
    return table


def _interval(metric: Mapping[str, float], sign: str = "") -> str:
    return f"{metric['low']:{sign}.2f} to {metric['high']:{sign}.2f}" if "low" in metric else "–"


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The row of Table 1, what the rules did, and what does not count, one sentence a line."""
    lines = []
    if row := report.get("row"):
        cells = [f"{name} {'–' if row[key] is None else f'{row[key]:.2f}'}" for name, key in _CELLS.items()]
        lines.append(" | ".join(cells))
    if absent := report.get("counts", {}).get("missing_classes"):
        lines.append(f"no reference is {' or '.join(absent)}: that recall counts as 0 in ACC")
    if gain := report.get("rules", {}).get("gain"):
        lines.append(
            f"rules (threshold {report['rules']['threshold']:g}): {gain['changed']} of {gain['utterances']} emotions "
            f"changed, {gain['mended']} mended, {gain['broken']} broken"
        )
    if best := report.get("rules", {}).get("best"):
        lines.append(
            f"best threshold on these rows: {best['threshold']:.4g}, ACC {best['balanced_accuracy']:.2f}; if they are "
            "validation data, give it as --rules_threshold for the test set"
        )
    if left_out := report.get("left_out"):
        counted = ", ".join(f"{emotion} {count}" for emotion, count in left_out.items())
        lines.append(f"emotions of no class were left out: {counted}")
    for what, ids in report.get("missing", {}).items():
        lines.append(f"{len(ids)} missing hypotheses count as wrong ({what})")
    for path, skipped in report.get("skipped", {}).items():
        lines.append(f"{path}: {skipped['num_dropped']} rows were skipped: {skipped['counts']['dropped']}")
    return lines


_CELLS = {"SyER": "syer", "SER": "accuracy", "Score": "score"}


def leaderboard_table(report: Mapping[str, Any]) -> Any:
    """The report's row among the seven of Table 1; None for a report without Score."""
    from rich.table import Table

    row = report.get("row", {})
    if row.get("score") is None:
        return None
    mine = Published("this system", row["syer"], row["accuracy"], composite_score(row["syer"], row["accuracy"]))
    table = Table(title="VLSP 2025 ASR/SER", caption=LEADERBOARD_NOTE, caption_justify="left")
    for name in ("Rank", "Team", "SyER", "SER", "Score"):
        table.add_column(name, justify="left" if name == "Team" else "right")
    rank = 0
    for each in sorted((*TABLE_1, mine), key=lambda each: -each.score):
        rank += each is not mine
        figures = [f"{value:.2f}" for value in each[1:]]
        table.add_row("–" if each is mine else str(rank), each.team, *figures, style="bold" if each is mine else None)
    return table
