"""Score speech recognisers on one test set: what `scripts/eval_asr.py` does.

Every model hears the same rows, passes through the same normaliser and lands in one table. Phoneme error rates compare
with the canonical pronunciation of the reference (`G2P` without a seed: the most probable variant of each English
word), not with the variant that happens to fit best, so the number never flatters and needs no search.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_scripts.curation.ngram import NgramModel
from data_scripts.sources import load_source
from data_scripts.text.normalize import NORMALIZER_VERSION, normalize_text
from data_scripts.text.spoken import SPOKEN_FORM_VERSION

from .card import LABELS, Evaluation, describe_hardware, source_commit
from .command_line import EvaluationArguments
from .evaluation_cards import evaluations_of, update_cards
from .language_model import WordLanguageModel
from .metrics import bootstrap_difference, count_errors, score
from .recognisers import Recognised, Recogniser, load_recogniser, load_zero, recognise
from .report import Output, write_report
from .secrets import mask_tokens
from .whisper_guards import loops_per_1000

logger = logging.getLogger(__name__)


def load_test_rows(args: EvaluationArguments) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows fit to be scored, and the drop report (counts by code, every skipped row) of the others.

    Raises:
        ValueError: no row is left; the message gives the reasons.
    """
    from data_scripts.validate import validate_rows

    dataset: Any = load_source(args.data, normalise=False)
    limits = {"max_duration_s": args.max_duration_s, "keep_text_problems": args.keep_text_problems}
    clean, report = validate_rows(dataset, need_audio=True, source=args.data.path, **limits)
    rows = [dict(row) for row in clean]
    if not rows:
        raise ValueError(f"no row of {args.data.path} can be scored: {report.summary()}")
    return rows, report.to_dict()


def reference_phonemes(rows: Sequence[Mapping[str, Any]], register: str) -> tuple[list[list[str]], int]:
    """Canonical pronunciation of each row, and how many words have none (each an `<unk>`, never recognised)."""
    from data_scripts.text.g2p import G2P

    g2p = G2P(register)
    said = [g2p.phonemise(row["text"], spans=row.get("spans") or ()) for row in rows]
    return [each.phonemes for each in said], sum(len(each.unknown) for each in said)


def score_recognised(
    recogniser: Recogniser, recognised: Recognised, rows: Sequence[Mapping[str, Any]], args: EvaluationArguments
) -> dict[str, Any]:
    """`trainers.metrics.score` of one run plus `rtf`, `seconds`, `audio_s`, `register`."""
    phonemes: dict[str, Any] = {}
    unknown = 0
    if recognised.phonemes is not None and recogniser.register is not None:
        references, unknown = reference_phonemes(rows, recogniser.register)
        phonemes = {"reference_phonemes": references, "hypothesis_phonemes": recognised.phonemes}
    result = score(
        [row["text"] for row in rows],
        recognised.texts,
        spans=[row.get("spans") or [] for row in rows],
        spanless_language=args.spanless_language,
        register=recogniser.register or "full",
        num_samples=args.bootstrap_samples,
        seed=args.seed,
        **phonemes,
    )
    if phonemes:
        result["counts"]["unknown_reference_words"] = unknown
        result["register"] = recogniser.register
        if recogniser.register == "vmd":
            result["note"] = "register vmd cannot be mapped back to full: PER is per_vmd only"
    if recognised.texts is not None:
        result["loops_per_1000"] = loops_per_1000(normalize_text(text) for text in recognised.texts)
    timing = {"seconds": recognised.seconds, "audio_s": recognised.audio_s, "rtf": recognised.rtf}
    return result | {key: round(value, 4) for key, value in timing.items()}


