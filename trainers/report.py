"""The page of an evaluation: one self-contained HTML file beside metrics.json, for a person to look at and listen to.

It shows the same figures as the JSON file and, for every system, what the figures hide: which tones, sounds and words
are taken for which, where the errors are (dialect, corpus, emotion, length), and the worst utterances with audio.
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_scripts.report import AudioClip, Number, Page, Text, Word, Words, new_figure
from data_scripts.report.plots import INK, MUTED, SERIES
from data_scripts.text.normalize import normalize_text
from data_scripts.text.phonemes import CODA_SYMBOLS, MEDIAL_SYMBOL, ONSET_SYMBOLS, TONE_SYMBOLS
from trainers.card import LABELS
from trainers.metrics import ErrorCounts, align, count_errors
from trainers.metrics.phonemes import phoneme_list

WORST, CONFUSIONS, SPEAKERS = 20, 30, 10
LENGTHS_S = (0.0, 2.0, 5.0, 10.0, 20.0)  # borders of the table by duration
MIN_SPEAKER_WORDS = 20
_NO_BREAK = "\N{NO-BREAK SPACE}"
_BOOTSTRAP_SAMPLES = 300  # of the intervals of groups: there are many of them
_CODAS = {*CODA_SYMBOLS.values(), "kpz", "ŋmz"}

Pairs = list[tuple[list[str], list[str]]]


@dataclass(frozen=True, slots=True)
class Output:
    """What one system recognised, in the order of the rows: texts, phonemes, or both; None for what it cannot give.

    `reference_phonemes` are the canonical pronunciations that its phonemes were scored against.
    """

    texts: Sequence[str] | None = None
    phonemes: Sequence[Sequence[str]] | None = None
    reference_phonemes: Sequence[Sequence[str]] | None = None


def write_report(
    report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], outputs: Sequence[Output], path: str | Path
) -> Path:
    """Write the page.

    Args:
        report: of `trainers.evaluation.evaluate`; `report["rows"]` in the order of `outputs`.
        rows: the utterances that were scored, with their audio.
        outputs: what each system recognised.

    Raises:
        ValueError: not one output a system.
    """
    systems = report["rows"]
    if len(systems) != len(outputs):
        raise ValueError(f"the report has {len(systems)} systems, but {len(outputs)} outputs were given")
    data = report["data"]
    split = f", {data['split']}" if data.get("split") else ""
    page = Page("Speech recognition, evaluated", f"{data['path']}{split}: {data['utterances']:,} utterances")
    letters = [system_letter(index) for index in range(len(systems))]
    _results(page, report, letters)
    for letter, system, output in zip(letters, systems, outputs, strict=True):
        page.section(f"{letter}: {system['model']}, {_beams(system['num_beams'])}")
        _system(page, system, output, rows)
    settings = {
        "normaliser": report.get("normalizer_version"),
        "spoken form": report.get("spoken_form_version"),
        "reference pronunciation": report.get("phoneme_reference"),
    }
    how_measured(page, report, settings)
    return page.save(path)


def system_letter(index: int) -> str:
    """A, B, …, Z, A1, …: what tables call a system."""
    return string.ascii_uppercase[index % 26] + (str(index // 26) if index >= 26 else "")


def _beams(num_beams: int) -> str:
    return f"{num_beams} beam{'s' if num_beams > 1 else ''}"


def _results(page: Page, report: Mapping[str, Any], letters: Sequence[str]) -> None:
    systems = report["rows"]
    page.section("Results")
    skipped = report.get("skipped") or {}
    if skipped.get("num_dropped"):
        reasons = ", ".join(f"{code} {count:,}" for code, count in skipped["counts"]["dropped"].items())
        page.notices([f"{skipped['num_dropped']:,} of {skipped['num_rows']:,} rows were not scored: {reasons}"])
    page.notices(
        [f"{letter}: {system['note']}" for letter, system in zip(letters, systems, strict=True) if "note" in system]
    )
    confidence = systems[0]["bootstrap"]["confidence"]
    header = ["error rate, %"]
    for letter in letters:
        header += [letter, f"{letter}: {100 * confidence:g} % interval"]
    lines: list[list[Any]] = []
    for name, label in LABELS.items():
        metrics = [system["metrics"].get(name) for system in systems]
        if any(metrics):
            line: list[Any] = [label]
            for metric in metrics:
                line += [Number(100 * metric["value"]) if metric else None, _interval(metric)]
            lines.append(line)
    timing: list[Any] = ["real-time factor"]
    for system in systems:
        timing += [Number(system["rtf"], ".3f"), ""]
    page.table(
        header, [*lines, timing], caption="Lower is better; intervals by bootstrap over utterances", row_headers=True
    )
    page.table(
        ["", "system", "beams", "words", "wrong", "left out", "put in"],
        [
            [letter, s["model"], s["num_beams"], *(s["metrics"].get("wer", {}).get(k) for k in _COUNTS)]
            for letter, s in zip(letters, systems, strict=True)
        ],
        caption="Systems, and their word errors",
    )
    if any(system.get("wer_difference") for system in systems):
        page.table(
            ["", "WER difference, points", "interval", "against"],
            [
                [letter, Number(100 * d["value"], "+.2f"), _interval(d, "+.2f"), d["to"]]
                for letter, system in zip(letters, systems, strict=True)
                if (d := system.get("wer_difference"))
            ],
            caption="Paired over the same utterances; an interval without zero is a difference",
        )
    _intervals_plot(page, systems, letters)


_COUNTS = ("length", "substitutions", "deletions", "insertions")


def _interval(metric: Mapping[str, Any] | None, format: str = ".2f") -> str | None:
    if not metric or "low" not in metric:
        return None
    return f"{100 * metric['low']:{format}} to {100 * metric['high']:{format}}".replace(" ", _NO_BREAK)


def _intervals_plot(page: Page, systems: Sequence[Mapping[str, Any]], letters: Sequence[str]) -> None:
    names = [name for name in LABELS if any("low" in system["metrics"].get(name, {}) for system in systems)]
    if len(names) < 2:
        return
    figure, axes = new_figure(6.5, 0.6 + 0.16 * (len(systems) + 1) * len(names))
    told = []
    for row, name in enumerate(names):
        for index, (letter, system) in enumerate(zip(letters, systems, strict=True)):
            metric = system["metrics"].get(name, {})
            if "low" not in metric:
                continue
            place = row * (len(systems) + 1) + index
            value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
            colour = SERIES[index % len(SERIES)]
            axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot([value], [place], "o", color=colour, markersize=5)
            axes.annotate(letter, (high, place), (4, 0), textcoords="offset points", va="center", size=8, color=MUTED)
            told.append(f"{LABELS[name]} {letter} {value:.1f}")
    middle = [row * (len(systems) + 1) + (len(systems) - 1) / 2 for row in range(len(names))]
    axes.set_yticks(middle, [LABELS[name] for name in names], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("error rate, % with its interval")
    page.plot(figure, f"Error rates in percent: {', '.join(told)}")


def _system(page: Page, system: Mapping[str, Any], output: Output, rows: Sequence[Mapping[str, Any]]) -> None:
    words: Pairs = []
    sounds: Pairs = []
    if output.texts is not None:
        words = [
            (normalize_text(row["text"]).split(), normalize_text(text).split())
            for row, text in zip(rows, output.texts, strict=True)
        ]
    if output.phonemes is not None and output.reference_phonemes is not None:
        sounds = [
            (phoneme_list(said), phoneme_list(heard))
            for said, heard in zip(output.reference_phonemes, output.phonemes, strict=True)
        ]
    if tones := system.get("tones"):
        confusions = tones["confusions"]
        page.matrix(
            list(confusions),
            list(next(iter(confusions.values()))),
            [list(heard.values()) for heard in confusions.values()],
            caption=f"Tones of aligned syllables: said (row), written (column); {tones['tone_only_substitutions']:,} "
            "words are wrong in their tone alone",
            corner="said",
        )
    if sounds:
        _sound_classes(page, sounds)
        _confusions(page, sounds, "sound")
    if words:
        _confusions(page, words, "word")
    if pairs := words or sounds:
        errors = count_errors(*(list(side) for side in zip(*pairs, strict=True)))
        unit = "word" if words else "sound"
        _groups(page, rows, errors, unit)
        _worst(page, rows, pairs, errors, unit)


def _sound_classes(page: Page, pairs: Pairs) -> None:
    totals: Counter[str] = Counter()
    ops: Counter[tuple[str, str]] = Counter()
    for said, heard in pairs:
        totals.update(map(_sound_class, said))
        for op, r, h in align(said, heard):
            if op != "equal":
                ops[_sound_class(said[r] if r is not None else heard[h or 0]), op] += 1
    lines = []
    for name in _CLASSES:
        wrong, left_out, put_in = (ops[name, op] for op in ("replace", "delete", "insert"))
        if totals[name] or put_in:
            rate = (wrong + left_out + put_in) / totals[name] if totals[name] else None
            lines.append([name, totals[name], wrong, left_out, put_in, Number(rate, ".2%")])
    header = ["part of the syllable", "said", "wrong", "left out", "put in", "error rate"]
    page.table(header, lines, caption="Sounds by their place in the syllable", row_headers=True)


_CLASSES = ("onset", "medial", "nucleus", "coda", "tone")


def _sound_class(symbol: str) -> str:
    if symbol in TONE_SYMBOLS:
        return "tone"
    if symbol in _CODAS:
        return "coda"
    if symbol == MEDIAL_SYMBOL:
        return "medial"
    # English extras and <unk> stand where onsets do.
    return "onset" if symbol in _ONSETS or not symbol[0].isalpha() else "nucleus"


_ONSETS = {*ONSET_SYMBOLS.values(), "j", "g", "θ", "ð", "ʒ", "d͡ʒ"}


def _confusions(page: Page, pairs: Pairs, unit: str) -> None:
    said_times: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for said, heard in pairs:
        said_times.update(said)
        found.update(
            (said[r] if r is not None else "", heard[h] if h is not None else "")
            for op, r, h in align(said, heard)
            if op != "equal"
        )
    lines = [
        [
            Text(said) if said else "(nothing)",
            Text(heard) if heard else "(nothing)",
            count,
            Number(count / said_times[said], ".1%") if said else None,
        ]
        for (said, heard), count in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]
    ]
    if lines:
        header = ["said", "recognised", "times", f"of this {unit}"]
        page.table(header, lines, caption=f"The {len(lines)} most frequent {unit} errors", folded=True)


def _groups(page: Page, rows: Sequence[Mapping[str, Any]], errors: ErrorCounts, unit: str) -> None:
    """Error rates of the utterances that share a dialect, corpus, emotion, length or speaker."""
    lengths = [_length_bin(row.get("duration_s")) for row in rows]
    kinds = {
        "length": lengths,
        **{name: [row.get(name) or "" for row in rows] for name in ("dialect", "corpus", "emotion", "speaker")},
    }
    for kind, names in kinds.items():
        places: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            places.setdefault(name, []).append(index)
        if len(places) < 2:
            continue
        lines = []
        for name, chosen in places.items():
            part = ErrorCounts(*(getattr(errors, column)[chosen] for column in ErrorCounts.__slots__))
            if part.total_length >= (MIN_SPEAKER_WORDS if kind == "speaker" else 1):
                lines.append((name, len(chosen), part.summary(num_samples=_BOOTSTRAP_SAMPLES)))
        caption = f"By {kind}"
        if kind == "speaker":
            lines.sort(key=lambda line: (-line[2]["value"], line[0]))
            caption = f"Worst of {len(lines)} speakers with {MIN_SPEAKER_WORDS} {unit}s or more"
            lines = lines[:SPEAKERS]
        else:
            lines.sort(key=lambda line: float(line[0].split()[0]) if kind == "length" and line[0] else line[0])
        page.table(
            [kind, "utterances", f"{unit}s", "error rate, %", "95 % interval"],
            [
                [name or "(not known)", count, rate["length"], Number(100 * rate["value"]), _interval(rate)]
                for name, count, rate in lines
            ],
            caption=caption,
            row_headers=True,
        )


def _length_bin(duration_s: float | None) -> str:
    if duration_s is None:
        return ""
    low = max(border for border in LENGTHS_S if border <= duration_s)
    high = next((border for border in LENGTHS_S if border > duration_s), None)
    text = f"{low:g} to {high:g} s" if high is not None else f"{low:g} s and more"
    return text.replace(" ", _NO_BREAK)


def _worst(page: Page, rows: Sequence[Mapping[str, Any]], pairs: Pairs, errors: ErrorCounts, unit: str) -> None:
    # Errors times error rate: neither one-word utterances nor the longest ones win by their length.
    weight = errors.errors**2 / errors.reference_lengths.clip(min=1)
    order = sorted((i for i in range(len(rows)) if errors.errors[i]), key=lambda i: (-weight[i], i))[:WORST]
    if not order:
        page.text(f"No utterance has a wrong {unit}.")
        return
    lines = []
    for index in order:
        row, length = rows[index], int(errors.reference_lengths[index])
        lines.append(
            [
                str(row["id"]),
                int(errors.errors[index]),
                Number(errors.errors[index] / length if length else None, ".0%"),
                Number(row.get("duration_s"), ".1f", " s"),
                Words(_aligned(*pairs[index]), lang="vi"),
                AudioClip(row.get("audio"), label=f"utterance {row['id']}"),
            ]
        )
    page.table(
        ["utterance", "errors", "rate", "length", "said and recognised", "audio"],
        lines,
        caption=f"The {len(lines)} worst utterances. Struck out: said, but not recognised. Marked: recognised in its "
        "place. Underlined: recognised, but not said.",
    )


def _aligned(said: list[str], heard: list[str]) -> list[Word]:
    words: list[Word] = []
    for op, r, h in align(said, heard):
        if r is not None:
            words.append(Word(said[r], "equal" if op == "equal" else "missing"))
        if h is not None and op != "equal":
            words.append(Word(heard[h], "wrong" if op == "replace" else "extra"))
    return words


def how_measured(page: Page, report: Mapping[str, Any], settings: Mapping[str, str | None]) -> None:
    """The section on how the figures of any report came about; `settings` are those of its kind alone."""
    page.section("How this was measured")
    told = {
        "command": report.get("command"),
        "commit": report.get("commit"),
        "hardware": report.get("hardware"),
        "test set": ", ".join(f"{key} {value}" for key, value in report["data"].items()),
        **settings,
    }
    page.table(["", ""], [[key, value] for key, value in told.items() if value], row_headers=True)
