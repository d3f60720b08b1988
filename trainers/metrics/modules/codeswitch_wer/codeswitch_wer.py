"""Word error rates by language and at switch points, loadable by path: `evaluate.load("…/modules/codeswitch_wer")`."""

import datasets
import evaluate

from trainers.metrics import codeswitch_error_rates

_DESCRIPTION = """Word error rate of code-switched speech on Vietnamese words, on English words and on the words \
beside a language change. Reference words carry the language of their labelled span; an inserted word is charged to \
the neighbour that is itself wrong, else to the preceding word. Utterances without spans are counted and left out."""
_INPUTS = """predictions: list of recognised texts. references: list of {"text": str, "spans": [{"start": int, \
"end": int, "lang": "vi" | "en"}]} with character offsets into the text, same order."""
_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class CodeSwitchWER(evaluate.Metric):
    """`compute(predictions=[str], references=[{"text", "spans"}])` → the dict of `codeswitch_error_rates`."""

    def _info(self) -> evaluate.MetricInfo:
        span = {
            "start": datasets.Value("int32"),
            "end": datasets.Value("int32"),
            "lang": datasets.Value("string"),
        }
        reference = {"text": datasets.Value("string"), "spans": datasets.List(span)}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string"), "references": reference}),
        )

    def _compute(self, predictions: list[str], references: list[dict]) -> dict[str, float | int]:
        texts = [reference["text"] for reference in references]
        return codeswitch_error_rates(texts, predictions, [reference["spans"] for reference in references])
