"""Shared fixtures: offline by default, tiny audio, optional real recordings."""

import os

# Before anything imports huggingface_hub: no test may reach the network; tests of publishing set their own endpoint.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPO_ROOT


@pytest.fixture(scope="module")
def in_the_repository():
    """Paths of configs are relative to it."""
    before = os.getcwd()
    os.chdir(REPO_ROOT)
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings kept beside the checkout during development; absent for users, so dependent tests skip."""
    path = Path(os.environ.get("AMVI_SHARED_DATA", REPO_ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("real recordings are not at hand (set AMVI_SHARED_DATA)")
    return path


@pytest.fixture
def tone() -> np.ndarray:
    """0.5 s of a 220 Hz tone at 16 kHz, float32, shape (8000,)."""
    return (0.1 * np.sin(2 * np.pi * 220 * np.arange(8000) / 16_000)).astype(np.float32)


@pytest.fixture
def ray() -> Iterator[None]:
    """Ray, for one test of the machine at a time: clusters that start and stop beside each other lose their nodes."""
    pytest.importorskip("ray", reason="an extra: pip install -e .[ray]")
    with (Path(tempfile.gettempdir()) / "amvi-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pytest_addoption(parser):
    parser.addoption("--faults", metavar="FILE", help="write the table of injected faults to FILE (make faults)")
