"""Which training rows an epoch has: passes over the sources, short and medium utterances, classes in equal numbers."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from data_scripts.mixtures import Passes
from data_scripts.sampling import balanced_sample, ratio_counts, ratio_sample
from trainers.arguments import RunConfig
from trainers.checks import ConfigError
from trainers.processes import rank

logger = logging.getLogger(__name__)

Select = Callable[[int], np.ndarray]


def selection(config: RunConfig, rows: Any, passes: Passes | None) -> Select | None:
    short_medium, seed = config.data.short_medium, config.training.seed
    sampling = getattr(config, "sampling", None)
    if sampling is not None and sampling.balanced:
        return _balanced(rows, seed, sampling.corpora)
    if not short_medium.ratio:
        return passes
    lengths = np.array(rows["duration_s"])
    boundary, longest = short_medium.boundary_s, short_medium.longest_s
    try:
        num_short, num_medium = ratio_counts(lengths, boundary, short_medium.ratio, longest)
    except ValueError as error:
        raise ConfigError("data.short_medium", str(error)) from error
    if rank() == 0:
        left_out = int((lengths >= (longest or np.inf)).sum())
        words = "short_medium: %d short and %d medium of %d rows at most in an epoch; %d too long for either"
        logger.info(words, num_short, num_medium, len(lengths), left_out)

    def select(epoch: int) -> np.ndarray:
        taken = np.arange(len(lengths)) if passes is None else passes(epoch)
        return taken[ratio_sample(lengths[taken], boundary, short_medium.ratio, epoch, seed, longest)]

    return select


def _balanced(rows: Any, seed: int, corpora: bool) -> Select:
    """Equally many rows of every class in every epoch."""
    classes = np.array(rows["label"])
    groups = np.unique(np.array(rows["corpus"]), return_inverse=True)[1] if corpora else None

    def select(epoch: int) -> np.ndarray:
        return balanced_sample(classes, epoch, seed, groups)

    try:
        chosen = classes[select(0)]
    except ValueError as error:
        raise ConfigError("sampling", str(error)) from error
    if rank() == 0:
        counts = np.bincount(chosen).tolist()
        logger.info("balanced sampling: %s rows of the classes in an epoch, of %d rows", counts, len(classes))
    return select
