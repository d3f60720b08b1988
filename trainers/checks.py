"""Range checks shared by the config dataclasses; every message names the key as it is written on the command line."""

import math
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config that cannot be run.

    Args:
        key (`str`): dotted key at fault, for example `training.learning_rate`; empty when it is no single key.
        message (`str`): what was got, what is allowed and what to do.
        place (`str`): `file:line` or `command line`; empty when the value is a default.
    """

    def __init__(self, key: str, message: str, place: str = ""):
        super().__init__(": ".join(part for part in (place, key, message) if part))
        self.key = key
        self.message = message
        self.place = place


def require(condition: bool, key: str, message: str) -> None:
    """Raise `ConfigError` about `key` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, message)


def require_positive(section: object, prefix: str, names: Iterable[str]) -> None:
    """Every named field is a finite number above 0, or None."""
    for name in names:
        value = getattr(section, name)
        require(value is None or 0 < value < math.inf, prefix + name, f"must be above 0, got {value}")


def require_non_negative(section: object, prefix: str, names: Iterable[str]) -> None:
    """Every named field is a finite number of at least 0, or None."""
    for name in names:
        value = getattr(section, name)
        require(value is None or 0 <= value < math.inf, prefix + name, f"must be at least 0, got {value}")


def require_fraction(section: object, prefix: str, names: Iterable[str], *, one_allowed: bool = False) -> None:
    """Every named field lies in [0, 1), or in [0, 1] where `one_allowed`."""
    for name in names:
        value = getattr(section, name)
        inside = 0 <= value < 1 or (one_allowed and value == 1)
        require(
            inside, prefix + name, f"must be at least 0 and {'at most' if one_allowed else 'below'} 1, got {value}"
        )
