"""A recogniser and an emotion classifier on the test sets of the VLSP score.

Where one set is for both, each recording is decoded once and goes through both
(`trainers.understanding.SpeechUnderstandingPipeline`); no model ever reads a reference text.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from data_scripts.audio import SAMPLING_RATE_HZ, read_audio
from data_scripts.sources import SourceArguments, load_source
from data_scripts.text.normalize import normalize_text

from .classifiers import Classifier, classify, load_classifier
from .recognisers import Recogniser, decoding_options, load_recogniser, recognise
from .understanding import SpeechUnderstandingPipeline
from .vlsp_arguments import VLSPArguments
from .vlsp_files import VLSPRow, class_of, pool_scores

logger = logging.getLogger(__name__)


def run_models(args: VLSPArguments, *, show_progress: bool = False) -> tuple[list[VLSPRow], dict[str, Any]]:
    """Transcribe and classify the test sets.

    Returns:
        The rows, those of `asr_data` before those of `ser_data`, and what was left out, skipped and how long it took.

    Raises:
        RecogniserError, ClassifierError: a model cannot be loaded. SourceError, ValueError: an unusable test set, or a
            classifier whose classes are neither neutral nor negative.
    """
    sets = _load_sets(args)
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
        _set_emotion(VLSPRow("", classifier.name), dict.fromkeys(classifier.labels, 1 / len(classifier.labels)), args)
        if classifier.reads_text and recogniser is None:
            raise ValueError(f"{classifier.name} reads transcripts: give a recogniser with --asr")
    facts: dict[str, Any] = {"left_out": {}, "skipped": {}, "seconds": 0.0, "audio_s": 0.0}
    rows: list[VLSPRow] = []
    for part, (source, loaded, skipped) in sets.items():
        facts["skipped"] |= {source.path: skipped} if skipped["num_dropped"] else {}
        found, left_out = _vlsp_rows(loaded, source.path, part, args)
        for emotion, count in left_out.items():
            facts["left_out"][emotion] = facts["left_out"].get(emotion, 0) + count
        # A submission has every row; a score needs only those with a reference.
        wanted = [
            index
            for index, row in enumerate(found)
            if args.submission or row.reference_text is not None or row.reference_emotion is not None
        ]
        if not wanted:
            raise ValueError(
                f"{source.path}: no row has a text or an emotion of a class to score; --submission FILE writes what "
                "the models say all the same"
            )
        found, heard = [found[index] for index in wanted], [loaded[index] for index in wanted]
        start = time.perf_counter()
        reads_text = bool(args.rules) or (classifier is not None and classifier.reads_text)
        hears_words = recogniser if part != "ser" or reads_text else None
        _run(found, heard, hears_words, classifier if part != "asr" else None, args, show_progress)
        if unheard := [row.id for row in found if row.emotion == ""]:
            facts["missing"] = {"emotion": unheard}
        facts["seconds"] += round(time.perf_counter() - start, 3)
        facts["audio_s"] += round(sum(row["duration_s"] or 0.0 for row in heard), 3)
        rows += found
    return rows, facts


def _load_sets(args: VLSPArguments) -> dict[str, tuple[SourceArguments, list[dict[str, Any]], dict[str, Any]]]:
    """ "both", "asr" or "ser" → its source, its rows with readable recordings, and the report of the others."""
    from data_scripts.validate import validate_rows

    named = {"both": args.data, "asr": args.asr_data, "ser": args.ser_data}
    if args.data is not None and not (args.asr and args.ser):
        named = {"asr" if args.asr else "ser": args.data}
    sets = {}
    for part, source in named.items():
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
        logger.info("%s: %d utterances", source.path, len(loaded))
        sets[part] = (source, loaded, report.to_dict())
    return sets


def _vlsp_rows(
    loaded: Sequence[Mapping[str, Any]], path: str, part: str, args: VLSPArguments
) -> tuple[list[VLSPRow], dict[str, int]]:
    """Rows with the references that count in this part, and how many had an emotion of no class."""
    classes = class_of(args.labels)
    rows, left_out = [], {}
    for row in loaded:
        text = row["text"] if part != "ser" and row["text"] else None
        emotion = row["emotion"] if part != "asr" else None
        if emotion and emotion not in classes:
            left_out[emotion] = left_out.get(emotion, 0) + 1
        rows.append(VLSPRow(row["id"], path, text, classes.get(emotion or "")))
    return rows, left_out


def _run(
    rows: Sequence[VLSPRow],
    loaded: Sequence[dict[str, Any]],
    recogniser: Recogniser | None,
    classifier: Classifier | None,
    args: VLSPArguments,
    show_progress: bool,
) -> None:
    """Fill in text, emotion and scores of the rows."""
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
