"""What "better" means: error rates of text and phonemes, their intervals, and where code-switched speech goes wrong.

All rates are corpus rates (sum of errors over sum of reference lengths) as fractions. `modules/` holds the same
metrics for `evaluate.load(path)`.
"""

from .alignment import ErrorCounts, align, count_errors
from .bootstrap import bootstrap_difference, bootstrap_interval
from .codeswitch import CodeSwitchCounts, codeswitch_error_counts, codeswitch_error_rates
from .phonemes import Register, phoneme_error_counts, phoneme_error_rate
from .scores import score
from .text import error_rates, text_error_counts
from .tones import tone_confusions

__all__ = [
    "CodeSwitchCounts",
    "ErrorCounts",
    "Register",
    "align",
    "bootstrap_difference",
    "bootstrap_interval",
    "codeswitch_error_counts",
    "codeswitch_error_rates",
    "count_errors",
    "error_rates",
    "phoneme_error_counts",
    "phoneme_error_rate",
    "score",
    "text_error_counts",
    "tone_confusions",
]
