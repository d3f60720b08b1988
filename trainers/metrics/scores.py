"""Every number of one evaluation in one JSON-ready dict."""

from collections.abc import Sequence
from typing import Any

from data_scripts.text.normalize import NORMALIZER_VERSION
from data_scripts.text.spoken import SPOKEN_FORM_VERSION

from .alignment import ErrorCounts
from .bootstrap import DEFAULT_NUM_SAMPLES
from .codeswitch import Span, codeswitch_error_counts
from .phonemes import Register, phoneme_error_counts
from .text import text_error_counts
from .tones import tone_confusions


def score(
    references: Sequence[str],
    hypotheses: Sequence[str] | None,
    *,
    spans: Sequence[Sequence[Span] | None] | None = None,
    spanless_language: str | None = None,
    reference_phonemes: Sequence[Sequence[str]] | None = None,
    hypothesis_phonemes: Sequence[Sequence[str]] | None = None,
    register: Register = "full",
    num_samples: int = DEFAULT_NUM_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score one set of hypotheses.

    Args:
        references, hypotheses: texts, one an utterance, normalised here; hypotheses None if there are phonemes alone.
        spans: language spans of each reference; None leaves the code-switch split out.
        spanless_language: language of utterances without spans; None leaves them out of the split as unlabelled.
        reference_phonemes, hypothesis_phonemes: phonemes in `register`; None leaves the phoneme error rates out.
        num_samples, confidence, seed: of the bootstrap; `num_samples=0` leaves the intervals out.

    Returns:
        `{"metrics": {name: {"value", "low", "high", "errors", "length", …}}, "counts": {name: int},
        "tones": {"confusions", "tone_only_substitutions"}, "normalizer_version", "spoken_form_version", "bootstrap"}`
        with names `wer`, `syer`, `cer`, `per_full`, `per_vmd`, `wer_vi`, `wer_en`, `wer_switch`; a name without any
        reference unit (no English word in the test set, say) is absent, its count is 0.

    Raises:
        ValueError: lists of different lengths, or nothing to score in any reference.
    """
    counted: dict[str, ErrorCounts] = {}
    counts: dict[str, int] = {"utterances": len(references)}
    if hypotheses is not None:
        counted |= text_error_counts(references, hypotheses)
        wer = counted["wer"]
        empty = wer.reference_lengths == 0
        counts["empty_references"] = int(empty.sum())
        counts["insertions_on_empty_references"] = int(wer.insertions[empty].sum())
    if reference_phonemes is not None and hypothesis_phonemes is not None:
        counted |= phoneme_error_counts(reference_phonemes, hypothesis_phonemes, register)
    if spans is not None and hypotheses is not None:
        switched = codeswitch_error_counts(references, hypotheses, spans, spanless_language)
        counted |= {f"wer_{name}": group for name, group in switched.groups.items()}
        counts |= {f"{name}_words": group.total_length for name, group in switched.groups.items()}
        counts |= {
            "labelled_utterances": switched.labelled_utterances,
            "unlabelled_utterances": switched.unlabelled_utterances,
            "switching_utterances": switched.switching_utterances,
        }
    if not any(each.total_length for each in counted.values()):
        raise ValueError(f"none of the {len(references)} references has anything to score left after normalisation")
    interval: dict[str, Any] = {"num_samples": num_samples, "confidence": confidence, "seed": seed}
    tones = {} if hypotheses is None else {"tones": tone_confusions(references, hypotheses)}
    return {
        "metrics": {name: each.summary(**interval) for name, each in counted.items() if each.total_length},
        "counts": counts,
        **tones,
        "normalizer_version": NORMALIZER_VERSION,
        "spoken_form_version": SPOKEN_FORM_VERSION,
        "bootstrap": interval | {"unit": "utterance"},
    }
