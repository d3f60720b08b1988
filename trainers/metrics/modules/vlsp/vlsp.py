"""Composite score of the VLSP 2025 ASR/SER challenge, loadable by path: `evaluate.load("…/modules/vlsp")`."""

import datasets
import evaluate

from trainers.metrics.vlsp import vlsp_scores

_DESCRIPTION = """Score = 0.7 (100 - SyER) + 0.3 ACC with ACC the balanced accuracy over neutral and negative. Also \
returns SyER, balanced and plain accuracy, all in percent."""
_INPUTS = """predictions, references: lists of {"text": ..., "emotion": ...}, same order; None in a reference where a \
row has no transcript or no emotion."""
_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class VLSP(evaluate.Metric):
    """`compute(predictions=[{"text", "emotion"}], references=[…])` → `{"syer", "balanced_accuracy", "accuracy",
    "score"}` in percent, without those that no reference allows."""

    def _info(self) -> evaluate.MetricInfo:
        row = {"text": datasets.Value("string"), "emotion": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, float]:
        scores = vlsp_scores(
            [row["text"] for row in references],
            [row["text"] for row in predictions],
            [row["emotion"] for row in references],
            [row["emotion"] for row in predictions],
            num_samples=0,
        )
        return {name: metric["value"] for name, metric in scores["metrics"].items()}
