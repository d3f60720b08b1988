"""Training of DFAT; `trainers.dfat.training.train_dfat` is what `scripts/train_ser.py` calls.

Nothing is imported here: the arguments of a config are read without torch, and scikit-learn, XGBoost, Optuna and skops
are needed by those alone who train DFAT.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def train_dfat(config: Any, run: Any, argv: "Sequence[str]") -> dict[str, float]:
    """See `trainers.dfat.training.train_dfat`."""
    from trainers.dfat.training import train_dfat as train

    return train(config, run, argv)


__all__ = ["train_dfat"]
