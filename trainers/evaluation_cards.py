"""The figures of an evaluation on the cards of the models that were evaluated."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .card import FACTS_FILE, Evaluation, update_model_card
from .public_names import public_name

ZERO = "TSPC-Zero: "


def evaluations_of(
    report: Mapping[str, Any], model: str, describe: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[Evaluation]:
    """Rows of a report for the card of `model`: its own rows, and the others as baselines.

    Args:
        report: with `rows`, `data` and `command`; each row names its `model`.
        describe: the fields of `Evaluation` of a row that not every kind of report has.

    Raises:
        ValueError: the report has no row of `model`; the message lists those it has.
    """
    same = {row["model"]: os.path.abspath(row["model"]) == os.path.abspath(model) for row in report["rows"]}
    if not any(same.values()):
        raise ValueError(f"the report has no row of {model}; it has: {', '.join(same)}")
    data = report["data"]
    return [
        Evaluation(
            dataset=data["path"],
            split=data.get("split"),
            model=None if same[row["model"]] else _public_system(row["model"]),
            num_utterances=data["utterances"],
            command=report["command"],
            confidence=row["bootstrap"]["confidence"],
            **describe(row),
        )
        for row in report["rows"]
    ]


def update_cards(
    report: Mapping[str, Any], card_evaluations: Callable[[Mapping[str, Any], str], Sequence[Evaluation]]
) -> list[Path]:
    """Add the figures of a report to the card of every evaluated folder that has one; the cards that were changed.

    Args:
        card_evaluations: from a report and the name of a model.
    """
    folders = dict.fromkeys(row["model"] for row in report["rows"])
    return [
        update_model_card(folder, evaluations=card_evaluations(report, folder))
        for folder in folders
        if (Path(folder) / FACTS_FILE).is_file()
    ]


def _public_system(name: str) -> str:
    if not name.startswith(ZERO):
        return public_name(name)
    return ZERO + " + ".join(map(public_name, name.removeprefix(ZERO).split(" + ")))
