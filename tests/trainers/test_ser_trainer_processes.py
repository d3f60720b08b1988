"""Two CPU processes train an emotion classifier as one does, and go on where they died."""

import json
from pathlib import Path

import numpy as np
import pytest
from rank_server import run_ranks
from ser_run import SYSTEMS, train

RUN = Path(__file__).with_name("ser_run.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two ranks make of each system: whole, and again from a checkpoint on."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_ranks(RUN, [folder], folder / "log", processes=2)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_ranks_are_one_batch_of_twice_the_size(system, together, tmp_path):
    alone, (found, _) = train(system, tmp_path / "alone", 6), together[system]
    assert (alone["world_size"], found["world_size"]) == (1, 2)
    assert alone["losses"][-1] != alone["losses"][0]
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-4)
    # Compared over both ranks, so the contrastive loss is that of the whole batch as well.
    np.testing.assert_allclose(found["parts"], alone["parts"], rtol=2e-4)
    assert len(found["parts"]) == (6 if system == "fusion" else 0)
    assert found["norm"] == pytest.approx(alone["norm"], rel=1e-6)
    # None is scored twice, none is left out, and they come in order. (Batches of evaluation are compared by rank.)
    assert found["eval"][1] == alone["eval"][1] == 7
    assert found["eval"][2] == pytest.approx(alone["eval"][2], rel=1e-3)
    assert found["labels"][0] == found["labels"][1] == alone["labels"][0]
    if system == "emotion2vec":
        assert found["eval"][0] == pytest.approx(alone["eval"][0], rel=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_ranks_go_on_where_they_died(system, together):
    whole, again = together[system]
    assert (whole["steps"], again["steps"]) == (6, 2)
    for name in ("losses", "parts", "eval", "norm"):
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-5)
    assert again["labels"] == whole["labels"]
