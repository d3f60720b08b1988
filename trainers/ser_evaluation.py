"""Score emotion classifiers on one test set: what `scripts/eval_ser.py` does.

Every system hears the same rows and answers with the same classes: the labels of a model of others are mapped to them,
and what it gives to labels of no class is left out.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_scripts.row_checks import PROBLEM_CODES
from data_scripts.sources import load_source
from data_scripts.text.emotion_rules import EmotionRules

from .card import LABELS, Evaluation, describe_hardware, source_commit
from .classifiers import Classified, Classifier, classify, load_classifier, read_model_type
from .command_line import SEREvaluationArguments
from .evaluation_cards import evaluations_of, update_cards
from .metrics.classification import Outcomes, paired_differences, score_classes
from .secrets import mask_tokens
from .ser_rows import apply_labels

logger = logging.getLogger(__name__)
DURATIONS_S = (0.0, 2.0, 4.0, 8.0, 15.0)  # borders of the table by duration


class SEREvaluationError(ValueError):
    """A test set or a model that cannot be scored; the message says what to do."""


@dataclass(frozen=True)
class EvaluationSet:
    """Rows fit to be scored, their class ids, and the reports of the rows left out and of those skipped."""

    rows: list[dict[str, Any]]
    references_N: np.ndarray
    left_out: dict[str, Any]
    skipped: dict[str, Any]

    def without(self, unreadable: Mapping[int, str]) -> "EvaluationSet":
        """The same less some rows."""
        kept = [index for index in range(len(self.rows)) if index not in unreadable]
        return replace(self, rows=[self.rows[index] for index in kept], references_N=self.references_N[kept])

    @property
    def speakers(self) -> list[str | None]:
        """Of each row, with its corpus: corpora number their speakers alike."""
        return [f"{row['corpus']} {row['speaker']}" if row.get("speaker") else None for row in self.rows]


@dataclass
class System:
    """One column of the report: how it is described, its probabilities of the classes and its predictions.

    rules: which the predictions went through. base: index of the same system without them.
    """

    about: dict[str, Any]
    probabilities_NC: np.ndarray
    predictions_N: np.ndarray | None = None
    base: int | None = None

    @property
    def heard_N(self) -> np.ndarray:
        """Class ids of the predictions."""
        return self.probabilities_NC.argmax(axis=1) if self.predictions_N is None else self.predictions_N


def load_test_set(args: SEREvaluationArguments) -> EvaluationSet:
    """Rows of a class whose recordings can be read.

    Raises:
        SEREvaluationError: none is left; the message gives the reasons. ConfigError: labels that cannot be.
    """
    from data_scripts.validate import validate_rows

    dataset: Any = load_source(args.data, need_text=False, normalise=False)
    labelled, left_out = apply_labels(dataset, args.labels, args.label_maps, report_name=args.data.path)
    if not len(labelled):
        raise SEREvaluationError(f"no row of {args.data.path} has an emotion of a class: {left_out.summary()}")
    # Of rows with the same id the first is kept.
    label_of: dict[str, int] = {}
    for row_id, label in zip(labelled["id"], labelled["label"], strict=True):
        label_of.setdefault(row_id, label)
    # Odd text is no reason to leave a recording out.
    text_problems = [code for code in PROBLEM_CODES if code != "empty"]
    clean, skipped = validate_rows(
        labelled.rows,
        need_text=False,
        keep_text_problems=text_problems,
        max_duration_s=args.max_duration_s,
        source=args.data.path,
    )
    rows = [dict(row) for row in clean]
    if not rows:
        raise SEREvaluationError(f"no row of {args.data.path} can be scored: {skipped.summary()}")
    references_N = np.array([label_of[row["id"]] for row in rows])
    return EvaluationSet(rows, references_N, left_out.to_dict(), skipped.to_dict())


def class_of_label(
    label: str, classes: Mapping[str, Sequence[str]], model_labels: Mapping[str, str] | None = None
) -> str | None:
    """The class that a model's label stands for: named in `model_labels`, the class itself, or one of its emotions.

    >>> class_of_label("Angry", {"neutral": ["calm"], "negative": ["angry", "sad"]})
    'negative'
    """
    if label in (model_labels or {}):
        return (model_labels or {})[label]
    name = label.strip().casefold()
    found = [each for each in classes if each.casefold() == name]
    found += [each for each, emotions in classes.items() if name in emotions]
    return found[0] if found else None


def map_labels(classifier: Classifier, args: SEREvaluationArguments) -> tuple[np.ndarray, dict[str, str | None]]:
    """Which of a model's labels (rows) make up which class (columns), and the same by name.

    Raises:
        SEREvaluationError: no label of the model stands for a class.
    """
    mapped = {label: class_of_label(label, args.labels, args.model_labels) for label in classifier.labels}
    if absent := [name for name in args.labels if name not in mapped.values()]:
        raise SEREvaluationError(
            f"{classifier.name} has no label for the class {', '.join(absent)}; its labels are "
            f"{', '.join(classifier.labels)}: say what they stand for, as --model_labels "
            f"'{{{classifier.labels[0]}: {absent[0]}}}'"
        )
    share_LC = np.array([[float(mapped[label] == name) for name in args.labels] for label in classifier.labels])
    return share_LC, mapped


def evaluate(args: SEREvaluationArguments, *, show_progress: bool = False) -> dict[str, Any]:
    """Classify with every model and write `args.output`, `<output>.predictions.jsonl` and `<output>.html`.

    Args:
        show_progress: a bar on stderr for each model.

    Returns:
        The report: `{"rows": [...], "classes", "labels", "data", "skipped", "left_out", "command", "hardware", …}`; a
        row a system, with what `score_classes` gives, `groups`, `difference` (to the first) and `rules_gain`.

    Raises:
        ClassifierError, SEREvaluationError: unusable model or test set. SourceError, SchemaError, ConfigError.
    """
    from .ser_report import write_report

    output = Path(args.output)
    test = load_test_set(args)
    rules = EmotionRules.load(None if args.rules is True else args.rules) if args.rules else None
    for name in args.model:
        read_model_type(name, trust_remote_code=args.trust_remote_code)
    logger.info("%d utterances to score", len(test.rows))
    systems: list[System] = []
    unreadable: dict[int, str] = {}
    for name in args.model:
        for about, classified in _classified(name, test.rows, args, show_progress):
            unreadable |= classified.skipped
            systems.append(System(about, classified.probabilities_NC))
    test = test.without(unreadable)
    if not test.rows:
        raise SEREvaluationError(f"no row of {args.data.path} could be classified: {next(iter(unreadable.values()))}")
    for system in systems:
        system.probabilities_NC = np.delete(system.probabilities_NC, sorted(unreadable), axis=0)
    if rules is not None:
        systems = [
            each for index, system in enumerate(systems) for each in _with_rules(system, rules, test, args, 2 * index)
        ]
    report = {
        "rows": _scored(systems, test, args),
        "classes": list(args.labels),
        "labels": args.labels,
        "data": _plain(asdict(args.data)) | {"utterances": len(test.rows)},
        "left_out": test.left_out,
        "skipped": test.skipped,
        "unreadable": len(unreadable),
        "transcripts": sum(bool((row.get("text") or "").strip()) for row in test.rows),
        "command": mask_tokens(" ".join(sys.argv)),
        "hardware": describe_hardware(),
        "commit": source_commit(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    if args.card:
        update_cards(report, card_evaluations)
    lines = [line for system in systems for line in _predictions(system, test, list(args.labels))]
    _write(output.with_suffix(".predictions.jsonl"), "".join(f"{json.dumps(x, ensure_ascii=False)}\n" for x in lines))
    write_report(report, test, systems, output.with_suffix(".html"))
    _write(output, json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    return report


def _classified(
    name: str, rows: list[dict[str, Any]], args: SEREvaluationArguments, show_progress: bool
) -> Iterator[tuple[dict[str, Any], Classified]]:
    """Every way of using one model: with its neighbours, without them."""
    classifier = load_classifier(
        name,
        device=args.device,
        dtype=args.dtype,
        trust_remote_code=args.trust_remote_code,
        knn=args.knn != "without",
    )
    share_LC, mapped = map_labels(classifier, args)
    ways: list[bool | None] = [None]
    if classifier.has_datastore:
        ways = [True, False] if args.knn == "both" else [True]
    for knn in ways:
        about: dict[str, Any] = {"model": name, "kind": classifier.model_type, "knn": knn, "rules": None}
        if knn:
            about["knn_beta"] = classifier.pipe.model.datastore.beta
        if any(label != found for label, found in mapped.items()):
            about["model_labels"] = mapped
        with tqdm(total=len(rows), desc=system_name(about), unit="utt", disable=not show_progress) as bar:
            found = classify(classifier, rows, batch_size=args.batch_size, progress=bar.update, knn=knn is not False)
        mass_NC = found.probabilities_NC @ share_LC
        total_N1 = mass_NC.sum(axis=1, keepdims=True)
        # A model that gives all it has to labels of no class says nothing about the classes.
        even = np.full_like(mass_NC, 1 / mass_NC.shape[1])
        probabilities_NC = np.where(total_N1 > 0, mass_NC / np.where(total_N1 > 0, total_N1, 1), even)
        probabilities_NC[sorted(found.skipped)] = np.nan
        timing = {"seconds": found.seconds, "audio_s": found.audio_s, "rtf": found.rtf}
        about |= {key: round(value, 4) for key, value in timing.items()}
        yield about, replace(found, probabilities_NC=probabilities_NC)


def system_name(about: Mapping[str, Any]) -> str:
    """What tables call a system."""
    ways = {True: ", with neighbours", False: ", without neighbours", None: ""}
    return f"{about['model']}{ways[about.get('knn')]}{', with rules' if about.get('rules') else ''}"


def _with_rules(
    system: System, rules: EmotionRules, test: EvaluationSet, args: SEREvaluationArguments, index: int
) -> list[System]:
    """The system, whose number will be `index`, and the same with its predictions revised."""
    classes = list(args.labels)
    predictions = []
    for row, line_C in zip(test.rows, system.probabilities_NC, strict=True):
        scores = dict(zip(classes, line_C.tolist(), strict=True))
        predictions.append(classes.index(rules.revise(row.get("text") or "", scores).label))
    lexicon = "shipped" if args.rules is True else str(args.rules)
    about = system.about | {"rules": {"lexicon": lexicon, "version": rules.version, "threshold": rules.threshold}}
    return [system, System(about, system.probabilities_NC, np.array(predictions), index)]


def _scored(systems: Sequence[System], test: EvaluationSet, args: SEREvaluationArguments) -> list[dict[str, Any]]:
    classes = list(args.labels)
    outcomes = [Outcomes.of(classes, test.references_N, s.probabilities_NC, s.predictions_N) for s in systems]
    bootstrap: dict[str, Any] = {"num_samples": args.bootstrap_samples, "seed": args.seed, "speakers": test.speakers}
    rows = []
    for system, outcome in zip(systems, outcomes, strict=True):
        row = system.about | score_classes(outcome, **bootstrap)
        row["groups"] = group_scores(outcome, test)
        if rows:
            row["difference"] = {"to": system_name(systems[0].about)} | paired_differences(
                outcome, outcomes[0], **bootstrap
            )
        if system.base is not None:
            row["rules_gain"] = _rules_gain(outcome, outcomes[system.base]) | paired_differences(
                outcome, outcomes[system.base], **bootstrap
            )
        rows.append(row)
    return rows


def _rules_gain(revised: Outcomes, plain: Outcomes) -> dict[str, int]:
    changed_N = revised.predictions_N != plain.predictions_N
    right_N, was_right_N = (each.predictions_N == each.references_N for each in (revised, plain))
    return {
        "changed": int(changed_N.sum()),
        "mended": int((changed_N & right_N).sum()),
        "broken": int((changed_N & was_right_N).sum()),
    }


def group_scores(outcomes: Outcomes, test: EvaluationSet) -> dict[str, list[dict[str, Any]]]:
    """Accuracy and recall of every class (None where it has no row) by corpus, emotion, duration and speaker."""
    keys = {
        "corpus": [row.get("corpus") or "" for row in test.rows],
        "emotion": [row.get("emotion") or "" for row in test.rows],
        "duration": [duration_bin(row.get("duration_s")) for row in test.rows],
        "speaker": [speaker or "" for speaker in test.speakers],
    }
    return {kind: _groups(outcomes, names) for kind, names in keys.items()}


def _groups(outcomes: Outcomes, names: Sequence[str]) -> list[dict[str, Any]]:
    right_N = outcomes.predictions_N == outcomes.references_N
    array_N = np.array(names)
    lines = []
    for name in dict.fromkeys(names):
        chosen_N = array_N == name
        said_N = outcomes.references_N[chosen_N]
        recalls: dict[str, float | None] = {}
        for index, label in enumerate(outcomes.labels):
            of_class_N = said_N == index
            recalls[label] = float(right_N[chosen_N][of_class_N].mean()) if of_class_N.any() else None
        count, accuracy = int(chosen_N.sum()), float(right_N[chosen_N].mean())
        lines.append({"name": name, "utterances": count, "accuracy": accuracy, "recall": recalls})
    return lines


def duration_bin(duration_s: float | None) -> str:
    """ "2 to 4 s": the borders are `DURATIONS_S`."""
    if duration_s is None:
        return ""
    low = max(border for border in DURATIONS_S if border <= duration_s)
    high = next((border for border in DURATIONS_S if border > duration_s), None)
    return f"{low:g} to {high:g} s" if high is not None else f"{low:g} s and more"


def _predictions(system: System, test: EvaluationSet, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    known = {key: system.about[key] for key in ("model", "knn", "rules")}
    for row, said, heard, line_C in zip(
        test.rows, test.references_N, system.heard_N, system.probabilities_NC, strict=True
    ):
        probabilities = {name: round(float(p), 6) for name, p in zip(classes, line_C, strict=True)}
        yield (
            known
            | {"id": row["id"], "reference": classes[said], "label": classes[heard]}
            | {"probabilities": probabilities}
        )


def card_evaluations(report: Mapping[str, Any], model: str) -> list[Evaluation]:
    """See `trainers.evaluation_cards.evaluations_of`. Rules are no part of a model: rows with them are left out."""

    def describe(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "metrics": {name: metric for name, metric in row["metrics"].items() if name in LABELS},
            "variant": system_name({**row, "model": ""}).removeprefix(", ") or None,
        }

    plain = [row for row in report["rows"] if not row["rules"]]
    return evaluations_of({**report, "rows": plain}, model, describe)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, {}, [], "")}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
