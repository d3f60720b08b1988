"""ScaledAdam and its schedule Eden, with which Zipformers are trained (Yao et al., 2024, section 3.5)."""

from trainers.optim.eden import Eden
from trainers.optim.scaled_adam import ScaledAdam, create_scaled_adam

__all__ = ["Eden", "ScaledAdam", "create_scaled_adam"]
