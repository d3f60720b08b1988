"""Syllable error rate for Vietnamese and code-switched text, loadable by path: `evaluate.load("…/modules/syer")`."""

import datasets
import evaluate

from trainers.metrics import error_rates

_DESCRIPTION = """Corpus syllable error rate: edits over reference syllables. A syllable is a whitespace token of \
the normalised text (one Unicode form, one tone-mark style, lower case, punctuation and hyphens to spaces). Also \
returns the word and character error rates and the counts behind them."""
_INPUTS = """predictions: list of recognised texts. references: list of what was said, same order."""
_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class SyER(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` → the dict of `trainers.metrics.error_rates`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | int]:
        return error_rates(references, predictions)
