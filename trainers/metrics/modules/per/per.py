"""Phoneme error rate in both registers, loadable by path: `evaluate.load("…/modules/per")`."""

import datasets
import evaluate

from trainers.metrics import Register, phoneme_error_rate

_DESCRIPTION = """Corpus phoneme error rate, tones counted as phonemes. Sequences in register "full" are scored in \
"full" and, mapped, in "vmd"; sequences in register "vmd" only in "vmd", since the map has no inverse."""
_INPUTS = """predictions, references: lists of space-joined phoneme sequences ("t i -0"), same order. \
register: "full" (default) or "vmd"."""
_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class PER(evaluate.Metric):
    """`compute(predictions=[str], references=[str], register="full")` → `{"per_full", "per_vmd"}`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list[str], references: list[str], register: Register = "full") -> dict[str, float]:
        return phoneme_error_rate(references, predictions, register)
