"""What was said and how it felt: a recogniser and an emotion classifier on one pass over the audio.

A recording is decoded and resampled once, cut at quiet places as the recognisers cut it, and each piece goes through
both models; an encoder that both have runs once (`trainers.shared_encoder`). A classifier that reads transcripts gets
the recognised text, and rules about words may have the last say.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from data_scripts.text.emotion_rules import EmotionRules
from models.tspc.audio_input import pieces_at_quiet
from models.zipformer.audio_stream import stream_audio
from trainers.classifiers import Classifier, load_classifier
from trainers.recognisers import Recogniser, load_recogniser
from trainers.shared_encoder import SharedEncoders, find_shared

LONGEST_PIECE_S = 30.0


class UnderstandingError(ValueError):
    """Models that do not go together; the message says why."""


@dataclass
class Piece:
    """Samples of a recording from `start` on; is_last: the recording ends with it."""

    start: int
    samples: np.ndarray
    is_last: bool


@dataclass
class Understood:
    """What the models make of a piece; probabilities_C in the order of the classifier's labels."""

    piece_s: tuple[float, float]
    text: str
    phonemes: str | None
    chunks: list[dict[str, Any]] | None
    probabilities_C: np.ndarray | None


class SpeechUnderstandingPipeline:
    """Text and emotion of a path, URL, bytes, array, dict with `array` and `sampling_rate`, or a list or generator of
    these. Arrays alone are taken to be at the models' rate, 16 kHz; channels are mixed down.

    Recordings longer than `chunk_length_s`, or than what the recogniser can hear at once, are cut at quiet places.
    Each piece gets its own emotion; that of the recording has the mean of their probabilities, each weighing what it
    lasts. The classifier hears a piece whole where its own encoders can. Files that soundfile reads are read as they
    are understood, so memory does not grow with their length.

    Attributes:
        shared: names of the classifier's encoders that run once for both models.
        encoders: the `SharedEncoders`; its `reasons` say why others are not shared.

    Example:
        >>> understand = SpeechUnderstandingPipeline.from_pretrained("runs/demo/joint/model", "runs/demo/fusion/model")
        >>> understand("call.wav")
        {"text": "…", "phonemes": "…", "emotion": "negative", "scores": {"neutral": 0.2, "negative": 0.8}}
    """

    def __init__(
        self, recogniser: Recogniser, classifier: Classifier | None = None, rules: EmotionRules | None = None
    ):
        """
        Args:
            recogniser: of `load_recogniser` or `load_zero`, but not a phoneme recogniser.
            classifier: of `load_classifier`; None gives text (and its pieces) alone.
            rules: turn neutral into negative where the words are clear; needs a classifier of these two labels.

        Raises:
            UnderstandingError: models for other sampling rates, a recogniser of phonemes, or rules without use.
        """
        if recogniser.kind == "s2p":
            raise UnderstandingError(f"{recogniser.name} hears phonemes, not text; name a TSPC or another recogniser")
        self.recogniser, self.classifier, self.rules = recogniser, classifier, rules
        self.rate: int = _rate(recogniser.pipe)
        self.encoders = SharedEncoders({}, {})
        if classifier is None:
            if rules is not None:
                raise UnderstandingError("rules revise the emotion of a classifier, and there is none")
            return
        if (theirs := _rate(classifier.pipe)) != self.rate:
            raise UnderstandingError(
                f"{recogniser.name} hears {self.rate} Hz but {classifier.name} {theirs} Hz: audio is resampled once, "
                "for both; choose models of one rate"
            )
        if rules is not None and not {"neutral", "negative"} <= set(classifier.labels):
            raise UnderstandingError(
                f"rules tell neutral from negative, but {classifier.name} has: {', '.join(classifier.labels)}"
            )
        self.encoders = find_shared(recogniser, getattr(classifier.pipe, "model", None))

    @classmethod
    def from_pretrained(
        cls,
        asr: str,
        ser: str,
        *,
        rules: bool | str | os.PathLike[str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        knn: bool = True,
    ) -> "SpeechUnderstandingPipeline":
        """Load both models, folders or Hub ids (`id@revision` for one version).

        Args:
            asr: what `load_recogniser` takes: TSPC, Zipformer, FastConformer, Whisper or a model of others.
            ser: what `load_classifier` takes.
            rules: True for the lexicon of this package, or the path of another one.
            device: "auto" is the first GPU, else the CPU.
            dtype: "auto" keeps that of each checkpoint; else "float32", "bfloat16" or "float16" for both.
            trust_remote_code: allow models of others to run Python files of their repositories, which must be pinned.
            knn: False leaves out the classifier's datastore.

        Raises:
            RecogniserError, ClassifierError, EmotionRulesError, UnderstandingError: a part cannot be loaded, or the
                parts do not go together.
        """
        loaded = read_rules(rules)
        options: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
        return cls(load_recogniser(asr, **options), load_classifier(ser, knn=knn, **options), loaded)

    @property
    def shared(self) -> list[str]:
        return list(self.encoders.taps)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int = 1,
        segments: bool = False,
        chunk_length_s: float | None = None,
        return_timestamps: bool | str | None = None,
        **asr_options: Any,
    ) -> Any:
        """
        Args:
            inputs: one recording, a list of them (a list comes back) or a generator (a generator comes back).
            batch_size: pieces that are understood at once.
            segments: also give the pieces: `"segments": [{"start_s", "end_s", "text", "emotion", "scores"}]`.
            chunk_length_s: longest piece in seconds, 30 if left out; never more than the recogniser's window.
            return_timestamps: as of the recogniser's pipeline; adds `"chunks"` with times in the recording.
            asr_options: of the recogniser's pipeline, such as those of `trainers.recognisers.decoding_options`.

        Returns:
            For each recording `{"text", "phonemes", "emotion", "scores": {label: probability}}`: phonemes where the
            recogniser has them, emotion and scores where there is a classifier, and `"cues"` where the rules changed
            the label (scores stay the model's).

        Raises:
            FileNotFoundError, AudioInputError: no audio; the message names it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        longest_s = min(chunk_length_s or LONGEST_PIECE_S, self.window_s)
        if longest_s <= 0:
            raise ValueError(f"chunk_length_s is {chunk_length_s}; it must be positive")
        options = dict(asr_options)
        if return_timestamps:
            options["return_timestamps"] = return_timestamps
        recogniser = self.recogniser
        if recogniser.kind == "tspc":
            options["return_phonemes"] = True
        if recogniser.kind == "tspc" or recogniser.searches or recogniser.guard_counts is not None:
            options["chunk_length_s"] = longest_s  # so that these do not cut again; told of it, stock ones overlap
        many = isinstance(inputs, list | tuple)
        sources = inputs if many or isinstance(inputs, Iterator) else [inputs]
        results = self._results(sources, batch_size, segments, longest_s, options)
        return list(results) if many else results if isinstance(inputs, Iterator) else next(results)

    @property
    def window_s(self) -> float:
        """Seconds that the recogniser can hear at once."""
        pipe = self.recogniser.pipe
        for name in ("longest_piece_s", "window_s"):
            if hasattr(pipe, name):
                return float(getattr(pipe, name))
        samples = getattr(pipe.feature_extractor, "n_samples", None)  # of a stock Whisper
        return samples / self.rate if samples else float("inf")

    def _results(
        self, sources: Iterable[Any], batch_size: int, segments: bool, longest_s: float, options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        pieces = (piece for source in sources for piece in self._pieces(source, longest_s))
        recording: list[Understood] = []
        while batch := list(islice(pieces, batch_size)):
            for piece, understood in zip(batch, self._understand(batch, longest_s, options), strict=True):
                recording.append(understood)
                if piece.is_last:
                    yield self._joined(recording, segments)
                    recording = []

    def _pieces(self, source: Any, longest_s: float) -> Iterator[Piece]:
        blocks, _ = stream_audio(source, self.rate)
        pieces = pieces_at_quiet(blocks, self.rate, longest_s)
        start, samples = next(pieces)
        for following, more in pieces:
            yield Piece(start, samples, False)
            start, samples = following, more
        yield Piece(start, samples, True)

    def _understand(self, batch: Sequence[Piece], longest_s: float, options: dict[str, Any]) -> list[Understood]:
        audio = [self._audio(piece) for piece in batch]
        with self.encoders.listening() if self.shared else nullcontext():
            heard: list[dict[str, Any]] = self.recogniser.pipe(audio, batch_size=len(batch), **options)
            texts = [result["text"].strip() for result in heard]
            felt = self._classify(batch, texts, longest_s)
        understood = []
        for piece, text, result, probabilities_C in zip(batch, texts, heard, felt, strict=True):
            start_s = piece.start / self.rate
            chunks = result.get("chunks")
            understood.append(
                Understood(
                    piece_s=(start_s, start_s + len(piece.samples) / self.rate),
                    text=text,
                    phonemes=result.get("phonemes"),
                    chunks=None if chunks is None else [_later(chunk, start_s) for chunk in chunks],
                    probabilities_C=probabilities_C,
                )
            )
        return understood

    def _audio(self, piece: Piece) -> dict[str, Any]:
        return {"raw": piece.samples, "sampling_rate": self.rate}  # a new one each time: stock pipelines empty it

    def _classify(self, batch: Sequence[Piece], texts: Sequence[str], longest_s: float) -> list[np.ndarray | None]:
        """(C,) probabilities of each piece."""
        classifier = self.classifier
        if classifier is None:
            return [None] * len(batch)
        inputs = [
            self._audio(piece) | ({"text": text} if classifier.reads_text else {})
            for piece, text in zip(batch, texts, strict=True)
        ]
        found: dict[int, list[dict[str, Any]]] = {}
        options: dict[str, Any] = {}
        if classifier.model_type == "amvi_ser":
            options["piece_s"] = longest_s
            if self.shared:
                found = {
                    index: answer
                    for index, (piece, one) in enumerate(zip(batch, inputs, strict=True))
                    if (answer := self._with_shared(piece, one, longest_s)) is not None
                }
        rest = [index for index in range(len(batch)) if index not in found]
        if rest:
            size = len(rest) if classifier.keeps_batches_apart else 1
            options["top_k"] = len(classifier.labels)
            answers = classifier.pipe([inputs[index] for index in rest], batch_size=size, **options)
            found |= dict(zip(rest, answers, strict=True))
        return [self._probabilities(found[index]) for index in range(len(batch))]

    def _with_shared(self, piece: Piece, inputs: dict[str, Any], longest_s: float) -> list[dict[str, Any]] | None:
        """The classifier's answer, with what the recogniser's encoder computed; None where that does not serve."""
        assert self.classifier is not None
        pipe = self.classifier.pipe
        parts = list(pipe.preprocess(inputs, piece_s=longest_s))
        features = self.encoders.features(piece.samples) if len(parts) == 1 else {}
        if not features:
            return None
        part = parts[0] | {
            "encoder_features": features,
            "encoder_masks": {name: one.new_ones(one.shape[:2]).long() for name, one in features.items()},
        }
        return pipe.postprocess([pipe.forward(part, **pipe._forward_params)])

    def _probabilities(self, answer: Sequence[Mapping[str, Any]]) -> np.ndarray:
        assert self.classifier is not None
        scores = {str(entry["label"]): float(entry["score"]) for entry in answer}
        probabilities_C = np.array([scores.get(label, 0.0) for label in self.classifier.labels])
        return probabilities_C / probabilities_C.sum()

    def _joined(self, recording: Sequence[Understood], segments: bool) -> dict[str, Any]:
        result: dict[str, Any] = {"text": " ".join(one.text for one in recording if one.text)}
        if recording[0].phonemes is not None:
            result["phonemes"] = " ".join(one.phonemes for one in recording if one.phonemes)
        if recording[0].chunks is not None:
            result["chunks"] = [chunk for one in recording for chunk in one.chunks or ()]
        weights = np.array([one.piece_s[1] - one.piece_s[0] for one in recording])
        parts = [one.probabilities_C for one in recording if one.probabilities_C is not None]
        if parts:
            result |= self._emotion(result["text"], np.average(parts, axis=0, weights=weights))
        if segments:
            result["segments"] = [
                {
                    "start_s": round(one.piece_s[0], 3),
                    "end_s": round(one.piece_s[1], 3),
                    "text": one.text,
                    **({} if one.probabilities_C is None else self._emotion(one.text, one.probabilities_C)),
                }
                for one in recording
            ]
        return result

    def _emotion(self, text: str, probabilities_C: np.ndarray) -> dict[str, Any]:
        assert self.classifier is not None
        scores = dict(zip(self.classifier.labels, probabilities_C.tolist(), strict=True))
        found: dict[str, Any] = {"emotion": max(scores, key=lambda label: scores[label]), "scores": scores}
        if self.rules is not None:
            revision = self.rules.revise(text, scores)
            if revision.changed:
                found |= {"emotion": revision.label, "cues": [asdict(cue) for cue in revision.cues]}
        return found


def read_rules(rules: bool | str | os.PathLike[str] | None) -> EmotionRules | None:
    """True: the lexicon of this package; a path: that file; None or False: none."""
    if rules is None or rules is False:
        return None
    return EmotionRules.load(None if rules is True else os.fspath(rules))


def _rate(pipe: Any) -> int:
    extractor = getattr(pipe, "feature_extractor", None)
    rate = getattr(extractor, "sampling_rate", None) or getattr(pipe.model.config, "sampling_rate", None)
    return int(rate or 16_000)


def _later(chunk: Mapping[str, Any], offset_s: float) -> dict[str, Any]:
    start, end = (None if time is None else round(time + offset_s, 3) for time in chunk["timestamp"])
    return {**chunk, "timestamp": (start, end)}
