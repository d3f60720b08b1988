"""The page, the table and the notes of an emotion evaluation, for a person to look at and listen to.

They show the figures of the JSON file and, for every system, what the figures hide: which class is taken for which,
whether its probabilities can be trusted, where the errors are, and the worst utterances with audio.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_scripts.report import AudioClip, Number, Page, Text, new_figure
from data_scripts.report.plots import INK, MUTED, SERIES
from trainers.metrics.calibration import NUM_BINS
from trainers.report import how_measured, system_letter
from trainers.ser_evaluation import EvaluationSet, System, system_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST, SPEAKERS = 20, 10
MIN_SPEAKER_UTTERANCES = 4
FEW_SPEAKERS = 10  # below, intervals over speakers are too narrow
_NO_BREAK = "\N{NO-BREAK SPACE}"
COLUMN = 15  # characters of "81.98–100.00", its padding and border
# name → what it is called, its unit and the factor to it; in the order of tables
METRICS = {
    "uar": ("UAR", "%", 100),
    "accuracy": ("accuracy", "%", 100),
    "f1_macro": ("macro F1", "%", 100),
    "ece": ("ECE", "%", 100),
    "ece_classwise": ("classwise ECE", "%", 100),
    "nll": ("NLL", "nats", 1),
    "brier": ("Brier score", "", 1),
}


def write_report(report: Mapping[str, Any], test: EvaluationSet, systems: Sequence[System], path: str | Path) -> Path:
    """Write the page: `report` of `trainers.ser_evaluation.evaluate`, its rows in the order of `systems`."""
    data = report["data"]
    split = f", {data['split']}" if data.get("split") else ""
    page = Page("Emotion recognition, evaluated", f"{data['path']}{split}: {data['utterances']:,} utterances")
    letters = [system_letter(index) for index in range(len(systems))]
    _results(page, report, letters)
    for index, (letter, row, system) in enumerate(zip(letters, report["rows"], systems, strict=True)):
        page.section(f"{letter}: {system_name(row)}")
        if (same := _same_as(systems, index)) is not None:
            page.text(f"Every answer and every probability is that of {letters[same]}.")
        else:
            _system(page, row, system, test, report["classes"])
    how_measured(page, report, _settings(report))
    return page.save(path)


def _results(page: Page, report: Mapping[str, Any], letters: Sequence[str]) -> None:
    rows = report["rows"]
    page.section("Results")
    page.notices(_notices(report))
    labels = [f"{label}, {unit}" if unit else label for label, unit, _ in METRICS.values()]
    caption = "UAR, accuracy and macro F1: higher is better; the others: lower"
    page.table(
        ["", "system", *labels, "real-time factor"],
        [
            [letter, system_name(row), *(_value(row["metrics"], name) for name in METRICS), Number(row["rtf"], ".3f")]
            for letter, row in zip(letters, rows, strict=True)
        ],
        caption=caption,
    )
    _intervals(page, rows, letters)
    _differences(page, rows, letters)
    _rules(page, rows, letters)


def _intervals(page: Page, rows: Sequence[Mapping[str, Any]], letters: Sequence[str]) -> None:
    bootstrap = rows[0]["bootstrap"]
    if not bootstrap["num_samples"]:
        return
    caption = (
        f"{100 * bootstrap['confidence']:g} % intervals by bootstrap over utterances; those of calibration errors "
        "lean upwards, as every resample has gaps of its own"
    )
    if speakers := bootstrap["speakers"]:
        rough = ", too few for more than a rough idea" if speakers < FEW_SPEAKERS else ""
        caption += f"; and over {speakers} speakers{rough}"
    lines = []
    for name, (label, unit, factor) in METRICS.items():
        for letter, row in zip(letters, rows, strict=True):
            if metric := row["metrics"].get(name):
                own = [_interval(metric, factor), _interval(metric, factor, prefix="speaker_")]
                lines.append([f"{label}, {unit}" if unit else label, letter, _value(row["metrics"], name), *own])
    page.table(["score", "", "value", "interval", "over speakers"], lines, caption=caption, folded=len(rows) > 3)


def _value(metrics: Mapping[str, Any], name: str) -> Number:
    factor = METRICS[name][2]
    return Number(factor * metrics[name]["value"] if name in metrics else None, ".2f" if factor == 100 else ".3f")


def _notices(report: Mapping[str, Any]) -> list[str]:
    found = []
    for key, what in (("left_out", "of no class and left out"), ("skipped", "not scored")):
        told = report[key]
        if told["num_dropped"]:
            reasons = ", ".join(f"{code} {count:,}" for code, count in told["counts"]["dropped"].items())
            found.append(f"{told['num_dropped']:,} of {told['num_rows']:,} rows were {what}: {reasons}")
    if report["unreadable"]:
        found.append(f"{report['unreadable']:,} recordings could not be classified")
    if missing := report["rows"][0]["missing_classes"]:
        found.append(f"no utterance of class {', '.join(missing)}: it counts as 0 in UAR and macro F1")
    if any(row["rules"] for row in report["rows"]) and not report["transcripts"]:
        found.append("no utterance has a transcript: the rules had nothing to read")
    idle = [system_letter(index) for index, row in enumerate(report["rows"]) if row["knn"] and row["knn_beta"] == 1]
    if idle:
        found.append(
            f"{', '.join(idle)}: the neighbours have no weight (beta of the datastore is 1, the best on the data that "
            "it was chosen on), so the results are those without them"
        )
    return found


def _differences(page: Page, rows: Sequence[Mapping[str, Any]], letters: Sequence[str]) -> None:
    lines = []
    for letter, row in zip(letters, rows, strict=True):
        for name, (label, _, factor) in METRICS.items():
            if metric := row.get("difference", {}).get(name):
                value = Number(factor * metric["value"], "+.2f" if factor == 100 else "+.3f")
                own = [_interval(metric, factor, sign="+"), _interval(metric, factor, prefix="speaker_", sign="+")]
                lines.append([letter, label, value, *own])
    if lines:
        caption = "Differences to A, paired over the same utterances; an interval without zero is a difference"
        header = ["", "score", "difference", "interval", "over speakers"]
        page.table(header, lines, caption=caption, folded=len(rows) > 3)


def _rules(page: Page, rows: Sequence[Mapping[str, Any]], letters: Sequence[str]) -> None:
    lines = [
        [
            letter,
            gain["changed"],
            gain["mended"],
            gain["broken"],
            Number(100 * gain["uar"]["value"], "+.2f"),
            _interval(gain["uar"], 100, sign="+"),
        ]
        for letter, row in zip(letters, rows, strict=True)
        if (gain := row.get("rules_gain"))
    ]
    if lines:
        header = ["", "changed", "mended", "broken", "UAR, points", "interval"]
        page.table(header, lines, caption="What the rules bring to the same system without them")


def _same_as(systems: Sequence[System], index: int) -> int | None:
    """The first system before this one that answers as it does: rules often change nothing."""
    this = systems[index]
    for earlier, other in enumerate(systems[:index]):
        if np.array_equal(other.heard_N, this.heard_N) and np.array_equal(
            other.probabilities_NC, this.probabilities_NC
        ):
            return earlier
    return None


def _system(page: Page, row: Mapping[str, Any], system: System, test: EvaluationSet, classes: Sequence[str]) -> None:
    page.plot(
        confusion_figure(row["confusion"], classes),
        "Confusion matrix: " + "; ".join(_confused(name, line, classes) for name, line in _by_class(row, classes)),
        "Confusions: said (row), heard (column); shares of the row",
    )
    if bins := row.get("reliability"):
        page.plot(
            reliability_figure(bins),
            f"Reliability: {', '.join(_reliable(each) for each in bins)}",
            f"Reliability over {NUM_BINS} bins: on the diagonal, probabilities keep their promise; below it the model "
            "is too sure. The lower bars show where the utterances are. "
            f"ECE {100 * row['metrics']['ece']['value']:.1f} %",
        )
    page.table(
        ["class", "utterances", "precision, %", "recall, %", "F1, %"],
        [
            [name, each["utterances"], *(Number(100 * each[key]) for key in ("precision", "recall", "f1"))]
            for name, each in row["classes"].items()
        ],
        caption="By class",
        row_headers=True,
    )
    for kind in ("corpus", "emotion", "duration", "speaker"):
        _group_table(page, kind, row["groups"][kind], classes)
    _worst(page, system, test, classes)


def _by_class(row: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[str, list[int]]]:
    return list(zip(classes, row["confusion"], strict=True))


def _confused(name: str, line: Sequence[int], classes: Sequence[str]) -> str:
    return f"{name} heard as " + ", ".join(f"{heard} {count}" for heard, count in zip(classes, line, strict=True))


def _reliable(each: Mapping[str, float]) -> str:
    return f"of {each['count']} with about {each['confidence']:.2f}, {100 * each['accuracy']:.0f} % are right"


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> "Figure":
    """The confusion matrix as a picture: darker is more of the row, with count and share in every cell."""
    from matplotlib.patches import Rectangle

    size = len(classes)
    figure, axes = new_figure(1.6 + 0.95 * size, 0.8 + 0.62 * size)
    for said, line in enumerate(confusion):
        total = sum(line)
        for heard, count in enumerate(line):
            share = count / total if total else 0.0
            # An outline marks right answers: shade alone is not for everyone.
            edge: dict[str, Any] = {"edgecolor": MUTED, "linewidth": 1.2} if said == heard else {"edgecolor": "none"}
            axes.add_patch(
                Rectangle((heard - 0.48, said - 0.46), 0.96, 0.92, facecolor=(*_rgb(SERIES[0]), 0.55 * share), **edge)
            )
            axes.text(heard, said, f"{count:,}\n{100 * share:.0f} %", ha="center", va="center", color=INK, size=9)
    axes.set_xlim(-0.55, size - 0.45)
    axes.set_ylim(size - 0.45, -0.55)
    axes.set_xticks(range(size), list(classes))
    axes.set_yticks(range(size), list(classes))
    axes.set_xlabel("heard")
    axes.set_ylabel("said")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def reliability_figure(bins: Sequence[Mapping[str, float]]) -> "Figure":
    """Share of right answers over the highest probability, and below it how many utterances a bin has."""
    figure, axes = new_figure(4.6, 3.2)
    total = sum(each["count"] for each in bins)
    middles = [(each["low"] + each["high"]) / 2 for each in bins]
    width = 0.9 / NUM_BINS
    axes.bar(middles, [0.18 * each["count"] / total for each in bins], width, color=SERIES[5], alpha=0.45)
    axes.plot([0, 1], [0, 1], linestyle="--", color=MUTED, linewidth=1)
    axes.plot(
        [each["confidence"] for each in bins], [each["accuracy"] for each in bins], "o-", color=SERIES[0], markersize=4
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("highest probability")
    axes.set_ylabel("share that is right")
    return figure


def _group_table(page: Page, kind: str, groups: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    if len(groups) < 2:
        return
    lines, caption = list(groups), f"By {kind}"
    if kind == "speaker":
        lines = [each for each in lines if each["name"] and each["utterances"] >= MIN_SPEAKER_UTTERANCES]
        lines.sort(key=lambda each: (each["accuracy"], each["name"]))
        many = f"the worst {SPEAKERS} of {len(lines)}" if len(lines) > SPEAKERS else "the worst first"
        caption = f"By speaker: those with {MIN_SPEAKER_UTTERANCES} utterances or more, {many}"
        lines = lines[:SPEAKERS]
    elif kind == "duration":
        lines.sort(key=lambda each: float(each["name"].split()[0]) if each["name"] else -1.0)
    else:
        lines.sort(key=lambda each: each["name"])
    if not lines:
        return
    page.table(
        [kind, "utterances", "accuracy, %", *(f"recall of {name}, %" for name in classes)],
        [
            [
                each["name"].replace(" ", _NO_BREAK) or "(not known)",
                each["utterances"],
                Number(100 * each["accuracy"]),
                *(Number(None if each["recall"][name] is None else 100 * each["recall"][name]) for name in classes),
            ]
            for each in lines
        ],
        caption=caption,
        row_headers=True,
    )


def _worst(page: Page, system: System, test: EvaluationSet, classes: Sequence[str]) -> None:
    heard_N = system.heard_N
    given_N = system.probabilities_NC[range(len(heard_N)), test.references_N]
    wrong = [index for index in range(len(heard_N)) if heard_N[index] != test.references_N[index]]
    wrong = sorted(wrong, key=lambda index: (given_N[index], index))[:WORST]
    if not wrong:
        page.text("No utterance is taken for another class.")
        return
    lines = []
    for index in wrong:
        row = test.rows[index]
        lines.append(
            [
                str(row["id"]),
                classes[test.references_N[index]],
                row.get("emotion"),
                classes[heard_N[index]],
                Number(float(given_N[index]), ".3f"),
                Number(row.get("duration_s"), ".1f", " s"),
                Text(row.get("text") or ""),
                AudioClip(row.get("audio"), label=f"utterance {row['id']}"),
            ]
        )
    page.table(
        ["utterance", "class", "emotion", "heard", "probability of its class", "length", "text", "audio"],
        lines,
        caption=f"The {len(lines)} worst utterances: wrong, and least probable",
    )


def _settings(report: Mapping[str, Any]) -> dict[str, str]:
    """What stands for what, in the labels of the task and of each model."""
    told = {"classes": "; ".join(f"{name}: {', '.join(emotions)}" for name, emotions in report["labels"].items())}
    for row in report["rows"]:
        if mapped := row.get("model_labels"):
            told[f"labels of {row['model']}"] = ", ".join(f"{a} → {b or 'left out'}" for a, b in mapped.items())
    return told


def _interval(metric: Mapping[str, Any] | None, factor: float, *, prefix: str = "", sign: str = "") -> str | None:
    if not metric or f"{prefix}low" not in metric:
        return None
    places = f"{sign}.{2 if factor == 100 else 3}f"
    low, high = factor * metric[f"{prefix}low"], factor * metric[f"{prefix}high"]
    return f"{low:{places}} to {high:{places}}".replace(" ", _NO_BREAK)


def report_tables(report: Mapping[str, Any], width: int = 80) -> list[Any]:
    """`rich` tables of the report: a line a score with its interval, a column a system; as many as `width` needs."""
    from rich.markup import escape
    from rich.table import Table

    rows = report["rows"]
    letters = [system_letter(index) for index in range(len(rows))]
    names = [f"{letter}: {escape(system_name(row))}" for letter, row in zip(letters, rows, strict=True)]
    title = (
        f"{escape(report['data']['path'])}: {report['data']['utterances']} utterances, {', '.join(report['classes'])}"
    )
    labels = {name: f"{label} {unit}".strip() for name, (label, unit, _) in METRICS.items()}
    together = max(1, (width - len(max(labels.values(), key=len)) - 4) // COLUMN)
    tables = []
    for first in range(0, len(rows), together):
        part = slice(first, first + together)
        table = Table(title=None if first else title, caption="\n".join(names[part]), caption_justify="left")
        table.add_column("score", no_wrap=True)
        for letter in letters[part]:
            table.add_column(letter, justify="right", no_wrap=True)
        for name, label in labels.items():
            table.add_row(label, *(_cell(row["metrics"].get(name), METRICS[name][2]) for row in rows[part]))
        table.add_row("real-time factor", *(f"{row['rtf']:.3f}" for row in rows[part]))
        tables.append(table)
    return tables


def _cell(metric: Mapping[str, Any] | None, factor: float) -> str:
    if metric is None:
        return "–"
    interval = (_interval(metric, factor) or "").replace(f"{_NO_BREAK}to{_NO_BREAK}", "–")
    return f"{factor * metric['value']:.{2 if factor == 100 else 3}f}\n{interval}".strip()


def report_notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the table: rows left out, differences to the first system, what the rules bring."""
    lines = _notices(report)
    if any("low" in row["metrics"].get("ece", {}) for row in report["rows"]):
        lines.append("intervals of calibration errors lean upwards, as every resample has gaps of its own")
    for index, row in enumerate(report["rows"]):
        letter = system_letter(index)
        speakers = {"": "utterances", "speaker_": "speakers"}
        if difference := row.get("difference"):
            intervals = [
                f"in [{_interval(difference['uar'], 100, prefix=prefix, sign='+')}] over {what}"
                for prefix, what in speakers.items()
                if f"{prefix}low" in difference["uar"]
            ]
            lines.append(
                f"{letter} against A: UAR {100 * difference['uar']['value']:+.2f} {', '.join(intervals)}".strip()
            )
        if gain := row.get("rules_gain"):
            counts = ", ".join(f"{gain[key]} {key}" for key in ("changed", "mended", "broken"))
            lines.append(f"{letter}: rules: {counts}, UAR {100 * gain['uar']['value']:+.2f}")
    return [line.replace(_NO_BREAK, " ") for line in lines]
