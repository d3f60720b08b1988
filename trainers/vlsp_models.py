"""A recogniser and an emotion classifier on the test sets of the VLSP score.

Where one set is for both, each recording is decoded once and goes through both
(`trainers.understanding.SpeechUnderstandingPipeline`); no model ever reads a reference text.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from data_scripts.audio import SAMPLING_RATE_HZ, read_audio
from data_scripts.sources import load_source
from data_scripts.text.normalize import normalize_text

from .classifiers import Classifier, classify, load_classifier
from .recognisers import Recogniser, decoding_options, load_recogniser, recognise
from .understanding import SpeechUnderstandingPipeline
from .vlsp_arguments import VLSPArguments
from .vlsp_files import VLSPRow, check_ids, class_of, pool_scores

logger = logging.getLogger(__name__)


def run_models(args: VLSPArguments, *, show_progress: bool = False) -> tuple[list[VLSPRow], dict[str, Any]]:
    """Transcribe and classify the test sets.

    Returns:
        The rows, those of `asr_data` before those of `ser_data`, and what was left out, skipped and how long it took.

    Raises:
        RecogniserError, ClassifierError: a model cannot be loaded. SourceError, ValueError: an unusable test set, or a
            classifier whose classes are neither neutral nor negative.
    """
    facts: dict[str, Any] = {"left_out": {}, "skipped": {}, "seconds": 0.0, "audio_s": 0.0}
    parts = _load_parts(args, facts)
    rows = [row for part in parts for row in part.rows]
    if args.submission:
        check_ids(args.submission, rows)
    options: dict[str, Any] = {
        "device": args.device,
        "dtype": args.dtype,
        "trust_remote_code": args.trust_remote_code,
    }
    recogniser = load_recogniser(args.asr, **options) if args.asr else None
    classifier = load_classifier(args.ser, knn=args.knn, **options) if args.ser else None
    if recogniser is not None and recogniser.kind == "s2p":
        raise ValueError(f"{recogniser.name} gives phonemes, not text; name a recogniser of text")
    if classifier is not None:
        # Its labels must be of the classes, as is found out now and not after an hour.
        _set_emotion(VLSPRow("", classifier.name), dict.fromkeys(classifier.labels, 1 / len(classifier.labels)), args)
        if classifier.reads_text and recogniser is None:
            raise ValueError(f"{classifier.name} reads transcripts: give a recogniser with --asr")
    reads_text = bool(args.rules) or (classifier is not None and classifier.reads_text)
    for part in parts:
        start = time.perf_counter()
        words = recogniser if part.name != "ser" or reads_text else None
        _run(part, words, classifier if part.name != "asr" else None, args, show_progress)
        facts["seconds"] = round(facts["seconds"] + time.perf_counter() - start, 3)
        facts["audio_s"] = round(facts["audio_s"] + sum(row["duration_s"] or 0.0 for row in part.loaded), 3)
    if unheard := [row.id for row in rows if row.emotion == ""]:
        facts["missing"] = {"emotion": unheard}
    return rows, facts


@dataclass
class _Part:
    """A test set: rows of the schema and what becomes of them. name: "both", "asr" or "ser", what is scored on it."""

    name: str
    rows: list[VLSPRow]
    loaded: list[dict[str, Any]]


def _load_parts(args: VLSPArguments, facts: dict[str, Any]) -> list[_Part]:
    """The rows to run; what was skipped or left out goes into the facts.

    Raises:
        ValueError: a set without a recording that can be heard, or without anything to score or to submit.
    """
    from data_scripts.validate import validate_rows

    named = {"both": args.data, "asr": args.asr_data, "ser": args.ser_data}
    if args.data is not None and not (args.asr and args.ser):
        named = {"asr" if args.asr else "ser": args.data}
    parts = []
    for name, source in named.items():
        if source is None:
            continue
        dataset: Any = load_source(source, need_text=False, normalise=False)
        limits: dict[str, Any] = {
            "max_duration_s": args.max_duration_s,
            "keep_text_problems": args.keep_text_problems,
        }
        clean, report = validate_rows(dataset, need_text=False, source=source.path, **limits)
        loaded = [dict(row) for row in clean]
        if not loaded:
            raise ValueError(f"no row of {source.path} can be heard: {report.summary()}")
        if (skipped := report.to_dict())["num_dropped"]:
            facts["skipped"][source.path] = skipped
        rows = _vlsp_rows(loaded, source.path, name, args, facts["left_out"])
        # A submission has every row; a score needs only those with a reference.
        wanted = [
            index
            for index, row in enumerate(rows)
            if args.submission or row.reference_text is not None or row.reference_emotion is not None
        ]
        if not wanted:
            raise ValueError(
                f"{source.path}: no row has a text or an emotion of a class to score; --submission FILE writes what "
                "the models say all the same"
            )
        logger.info("%s: %d utterances", source.path, len(wanted))
        parts.append(_Part(name, [rows[index] for index in wanted], [loaded[index] for index in wanted]))
    return parts


def _vlsp_rows(
    loaded: Sequence[Mapping[str, Any]], path: str, part: str, args: VLSPArguments, left_out: dict[str, int]
) -> list[VLSPRow]:
    """Rows with the references that count in this part; emotions of no class are counted in `left_out`."""
    classes = class_of(args.labels)
    rows = []
    for row in loaded:
        text = row["text"] if part != "ser" and row["text"] else None
        emotion = row["emotion"] if part != "asr" else None
        if emotion and emotion not in classes:
            left_out[emotion] = left_out.get(emotion, 0) + 1
        rows.append(VLSPRow(row["id"], path, text, classes.get(emotion or "")))
    return rows


def _run(
    part: _Part,
    recogniser: Recogniser | None,
    classifier: Classifier | None,
    args: VLSPArguments,
    show_progress: bool,
) -> None:
    """Fill in text, emotion and scores of the rows."""
    rows, loaded = part.rows, part.loaded
    with tqdm(total=len(rows), unit="utt", disable=not show_progress) as bar:
        if recogniser is None:
            assert classifier is not None
            classified = classify(classifier, loaded, batch_size=args.batch_size, progress=bar.update, knn=args.knn)
            for row, scores_C in zip(rows, classified.probabilities_NC, strict=True):
                _set_emotion(row, dict(zip(classifier.labels, scores_C.tolist(), strict=True)), args)
            return
        if classifier is None:
            options: dict[str, Any] = {"num_beams": args.num_beams, "batch_size": args.batch_size}
            texts = recognise(recogniser, loaded, progress=bar.update, **options).texts or []
            for row, text in zip(rows, texts, strict=True):
                row.text = normalize_text(text)
            return
        understand = SpeechUnderstandingPipeline(recogniser, classifier)
        order = np.argsort([-(row["duration_s"] or 0.0) for row in loaded], kind="stable")

        def recordings() -> Iterator[dict[str, Any]]:
            for index in order:
                yield {"array": read_audio(loaded[index]["audio"]), "sampling_rate": SAMPLING_RATE_HZ}

        options = decoding_options(recogniser, num_beams=args.num_beams)
        for index, result in zip(order, understand(recordings(), batch_size=args.batch_size, **options), strict=True):
            rows[index].text = normalize_text(result["text"])
            _set_emotion(rows[index], result["scores"], args)
            bar.update()


def _set_emotion(row: VLSPRow, scores: Mapping[str, float], args: VLSPArguments) -> None:
    if not np.isfinite(list(scores.values())).all():  # it could not be read after all
        row.emotion = ""
        return
    pooled = row.scores = pool_scores(scores, class_of(args.labels, args.model_labels), row.place)
    row.emotion = max(pooled, key=lambda name: pooled[name])