def evaluate(args: EvaluationArguments, *, show_progress: bool = False) -> dict[str, Any]:
    """Run every model with every beam size and write `args.output`, `<output>.hypotheses.jsonl`
    and `<output>.html`.

    Args:
        show_progress: a bar on stderr for each row of the table.

    Returns:
        The report: `{"rows": [...], "data", "skipped", "normalizer_version", "command", "commit", "hardware", ...}`.

    Raises:
        RecogniserError: a model cannot be loaded. SourceError, SchemaError, ValueError: unusable test set.
    """
    output = Path(args.output)
    rows, skipped = load_test_rows(args)
    logger.info("%d utterances to score", len(rows))
    options = {"device": args.device, "dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
    loaders: list[Callable[[], Recogniser]] = [
        lambda name=name: load_recogniser(name, guards=args.guards, **options) for name in args.model
    ]
    ngrams = NgramModel.load(args.lm) if args.lm else None
    if args.zero:
        loaders.append(lambda: load_zero(*args.zero, **options))
    results: list[dict[str, Any]] = []
    errors: list[Any] = []
    hypotheses: list[dict[str, Any]] = []
    nbest: list[dict[str, Any]] = []
    outputs: list[Output] = []
    for load in loaders:
        recogniser = load()
        if not recogniser.searches and (args.search or args.lm):
            logger.warning("%s has a decoder of its own: --search and --lm do not reach it", recogniser.name)
        for num_beams in _beam_sizes(recogniser, args):
            title = f"{recogniser.name}, {num_beams} beam{'s' if num_beams > 1 else ''}"
            decoding = _decoding(recogniser, num_beams, args, ngrams)
            if recogniser.guard_counts:
                recogniser.pipe.counts = type(recogniser.guard_counts)()
            with tqdm(total=len(rows), desc=title, unit="utt", disable=not show_progress) as bar:
                recognised = recognise(
                    recogniser,
                    rows,
                    num_beams=num_beams,
                    batch_size=args.batch_size,
                    generate_kwargs=args.generate_kwargs,
                    progress=bar.update,
                    **decoding,
                )
            system = {"model": recogniser.name, "kind": recogniser.kind, "num_beams": num_beams}
            system |= _described(recogniser, decoding, args)
            results.append(system | score_recognised(recogniser, recognised, rows, args))
            errors.append(_word_errors(rows, recognised))
            hypotheses += _hypotheses(system, rows, recognised)
            nbest += _nbest(system, rows, recognised)
            outputs.append(_output(recogniser, recognised, rows))
        del recogniser
    _add_differences(results, errors, args)
    report = {
        "rows": results,
        "data": _plain(asdict(args.data)) | {"utterances": len(rows)},
        "skipped": skipped,
        "normalizer_version": NORMALIZER_VERSION,
        "spoken_form_version": SPOKEN_FORM_VERSION,
        "phoneme_reference": "canonical",
        "command": mask_tokens(" ".join(sys.argv)),
        "hardware": describe_hardware(),
        "commit": source_commit(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    if args.card:
        update_cards(report, card_evaluations)
    _write_lines(output.with_suffix(".hypotheses.jsonl"), hypotheses)
    if nbest:
        _write_lines(output.with_suffix(".nbest.jsonl"), nbest)
    write_report(report, rows, outputs, output.with_suffix(".html"))
    _write(output, json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    return report


def _output(recogniser: Recogniser, recognised: Recognised, rows: Sequence[Mapping[str, Any]]) -> Output:
    if recognised.phonemes is None or recogniser.register is None:
        return Output(recognised.texts)
    return Output(recognised.texts, recognised.phonemes, reference_phonemes(rows, recogniser.register)[0])


def _word_errors(rows: Sequence[Mapping[str, Any]], recognised: Recognised) -> Any:
    if recognised.texts is None:
        return None
    references = [normalize_text(row["text"]).split() for row in rows]
    return count_errors(references, [normalize_text(text).split() for text in recognised.texts])


def _add_differences(results: list[dict[str, Any]], errors: list[Any], args: EvaluationArguments) -> None:
    """Paired WER difference of every row to the first one that has text."""
    base = next((index for index, counts in enumerate(errors) if counts is not None), None)
    if base is None or not args.bootstrap_samples:
        return
    lengths = errors[base].reference_lengths
    for index, (result, counts) in enumerate(zip(results, errors, strict=True)):
        if counts is None or index == base:
            continue
        low, high = bootstrap_difference(
            counts.errors, errors[base].errors, lengths, num_samples=args.bootstrap_samples, seed=args.seed
        )
        value = (counts.total_errors - errors[base].total_errors) / int(lengths.sum())
        name = f"{results[base]['model']}, {results[base]['num_beams']} beams"
        result["wer_difference"] = {"to": name, "value": value, "low": low, "high": high}


def _hypotheses(
    system: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], recognised: Recognised
) -> list[dict[str, Any]]:
    lines = []
    for index, row in enumerate(rows):
        line = {"model": system["model"], "num_beams": system["num_beams"], "id": row["id"], "reference": row["text"]}
        if recognised.texts is not None:
            line["hypothesis"] = normalize_text(recognised.texts[index])
            line["raw_hypothesis"] = recognised.texts[index]
        if recognised.phonemes is not None:
            line["phonemes"] = " ".join(recognised.phonemes[index])
        lines.append(line)
    return lines


def _nbest(
    system: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], recognised: Recognised
) -> list[dict[str, Any]]:
    """A line an utterance: `{"model", "num_beams", "id", "reference", "readings": [{"text", "score"}, …]}`."""
    if recognised.nbest is None:
        return []
    known = {"model": system["model"], "num_beams": system["num_beams"]}
    return [
        known | {"id": row["id"], "reference": row["text"], "readings": readings}
        for row, readings in zip(rows, recognised.nbest, strict=True)
    ]


def _beam_sizes(recogniser: Recogniser, args: EvaluationArguments) -> list[int]:
    """Those to run, each once; a model without beams (in the search asked for) has one row."""
    if recogniser.searches and args.search:
        return list(dict.fromkeys(args.num_beams if args.search.endswith("beam") else [1]))
    return list(dict.fromkeys(args.num_beams if recogniser.decodes_with_beams else [1]))


def _decoding(
    recogniser: Recogniser, num_beams: int, args: EvaluationArguments, ngrams: NgramModel | None
) -> dict[str, Any]:
    """Further arguments of `recognise` for a model that has them."""
    if not recogniser.searches:
        return {}
    decoding: dict[str, Any] = {"search": recogniser.search_for(num_beams, args.search), "nbest": args.nbest}
    if ngrams is not None and decoding["search"].endswith("beam"):
        lm = WordLanguageModel(ngrams, recogniser.pipe.tokenizer, args.lm_word_bonus)
        decoding |= {"lm": lm, "lm_weight": args.lm_weight}
    return decoding


def _described(recogniser: Recogniser, decoding: Mapping[str, Any], args: EvaluationArguments) -> dict[str, Any]:
    """How a row of the report was decoded, where that is not plain from its beam size."""
    described: dict[str, Any] = {}
    if "search" in decoding:
        described["search"] = decoding["search"]
    if "lm" in decoding:
        described |= {"lm": args.lm, "lm_weight": args.lm_weight, "lm_word_bonus": args.lm_word_bonus}
    if recogniser.guard_counts:
        described["guards_per_1000"] = recogniser.guard_counts.per_1000()
    return described


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, {}, [], "")}


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def report_table(report: Mapping[str, Any]) -> Any:
    """A `rich` table of the report in percent: a line a metric with its interval below, a column a system.

    Systems are lettered and named in the caption, so that the table fits a terminal of 80 columns with four of them.
    """
    from rich.markup import escape
    from rich.table import Table

    rows = report["rows"]
    letters = [chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "") for index in range(len(rows))]
    names = [
        f"{letter}: {escape(row['model'])}, {row['num_beams']} beam{'s' if row['num_beams'] > 1 else ''}"
        for letter, row in zip(letters, rows, strict=True)
    ]
    title = f"{escape(report['data']['path'])}: {report['data']['utterances']} utterances, error rates in percent"
    table = Table(title=title, caption="\n".join(names), caption_justify="left")
    table.add_column("metric", overflow="fold")
    for letter in letters:
        table.add_column(letter, justify="right", overflow="fold")
    for name, label in LABELS.items():
        metrics = [row["metrics"].get(name) for row in rows]
        if any(metrics):
            table.add_row(label, *map(_cell, metrics))
    table.add_row("real-time factor", *(f"{row['rtf']:.3f}" for row in rows))
    return table


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    interval = f"\n{100 * metric['low']:.1f}–{100 * metric['high']:.1f}" if "low" in metric else ""
    return f"{100 * metric['value']:.2f}{interval}"


def card_evaluations(report: Mapping[str, Any], model: str) -> list[Evaluation]:
    """See `trainers.evaluation_cards.evaluations_of`."""

    def describe(row: Mapping[str, Any]) -> dict[str, Any]:
        versions = {name: report.get(name) for name in ("normalizer_version", "spoken_form_version")}
        return {"metrics": row["metrics"], "num_beams": row["num_beams"], **versions}

    return evaluations_of(report, model, describe)
