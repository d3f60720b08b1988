"""What a recogniser hears in a batch of recordings, and how far that is from their transcripts.

Everything that `load_recogniser` loads can give hypotheses. What has CTC outputs can also align a given transcript: an
S2P with a CTC head (its units are phonemes, by G2P), a Zipformer or FastConformer with one, and any CTC model of
transformers (syllables). Another family joins by one class with the five members of `CTCModel` and one line in
`load_scorer`.

Shape legend: B utterances, T frames, V vocabulary.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from data_scripts.audio import SAMPLING_RATE_HZ
from data_scripts.text.g2p import G2P
from data_scripts.text.normalize import normalize_text
from models.tspc import speech_inputs
from models.zipformer.ctc_alignment import align
from models.zipformer.hypotheses import text_of
from trainers.collators import PhonemeLabels, RowError
from trainers.metrics.phonemes import phoneme_list
from trainers.recognisers import Recogniser, recognise

logger = logging.getLogger(__name__)

DECIMALS = 6
Unit = Literal["syllable", "phoneme"]
EMPTY: dict[str, Any] = {
    "hypothesis": None,
    "error_rate": None,
    "confidence": None,
    "min_window_confidence": None,
    "greedy_confidence": None,
    "lm_score": None,
    "problem": None,
}


class LabelError(ValueError):
    """A transcript that a model cannot align; `code` goes into the scores."""

    def __init__(self, code: str, detail: str = ""):
        super().__init__(detail or code)
        self.code = code


class CTCModel(Protocol):
    """What the scores need of a model with CTC outputs."""

    unit: Unit
    blank: int

    def log_probs(self, audio: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        """16 kHz waveforms -> (B, T, V) log-softmax outputs and the true frames of each."""
        ...

    def labels(self, row: Mapping[str, Any]) -> list[int]:
        """Ids of a row's transcript; `LabelError` where it has none."""
        ...

    def write(self, ids: Sequence[int]) -> str:
        """Units, separated by spaces, of ids without blanks and repeats."""
        ...


