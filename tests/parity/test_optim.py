"""ScaledAdam and Eden against icefall's, in the `zipformer` package.

scaled_adam.npz holds what icefall's ScaledAdam made of the parameters of `run`, after 20 and after 130 steps; ours is
compared with that where the package is absent, too.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.optim import Eden, ScaledAdam

GOLDEN = Path(__file__).with_name("scaled_adam.npz")
SHAPES = [(4, 3), (4, 3), (7,), (1,), (), (2, 3, 5), (7,), (1, 1), (3, 4)]
CHECKED = (20, 130)


@pytest.fixture(scope="module")
def icefall():
    """Its module `optim`, without the rest of the package, which needs much more."""
    package = importlib.util.find_spec("zipformer")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the PyPI package zipformer is not installed; see `make parity`")
    path = Path(package.submodule_search_locations[0]) / "modules" / "optim.py"
    utils = types.ModuleType("zipformer.utils")
    utils.fix_random_seed = lambda seed: None
    before = sys.modules.get("zipformer.utils")
    sys.modules["zipformer.utils"] = utils
    try:
        spec = importlib.util.spec_from_file_location("icefall_optim", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del sys.modules["zipformer.utils"]
        if before is not None:
            sys.modules["zipformer.utils"] = before
    return module


def run(optimizer_class):
    """Parameters after each of `CHECKED` steps on random gradients, of which every seventh is large enough to clip."""
    random = np.random.RandomState(0)
    parameters = [
        torch.nn.Parameter(torch.tensor(random.standard_normal(shape) * 0.3, dtype=torch.float32)) for shape in SHAPES
    ]
    optimizer = optimizer_class(parameters, lr=0.045, clipping_scale=2.0)
    found = {}
    for step in range(1, max(CHECKED) + 1):
        size = 10.0 if step % 7 == 0 else 0.5
        for parameter in parameters:
            gradient = size * random.standard_normal(tuple(parameter.shape))
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        if step in CHECKED:
            found[step] = np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters])
    return found


def test_scaled_adam_is_icefalls():
    golden = np.load(GOLDEN)
    for step, found in run(ScaledAdam).items():
        np.testing.assert_allclose(found, golden[str(step)], rtol=1e-5, atol=1e-6)


def test_the_stored_values_are_icefalls(icefall):
    golden = np.load(GOLDEN)
    for step, found in run(icefall.ScaledAdam).items():
        np.testing.assert_allclose(found, golden[str(step)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps_per_epoch", [10, 333])
def test_eden_is_icefalls(icefall, steps_per_epoch):
    def optimizer():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.045)

    theirs = icefall.Eden(optimizer(), 75.0, 3.5, warmup_batches=50.0, warmup_start=0.25)
    owner = optimizer()
    ours = Eden(owner, 75.0, 3.5, steps_per_epoch=steps_per_epoch, warmup_batches=50.0, warmup_start=0.25)
    for step in range(1000):
        theirs.step_epoch(step // steps_per_epoch)
        theirs.step_batch(step)
        assert owner.param_groups[0]["lr"] == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        owner.step()
        ours.step()