class PhonemeCTC:
    """The CTC head of an S2P; transcripts become phonemes by G2P, so an error rate of it is a PER."""

    unit: Unit = "phoneme"

    def __init__(self, recogniser: Recogniser):
        self.model, self.tokenizer = recogniser.pipe.model, recogniser.pipe.tokenizer
        self.extractor = recogniser.pipe.feature_extractor
        self.blank = self.model.config.pad_token_id
        self._labels = PhonemeLabels(G2P(recogniser.register or "full"), self.tokenizer)
        self._special = set(self.tokenizer.all_special_ids)

    @torch.no_grad()
    def log_probs(self, audio: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        batch = speech_inputs(self.extractor, audio, SAMPLING_RATE_HZ)
        features = batch["input_features"].to(self.model.device, self.model.dtype)
        states, mask = self.model.encode(features, batch["attention_mask"].to(self.model.device))
        logits = self.model.ctc_head(states.to(self.model.ctc_head.weight.dtype))
        return logits.float().log_softmax(-1), mask.sum(1).long().tolist()

    def labels(self, row: Mapping[str, Any]) -> list[int]:
        try:
            return [label for label in self._labels(row) if label not in self._special]
        except RowError as error:
            raise LabelError("no_labels", str(error)) from error

    def write(self, ids: Sequence[int]) -> str:
        return " ".join(self.tokenizer.convert_ids_to_tokens([i for i in ids if i not in self._special]))


class TextCTC:
    """A CTC model of transformers: wav2vec 2.0, HuBERT, WavLM, Wav2Vec2-BERT, Parakeet, …"""

    unit: Unit = "syllable"

    def __init__(self, recogniser: Recogniser):
        self.model, self.tokenizer = recogniser.pipe.model, recogniser.pipe.tokenizer
        self.extractor = recogniser.pipe.feature_extractor
        self.blank = self.model.config.pad_token_id
        vocabulary = self.tokenizer.get_vocab()
        # Some vocabularies hold capitals alone.
        self._upper = "A" in vocabulary and "a" not in vocabulary
        self._letters = hasattr(self.tokenizer, "word_delimiter_token")
        self._special = set(self.tokenizer.all_special_ids) | {self.blank}

    @torch.no_grad()
    def log_probs(self, audio: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        inputs = self.extractor(
            list(audio), sampling_rate=SAMPLING_RATE_HZ, padding="longest", return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        frames = self._frames(inputs["attention_mask"].sum(1))
        if frames is None and len(audio) > 1:
            raise ValueError("this architecture does not say how many frames an utterance has")
        # Models with group norm over time are trained without a mask, and say so in their front end.
        if not getattr(self.extractor, "return_attention_mask", True):
            inputs.pop("attention_mask")
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        name = next(name for name in ("input_values", "input_features") if name in inputs)
        inputs[name] = inputs[name].to(self.model.dtype)
        logits = self.model(**inputs).logits
        counts = [logits.shape[1]] if frames is None else [min(count, logits.shape[1]) for count in frames]
        return logits.float().log_softmax(-1), counts

    def _frames(self, lengths: torch.Tensor) -> list[int] | None:
        """True output frames for true input lengths (samples, or frames of features)."""
        if hasattr(self.model, "_get_feat_extract_output_lengths"):
            return self.model._get_feat_extract_output_lengths(lengths).long().tolist()
        encoder: Any = getattr(self.model, "encoder", None)
        if hasattr(encoder, "_get_subsampling_output_length"):  # Parakeet
            return encoder._get_subsampling_output_length(lengths).long().tolist()
        return None

    def labels(self, row: Mapping[str, Any]) -> list[int]:
        text = row["text"].upper() if self._upper else row["text"]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if unknown in ids or self.blank in ids:
            strange = sorted({letter for letter in text if not letter.isspace() and not self._knows(letter)})
            raise LabelError("not_in_vocabulary", " ".join(strange))
        if not ids:
            raise LabelError("empty_transcript")
        return ids

    def _knows(self, letter: str) -> bool:
        return self.tokenizer.unk_token_id not in self.tokenizer(letter, add_special_tokens=False)["input_ids"]

    def write(self, ids: Sequence[int]) -> str:
        kept = [i for i in ids if i not in self._special]
        # The tokenizer of letters merges repeats itself, which the path has behind it.
        options = {"group_tokens": False} if self._letters else {}
        return normalize_text(self.tokenizer.decode(kept, **options))


class PieceCTC(TextCTC):
    """The CTC head of a Zipformer or FastConformer, also beside a transducer."""

    def __init__(self, recogniser: Recogniser):
        super().__init__(recogniser)
        self.blank = self.model.config.blank_token_id
        self._special.add(self.blank)

    @torch.no_grad()
    def log_probs(self, audio: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        batch = self.extractor(
            list(audio), sampling_rate=SAMPLING_RATE_HZ, padding="longest", return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        features = batch["input_features"].to(self.model.device, self.model.dtype)
        states_BTD, lengths_B = self.model.encode(features, batch["attention_mask"].to(self.model.device))
        return self.model.ctc_head(states_BTD).float().log_softmax(-1), lengths_B.tolist()

    def write(self, ids: Sequence[int]) -> str:
        return normalize_text(text_of(self.tokenizer, [i for i in ids if i not in self._special]))


class Scorer:
    """One recogniser with all that is asked of it.

    Args:
        ctc: the CTC view of the recogniser; None for models that only generate.
        generated: hypotheses are what the model generates, though it has CTC outputs.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        ctc: CTCModel | None,
        num_beams: int,
        generate_kwargs: dict[str, Any],
        generated: bool = False,
    ):
        self.recogniser, self.ctc, self.generated = recogniser, ctc, generated
        self.num_beams, self.generate_kwargs = num_beams, generate_kwargs
        self.unit: Unit = ctc.unit if ctc else ("phoneme" if recogniser.kind == "s2p" else "syllable")

    def __call__(self, rows: Sequence[Mapping[str, Any]], audio: Sequence[np.ndarray], aligned: bool) -> list[dict]:
        """Scores of each row (the keys of `EMPTY`); a batch that fails is done again one by one.

        Args:
            rows: with `id`, `text` (normalised; "" where there is none) and `spans`.
            audio: 16 kHz waveforms.
            aligned: align the transcripts too.
        """
        try:
            return self._score(rows, audio, aligned)
        except (RuntimeError, ValueError, IndexError) as error:
            if len(rows) > 1:
                logger.warning("%d rows could not be heard together (%s); one by one", len(rows), _brief(error))
                pairs = zip(rows, audio, strict=True)
                return [score for row, one in pairs for score in self([row], [one], aligned)]
            logger.warning("row %r cannot be recognised: %s", rows[0]["id"], _brief(error))
            return [{**EMPTY, "problem": "recognition_failed"}]

    def _score(self, rows: Sequence[Mapping[str, Any]], audio: Sequence[np.ndarray], aligned: bool) -> list[dict]:
        if self.ctc is None:
            return [self._compared(row, text) for row, text in zip(rows, self._generate(audio), strict=True)]
        log_probs_BTV, frames = self.ctc.log_probs(audio)
        best_BT = log_probs_BTV.max(-1)
        paths = [ids[:count] for ids, count in zip(best_BT.indices, frames, strict=True)]
        collapsed = [[i for i in torch.unique_consecutive(path).tolist() if i != self.ctc.blank] for path in paths]
        heard = self._generate(audio) if self.generated else [self.ctc.write(ids) for ids in collapsed]
        scores = [self._compared(row, text) for row, text in zip(rows, heard, strict=True)]
        for score, values, count in zip(scores, best_BT.values, frames, strict=True):
            certainty = float(values[:count].exp().mean()) if count else float("nan")
            if np.isfinite(certainty):
                score["greedy_confidence"] = round(certainty, DECIMALS)
            else:
                score.update(EMPTY, problem="non_finite" if count else "too_few_frames")
        if aligned:
            self._align(rows, log_probs_BTV, frames, scores)
        return scores

    def _generate(self, audio: Sequence[np.ndarray]) -> list[str]:
        rows = [
            {"audio": {"array": one, "sampling_rate": SAMPLING_RATE_HZ}, "duration_s": len(one) / SAMPLING_RATE_HZ}
            for one in audio
        ]
        heard = recognise(
            self.recogniser,
            rows,
            num_beams=self.num_beams,
            batch_size=len(rows),
            generate_kwargs=self.generate_kwargs,
        )
        if heard.texts is not None:
            return [normalize_text(text) for text in heard.texts]
        return [" ".join(symbols) for symbols in heard.phonemes or []]

    def _compared(self, row: Mapping[str, Any], hypothesis: str) -> dict[str, Any]:
        """A score with the hypothesis and, for syllables, its error rate (that of phonemes comes with the labels)."""
        score = {**EMPTY, "hypothesis": hypothesis}
        if row["text"] and self.unit == "syllable":
            score["error_rate"] = error_rate(row["text"].split(), hypothesis.split())
        return score

    def _align(
        self, rows: Sequence[Mapping[str, Any]], log_probs_BTV: torch.Tensor, frames: list[int], scores: list[dict]
    ) -> None:
        assert self.ctc is not None
        labels: list[list[int]] = []
        for row, score in zip(rows, scores, strict=True):
            ids: list[int] = []
            if score["problem"] is None:
                try:
                    if not row["text"].strip():
                        raise LabelError("empty_transcript")
                    ids = self.ctc.labels(row)
                except LabelError as error:
                    score["problem"] = error.code
            if ids and self.unit == "phoneme":
                # As PER is defined: without the separator of syllables.
                said, heard = phoneme_list(self.ctc.write(ids)), phoneme_list(score["hypothesis"])
                score["error_rate"] = error_rate(said, heard)
            labels.append(ids)
        finite = [index for index, score in enumerate(scores) if score["problem"] is None]
        picked = log_probs_BTV[finite] if len(finite) < len(scores) else log_probs_BTV
        paths = align(picked, [frames[i] for i in finite], [labels[i] for i in finite], self.ctc.blank)
        for index, path in zip(finite, paths, strict=True):
            if path is None:
                scores[index]["problem"] = "too_few_frames"
            else:
                scores[index]["confidence"] = round(path.confidence, DECIMALS)
                scores[index]["min_window_confidence"] = round(path.min_window_confidence(), DECIMALS)


def load_scorer(
    recogniser: Recogniser,
    num_beams: int = 1,
    generate_kwargs: dict[str, Any] | None = None,
    hypotheses: Literal["ctc", "generated"] = "ctc",
) -> Scorer:
    """The scorer of a loaded recogniser: with alignments where it has CTC outputs."""
    ctc: CTCModel | None = None
    if "ctc_greedy" in recogniser.searches:
        ctc = PieceCTC(recogniser)
    elif recogniser.kind == "ctc":
        ctc = TextCTC(recogniser)
    elif recogniser.kind == "s2p" and recogniser.pipe.model.ctc_head is not None:
        ctc = PhonemeCTC(recogniser)
    recogniser.pipe.model.eval()
    generated = hypotheses == "generated" and (recogniser.decodes_with_beams or recogniser.kind == "transducer")
    return Scorer(recogniser, ctc, num_beams, generate_kwargs or {}, generated)


def error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Edits over the units of the reference, which must not be empty."""
    return round(Levenshtein.distance(reference, hypothesis) / len(reference), DECIMALS)


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
